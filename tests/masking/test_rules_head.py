"""Reductions over the visible positions, and layers that act on channels."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lm_plugins as lm
from lm_plugins.masking import MaskedActivation, MaskingOptions
from tests.masking import samples

REDUCTIONS = {
    "mean": lambda seen: seen.mean(1),
    "sum": lambda seen: seen.sum(1),
    "amax": lambda seen: seen.amax(1),
    "amin": lambda seen: seen.amin(1),
}


def reduced(name, x, visible):
    """``(N, C)``, an image at a time; 0 for one of which nothing is visible."""
    result = torch.zeros(x.shape[:2], dtype=x.dtype)
    for n in range(x.shape[0]):
        if visible[n].any():
            result[n] = REDUCTIONS[name](x[n][:, visible[n]])
    return result


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("density", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("keepdim", [False, True])
def test_over_space(name, density, keepdim):
    x, visible = samples.values(), samples.region(density=density)
    result = getattr(torch, name)(samples.activation(x, visible), (2, 3), keepdim)
    assert isinstance(result, Tensor)
    expected = reduced(name, x, visible)
    torch.testing.assert_close(result, expected[:, :, None, None] if keepdim else expected)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_over_space_counts_the_visible_region(name):
    x, visible = samples.values(), samples.region(density=0.3)
    given = samples.activation(x, visible, computed=visible | samples.region(seed=1))
    torch.testing.assert_close(getattr(torch, name)(given, (2, 3)), reduced(name, x, visible))


@pytest.mark.parametrize("name", REDUCTIONS)
def test_every_spelling(name):
    given, visible = samples.activation(), samples.region()
    expected = reduced(name, samples.values(), visible)
    function = getattr(torch, name)
    spellings = [
        lambda: function(given, [2, 3]),
        lambda: function(given, dim=(-2, -1)),
        lambda: function(input=given, dim=(3, 2)),
        lambda: getattr(given, name)((2, 3)),
        lambda: getattr(given, name)(dim=[2, 3], keepdim=False),
    ]
    if name in ("mean", "sum"):
        spellings += [lambda: function(given, axis=(2, 3), keepdims=False)]
        spellings += [lambda: function(given, (2, 3), dtype=torch.float64)]
    for call in spellings:
        torch.testing.assert_close(call(), expected)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_over_space_and_channels_at_once(name):
    x = samples.values()
    whole = torch.ones(2, 6, 7, dtype=torch.bool)
    result = getattr(torch, name)(samples.activation(x, whole), (1, 2, 3))
    torch.testing.assert_close(result, getattr(torch, name)(x, (1, 2, 3)))
    visible = samples.region()
    result = getattr(torch, name)(samples.activation(x, visible), (1, 2, 3))
    expected = torch.stack([getattr(torch, name)(x[n][:, visible[n]], (0, 1)) for n in range(2)])
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("keepdim", [False, True])
def test_over_channels_stays_a_map(name, keepdim):
    x, visible = samples.values(), samples.region()
    result = getattr(torch, name)(samples.activation(x, visible), 1, keepdim=keepdim)
    assert isinstance(result, MaskedActivation)
    assert result.dims == (("N", "C", "H", "W") if keepdim else ("N", "H", "W"))
    samples.assert_equal_where_computed(result, getattr(torch, name)(x, 1, keepdim=keepdim))
    assert torch.equal(result.visibility.visible.positions, visible)


def test_mean_over_all_counts_zeros_for_hidden():
    x, visible = samples.values(), samples.region()
    result = samples.activation(x, visible, MaskingOptions(global_average="all")).mean((2, 3))
    torch.testing.assert_close(result, torch.where(visible[:, None], x, 0.0).mean((2, 3)))


def test_pooling_a_channels_last_map():
    x, visible = samples.values(), samples.region()
    result = samples.activation(x, visible).permute(0, 2, 3, 1).mean((1, 2))
    torch.testing.assert_close(result, reduced("mean", x, visible))


@pytest.mark.parametrize("name", REDUCTIONS)
def test_all_visible_is_the_plain_reduction_bit_for_bit(name):
    x = samples.values().float()
    for dims in ((2, 3), 1, (1, 2, 3)):
        result = getattr(torch, name)(samples.full(x), dims)
        result = result.values if isinstance(result, MaskedActivation) else result
        assert torch.equal(result, getattr(torch, name)(x, dims))


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("dims", [(0,), (0, 1, 2, 3)])
def test_the_batch_is_refused(name, dims):
    with pytest.raises(lm.errors.UnsupportedOperatorError, match=rf"{name} over the dimensions.*H and W together"):
        getattr(torch, name)(samples.activation(), dims)


@pytest.mark.parametrize("name", ["mean", "sum"])
def test_reducing_everything_is_refused(name):
    with pytest.raises(lm.errors.UnsupportedOperatorError, match=f"{name} over the dimensions"):
        getattr(samples.activation(), name)()


# ---- linear layers ---------------------------------------------------------------------------------------------------


def test_linear_acts_on_the_channels_of_every_position():
    layer, x = nn.Linear(4, 5).double().requires_grad_(False), samples.values()
    last = samples.activation(x).permute(0, 2, 3, 1)
    expected = layer(x.permute(0, 2, 3, 1))
    for result in (
        layer(last),
        F.linear(last, layer.weight, layer.bias),
        F.linear(input=last, weight=layer.weight, bias=layer.bias),
    ):
        assert result.dims == ("N", "H", "W", "C")
        samples.assert_equal_where_computed(result, expected)


def test_linear_over_positions_is_refused():
    with pytest.raises(lm.errors.UnsupportedOperatorError, match="would mix hidden and visible"):
        nn.Linear(7, 3).double()(samples.activation())
