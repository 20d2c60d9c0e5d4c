"""Captum through us and Captum itself: the same numbers on both roads, and with a colour, upstream's own."""

import captum.attr
import pytest
import torch
from torch import Tensor, nn

import lm_plugins as lm
import lm_plugins.captum as ours
from lm_plugins.errors import InputTypeError, MaskValueError, OptionError, ShapeError, UnsupportedOperatorError
from lm_plugins.features import grid
from lm_plugins.removal import Colour

FEATURES = grid((12, 12), 4)
SETTINGS = {
    # Upstream's fails on a mask (H, W) with several perturbations an evaluation; ours takes it, see below.
    "FeatureAblation": {"feature_mask": FEATURES[None, None]},
    "Occlusion": {"sliding_window_shapes": (3, 4, 4), "strides": (3, 2, 2)},
    "ShapleyValueSampling": {"feature_mask": FEATURES, "n_samples": 3},
    "ShapleyValues": {"feature_mask": grid((12, 12), 6)},
    "KernelShap": {"feature_mask": FEATURES, "n_samples": 60},
    "Lime": {"feature_mask": FEATURES, "n_samples": 60},
}


@pytest.fixture
def model() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    with torch.no_grad():  # large enough for the lasso of LIME to keep something
        net[-1].weight *= 10
    return net.eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 12, 12)


def attribute(explainer: object, name: str, x: Tensor, **settings: object) -> Tensor:
    """Attribute with one seed, so that samplers of both roads draw the same coalitions."""
    import random

    import numpy as np

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    x = x[:1] if name in ("KernelShap", "Lime") else x
    return explainer.attribute(x, target=1, **SETTINGS[name], **settings)


def upstream(name: str, forward: nn.Module) -> object:
    if name != "Lime":
        return getattr(captum.attr, name)(forward)
    # Upstream weighs pixel values; with its own similarity, ours would rightly differ.
    return captum.attr.Lime(forward, similarity_func=ours.feature_similarity())


@pytest.mark.parametrize("perturbations", [1, 5])
@pytest.mark.parametrize("name", SETTINGS)
def test_both_roads_give_the_same(name: str, perturbations: int, model: nn.Module, x: Tensor) -> None:
    by_class = attribute(getattr(ours, name)(model), name, x, perturbations_per_eval=perturbations)
    by_sentinel = attribute(
        upstream(name, lm.LayerMasked(model)), name, x, baselines=lm.MASKED, perturbations_per_eval=perturbations
    )
    assert by_class.shape == by_sentinel.shape
    torch.testing.assert_close(by_class.to(by_sentinel.dtype), by_sentinel, atol=1e-5, rtol=1e-5)
    assert by_class.abs().max() > 1e-3


@pytest.mark.parametrize("name", SETTINGS)
def test_a_colour_is_upstream_with_that_baseline(name: str, model: nn.Module, x: Tensor) -> None:
    colour = torch.tensor([0.5, -0.2, 0.1])[None, :, None, None]
    through_us = attribute(getattr(ours, name)(model, removal=Colour((0.5, -0.2, 0.1))), name, x)
    plain = attribute(upstream(name, model), name, x, baselines=colour.expand(1, 3, 12, 12))
    torch.testing.assert_close(through_us.to(plain.dtype), plain, atol=1e-5, rtol=1e-5)


def test_exact_shapley_values_of_a_known_game() -> None:
    weights = torch.tensor([3.0, -1.0, 2.0, 0.5])
    features = grid((4, 4), 2)

    class Additive(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x[:, 0] * weights[features]).sum((1, 2))[:, None] / 4

    x = torch.ones(1, 3, 4, 4)
    for explainer in (ours.ShapleyValues, ours.FeatureAblation):
        values = explainer(Additive(), removal=Colour(0.0)).attribute(x, feature_mask=features, target=0)
        torch.testing.assert_close(values[0, 0], weights[features])


def test_shapley_values_sum_to_the_difference(model: nn.Module, x: Tensor) -> None:
    features = grid((12, 12), 6)
    values = ours.ShapleyValues(model).attribute(x, feature_mask=features, target=1)
    masked = lm.LayerMasked(model)
    difference = masked(x, torch.ones(12, 12))[:, 1] - masked(x, torch.zeros(12, 12))[:, 1]
    one_pixel_a_feature = values[:, 0, ::6, ::6].sum((1, 2))
    torch.testing.assert_close(one_pixel_a_feature, difference, atol=1e-4, rtol=0)


