"""Normalization: pointwise with fixed statistics; statistics over space are those of the visible positions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.convnext import LayerNorm2d

import lm_plugins as lm
from lm_plugins.testing import check_rule
from tests.masking import samples


def random_affine(layer):
    for name, parameter in [*layer.named_parameters(), *layer.named_buffers()]:
        if parameter.is_floating_point():
            parameter.data = torch.rand(parameter.shape).double() + 0.5 * (name == "running_var")
    return layer.eval().requires_grad_(False)


def visible_statistics(x, visible, groups, eps=1e-5):
    """Group normalization, a group at a time."""
    result = torch.full_like(x, torch.nan)
    size = x.shape[1] // groups
    for n in range(x.shape[0]):
        for group in range(groups):
            channels = slice(group * size, (group + 1) * size)
            seen = x[n, channels][:, visible[n]]
            if seen.numel():
                result[n, channels] = (x[n, channels] - seen.mean()) / (seen.var(correction=0) + eps).sqrt()
    return result


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False), LayerNorm2d(4), nn.LocalResponseNorm(3)], ids=str
)
def test_layers_of_one_position_change_values_only(layer):
    layer, x = random_affine(layer.double()), samples.values()
    given = samples.activation(x)
    result = layer(given)
    samples.assert_equal_where_computed(result, layer(x))
    assert result.visibility is given.visibility


def test_layer_norm_of_channels_last():
    layer, x = random_affine(nn.LayerNorm(4).double()), samples.values()
    result = layer(samples.activation(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    samples.assert_equal_where_computed(result, layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_group_norm(groups, affine, density):
    layer = random_affine(nn.GroupNorm(groups, 4, affine=affine).double())
    x, visible = samples.values(), samples.region(density=density)
    expected = visible_statistics(x, visible, groups)
    if affine:
        expected = expected * layer.weight[:, None, None] + layer.bias[:, None, None]
    samples.assert_equal_where_computed(layer(samples.activation(x, visible)), expected)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_instance_norm(affine, density):
    layer = random_affine(nn.InstanceNorm2d(4, affine=affine).double())
    x, visible = samples.values(), samples.region(density=density)
    expected = visible_statistics(x, visible, 4)
    if affine:
        expected = expected * layer.weight[:, None, None] + layer.bias[:, None, None]
    samples.assert_equal_where_computed(layer(samples.activation(x, visible)), expected)


def test_instance_norm_with_fixed_statistics_is_pointwise():
    layer, x = random_affine(nn.InstanceNorm2d(4, affine=True, track_running_stats=True).double()), samples.values()
    samples.assert_equal_where_computed(layer(samples.activation(x)), layer(x))


@pytest.mark.parametrize("layer", [nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True)], ids=str)
def test_all_visible_is_the_plain_layer_bit_for_bit(layer):
    x = samples.values().float()
    assert torch.equal(layer.eval()(samples.full(x)).values, layer(x))


@pytest.mark.parametrize("layer", [nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True)], ids=str)
def test_nothing_visible_leaves_finite_statistics(layer):
    nothing = torch.zeros(2, 6, 7, dtype=torch.bool)
    given = samples.activation(visible=nothing)
    assert layer.double().eval()(given).is_hidden().all()


def test_constants_of_a_pad_are_counted_as_in_the_plain_model():
    x, visible, pad = samples.values(), samples.region(), (1, 1, 2, 0)
    result = F.group_norm(F.pad(samples.activation(x, visible), pad, value=9.0), 2)
    expected = visible_statistics(F.pad(x, pad, value=9.0), F.pad(visible, pad, value=True), 2)
    samples.assert_equal_where_computed(result[:, :, 2:, 1:-1], expected[:, :, 2:, 1:-1])


def test_every_way_to_call_it():
    x, mean, variance = samples.values(), torch.rand(4).double(), torch.rand(4).double() + 0.5
    given = samples.activation(x)
    expected = F.batch_norm(given, mean, variance, None, None, False, 0.1, 1e-3)
    samples.assert_same_activation(
        F.batch_norm(input=given, running_mean=mean, running_var=variance, eps=1e-3), expected
    )
    # F.batch_norm and torch.batch_norm differ in their signatures.
    samples.assert_equal_where_computed(expected, F.batch_norm(x, mean, variance, eps=1e-3))


def test_statistics_of_the_batch_are_refused():
    given = samples.activation()
    with pytest.raises(lm.errors.UnsupportedOperatorError, match="running statistics only"):
        nn.BatchNorm2d(4, track_running_stats=False).double().eval()(given)
    with pytest.raises(lm.errors.UnsupportedOperatorError, match="running statistics only"):
        nn.BatchNorm2d(4).double().train()(given)


CHANNEL_NORMS = {
    "F.rms_norm": lambda x: torch.nn.functional.rms_norm(x.permute(0, 2, 3, 1), (4,), eps=1e-6),
    "nn.RMSNorm": lambda x: nn.RMSNorm(4).to(x.dtype)(x.permute(0, 2, 3, 1)),
    "F.normalize": lambda x: F.normalize(x),
    "F.normalize(p=1)": lambda x: F.normalize(x.permute(0, 2, 3, 1), p=1, dim=-1),
}


@pytest.mark.parametrize("name", CHANNEL_NORMS)
def test_norms_of_channels_are_pointwise(name):
    x = samples.values()
    samples.assert_equal_where_computed(CHANNEL_NORMS[name](samples.activation(x)), CHANNEL_NORMS[name](x))
    x = x.float()
    assert torch.equal(CHANNEL_NORMS[name](samples.full(x)).values, CHANNEL_NORMS[name](x))


@pytest.mark.parametrize("norm", [lambda x: F.rms_norm(x, (7,)), lambda x: F.layer_norm(x, (7,))])
def test_norms_of_positions_are_refused(norm):
    with pytest.raises(
        lm.errors.UnsupportedOperatorError,
        match=r"which hold positions|along channels only|mixes positions|masked along one dimension",
    ):
        norm(samples.activation())


def test_the_norm_over_space_counts_visible_positions():
    x, visible = samples.values(), samples.region()
    result = F.normalize(samples.activation(x, visible), dim=(2, 3))
    expected = F.normalize(torch.where(visible[:, None], x, 0.0), dim=(2, 3))
    torch.testing.assert_close(result.values.movedim(1, -1)[visible], expected.movedim(1, -1)[visible])


@pytest.mark.parametrize("shape", [[4, 6, 7], [6, 7]], ids=["channels and space", "space"])
def test_layer_norm_over_space_counts_what_is_visible(shape):
    norm = nn.LayerNorm(shape).double()
    with torch.no_grad():
        norm.weight.copy_(torch.rand(shape, generator=torch.Generator().manual_seed(0)))
        norm.bias.copy_(torch.rand(shape, generator=torch.Generator().manual_seed(1)))
    x, visible = samples.values(), samples.region()
    found = norm(samples.activation(x))
    expected = torch.zeros_like(x)
    for image, shown in enumerate(visible):
        part = x[image, :, shown]
        over = (0, 1) if len(shape) == 3 else (1,)
        mean, variance = part.mean(over, keepdim=True), part.var(over, keepdim=True, unbiased=False)
        expected[image, :, shown] = (part - mean) / (variance + norm.eps).sqrt()
    samples.assert_equal_where_computed(found, expected * norm.weight + norm.bias)
    check_rule(lambda y: F.layer_norm(y, y.shape[4 - len(shape) :]).square().mean((2, 3)), samples.values())
    with pytest.raises(lm.errors.UnsupportedOperatorError, match="layer_norm over"):
        norm(samples.activation(x).permute(0, 2, 3, 1).permute(0, 3, 1, 2)[..., :-1])
