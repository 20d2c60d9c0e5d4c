"""Our Captum classes inside what else Captum has, with every spelling of a target, and on models that are not all float32."""

import io
import math
import re
from collections.abc import Callable
from contextlib import redirect_stderr

import captum.attr
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lm_plugins as lm
import lm_plugins.captum as ours
from lm_plugins import attribution
from lm_plugins.errors import InputTypeError, OptionError, ShapeError
from lm_plugins.features import grid
from lm_plugins.removal import Colour

FEATURES = grid((12, 12), 4)
WINDOWS = {"sliding_window_shapes": (3, 4, 4), "strides": (3, 4, 4)}
SETTINGS = {
    "FeatureAblation": {"feature_mask": FEATURES[None, None]},
    "Occlusion": WINDOWS,
    "ShapleyValueSampling": {"feature_mask": FEATURES[None, None], "n_samples": 2},
    "ShapleyValues": {"feature_mask": grid((12, 12), 6)[None, None]},
    "KernelShap": {"feature_mask": FEATURES[None, None], "n_samples": 30},
    "Lime": {"feature_mask": FEATURES[None, None], "n_samples": 30},
}
SAMPLED = ("KernelShap", "Lime")


@pytest.fixture
def model() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )
    with torch.no_grad():  # large enough for the lasso of LIME to keep something
        net[-1].weight *= 20
    return net.eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 12, 12)


# NoiseTunnel


@pytest.mark.parametrize("name", SETTINGS)
def test_a_noise_tunnel_without_noise_changes_nothing(name: str, model: nn.Module, x: Tensor) -> None:
    explainer, settings = getattr(ours, name)(model), {"target": 1, **SETTINGS[name]}
    torch.manual_seed(0)
    torch.normal(0, torch.zeros(1, 3, 12, 12))  # samplers draw after the noise
    expected = explainer.attribute(x[:1], **settings)
    torch.manual_seed(0)
    found = captum.attr.NoiseTunnel(explainer).attribute(x[:1], nt_samples=1, stdevs=0.0, **settings)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert found.abs().max() > 1e-2


def test_a_noise_tunnel_averages_over_noisy_images(model: nn.Module, x: Tensor) -> None:
    explainer, settings = ours.Occlusion(model), {"target": 1, **WINDOWS}
    torch.manual_seed(0)
    found = captum.attr.NoiseTunnel(explainer).attribute(x, nt_samples=4, stdevs=0.3, **settings)
    torch.manual_seed(0)
    noisy = x.repeat_interleave(4, 0)
    noisy = noisy + torch.normal(0, torch.full_like(noisy, 0.3))
    each = explainer.attribute(noisy, **settings)
    torch.testing.assert_close(found, each.reshape(2, 4, 3, 12, 12).mean(1), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["RISE", "SISE", "AdaSISE", "IntegratedGradCam"])
def test_a_noise_tunnel_takes_methods_of_our_own(name: str, model: nn.Module, x: Tensor) -> None:
    method = getattr(attribution, name)
    explainer = method(model, model[0]) if name == "IntegratedGradCam" else method(model, output="regression")
    settings = {"target": 1, **({"seed": 0, "n_masks": 20} if name == "RISE" else {})}
    found = captum.attr.NoiseTunnel(explainer).attribute(x, nt_samples=2, stdevs=0.0, **settings)
    torch.testing.assert_close(found, explainer.attribute(x, **settings), atol=1e-5, rtol=1e-5)


def test_a_noise_tunnel_needs_masks_with_a_first_dimension(model: nn.Module, x: Tensor) -> None:
    tunnel = captum.attr.NoiseTunnel(ours.FeatureAblation(model))
    with pytest.raises(ShapeError, match=r"NoiseTunnel repeats the first dimension: give it \(1, 1, H, W\)"):
        tunnel.attribute(x, nt_samples=2, target=1, feature_mask=FEATURES)


# DataLoaderAttribution


@pytest.mark.parametrize("perturbations", [1, 4])
def test_a_data_loader_on_the_sentinel_road(perturbations: int, model: nn.Module) -> None:
    images = torch.randn(5, 3, 12, 12)
    explainer = captum.attr.DataLoaderAttribution(captum.attr.FeatureAblation(lm.LayerMasked(model)))
    (found,) = explainer.attribute(
        DataLoader(TensorDataset(images), batch_size=2),
        feature_mask=FEATURES[None, None],
        baselines=lm.MASKED,
        reduce=lambda total, output, inputs: output.sum(0) + (0 if total is None else total),
        perturbations_per_pass=perturbations,
    )
    each = ours.FeatureAblation(model).attribute(images, feature_mask=FEATURES)
    assert found.shape == (4, 3, 12, 12)
    # Sums over five images of float32, in another order.
    torch.testing.assert_close(found, each.reshape(5, 4, 3, 12, 12).sum(0), atol=1e-5, rtol=1e-5)


