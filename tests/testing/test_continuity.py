"""Continuity in `check_model`, on models that keep it and on one that does not yet."""

import pytest
import torch
from torch import nn

import lm_plugins as lm
from lm_plugins import errors
from lm_plugins.testing import check_model
from tests.masking import samples

torchvision = pytest.importorskip("torchvision")

LITTLE, EMPTY = "hiding one more pixel changes little", "what shows something is not the empty image"


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_models_of_random_weights_are_continuous(name):
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    laws = check_model(model, torch.randn(2, 3, 64, 64), gradients=False).laws
    # One of 4096 pixels did 0.04 at most, the least that a half did was 0.25; both with room for other weights.
    assert 0 < laws[LITTLE].difference < 0.2
    assert laws[EMPTY].difference > 0.05


# Of which masks (N, H, W) a rule loses the region, the law that breaks, and what the message says.
LOST = {
    "where anything is hidden": (
        lambda visible: ~visible.all((1, 2)),
        LITTLE,
        "Where all of the image is visible, hiding the pixel (6, 7) too moves the output 100% as far as hiding everything",
    ),
    "where a pixel at the border is hidden": (
        lambda visible: ~visible[:, 0].all(1),
        LITTLE,
        "Where all of the image is visible, hiding the pixel (0, 7) too moves the output 100% as far as hiding everything",
    ),
    "where less than half is visible": (
        lambda visible: visible.float().mean((1, 2)) < 0.5,
        LITTLE,
        "Where the left half is visible, hiding the pixel (6, 6) too moves",
    ),
    "where half is visible": (
        lambda visible: visible.float().mean((1, 2)) < 0.6,
        EMPTY,
        "Where the left half is visible, the output is that of an image of which nothing is",
    ),
    "where only the lower half is visible": (
        lambda visible: ~visible[:, :6].any((1, 2)),
        EMPTY,
        "Where the lower half is visible, the output is that of an image of which nothing is",
    ),
}


@pytest.mark.parametrize("when", LOST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_region_that_is_lost_is_found(dtype, when):
    is_lost, law, text = LOST[when]

    def rule(input):
        visible = (~input.is_hidden()).expand(len(input.values), 1, *input.values.shape[2:])[:, 0]
        return samples.activation(input.values.tanh(), visible & ~is_lost(visible)[:, None, None])

    model = nn.Sequential(nn.Tanh(), nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    x = torch.randn(2, 3, 12, 14)
    assert LITTLE in check_model(model, x).laws
    with lm.override_rule(torch.tanh, rule), pytest.raises(errors.ConformanceError) as caught:
        check_model(model.to(dtype), x.to(dtype))
    assert caught.value.law == law
    assert text in str(caught.value)


def test_a_resnet_on_a_small_image():
    torch.manual_seed(0)
    check_model(torchvision.models.resnet18(weights=None).eval(), torch.randn(2, 3, 32, 32), gradients=False)


def test_the_bound_is_a_choice():
    model = nn.Sequential(nn.Tanh(), nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    x = torch.randn(2, 3, 12, 14)

    def rule(input):
        return input.like(input.values.tanh() * (1.3 if input.is_hidden().any() else 1))

    with lm.override_rule(torch.tanh, rule):
        assert LITTLE in check_model(model, x).laws
        with pytest.raises(errors.ConformanceError, match="10% at most is little") as caught:
            check_model(model, x, continuity=0.1)
    assert caught.value.law == LITTLE
    assert LITTLE not in check_model(model, x, continuity=None).laws


class Chaotic(nn.Module):
    def forward(self, x):
        return (1e4 * x).sin()


def test_a_chaotic_model_is_not_blamed_unless_the_region_is_lost():
    model = nn.Sequential(
        nn.Tanh(), nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Chaotic(), nn.Linear(4, 2)
    )
    x = torch.randn(2, 3, 12, 14, generator=torch.Generator().manual_seed(1))
    assert check_model(model.eval(), x).laws[LITTLE].difference > 0.5

    def rule(input):
        visible = (~input.is_hidden()).expand(len(input.values), 1, *input.values.shape[2:])[:, 0]
        return samples.activation(input.values.tanh(), visible & visible.all((1, 2))[:, None, None])

    with lm.override_rule(torch.tanh, rule), pytest.raises(errors.ConformanceError) as caught:
        check_model(model, x)
    assert caught.value.law == LITTLE


def test_what_cannot_be_judged_is_said():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    assert check_model(model, torch.randn(2, 3, 4, 4)).laws[LITTLE].how.startswith("not judged")
    nn.init.zeros_(model[-1].weight)
    laws = check_model(model, torch.randn(2, 3, 12, 14), gradients=False).laws
    assert laws[LITTLE].how.startswith("not judged")
    assert laws[EMPTY].how.startswith("not judged")


def test_positions_that_the_model_does_not_look_at_may_be_all_that_is_visible():
    class Left(nn.Module):
        def forward(self, x):
            return x[..., : x.shape[3] // 2]

    model = nn.Sequential(Left(), nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    assert EMPTY in check_model(model, torch.randn(2, 3, 12, 14)).laws
