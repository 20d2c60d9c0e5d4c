"""Continuity: a mask that still shows something never counts as one that shows nothing, and one pixel changes little."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import lm_plugins as lm
from tests.golden import deterministic
from tests.masking.test_architectures import condition


def of_torchvision(name):
    return deterministic.fill(torchvision.models.get_model(name, weights=None))


def patches(side, size=16):
    """One mask for each patch: that patch alone."""
    count = side // size
    one = torch.eye(count * count, dtype=torch.bool).reshape(-1, count, count)
    return one.repeat_interleave(size, 1).repeat_interleave(size, 2)


@torch.inference_mode()
def distances_from_nothing(model, visible, options=None):
    """How far the output for each mask lies from that of an empty image, as a share of what the whole image does."""
    masked = lm.LayerMasked(model, options or lm.MaskingOptions())
    x = torch.randn(1, 3, *visible.shape[1:], generator=torch.Generator().manual_seed(0))
    nothing = masked(x, torch.zeros_like(visible[:1]))
    outputs = torch.cat([masked(x.expand(len(part), -1, -1, -1), part) for part in visible.split(32)])
    return (outputs - nothing).flatten(1).norm(dim=1) / (model(x) - nothing).norm()


# ---- the cases that were reported: ResNet-18 on small images ---------------------------------------------------------


@pytest.fixture(scope="module")
def resnet18():
    return of_torchvision("resnet18")


def test_each_half_of_a_small_image_counts(resnet18):
    halves = torch.zeros(4, 32, 32, dtype=torch.bool)
    halves[0, :16], halves[1, 16:], halves[2, :, :16], halves[3, :, 16:] = True, True, True, True
    assert (distances_from_nothing(resnet18, halves) > 0.1).all()


@pytest.mark.parametrize("side", [64, pytest.param(224, marks=pytest.mark.slow)])
def test_each_patch_alone_counts(resnet18, side):
    assert (distances_from_nothing(resnet18, patches(side)) > 0.01).all()


def test_under_the_published_rule_a_part_may_count_for_nothing(resnet18):
    # What the law is about: without it, samples lose most of the patches.
    point = lm.MaskingOptions(sampling="point")
    assert (distances_from_nothing(resnet18, patches(64), point) == 0).sum() > 4


# ---- other architectures ---------------------------------------------------------------------------------------------

ARCHITECTURES = (
    "resnet50 regnet_y_400mf wide_resnet50_2 resnext50_32x4d mobilenet_v2 densenet121 efficientnet_b0 googlenet"
)


@pytest.mark.parametrize("name", ARCHITECTURES.split())
def test_each_patch_alone_counts_in(name):
    build = partial(torchvision.models.googlenet, init_weights=False) if name == "googlenet" else None
    model = deterministic.fill(build()) if build else of_torchvision(name)
    visible = torch.cat([patches(64), torch.zeros(4, 64, 64, dtype=torch.bool)])
    visible[16, 63, 63], visible[17, 0, 33], visible[18, :, 40:42], visible[19, 50] = True, True, True, True
    assert (distances_from_nothing(model, visible) > 1e-3).all()


@given(corners=st.tuples(*[st.integers(0, 31)] * 4))
@settings(max_examples=20)
def test_every_rectangle_of_a_small_image_counts(resnet18, corners):
    visible = torch.zeros(1, 32, 32, dtype=torch.bool)
    (top, bottom), (left, right) = sorted(corners[:2]), sorted(corners[2:])
    visible[:, top : bottom + 1, left : right + 1] = True
    assert distances_from_nothing(resnet18, visible) > 0.01


# ---- every way in which a model can look past a position -------------------------------------------------------------


class Sampled(nn.Module):
    """A convolution of pixels, something that looks at samples of it, and a mean."""

    def __init__(self, sample):
        super().__init__()
        self.stem, self.sample, self.head = nn.Conv2d(3, 8, 3, padding=1), sample, nn.LazyLinear(5)

    def forward(self, x):
        return self.head(
            F.softplus(self.sample(self.stem(x).relu())).mean((2, 3))
        )  # above 0, which is what nothing gives


class Residual(nn.Module):
    """A convolution with a stride, beside a shortcut."""

    def __init__(self, shortcut, stride=2):
        super().__init__()
        self.convolution, self.shortcut = nn.Conv2d(8, 8, 3, stride, padding=1), shortcut

    def forward(self, x):
        return self.convolution(x) + self.shortcut(x)


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def sampling_attention(x):
    """Attention whose queries are samples of the map, as in LeViT."""
    last = x.permute(0, 2, 3, 1)
    n, h, w, c = last.shape
    queries, keys = last[:, ::2, ::2].reshape(n, -1, c), last.reshape(n, -1, c)
    return F.scaled_dot_product_attention(queries, keys, keys).transpose(1, 2).reshape(n, c, h // 2, w // 2)


TOYS = {
    "1x1 of stride 2": lambda: nn.Conv2d(8, 8, 1, 2),
    "1x1 of stride 3": lambda: nn.Conv2d(8, 8, 1, 3),
    "2x1 of stride 3": lambda: nn.Conv2d(8, 8, (2, 1), 3),
    "3x3 of stride 2, dilated": lambda: nn.Conv2d(8, 8, 3, 2, 2, dilation=2),
    "1x1 twice": lambda: nn.Sequential(nn.Conv2d(8, 8, 1, 2), nn.Conv2d(8, 8, 1, 2)),
    "slice in steps": lambda: Call(lambda x: x[:, :, 1::2, ::3]),
    "max pool of a position": lambda: nn.MaxPool2d(1, 2),
    "mean of a position": lambda: nn.AvgPool2d((2, 1), 3),
    "interpolation": lambda: nn.Upsample(scale_factor=0.5),
    "bilinear interpolation": lambda: nn.Upsample(size=(3, 4), mode="bilinear"),
    "attention of samples": lambda: Call(sampling_attention),
    "shortcut": lambda: Residual(nn.Conv2d(8, 8, 1, 2)),
    "shortcut of stride 4": lambda: Residual(nn.Conv2d(8, 8, 1, 4), 4),
    "shortcut without parameters": lambda: Residual(Call(lambda x: x[:, :, ::2, ::2])),
    "shortcut of means": lambda: Residual(nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(8, 8, 1))),
    "far apart": lambda: Residual(Call(lambda x: F.pad(x[:, :, 6:, 6:], (0, 6, 0, 6))), 1),
}
RULES = {
    "default": lm.MaskingOptions(),
    "any": lm.MaskingOptions(visible="any"),
    "visible only": lm.MaskingOptions(computed="visible", stem="coverage"),
    "union": lm.MaskingOptions(addition="union"),
    "all covered": lm.MaskingOptions(coverage=1.0),
}
SIDE = 12

rectangles = st.tuples(*[st.integers(0, SIDE - 1)] * 4)


def rectangle(corners):
    """A mask of one rectangle."""
    visible = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    (top, bottom), (left, right) = sorted(corners[:2]), sorted(corners[2:])
    visible[:, top : bottom + 1, left : right + 1] = True
    return visible


def toy(make):
    torch.manual_seed(0)
    model = Sampled(make()).eval()
    model(torch.randn(1, 3, SIDE, SIDE))
    return model


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", TOYS)
def test_every_pixel_alone_counts(name, rule):
    each = torch.eye(SIDE * SIDE, dtype=torch.bool).reshape(-1, SIDE, SIDE)
    assert (distances_from_nothing(toy(TOYS[name]), each, RULES[rule]) > 0).all()


@pytest.mark.parametrize("name", TOYS)
@given(corners=rectangles)
@settings(max_examples=20)
def test_every_rectangle_counts(name, corners):
    assert distances_from_nothing(toy(TOYS[name]), rectangle(corners)) > 0


@pytest.mark.parametrize("name", TOYS)
@torch.inference_mode()
def test_hiding_nothing_is_the_plain_model(name):
    model, x = toy(TOYS[name]), torch.randn(2, 3, SIDE, SIDE)
    everything = torch.ones(2, SIDE, SIDE, dtype=torch.bool)
    assert torch.equal(lm.masking.run_masked(model, x, everything, lm.MaskingOptions()), model(x))


def test_patches_count_where_none_is_all_visible():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    each = torch.eye(SIDE * SIDE, dtype=torch.bool).reshape(-1, SIDE, SIDE)
    assert (distances_from_nothing(model.eval(), each, lm.MaskingOptions(patches="all")) > 0).all()


# ---- one pixel -------------------------------------------------------------------------------------------------------


def without_one(visible, generator):
    """The mask with one of its pixels hidden."""
    pixels = visible.nonzero()
    less = visible.clone()
    less[tuple(pixels[torch.randint(len(pixels), (1,), generator=generator)][0])] = False
    return less


@torch.inference_mode()
def test_one_pixel_moves_a_network_little(resnet18):
    # With random weights, residual branches drown the shortcuts, and any change grows from block to block. As if trained,
    # they add a little.
    model = copy.deepcopy(resnet18)
    generator = torch.Generator().manual_seed(0)
    condition(model, 0.1, torch.randn(8, 3, 64, 64, generator=generator))
    masks = torch.rand(48, 8, 8, generator=generator) < torch.linspace(0.05, 1, 48)[:, None, None]
    masks = masks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    masks = masks[masks.flatten(1).any(1)]
    less = torch.stack([without_one(mask, generator) for mask in masks])
    x, masked = torch.randn(1, 3, 64, 64, generator=generator), lm.LayerMasked(model)
    whole = (model(x) - masked(x, torch.zeros_like(masks[:1]))).norm()
    many = x.expand(len(masks), -1, -1, -1)
    change = (masked(many, masks) - masked(many, less)).norm(dim=1) / whole
    # The last map has four positions. A pixel that decides about one of them moves the mean by as much as half; most do not.
    assert change.max() < 0.5
    assert change.median() < 0.02


@pytest.mark.parametrize("name", ["1x1 of stride 2", "max pool of a position", "slice in steps"])
@given(corners=rectangles, seed=st.integers(0, 99))
@settings(max_examples=20)
def test_hiding_a_pixel_on_which_nothing_depends_changes_little(name, corners, seed):
    # Samples of pixels, with nothing in front: the model never looks at what lies between them.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), TOYS[name](), nn.Softplus(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(model, nn.Linear(8, 5)).eval()
    ramp = torch.linspace(0, 1, SIDE)  # from position to position, an image changes less than in all
    x = torch.stack([ramp.expand(SIDE, SIDE), ramp[:, None].expand(SIDE, SIDE), 1 - ramp.expand(SIDE, SIDE)])[None]
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).square().sum(), x)
    depends = gradient[0].abs().sum(0) > 0
    visible = rectangle(corners)
    between = visible & ~depends
    assume(between.any() and (visible & depends).any())
    less = visible & (depends | without_one(between, torch.Generator().manual_seed(seed)))
    with torch.inference_mode():
        masked = lm.LayerMasked(model)
        change = (masked(x, visible) - masked(x, less)).norm() / (
            model(x) - masked(x, torch.zeros_like(visible))
        ).norm()
    # It may decide whether a sample beside it counts, at most three pixels from the next one: half of a quarter of the ramp.
    assert change < 0.125, float(change)