# Targets


def maps(model: nn.Module) -> nn.Module:
    return nn.Sequential(model[0], nn.Conv2d(6, 4, 1)).eval()


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    "output",
    [lambda logits: logits[:, 0], lambda logits: logits.sum(), lambda logits: logits.sum().item()],
    ids=["(N,)", "one tensor", "one float"],
)
def test_a_target_where_there_is_nothing_to_choose(
    output: Callable[[Tensor], object], name: str, model: nn.Module, x: Tensor
) -> None:
    explainer = getattr(ours, name)(model, output=output)
    with pytest.raises(
        OptionError, match=r"target is 0, and the model has one number for each image.*Leave target out"
    ):
        explainer.attribute(x[:1], target=0, **SETTINGS[name])
    assert explainer.attribute(x[:1], **SETTINGS[name]).isfinite().all()


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    ("target", "error", "text"),
    [
        (
            torch.tensor([1.0, 2.0]),
            InputTypeError,
            r"torch.float32 and shape \(2,\); convert labels with target.long\(\)",
        ),
        ([1.0, 2.0], InputTypeError, r"got 1.0; convert numbers with int\(...\)"),
        (torch.tensor([[1], [2]]), InputTypeError, r"shape \(2, 1\).*target.flatten\(\)"),
        ((1, 2), OptionError, r"target is \(1, 2\), the model has 4 outputs: pass 1 index\."),
        ((7,), OptionError, r"target is \(7,\), the model has 4 outputs: choose 0 to 3"),
        ([(1,), (-5,)], OptionError, r"target is \(-5,\), the model has 4 outputs: choose 0 to 3"),
        ([1, 4], OptionError, "target is 4, the model has 4 outputs: choose 0 to 3"),
        ([1, 2, 3], OptionError, "target has 3 classes for 2 images"),
    ],
)
@pytest.mark.filterwarnings("ignore:You are providing multiple inputs for Lime:UserWarning")
def test_targets_that_are_none(
    target: object, error: type[Exception], text: str, name: str, model: nn.Module, x: Tensor
) -> None:
    with pytest.raises(error, match=text):
        getattr(ours, name)(model).attribute(x, target=target, **SETTINGS[name])


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.filterwarnings("ignore:You are providing multiple inputs for Lime:UserWarning")
def test_every_spelling_of_one_target(name: str, model: nn.Module, x: Tensor) -> None:
    def attributed(target: object) -> Tensor:
        torch.manual_seed(0)
        return getattr(ours, name)(model).attribute(x, target=target, **SETTINGS[name])

    expected = attributed([(1,), (3,)])
    for target in ([1, 3], torch.tensor([1, 3]), [1, -1], torch.tensor([-3, 3])):
        torch.testing.assert_close(attributed(target), expected)
    assert torch.equal(attributed(torch.tensor(2)), attributed(2))
    assert not torch.equal(attributed(3)[1], attributed(2)[1])
    if name not in SAMPLED:  # these draw for each image anew
        torch.testing.assert_close(attributed(3)[1], expected[1])


@pytest.mark.filterwarnings("ignore:the attribution by Lime is exactly 0:lm_plugins.errors.ExplanationWarning")
@pytest.mark.parametrize("name", SAMPLED)
def test_methods_of_one_number_say_how_to_explain_maps(name: str, model: nn.Module, x: Tensor) -> None:
    explainer = getattr(ours, name)(maps(model))
    for target, text in ((None, "target is missing.*such as target=\\(0, 0, 0\\)"), (2, "target is 2.*pass 3 indices")):
        with pytest.raises(OptionError, match=text + r", or make one number for each class of the maps with output="):
            explainer.attribute(x[:1], target=target, **SETTINGS[name])
    with pytest.raises(OptionError, match=r"target is \(0, 12, 0\).*choose 0 to 3, 0 to 11, 0 to 11"):
        explainer.attribute(x[:1], target=(0, 12, 0), **SETTINGS[name])
    reduced = getattr(ours, name)(maps(model), output=lambda maps: maps.mean((2, 3)))
    assert reduced.attribute(x[:1], target=2, **SETTINGS[name]).isfinite().all()


def test_a_class_of_maps_for_each_image(model: nn.Module, x: Tensor) -> None:
    """Captum's list of classes is for outputs of two dimensions only."""
    explainer = ours.FeatureAblation(maps(model))
    both = explainer.attribute(x, target=[1, 2], feature_mask=FEATURES)
    for image, target in enumerate((1, 2)):
        alone = explainer.attribute(x[image : image + 1], target=target, feature_mask=FEATURES)
        torch.testing.assert_close(both[144 * image : 144 * (image + 1)], alone, atol=1e-6, rtol=1e-5)


# Several inputs


