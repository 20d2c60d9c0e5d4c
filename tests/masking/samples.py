"""Small activations for the tests of rules, and what any rule must leave alone."""

from dataclasses import replace
from functools import cache

import torch

from lm_plugins.masking import Mask, MaskedActivation, MaskingOptions, Run, Visibility

PUBLISHED = MaskingOptions(visible="any", sampling="point", computed="visible", diagonal=1.0, padding_epsilon=1e-5)
SPARSE = MaskingOptions(visible="coverage", computed="visible", diagonal=0.3)
DEFAULT = MaskingOptions()
OPTIONS = [PUBLISHED, SPARSE, DEFAULT]
OPTION_NAMES = ["published", "sparse", "default"]
ABLATIONS = [
    MaskingOptions(padding="zero"),
    MaskingOptions(padding="partial"),
    MaskingOptions(padded_layers=1),
    MaskingOptions(padding="partial", padded_layers=2),
    replace(PUBLISHED, padding="zero"),
    replace(PUBLISHED, padding="partial"),
    replace(PUBLISHED, padded_layers=2),
    replace(PUBLISHED, padding="zero", pointwise_ring=True),
]
ABLATION_NAMES = [
    f"{one.visible}-{one.padding}-{one.padded_layers}{'-ring' if one.pointwise_ring else ''}" for one in ABLATIONS
]


def run(options=DEFAULT):
    """The call of a model to which the activations of a test belong: one for all with the same options and observer."""
    return _run(options, Run(options).observer)


@cache
def _run(options, observer):
    return Run(options, observer=observer)


def region(n=2, h=6, w=7, density=0.5, seed=0):
    """Random bool ``(N, H, W)``."""
    return torch.rand(n, h, w, generator=torch.Generator().manual_seed(seed)) < density


def values(n=2, c=4, h=6, w=7, seed=0):
    """Random float64 ``(N, C, H, W)``."""
    return torch.randn(n, c, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def activation(of=None, visible=None, options=DEFAULT, computed=None):
    """`of` with NaN wherever it is hidden, so that nothing can read there unpunished."""
    of = values() if of is None else of
    visible = region(of.shape[0], *of.shape[2:]) if visible is None else visible
    seen = visible if isinstance(visible, Mask) else Mask(visible)
    good = seen if computed is None else Mask(computed)
    result = MaskedActivation(of, Visibility(seen, good, run(options)))
    result.values = result.with_hidden(torch.nan)
    return result


def full(of):
    """An activation of which everything is visible."""
    return activation(of, torch.ones(of.shape[0], *of.shape[2:], dtype=torch.bool))


def assert_equal_where_computed(got, expected, **tolerances):
    """Two maps agree wherever `got` is computed; what it leaves elsewhere is its own affair."""
    assert isinstance(got, MaskedActivation)
    hidden = got.is_hidden()
    tolerances = tolerances or {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(
        got.values.masked_fill(hidden, 0.0), expected.to(got.dtype).masked_fill(hidden, 0.0), **tolerances
    )


def assert_same_activation(got, expected):
    """Two activations agree in regions, dimensions, and values where computed."""
    assert got.dims == expected.dims
    for name in ("visible", "computed"):
        one, other = getattr(got.visibility, name), getattr(expected.visibility, name)
        assert torch.equal(one.positions, other.positions), name
        assert torch.equal(one.hidden, other.hidden), name
    assert_equal_where_computed(got, expected.values)
