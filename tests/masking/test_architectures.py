"""The laws of layer masking, on every CNN classifier of torchvision."""

import warnings
from dataclasses import dataclass
from functools import partial

import pytest
import torch
import torchvision
from torchvision.models.regnet import BlockParams, RegNet

import lm_plugins as lm
from lm_plugins.masking import run_masked
from lm_plugins.testing import check_model
from tests.golden import deterministic

LISTED = torchvision.models.list_models(module=torchvision.models)

# Transformers have small images and tests of their own, in test_transformers.py.
EXCLUDED = {
    "maxvit_t",
    *(f"swin{version}_{size}" for version in ("", "_v2") for size in "tsb"),
    *("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"),
}

# More than 80 million parameters.
LARGE = {
    *("convnext_base", "convnext_large", "efficientnet_v2_l", "regnet_x_32gf", "regnet_y_128gf", "regnet_y_16gf"),
    *("regnet_y_32gf", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet101_2"),
    *(f"vgg{depth}{kind}" for depth in (11, 13, 16, 19) for kind in ("", "_bn")),
}

BUILDERS = {
    # 640 million parameters do not fit a small machine. One block a stage, all of the real width, call the same rules.
    "regnet_y_128gf": lambda: RegNet(
        BlockParams(
            depths=[1, 1, 1, 1],
            widths=[528, 1056, 2904, 7392],
            group_widths=[264] * 4,
            bottleneck_multipliers=[1.0] * 4,
            strides=[2] * 4,
            se_ratio=0.25,
        )
    ),
    # Without init_weights they warn about a slow initialization.
    "googlenet": partial(torchvision.models.googlenet, init_weights=False),
    "inception_v3": partial(torchvision.models.inception_v3, init_weights=False),
    # As with pretrained weights: the channels are renormalised inside of the model.
    "googlenet, transform_input": partial(torchvision.models.googlenet, init_weights=False, transform_input=True),
    "inception_v3, transform_input": partial(torchvision.models.inception_v3, init_weights=False, transform_input=True),
}

TESTED = sorted({*LISTED, *BUILDERS} - EXCLUDED)

# The smallest of each kind of block. The others stack the same blocks, more often or wider, and get a shorter check.
SMALLEST = {
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3"),
    *(
        "googlenet, transform_input",
        "inception_v3, transform_input",
        "mnasnet0_5",
        "mobilenet_v2",
        "mobilenet_v3_small",
    ),
    *("regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnet50", "resnext50_32x4d", "shufflenet_v2_x0_5"),
    *("squeezenet1_0", "squeezenet1_1", "vgg11", "vgg11_bn"),
}
PUBLISHED = ("alexnet", "densenet", "efficientnet_", "mobilenet_", "resnet", "resnext", "squeezenet", "wide_resnet")

# Random weights make deep networks with squeeze-and-excitation amplify rounding, up to 1e7 times, which would drown
# what the laws are about. With these gains of their norms, and statistics of the images, they behave as if trained.
GAINS = {"efficientnet_": 0.1, "mobilenet_v3_": 0.1, "regnet_y_": 0.05}

# These hold bit for bit in a CNN; the others up to rounding.
EXACT = (
    "all visible is the plain model",
    "hidden pixels may hold anything",
    "nothing visible gives finite numbers that do not depend on the image",
)

# Inception v3 needs 75 pixels.
HEIGHT, WIDTH = 80, 96


@dataclass
class Subject:
    """A model, four images, a mask for each, and the masked outputs under default options."""

    name: str
    model: torch.nn.Module
    x: torch.Tensor  # (4, 3, H, W)
    visible: torch.Tensor  # bool (4, H, W)
    output: torch.Tensor  # (4, 1000)

    def options(self):
        """Default options, and the published ones where there are any."""
        if not self.name.startswith(PUBLISHED):
            return [lm.MaskingOptions()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", lm.errors.PublishedCodeWarning)
            return [lm.MaskingOptions(), lm.published(self.name)]


def condition(model, gain, x):
    """Scale the norms of a model by `gain`, and give them the statistics of `x`."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.weight.mul_(gain)
        norm.momentum = 1.0
        norm.train()
    model(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def four_masks():
    """Half of the 16x16 patches; a disc; all but one patch; nothing."""
    patches = torch.rand(HEIGHT // 16, WIDTH // 16) > 0.5
    patches = patches.repeat_interleave(16, 0).repeat_interleave(16, 1)
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    disc = (rows - 30) ** 2 + (columns - 55) ** 2 < 24**2
    all_but_one = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
    all_but_one[32:48, 16:32] = False
    return torch.stack([patches, disc, all_but_one, torch.zeros_like(disc)])


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in TESTED],
)
def subject(request):
    name = request.param
    build = BUILDERS.get(name) or partial(torchvision.models.get_model, name, weights=None)
    model = deterministic.fill(build())
    torch.manual_seed(0)
    x, visible = torch.randn(4, 3, HEIGHT, WIDTH), four_masks()
    with torch.inference_mode():
        for family, gain in GAINS.items():
            if name.startswith(family):
                condition(model, gain, x)
        output = lm.LayerMasked(model)(x, visible)
    return Subject(name, model, x, visible, output)


@torch.inference_mode()
def test_all_visible_is_the_plain_model_bit_for_bit(subject):
    plain = subject.model(subject.x)
    everything = torch.ones_like(subject.visible)
    assert torch.equal(lm.LayerMasked(subject.model)(subject.x, everything), plain)
    assert torch.equal(lm.LayerMasked(subject.model)(subject.x), plain)
    for options in subject.options():  # the engine without the shortcut
        assert torch.equal(run_masked(subject.model, subject.x, everything, options), plain)
    # Of the other laws, none is empty: each mask changes the output by far more than their tolerance.
    change = (subject.output - plain).abs().amax(1)
    assert (change > 1e-3 * plain.abs().amax(1)).all()


def test_laws(subject):
    is_smallest = subject.name in SMALLEST
    chosen = slice(None) if is_smallest else slice(0, None, 3)  # patches and nothing
    for options in subject.options() if is_smallest else [lm.MaskingOptions()]:
        found = check_model(
            subject.model,
            subject.x[chosen],
            subject.visible[chosen],
            options=options,
            gradients=is_smallest and subject.name not in LARGE and options == lm.MaskingOptions(),
            continuity=0.5 if is_smallest else None,
            tolerance=1e-5,
        )
        assert all(found.laws[law].how == "bit for bit" for law in EXACT)


@torch.inference_mode()
def test_later_runs_agree(subject):
    masked = lm.LayerMasked(subject.model)
    tolerances = {"rtol": 0, "atol": 1e-5 * subject.output.abs().max().item()}
    torch.testing.assert_close(masked(subject.x, subject.visible), subject.output, rtol=0, atol=0)
    # Later runs leave out what the first did not look at.
    torch.testing.assert_close(masked(subject.x, subject.visible), subject.output, **tolerances)


def test_every_model_is_tested_or_excluded():
    assert set(LISTED) == set(LISTED) & set(TESTED) | EXCLUDED
    assert not set(TESTED) & EXCLUDED


@pytest.mark.parametrize("name", sorted(EXCLUDED))
def test_what_is_excluded_has_attention(name):
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None)
    assert any("Attention" in type(module).__name__ for module in model.modules())


def test_no_exclusion_is_stale():
    assert set(LISTED) >= EXCLUDED
    assert {*LISTED, *BUILDERS} >= LARGE
    assert set(TESTED) >= SMALLEST
