"""Variances and norms: of the visible positions, against an image at a time."""

import pytest
import torch
from torch import Tensor, nn

import lm_plugins as lm
from lm_plugins.masking import MaskedActivation
from tests.masking import samples

SPREADS = {
    "var": lambda seen, correction: seen.var(-1, correction=correction),
    "std": lambda seen, correction: seen.std(-1, correction=correction),
}


def spread(name, x, visible, correction):
    """``(N, C)``; 0 where fewer positions are visible than the correction takes away."""
    result = torch.zeros(x.shape[:2], dtype=x.dtype)
    for n in range(x.shape[0]):
        if visible[n].sum() > correction:
            result[n] = SPREADS[name](x[n][:, visible[n]], correction)
    return result


@pytest.mark.parametrize("name", SPREADS)
@pytest.mark.parametrize("density", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("correction", [0, 1, 5])
@pytest.mark.parametrize("keepdim", [False, True])
def test_variance_over_space(name, density, correction, keepdim):
    x, visible = samples.values(), samples.region(density=density)
    given = samples.activation(x, visible, computed=visible | samples.region(seed=1))
    result = getattr(torch, name)(given, (2, 3), correction=correction, keepdim=keepdim)
    assert isinstance(result, Tensor)
    expected = spread(name, x, visible, correction)
    torch.testing.assert_close(result, expected[:, :, None, None] if keepdim else expected)
    both = getattr(torch, f"{name}_mean")(given, (2, 3), correction=correction, keepdim=keepdim)
    torch.testing.assert_close(both[0], result)
    torch.testing.assert_close(both[1], given.mean((2, 3), keepdim))


@pytest.mark.parametrize("name", SPREADS)
def test_every_spelling(name):
    given, expected = samples.activation(), spread(name, samples.values(), samples.region(), 1)
    function, method = getattr(torch, name), getattr(given, name)
    for result in (
        function(given, [2, 3]),
        function(input=given, dim=(-1, -2), unbiased=True),
        method((2, 3), True, False),
        method(dim=(2, 3), correction=1),
        method(axis=(2, 3), keepdims=False),
    ):
        torch.testing.assert_close(result, expected)
    torch.testing.assert_close(method((2, 3), unbiased=False), spread(name, samples.values(), samples.region(), 0))


@pytest.mark.parametrize("name", SPREADS)
def test_of_groups_of_channels(name):
    # As group normalization is written by hand.
    x, visible = samples.values(), samples.region(density=0.4)
    result = getattr(samples.activation(x, visible).reshape(2, 2, 2, 6, 7), name)((2, 3, 4), keepdim=True)
    for n in range(2):
        for group in range(2):
            seen = x[n, 2 * group : 2 * group + 2][:, visible[n]]
            torch.testing.assert_close(result[n, group].squeeze(), getattr(seen, name)())


NORMS = {
    "x.norm()": lambda x, **kwargs: x.norm(dim=(2, 3), **kwargs),
    "x.norm(1)": lambda x, **kwargs: x.norm(1, (2, 3), **kwargs),
    "torch.norm": lambda x, **kwargs: torch.norm(x, p=2, dim=(2, 3), **kwargs),
    "vector_norm": lambda x, **kwargs: torch.linalg.vector_norm(x, 2, [2, 3], **kwargs),
    "vector_norm(ord=inf)": lambda x, **kwargs: torch.linalg.vector_norm(x=x, ord=torch.inf, dim=(2, 3), **kwargs),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("density", [0.0, 0.5, 1.0])
def test_norm_over_space(name, density):
    x, visible = samples.values(), samples.region(density=density)
    given = samples.activation(x, visible, computed=visible | samples.region(seed=1))
    result = NORMS[name](given)
    assert isinstance(result, Tensor)
    for n in range(2):
        seen = x[n][:, visible[n]][:, :, None]  # (C, visible positions, 1)
        expected = NORMS[name](seen[None])[0] if visible[n].any() else torch.zeros(4, dtype=torch.float64)
        torch.testing.assert_close(result[n], expected)
    torch.testing.assert_close(NORMS[name](given, keepdim=True, dtype=torch.float64)[:, :, 0, 0], result)


CHANNELS = {
    "var": lambda x: torch.var(x, 1, keepdim=True),
    "std": lambda x: x.std(dim=(1,)),
    "var_mean": lambda x: torch.var_mean(x, dim=1, keepdim=True, unbiased=False)[0],
    "norm": lambda x: x.norm(dim=1, keepdim=True),
    "vector_norm": lambda x: torch.linalg.vector_norm(x, dim=1),
}


@pytest.mark.parametrize("name", CHANNELS)
def test_over_channels_the_map_stays(name):
    x = samples.values()
    result = CHANNELS[name](samples.activation(x))
    assert isinstance(result, MaskedActivation)
    assert result.shape == CHANNELS[name](x).shape
    samples.assert_equal_where_computed(result, CHANNELS[name](x))


SPACE = {
    "var": lambda x: x.var((2, 3), keepdim=True),
    "std": lambda x: torch.std(x, dim=(2, 3), unbiased=False),
    **NORMS,
}


@pytest.mark.parametrize("name", SPACE)
def test_everything_visible_is_exact(name):
    x = samples.values().float()
    assert torch.equal(SPACE[name](samples.full(x)), SPACE[name](x))


@pytest.mark.parametrize("name", SPACE)
@pytest.mark.parametrize("density", [0.0, 0.05, 0.5])
def test_gradients_are_finite_and_zero_for_hidden_positions(name, density):
    x, visible = samples.values().requires_grad_(), samples.region(density=density)
    given = MaskedActivation(x, samples.activation(x.detach(), visible).visibility)
    SPACE[name](given).sum().backward()
    assert x.grad.isfinite().all()
    assert (x.grad.abs().amax(1)[~visible] == 0).all()


class ResponseNorm(nn.Module):
    """Global response normalization, as ConvNeXt v2 has it."""

    def forward(self, x):
        norm = x.norm(p=2, dim=(2, 3), keepdim=True)
        scale = norm / (norm.mean(dim=1, keepdim=True) + 1e-6)
        weight, bias = torch.full((1, 4, 1, 1), 0.5).double(), torch.full((1, 4, 1, 1), 0.1).double()
        return x + torch.addcmul(bias, weight, x * scale)


def test_global_response_normalization_is_of_what_is_visible():
    x, visible = samples.values(), samples.region()
    result = ResponseNorm()(samples.activation(x, visible))
    samples.assert_equal_where_computed(result, ResponseNorm()(torch.where(visible[:, None], x, 0.0)))


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda x: x.var(), "reductions are masked over space"),
        (lambda x: x.var(False), "reductions are masked over space"),
        (lambda x: x.norm(), "reductions are masked over space"),
        (lambda x: x.norm("nuc", (2, 3)), "vector norms of order 0"),
        (lambda x: torch.linalg.vector_norm(x, -1, (2, 3)), "vector norms of order 0"),
    ],
)
def test_is_refused(function, text):
    with pytest.raises(lm.errors.UnsupportedOperatorError, match=text):
        function(samples.activation())
