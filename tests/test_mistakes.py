"""Likely mistakes, each met by the sentence that docs/mistakes.md shows."""

from pathlib import Path

import captum.attr
import pytest
import torch
from torch import nn

import lm_plugins as lm
from lm_plugins import errors

PAGE = (Path(__file__).parents[1] / "docs" / "mistakes.md").read_text()
WINDOWS = {"sliding_window_shapes": (3, 16, 16), "strides": (3, 16, 16), "target": 1}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, 4, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()  # fmt: skip


@pytest.fixture
def x():
    """A photograph as ImageNet's normalisation leaves it."""
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 4 - 2


def documented(words):
    assert words in PAGE
    return words


def test_no_baseline(model, x):
    words = documented("exactly 0, and none equals lm_plugins.MASKED")
    with pytest.warns(errors.ExplanationWarning, match=words):
        captum.attr.Occlusion(lm.LayerMasked(model)).attribute(x, **WINDOWS)
    masked = lm.LayerMasked(model)
    with pytest.warns(errors.ExplanationWarning, match=words):
        masked(x.masked_fill(torch.ones(64, 64).triu().bool(), 0.0))
    masked(x.masked_fill(torch.ones(64, 64).triu().bool(), 0.0))  # once is enough


def test_what_is_not_painted(model, x):
    masked = lm.LayerMasked(model)
    masked(x)
    masked(torch.zeros(1, 3, 64, 64))
    masked(x.abs().masked_fill(torch.ones(64, 64).triu().bool(), 0.0))  # a black border, without normalisation
    masked(x.masked_fill(torch.ones(64, 64).triu().bool(), 0.0), torch.ones(64, 64, dtype=torch.bool))
    captum.attr.Occlusion(masked).attribute(x, baselines=lm.MASKED, **WINDOWS)


@pytest.mark.parametrize("shift", [-3.5, -5.0])
def test_dark_images_of_other_normalisations(model, shift):
    """One colour that is darker than any black is an image, too; so is one of which the mask is given."""
    masked = lm.LayerMasked(model)
    masked(torch.full((1, 3, 64, 64), shift))
    masked(torch.rand(1, 3, 64, 64) + shift - 1, torch.ones(64, 64, dtype=torch.bool))


def test_layer_masked_twice(model, x):
    from lm_plugins.captum import Occlusion

    with pytest.raises(errors.InputTypeError, match=documented("the model is layer-masked already")):
        Occlusion(lm.LayerMasked(model)).attribute(x, **WINDOWS)


@pytest.mark.parametrize("name", ["IntegratedGradients", "LayerGradCam", "DeepLift"])
def test_captums_own(name):
    import lm_plugins.captum

    words = documented("Captum's own and needs no adapter")
    with pytest.raises(errors.NotOfferedError, match=words):
        exec(f"from lm_plugins.captum import {name}")
    with pytest.raises(AttributeError, match=words):
        getattr(lm_plugins.captum, name)
    assert not hasattr(lm_plugins.captum, name)
    with pytest.raises(AttributeError, match="no attribute Nothing"):
        lm_plugins.captum.Nothing  # noqa: B018


def test_interpolation(model, x):
    masked = lm.LayerMasked(model)
    with pytest.raises(errors.MaskValueError, match=documented("blends of the two")):
        captum.attr.IntegratedGradients(masked).attribute(x, baselines=lm.MASKED, target=1, n_steps=8)
    with pytest.raises(errors.MaskValueError, match="blends of the two"):
        captum.attr.GradientShap(masked).attribute(x, baselines=torch.full_like(x, lm.MASKED), target=1, n_samples=20)
    # With an image as the baseline and the mask beside it, they work.
    visible = torch.ones(1, 1, 64, 64, dtype=torch.bool)
    visible[..., :32] = False
    found = captum.attr.IntegratedGradients(masked).attribute(
        x, baselines=torch.zeros_like(x), target=1, n_steps=4, additional_forward_args=visible
    )
    assert torch.equal(found[..., :32], torch.zeros_like(found[..., :32]))
    assert found[..., 32:].abs().max() > 0


def test_lime_as_upstream():
    from lm_plugins.lime import LimeImageExplainer

    with pytest.raises(
        errors.InputTypeError, match=documented("the model is given here, and not as classifier_fn later")
    ):
        LimeImageExplainer()


def test_one_of_two_lines_of_shap(model):
    import numpy as np
    import shap

    import lm_plugins.shap

    images = np.random.default_rng(0).random((1, 64, 64, 3), np.float32)
    with pytest.raises(
        errors.InputTypeError, match=documented("paints pixels, and lm_plugins.shap.Model was not told")
    ):
        shap.Explainer(lm_plugins.shap.Model(model), shap.maskers.Image("blur(8,8)", (64, 64, 3)))(images, max_evals=40)
    masker = lm_plugins.shap.Masker((64, 64, 3), features=16)
    with pytest.raises(errors.InputTypeError, match=documented("hands over images and a pixel mask")):
        shap.Explainer(lambda a: model(torch.from_numpy(a)), masker)(images, max_evals=40)


def test_the_sentinel(model):
    masked = lm.LayerMasked(model)
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    visible = torch.ones(64, 64, dtype=torch.bool)
    visible[:32] = False
    painted = torch.where(visible, pixels, lm.MASKED)
    with pytest.raises(errors.MaskValueError, match=documented("as if normalised")):
        masked((painted - 0.45) / 0.22)
    assert "rounded, or computed with" in PAGE
    with pytest.raises(errors.MaskValueError, match=r"rounded, or computed with|as a resize or a blur"):
        masked(nn.functional.interpolate(painted, size=(48, 48), mode="bilinear"))
    one_channel = torch.where(torch.tensor([True, False, False])[:, None, None], painted, pixels)
    with pytest.raises(errors.MaskValueError, match=documented("in only some of their channels")):
        masked(one_channel)


def test_names(model, x):
    from lm_plugins.cli.loading_models import load_model
    from lm_plugins.removal import as_removal

    with pytest.raises(errors.OptionError, match=documented("Did you mean 'grey'")):
        as_removal("gray")
    for name, words in (
        ("resnet50", "Did you mean torchvision:resnet50"),
        ("resnet18d", "Did you mean timm:resnet18d"),
    ):
        with pytest.raises(errors.OptionError, match=words):
            load_model(name)
    with pytest.raises(errors.TrainingModeError, match=r"Call model\.eval\(\) first"):
        lm.LayerMasked(model.train())(x, torch.zeros(64, 64, dtype=torch.bool))


@pytest.mark.parametrize("name", ["RISE", "SISE", "AdaSISE"])
def test_layer_masked_and_painted(name, model):
    import lm_plugins.attribution as attribution

    with pytest.raises(errors.InputTypeError, match=documented("the model is layer-masked, and the removal is")):
        getattr(attribution, name)(lm.LayerMasked(model), output="logits")