def test_further_arguments_tuples_and_other_dtypes(model: nn.Module, x: Tensor) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor, scale: Tensor, power: int) -> Tensor:
            return self.model(x) * scale[:, None] ** power

    explainer = ours.FeatureAblation(Scaled().eval())
    scale = torch.tensor([2.0, 3.0])
    values = explainer.attribute(
        (x,), feature_mask=FEATURES, target=1, additional_forward_args=(scale, 2), perturbations_per_eval=3
    )
    assert isinstance(values, tuple)  # and the mask is (H, W), several perturbations an evaluation
    plain = ours.FeatureAblation(model).attribute(x, feature_mask=FEATURES, target=1)
    torch.testing.assert_close(values[0], plain * (scale**2)[:, None, None, None])
    double = ours.FeatureAblation(model.double()).attribute(x.double(), feature_mask=FEATURES[None], target=1)
    torch.testing.assert_close(double.float(), plain, atol=1e-5, rtol=1e-4)


def test_sensitivity_and_infidelity_run_on_the_sentinel_road(model: nn.Module, x: Tensor) -> None:
    from captum.metrics import infidelity, infidelity_perturb_func_decorator, sensitivity_max

    masked = lm.LayerMasked(model)
    occlusion = captum.attr.Occlusion(masked)
    settings = {"target": 1, "baselines": lm.MASKED, **SETTINGS["Occlusion"]}
    assert sensitivity_max(occlusion.attribute, x, n_perturb_samples=2, **settings).isfinite().all()

    @infidelity_perturb_func_decorator(True)
    def hide_at_random(inputs: Tensor, baselines: float) -> Tensor:
        hidden = torch.rand(len(inputs), 1, 12, 12) < 0.5
        return torch.where(hidden, torch.tensor(baselines), inputs)

    attributions = occlusion.attribute(x, **settings)
    values = infidelity(masked, hide_at_random, x, attributions, baselines=lm.MASKED, target=1, n_perturb_samples=4)
    assert values.isfinite().all()


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda m, x: ours.FeatureAblation("model"), InputTypeError, "a model or a function, got str"),
        (
            lambda m, x: ours.FeatureAblation(m).attribute((x, x), target=1),
            InputTypeError,
            "inputs has 2 image tensors",
        ),
        (lambda m, x: ours.FeatureAblation(m).attribute(x[0], target=1), ShapeError, "got shape \\(3, 12, 12\\)"),
        (
            lambda m, x: ours.FeatureAblation(m).attribute(x, feature_mask=torch.zeros(5, 5).long(), target=1),
            ShapeError,
            "\\(5, 5\\), the images \\(2, 3, 12, 12\\)",
        ),
        (
            lambda m, x: ours.KernelShap(m).attribute(
                x, feature_mask=torch.arange(432).reshape(1, 3, 12, 12), target=1
            ),
            MaskValueError,
            "channels of a pixel different ids",
        ),
        (
            lambda m, x: ours.Occlusion(m).attribute(x, sliding_window_shapes=(1, 4, 4), target=1),
            ShapeError,
            "windows span all channels: \\(3, height, width\\)",
        ),
        (lambda m, x: ours.feature_similarity(0), OptionError, "above 0, got 0"),
        (lambda m, x: ours.Occlusion(m).attribute_future(x), UnsupportedOperatorError, "call attribute"),
    ],
)
def test_bad_input(call, error: type[Exception], text: str, model: nn.Module, x: Tensor) -> None:
    with pytest.raises(error, match=text):
        call(model, x)


def test_a_baseline_that_is_not_used_is_said(model: nn.Module, x: Tensor) -> None:
    explainer = ours.FeatureAblation(model)
    with pytest.warns(UserWarning, match="baselines is not used for images.*removal="):
        painted = explainer.attribute(x, baselines=0, feature_mask=FEATURES, target=1)
    torch.testing.assert_close(painted, explainer.attribute(x, feature_mask=FEATURES, target=1))
