"""Captum through us and Captum itself: the same numbers on both roads, and with a colour, upstream's own."""

import dataclasses

import captum.attr
import pytest
import torch
from torch import Tensor, nn

import lm_plugins as lm
import lm_plugins.captum as ours
from lm_plugins.errors import (
    InputTypeError,
    MaskValueError,
    NonFiniteError,
    OptionError,
    ShapeError,
    UnsupportedOperatorError,
)
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
        values = explainer(Additive().eval(), removal=Colour(0.0)).attribute(x, feature_mask=features, target=0)
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


class WithMetadata(nn.Module):
    """An image and a vector: what a model with two inputs looks like."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, metadata: Tensor) -> Tensor:
        return self.model(x) * (1 + metadata.sum(1, keepdim=True)) + metadata[:, :1]


@pytest.mark.parametrize("name", ["FeatureAblation", "ShapleyValueSampling", "KernelShap", "Lime"])
def test_tuple_inputs(name: str, model: nn.Module, x: Tensor) -> None:
    metadata = torch.tensor([[0.5, -0.2, 0.7]])
    masks = (FEATURES[None, None], 20 + torch.arange(3)[None])
    settings = {**SETTINGS[name], "feature_mask": masks, "baselines": (lm.MASKED, 0.1), "perturbations_per_eval": 2}

    def attributed(explainer: object) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        return explainer.attribute((x[:1], metadata), target=1, **settings)

    ours_, other = attributed(getattr(ours, name)(WithMetadata(model).eval()))
    assert ours_.shape == (1, 3, 12, 12)
    assert other.shape == metadata.shape
    # Upstream wastes samples on the gap between the ids, so that it is given masks without one.
    settings["feature_mask"] = (masks[0], 9 + torch.arange(3)[None])
    plain = captum.attr.Lime if name == "Lime" else getattr(captum.attr, name)
    more = {"similarity_func": ours.feature_similarity()} if name == "Lime" else {}

    class Masked(nn.Module):
        def forward(self, x: Tensor, metadata: Tensor) -> Tensor:
            return WithMetadata(lm.LayerMasked(model))(x, metadata)

    expected = attributed(plain(Masked(), **more))
    torch.testing.assert_close(ours_.to(expected[0]), expected[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(other.to(expected[1]), expected[1], atol=1e-5, rtol=1e-4)


def test_a_tuple_of_windows(model: nn.Module, x: Tensor) -> None:
    explainer = ours.Occlusion(WithMetadata(model).eval())
    maps = explainer.attribute(
        (x, torch.ones(2, 3)), sliding_window_shapes=((3, 4, 4), (1,)), strides=((3, 4, 4), 1), target=1
    )
    assert [one.shape for one in maps] == [(2, 3, 12, 12), (2, 3)]


@pytest.mark.parametrize("name", ["FeatureAblation", "ShapleyValueSampling", "ShapleyValues"])
def test_futures(name: str, model: nn.Module, x: Tensor) -> None:
    def promised(x: Tensor) -> torch.futures.Future:
        future = torch.futures.Future()
        future.set_result(model(x))
        return future

    torch.manual_seed(0)
    found = getattr(ours, name)(promised).attribute_future(x, target=1, **SETTINGS[name])
    torch.testing.assert_close(found.wait(), attribute(getattr(ours, name)(model), name, x))


def test_any_output(model: nn.Module, x: Tensor) -> None:
    """Dicts, tuples, dataclasses, regression, several outputs at once."""

    @dataclasses.dataclass
    class Output:
        logits: Tensor

    expected = ours.FeatureAblation(model).attribute(x, feature_mask=FEATURES, target=1)
    for wrap, output in (
        (lambda logits: {"logits": logits}, lambda result: result["logits"]),
        (lambda logits: (None, logits), lambda result: result[1]),
        (Output, lambda result: result.logits),
    ):
        wrapped = nn.Sequential(model).eval()
        wrapped.register_forward_hook(lambda module, inputs, result, wrap=wrap: wrap(result))
        found = ours.FeatureAblation(wrapped, output=output).attribute(x, feature_mask=FEATURES, target=1)
        assert torch.equal(found, expected)
    regression = ours.KernelShap(model, output=lambda logits: logits[:, 1])
    torch.testing.assert_close(
        attribute(ours.KernelShap(model), "KernelShap", x),
        (torch.manual_seed(0), regression.attribute(x[:1], **SETTINGS["KernelShap"]))[1],
    )
    every = ours.FeatureAblation(model).attribute(x, feature_mask=FEATURES)
    assert every.shape == (8, 3, 12, 12)  # as upstream: two images, four outputs
    torch.testing.assert_close(every[[1, 5]], expected)


@pytest.mark.parametrize("name", ["FeatureAblation", "ShapleyValues"])
def test_a_feature_mask_for_each_image(name: str, model: nn.Module, x: Tensor) -> None:
    halves = grid((12, 12), (6, 12))
    masks = torch.stack([halves, halves.T.contiguous() + 1])[:, None]
    explainer = getattr(ours, name)(model)
    for target in (1, None):
        together = explainer.attribute(x, feature_mask=masks, target=target, perturbations_per_eval=3)
        alone = [explainer.attribute(x[i : i + 1], feature_mask=masks[i : i + 1], target=target) for i in range(2)]
        torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=1e-5)


def test_removals_by_name(model: nn.Module, x: Tensor) -> None:
    by_name = ours.FeatureAblation(model, removal="grey").attribute(x, feature_mask=FEATURES, target=1)
    assert torch.equal(
        by_name, ours.FeatureAblation(model, removal=Colour(0.0)).attribute(x, feature_mask=FEATURES, target=1)
    )


def test_ids_with_gaps_cost_nothing(model: nn.Module, x: Tensor) -> None:
    calls = []

    def counted(x: Tensor) -> Tensor:
        calls.append(len(x))
        return model(x)

    found = ours.ShapleyValueSampling(counted).attribute(
        x[:1], feature_mask=10 * grid((12, 12), 6) - 7, target=1, n_samples=2
    )
    assert len(calls) == 2 + 1 + 2 * 4  # two are the check of the engine on one image
    assert len(found.unique()) == 4


@pytest.mark.parametrize("name", ["KernelShap", "Lime", "ShapleyValueSampling"])
def test_one_seed_one_result_for_every_batch_size(name: str, model: nn.Module, x: Tensor) -> None:
    explainer = getattr(ours, name)(model)
    first = attribute(explainer, name, x, perturbations_per_eval=1)
    assert torch.equal(first, attribute(explainer, name, x, perturbations_per_eval=1))
    for perturbations in (2, 7, 64):
        found = attribute(explainer, name, x, perturbations_per_eval=perturbations)
        torch.testing.assert_close(found, first, atol=1e-5, rtol=1e-5)


def test_no_hook_or_argument_stays_behind_after_an_error(model: nn.Module, x: Tensor) -> None:
    explainer = ours.FeatureAblation(lambda x, scale: model(x) * scale)
    with pytest.raises(OptionError):
        explainer.attribute(x, target=99, feature_mask=FEATURES, additional_forward_args=2.0)
    found = explainer.attribute(x, target=1, feature_mask=FEATURES, additional_forward_args=1.0)
    torch.testing.assert_close(found, ours.FeatureAblation(model).attribute(x, target=1, feature_mask=FEATURES))
    assert not any(module._forward_hooks for module in model.modules())


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
        (
            lambda m, x: ours.FeatureAblation(m).attribute(x, feature_mask=FEATURES, target=9),
            OptionError,
            "target is 9, the model has 4 outputs: choose 0 to 3",
        ),
        (
            lambda m, x: ours.KernelShap(m).attribute(x[:1], feature_mask=FEATURES),
            OptionError,
            "target is missing: the model has 4 outputs",
        ),
        (
            lambda m, x: ours.Occlusion(lambda x: {"logits": m(x)}).attribute(x, (3, 4, 4), target=0),
            InputTypeError,
            "got dict with 'logits'. Choose a part of what the model returns with output=",
        ),
        (lambda m, x: ours.Occlusion(m, removal="gray"), OptionError, "no removal is called 'gray'; there are layer_"),
        (lambda m, x: ours.Occlusion(m, removal=Colour), InputTypeError, "did you mean Colour\\(\\)"),
        (
            lambda m, x: ours.FeatureAblation(m).attribute(x, feature_mask=FEATURES + 0.5, target=1),
            InputTypeError,
            "whole numbers",
        ),
        (
            lambda m, x: ours.FeatureAblation(m).attribute(x, feature_mask=FEATURES.numpy(), target=1),
            InputTypeError,
            "an integer tensor, got ndarray",
        ),
        (
            lambda m, x: ours.FeatureAblation(m).attribute((x, x[:, 0, 0]), feature_mask=FEATURES, target=1),
            OptionError,
            "1 masks for 2 inputs",
        ),
        (
            lambda m, x: ours.FeatureAblation(m).attribute(x.mul(9).byte(), feature_mask=FEATURES, target=1),
            InputTypeError,
            "floating point in the normalisation of the model, got torch.uint8",
        ),
        (
            lambda m, x: captum.attr.FeatureAblation(lm.LayerMasked(m)).attribute(
                x, baselines=torch.nan, feature_mask=FEATURES[None, None], target=1
            ),
            NonFiniteError,
            "NaN or infinity does not survive Captum's arithmetic; use lm_plugins.MASKED",
        ),
        (
            lambda m, x: captum.attr.FeatureAblation(lm.LayerMasked(m)).attribute(
                x.mul(9).int(), baselines=lm.MASKED, feature_mask=FEATURES[None, None], target=1
            ),
            InputTypeError,
            "got torch.int32",
        ),
        (
            lambda m, x: captum.attr.Occlusion(lm.LayerMasked(m)).attribute(
                x, (1, 4, 4), baselines=lm.MASKED, target=1
            ),
            MaskValueError,
            "in only some of their channels",
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
