"""Transposed convolution: that of the map whose hidden positions are all padded from their neighbours."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import lm_plugins as lm
from lm_plugins.masking import MaskingOptions
from lm_plugins.testing import check_rule
from tests.masking import samples
from tests.references import filling

pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))


def reached(size, output, kernel, stride, padding, dilation):
    """Of every output, the positions that reach it: written down position by position."""
    found = {one: [] for one in product(*map(range, output))}
    for position in product(*map(range, size)):
        for tap in product(*map(range, kernel)):
            one = tuple(position[i] * stride[i] - padding[i] + tap[i] * dilation[i] for i in range(2))
            if one in found:
                found[one].append(position)
    return found


def share(region, one, kernel, stride, padding, dilation):
    """How much of the part of one output is in a region, and how much of it in the image, by points within the part."""
    h, w = region.shape
    counts = [0, 0]
    for steps in product((-0.25, 0.25), repeat=2):
        point = []
        for i in range(2):
            centre = (one[i] + padding[i] - (kernel[i] - 1) * dilation[i] / 2) / stride[i]  # on the map
            point.append(int((centre + steps[i] / stride[i] + 0.5) // 1))
        if 0 <= point[0] < h and 0 <= point[1] < w:
            counts[1] += 1
            counts[0] += bool(region[point[0], point[1]])
    return counts


@given(
    size=st.tuples(st.integers(2, 5), st.integers(2, 5)),
    kernel=pairs,
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.sampled_from([1, 2]),
    density=st.sampled_from([0.1, 0.4, 0.8]),
    options=st.sampled_from([one for one in samples.OPTIONS if one.padding == "neighbours"]),
    seed=st.integers(0, 99),
)
def test_equals_the_transposed_convolution_of_the_padded_map(
    size, kernel, stride, padding, dilation, groups, density, options, seed
):
    padding = tuple(min(p, (k - 1) * d) for p, k, d in zip(padding, kernel, dilation, strict=True))
    x, visible = samples.values(2, 4, *size, seed=seed), samples.region(2, *size, density=density, seed=seed)
    weight, bias = samples.values(4, 6 // groups, *kernel, seed=seed + 1), samples.values(6, 1, 1, 1).flatten()
    rest = (bias, stride, padding, 0, groups, dilation)
    result = F.conv_transpose2d(samples.activation(x, visible, options), weight, *rest)
    map_, known = filling.fill(x, visible, None, options.diagonal, options.padding_epsilon)
    expected = F.conv_transpose2d(torch.where(known[:, None], map_, 0.0), weight, *rest)
    samples.assert_equal_where_computed(result, expected, rtol=1e-5, atol=1e-5)  # weights of the padding are float32
    output = tuple(expected.shape[2:])
    of = reached(size, output, kernel, stride, padding, dilation)
    touched = torch.zeros(2, *output, dtype=torch.bool)
    covered = touched.clone()
    for (i, j), positions in of.items():
        for n in range(2):
            touched[n, i, j] = any(bool(visible[n, a, b]) for a, b in positions)
            seen, possible = share(visible[n], (i, j), kernel, stride, padding, dilation)
            covered[n, i, j] = touched[n, i, j] and seen >= options.coverage * possible
    for n in range(2):  # what shows something never counts as nothing
        covered[n] = covered[n] if covered[n].any() else touched[n]
    found = result.visibility
    assert torch.equal(found.visible.positions, touched if options.visible == "any" else covered)
    if options.computed == "any":
        assert torch.equal(found.computed.positions, touched)
    constants = torch.tensor([[not of[i, j] for j in range(output[1])] for i in range(output[0])])
    assert torch.equal(~found.visible.hidden & ~found.visible.positions, constants.expand(2, *output))


@pytest.mark.parametrize("factor", [2, 3])
def test_blocks_are_as_visible_as_what_they_come_from(factor):
    given = samples.activation()
    result = F.conv_transpose2d(given, samples.values(4, 5, factor, factor), stride=factor)
    expected = samples.region().repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    assert torch.equal(result.visibility.visible.positions, expected)


@pytest.mark.parametrize("options", samples.OPTIONS, ids=samples.OPTION_NAMES)
@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(4, 3, 2, 2),
        nn.ConvTranspose2d(4, 3, 4, 2, 1),
        nn.ConvTranspose2d(4, 4, 3, 2, 1, 1, groups=4),
        nn.ConvTranspose2d(4, 3, 3, 1, 1, dilation=1, bias=False),
        nn.ConvTranspose2d(4, 3, (1, 3), (2, 3), (0, 1), dilation=2),
    ],
    ids=lambda layer: str(layer)[len("ConvTranspose2d") :],
)
def test_keeps_the_laws(layer, options):
    if options.padding == "partial":
        with pytest.raises(lm.errors.UnsupportedOperatorError, match="no partial convolution"):
            check_rule(layer.requires_grad_(False), torch.randn(2, 4, 6, 6), options=options)
        return
    check_rule(layer.requires_grad_(False), torch.randn(2, 4, 6, 6), options=options)


def test_partial_convolutions_are_refused():
    given = samples.activation(options=MaskingOptions(padding="partial"))
    with pytest.raises(lm.errors.UnsupportedOperatorError, match="no partial convolution"):
        F.conv_transpose2d(given, samples.values(4, 3, 2, 2))