class WithVector(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        return self.model(x) * (1 + vector.sum(1, keepdim=True))


def test_occlusion_of_two_tensors_makes_nothing_on_another_device(model: nn.Module, x: Tensor) -> None:
    """A default device that holds no values takes the place of the CPU next to an accelerator."""
    vector = torch.ones(2, 3)
    settings = {"sliding_window_shapes": ((3, 6, 6), (1,)), "strides": ((3, 6, 6), 1), "target": 1}
    explainer = ours.Occlusion(WithVector(model).eval(), removal=Colour(0.0))
    expected = captum.attr.Occlusion(WithVector(model).eval()).attribute((x, vector), **settings)
    torch.set_default_device("meta")
    try:
        # Four windows of the image and three of the vector: the second batch holds one of each.
        found = explainer.attribute((x, vector), perturbations_per_eval=3, **settings)
    finally:
        torch.set_default_device(None)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_two_images_are_refused_and_the_remedies_work(model: nn.Module, x: Tensor) -> None:
    def siamese(x: Tensor, other: Tensor) -> Tensor:
        return model(x) - model(other)

    other = torch.randn(2, 3, 12, 12)
    with pytest.raises(
        InputTypeError, match=r"a removal is a function of one image and its mask. Explain one and pass"
    ):
        ours.FeatureAblation(siamese).attribute((x, other), target=1)
    settings = {"target": 1, "feature_mask": FEATURES}
    first = ours.FeatureAblation(siamese).attribute(x, additional_forward_args=other, **settings)
    second = ours.FeatureAblation(lambda b, a: siamese(a, b)).attribute(other, additional_forward_args=x, **settings)
    alone = ours.FeatureAblation(model)
    torch.testing.assert_close(first, alone.attribute(x, **settings), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(second, -alone.attribute(other, **settings), atol=1e-5, rtol=1e-5)


# Dtypes


@pytest.mark.parametrize("name", SETTINGS)
def test_float64_models_get_float64_attributions(name: str, model: nn.Module, x: Tensor) -> None:
    def attributed(model: nn.Module, x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return getattr(ours, name)(model).attribute(x[:1], target=1, **SETTINGS[name])

    single = attributed(model, x)
    double = attributed(model.double(), x.double())
    assert single.dtype == torch.float32
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, atol=1e-4, rtol=1e-4)
    inside = nn.Sequential(model).eval()
    inside.register_forward_pre_hook(lambda module, inputs: (inputs[0].double(),))
    assert attributed(lambda x: inside[0](x.double()), x).dtype == torch.float64
    if name in SAMPLED:
        settings = {"target": 1, "return_input_shape": False, **SETTINGS[name]}
        assert getattr(ours, name)(model).attribute(x[:1].double(), **settings).dtype == torch.float64


def test_float64_attributions_have_more_digits_than_float32(model: nn.Module, x: Tensor) -> None:
    model, x = model.double(), x.double()
    forward = Colour(0.0)(model)
    values = ours.FeatureAblation(model, removal=Colour(0.0)).attribute(x, target=1, feature_mask=FEATURES)
    for index in FEATURES.unique():
        hidden = index == FEATURES
        expected = (model(x) - forward(x, ~hidden))[:, 1]
        found = values[:, 0, hidden][:, 0]
        # A difference of two numbers, each with the 53 bits of float64.
        torch.testing.assert_close(found, expected, atol=1e-13, rtol=0)


# Progress


def bars(text: str) -> list[tuple[int, int]]:
    return [(int(done), int(total)) for done, total in re.findall(r"(\d+)/(\d+)", text)]


@pytest.mark.parametrize("perturbations", [1, 2, 5])
@pytest.mark.parametrize("name", SETTINGS)
def test_progress_reaches_its_end(name: str, perturbations: int, model: nn.Module, x: Tensor) -> None:
    stream = io.StringIO()
    with redirect_stderr(stream):
        getattr(ours, name)(model).attribute(
            x[:1], target=1, perturbations_per_eval=perturbations, show_progress=True, **SETTINGS[name]
        )
    done, total = bars(stream.getvalue())[-1]
    assert done == total > 1


def test_progress_of_two_tensors_counts_their_windows(model: nn.Module, x: Tensor) -> None:
    stream = io.StringIO()
    with redirect_stderr(stream):
        ours.Occlusion(WithVector(model).eval()).attribute(
            (x, torch.ones(2, 3)), ((3, 6, 6), (1,)), strides=((3, 6, 6), 1), target=1,
            perturbations_per_eval=2, show_progress=True,
        )  # fmt: skip
    total = 1 + math.ceil((4 + 3) / 2)
    assert bars(stream.getvalue())[-1] == (total, total)


def test_strides_of_an_image_have_its_dimensions(model: nn.Module, x: Tensor) -> None:
    with pytest.raises(
        ShapeError, match=r"strides is \(4, 4\) for the image: expected a number or \(3, height, width\)"
    ):
        ours.Occlusion(model).attribute(x, (3, 4, 4), strides=(4, 4), target=1)
