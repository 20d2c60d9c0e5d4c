"""LIME through us and LIME itself: the same numbers on both roads, and with a colour, upstream's own."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lime import lime_image
from torch import Tensor, nn

from lm_plugins.errors import (
    InputTypeError,
    MaskValueError,
    NonFiniteError,
    OptionError,
    ShapeError,
    TrainingModeError,
)
from lm_plugins.features import grid
from lm_plugins.lime import LimeImageExplainer, MaskedClassifier
from lm_plugins.removal import Colour

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
SEGMENTS = grid((16, 16), 4).numpy()
SETTINGS: dict[str, Any] = {"top_labels": 3, "num_samples": 60, "segmentation_fn": lambda image: SEGMENTS}
QUIET: dict[str, Any] = {**SETTINGS, "progress_bar": False}


# The default segmentation makes one superpixel of images as small as these.
ONE_SUPERPIXEL = pytest.mark.filterwarnings("ignore:LIME's quickshift:lm_plugins.errors.ExplanationWarning")


def network(channels: int = 3, classes: int = 4) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, classes),
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
        net[-1].weight /= 10  # no class shall be certain
    return net.eval()


def normalised(image: np.ndarray) -> Tensor:
    return (torch.from_numpy(image).permute(2, 0, 1).float() / 255 - MEAN[:, None, None]) / STD[:, None, None]


def batch_predict(images: np.ndarray) -> np.ndarray:
    """A classifier_fn as in LIME's tutorial."""
    with torch.no_grad():
        return network()(torch.stack([normalised(image) for image in images])).softmax(1).numpy()


@pytest.fixture
def model() -> nn.Module:
    return network()


@pytest.fixture
def image() -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (16, 16, 3)).astype(np.uint8)


def assert_same(one: Any, other: Any, tolerance: float) -> None:
    assert one.top_labels == other.top_labels
    assert sorted(one.local_exp) == sorted(other.local_exp)
    for label in one.local_exp:
        weights, others = dict(one.local_exp[label]), dict(other.local_exp[label])
        assert sorted(weights) == sorted(others)
        np.testing.assert_allclose([weights[k] for k in weights], [others[k] for k in weights], atol=tolerance, rtol=0)
        np.testing.assert_allclose(one.intercept[label], other.intercept[label], atol=tolerance, rtol=0)
    np.testing.assert_allclose(one.score, other.score, atol=10 * tolerance)
    np.testing.assert_allclose(one.local_pred, other.local_pred, atol=tolerance)
    assert np.array_equal(one.segments, other.segments)
    assert np.array_equal(one.image, other.image)
    assert max(abs(weight) for _, weight in one.local_exp[one.top_labels[0]]) > 1e-3


@pytest.mark.parametrize("colour", [(0, 0, 0), (200, 10, 120)])
@pytest.mark.parametrize("num_features", [5, 100000])
def test_a_colour_is_upstream_with_that_hide_color(
    colour: tuple[int, ...], num_features: int, model: nn.Module, image: np.ndarray
) -> None:
    theirs = lime_image.LimeImageExplainer(random_state=3).explain_instance(
        image, batch_predict, hide_color=colour, num_features=num_features, **SETTINGS
    )
    removal = Colour(((torch.tensor(colour) / 255 - MEAN) / STD).tolist())
    ours = LimeImageExplainer(model, normalised, removal, random_state=3).explain_instance(
        image, num_features=num_features, **QUIET
    )
    assert_same(ours, theirs, 1e-6)
    assert isinstance(ours, lime_image.ImageExplanation)


@pytest.mark.parametrize("removal", [None, "blur", Colour(0.5)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_both_roads_give_the_same(removal: Any, dtype: type, model: nn.Module, image: np.ndarray) -> None:
    image = image if dtype == np.uint8 else (image / 255).astype(dtype)
    masked = MaskedClassifier(model, image, removal=removal)
    theirs = lime_image.LimeImageExplainer(random_state=1).explain_instance(
        image, masked, hide_color=masked.hide_color, **SETTINGS
    )
    ours = LimeImageExplainer(model, removal=removal, random_state=1).explain_instance(image, **QUIET)
    assert_same(ours, theirs, 1e-5)


@ONE_SUPERPIXEL
def test_the_tutorial_of_lime_for_torch(model: nn.Module) -> None:
    from PIL import Image
    from skimage.segmentation import mark_boundaries
    from torchvision import transforms

    img = Image.fromarray(np.random.RandomState(0).randint(0, 256, (30, 40, 3)).astype(np.uint8))
    pill_transf = transforms.Compose([transforms.Resize((36, 36)), transforms.CenterCrop(32)])
    preprocess_transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])]
    )

    def batch_predict(images: Any) -> np.ndarray:
        batch = torch.stack(tuple(preprocess_transform(i) for i in images), dim=0)
        return torch.nn.functional.softmax(model(batch), dim=1).detach().cpu().numpy()

    explainer = LimeImageExplainer(model, preprocess_transform, random_state=0)  # the changed line
    with pytest.warns(UserWarning, match=r"hide_color is not used.*removal="):
        explanation = explainer.explain_instance(
            np.array(pill_transf(img)), batch_predict, top_labels=5, hide_color=0, num_samples=30
        )
    top = explanation.top_labels[0]
    assert top == batch_predict([np.array(pill_transf(img))])[0].argmax()
    for settings in ({"positive_only": True, "hide_rest": False}, {"positive_only": False, "hide_rest": True}):
        temp, mask = explanation.get_image_and_mask(top, num_features=5, **settings)
        assert mark_boundaries(temp / 255.0, mask).shape == (32, 32, 3)

    array = np.array(pill_transf(img))
    masked = MaskedClassifier(model, array, preprocess_transform)  # the other road: one line more
    settings = {"top_labels": 5, "num_samples": 30, "segmentation_fn": lambda image: explanation.segments}
    theirs = lime_image.LimeImageExplainer(random_state=0).explain_instance(
        array, masked, hide_color=masked.hide_color, **settings
    )
    assert_same(explanation, theirs, 1e-5)


# ---- the anti-image --------------------------------------------------------------------------------------------------

DTYPES = [np.uint8, np.uint16, np.int16, np.float32, np.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_the_mask_is_recovered_exactly(dtype: type, data: st.DataObject) -> None:
    width = 8 * np.dtype(dtype).itemsize
    is_float = np.dtype(dtype).kind == "f"
    elements = st.floats(-1e30, 1e30, width=width) if is_float and width == 64 else None
    elements = st.floats(-(2.0**60), 2.0**60, width=32) if is_float and width == 32 else elements
    image = data.draw(arrays(dtype, (3, 4, 3), elements=elements))
    visible = data.draw(arrays(np.bool_, (2, 3, 4)))
    seen = []

    class Recorder(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))

    def record(model: nn.Module) -> Callable[..., Tensor]:
        def forward(x: Tensor, visible: Tensor) -> Tensor:
            seen.append(visible)
            return model(x)

        return forward

    masked = MaskedClassifier(
        Recorder().eval(),
        image,
        preprocess=lambda image: torch.zeros(3, 3, 4),
        removal=record,
        output=lambda means: means,
    )
    assert masked.hide_color.dtype == image.dtype
    masked(np.where(visible[..., None], image, masked.hide_color))
    assert np.array_equal(seen[-1].numpy(), visible)


def test_images_that_are_not_painted_with_the_hide_color(model: nn.Module, image: np.ndarray) -> None:
    masked = MaskedClassifier(model, image)
    painted = image.copy()
    painted[2, 3, 0] += 1
    with pytest.raises(MaskValueError, match=r"1 pixels are neither.*hide_color=masked\.hide_color"):
        masked(painted[None])
    painted[2, 3] = 255 - image[2, 3]  # every channel differs, but another hide_color
    with pytest.raises(MaskValueError, match="neither"):
        masked(painted[None])
    with pytest.raises(InputTypeError, match="for an image of uint8, got an array of float64"):
        masked(image[None] / 255)
    with pytest.raises(InputTypeError, match="got list"):
        masked([image])  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"\(16, 16, 3\), got images of shape \(1, 8, 16, 3\)"):
        masked(image[None, :8])
    with pytest.raises(MaskValueError, match="neither"):
        lime_image.LimeImageExplainer().explain_instance(image, masked, **SETTINGS)  # hide_color forgotten


# ---- random states, batches ------------------------------------------------------------------------------------------


def test_an_integer_repeats_and_an_object_moves_on(model: nn.Module, image: np.ndarray) -> None:
    explainer = LimeImageExplainer(model, random_state=5)
    assert_same(explainer.explain_instance(image, **QUIET), explainer.explain_instance(image, **QUIET), 0)

    explainer = LimeImageExplainer(model)
    first, second = (explainer.explain_instance(image, random_seed=7, **QUIET) for _ in range(2))
    assert_same(first, second, 0)
    assert explainer.explain_instance(image, random_seed=8, **QUIET).local_exp != first.local_exp

    moving, theirs = LimeImageExplainer(model, removal=Colour(0.0), random_state=np.random.RandomState(5)), []
    ours = [moving.explain_instance(image, **QUIET) for _ in range(2)]
    upstream = lime_image.LimeImageExplainer(random_state=np.random.RandomState(5))

    def predict(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255).softmax(1).numpy()

    theirs = [upstream.explain_instance(image, predict, hide_color=0, **SETTINGS) for _ in range(2)]
    for one, other in zip(ours, theirs, strict=True):
        assert_same(one, other, 1e-6)
    assert ours[0].local_exp != ours[1].local_exp


def test_no_random_state_is_the_global_one(model: nn.Module, image: np.ndarray) -> None:
    results = []
    for seed in (1, 1, 2):
        np.random.seed(seed)
        results.append(LimeImageExplainer(model).explain_instance(image, **QUIET))
    assert_same(results[0], results[1], 0)
    assert results[0].local_exp != results[2].local_exp


def test_the_seed_reaches_the_default_segmentation(model: nn.Module) -> None:
    flat = np.full((64, 64, 3), 128, np.uint8)  # all ties, which quickshift breaks at random
    settings = {"num_samples": 60, "progress_bar": False}
    explainer = LimeImageExplainer(model)
    one, same, other = (explainer.explain_instance(flat, random_seed=seed, **settings).segments for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_the_seed_has_another_name_in_older_scikit_image(
    model: nn.Module, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = []

    def quickshift(image: np.ndarray, kernel_size: float, max_dist: float, ratio: float, random_seed: int) -> Any:
        seeds.append(random_seed)
        return SEGMENTS

    monkeypatch.setattr("skimage.segmentation.quickshift", quickshift)
    LimeImageExplainer(model).explain_instance(image, random_seed=11, num_samples=20, progress_bar=False)
    assert seeds == [11]


@pytest.mark.parametrize("batch_size", [1, 7, 1000, None])
def test_batches_do_not_matter(
    batch_size: int | None, model: nn.Module, image: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    explainer = LimeImageExplainer(model, random_state=0)
    reference = explainer.explain_instance(image, **QUIET)
    assert capsys.readouterr().err == ""
    assert_same(explainer.explain_instance(image, batch_size=batch_size, **SETTINGS), reference, 1e-5)
    assert "coalitions" in capsys.readouterr().err


def test_the_batch_size_is_kept_and_equal_coalitions_are_asked_once(image: np.ndarray) -> None:
    sizes = []

    def model(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x.mean((2, 3))

    halves = lambda image: SEGMENTS // 8  # noqa: E731
    LimeImageExplainer(model, removal="grey", output="logits").explain_instance(
        image, batch_size=3, segmentation_fn=halves, num_samples=100, progress_bar=False
    )
    assert sizes == [1, 3, 1]  # the clean image, then the four coalitions of two features


# ---- segments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("convert", [lambda s: s + 1, lambda s: 3 * s - 7, torch.from_numpy, lambda s: s.astype(float)])
def test_any_ids_of_segments(convert: Callable[[Any], Any], model: nn.Module, image: np.ndarray) -> None:
    explainer = LimeImageExplainer(model, random_state=0)
    reference = explainer.explain_instance(image, **QUIET)
    other = explainer.explain_instance(image, **{**QUIET, "segmentation_fn": lambda image: convert(SEGMENTS)})
    assert_same(other, reference, 0)


def test_an_additive_model_has_its_weights_as_explanation() -> None:
    weights = torch.linspace(-1, 1, 16)
    features = torch.from_numpy(SEGMENTS)

    def additive(x: Tensor) -> Tensor:
        return (x[:, 0] * weights[features]).sum((1, 2))[:, None] / 16

    explainer = LimeImageExplainer(additive, removal=Colour(0.0), output="regression", kernel_width=10, random_state=0)
    explanation = explainer.explain_instance(np.ones((16, 16, 3)), **{**QUIET, "num_samples": 2000})
    found = torch.tensor([weight for _, weight in sorted(explanation.local_exp[0])])
    torch.testing.assert_close(found, weights.double(), atol=0.01, rtol=0)
    assert explanation.score > 0.999


# ---- images, models and outputs --------------------------------------------------------------------------------------


@ONE_SUPERPIXEL
@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_grey_images(shape: tuple[int, ...], dtype: type) -> None:
    image = np.random.RandomState(0).randint(0, 2, shape).astype(dtype)
    shapes = []

    def preprocess(image: np.ndarray) -> Tensor:
        shapes.append(image.shape)
        return torch.from_numpy(image).permute(2, 0, 1).float()

    channels = 3 if len(shape) == 2 else 1
    for settings in ({}, {"preprocess": preprocess}):
        explainer = LimeImageExplainer(network(channels), random_state=0, **settings)
        explanation = explainer.explain_instance(image, num_samples=20, progress_bar=False)  # and the default segments
        assert explanation.image.shape == (16, 16, 3)
        temp, mask = explanation.get_image_and_mask(explanation.top_labels[0], hide_rest=True)
        assert temp.shape == (16, 16, 3)
        assert mask.shape == (16, 16)
    assert shapes == [(16, 16, channels)]
    masked = MaskedClassifier(network(channels), image)
    theirs = lime_image.LimeImageExplainer(random_state=0).explain_instance(
        image, masked, hide_color=masked.hide_color, **SETTINGS
    )
    ours = LimeImageExplainer(network(channels), random_state=0).explain_instance(image, **QUIET)
    assert theirs.local_exp.keys() == ours.local_exp.keys()
    for label in ours.local_exp:
        for (_, one), (_, other) in zip(ours.local_exp[label], theirs.local_exp[label], strict=True):
            assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize("road", ["explainer", "classifier"])
def test_grey_images_in_the_wrong_form_say_which_is_right(road: str) -> None:
    image = np.full((12, 12), 0.5, np.float32)

    def ask(image: np.ndarray, channels: int) -> None:
        model = nn.Sequential(nn.Conv2d(channels, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
        if road == "classifier":
            MaskedClassifier(model, image)
        else:
            halves = np.repeat([[0] * 6 + [1] * 6], 12, 0)
            LimeImageExplainer(model).explain_instance(
                image, num_samples=8, progress_bar=False, segmentation_fn=lambda image: halves
            )

    with pytest.raises(
        ShapeError, match=r"3 channels.*its first takes 1.*pass an image \(H, W, 1\), since \(H, W\) becomes"
    ):
        ask(image, channels=1)
    with pytest.raises(ShapeError, match=r"1 channels.*its first takes 3"):
        ask(image[..., None], channels=3)
    ask(image, channels=3)
    ask(image[..., None], channels=1)


def test_four_channels_need_a_segmentation(image: np.ndarray) -> None:
    four = np.concatenate([image, image[..., :1]], 2)
    explainer = LimeImageExplainer(network(4), random_state=0)
    explanation = explainer.explain_instance(four, **QUIET)
    assert explanation.get_image_and_mask(explanation.top_labels[0])[0].shape == (16, 16, 4)
    with pytest.raises(ShapeError, match="1 or 3 channels, got 4; pass segmentation_fn="):
        explainer.explain_instance(four, num_samples=5)


@pytest.mark.parametrize("settings", [{}, {"top_labels": None}, {"top_labels": None, "labels": [0]}])
@pytest.mark.parametrize("squeezed", [False, True])
def test_a_regression_is_taken_as_it_is(squeezed: bool, settings: dict[str, Any], image: np.ndarray) -> None:
    net = network(classes=1)
    model = (lambda x: net(x)[:, 0]) if squeezed else net
    explainer = LimeImageExplainer(model, normalised, output="regression", random_state=0)
    explanation = explainer.explain_instance(image, **{**QUIET, **settings})
    assert list(explanation.local_exp) == [0]
    masked = MaskedClassifier(model, image, normalised, output="regression")
    assert masked(image[None])[0, 0] == pytest.approx(net(normalised(image)[None]).item(), abs=1e-5)


def test_top_labels_and_labels(model: nn.Module, image: np.ndarray) -> None:
    explainer = LimeImageExplainer(model, random_state=0)
    assert len(explainer.explain_instance(image, **{**QUIET, "top_labels": 10}).top_labels) == 4
    chosen = explainer.explain_instance(image, labels=iter([3, 0]), **{**QUIET, "top_labels": None})
    assert sorted(chosen.local_exp) == [0, 3]
    for labels, got in (([1, 4], "1, 4"), ([-1], "-1"), ([], "")):
        with pytest.raises(OptionError, match=rf"0 to 3, the model's classes; got \({got}"):
            explainer.explain_instance(image, labels=labels, **{**QUIET, "top_labels": None})


def test_output_chooses_what_is_explained(model: nn.Module, image: np.ndarray) -> None:
    class Softmax(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"probabilities": self.model(x).softmax(1)}

    reference = LimeImageExplainer(model, random_state=0).explain_instance(image, **QUIET)
    explainer = LimeImageExplainer(Softmax().eval(), output=lambda result: result["probabilities"], random_state=0)
    assert_same(explainer.explain_instance(image, **QUIET), reference, 1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_image_goes_into_the_dtype_of_the_model(dtype: torch.dtype, image: np.ndarray) -> None:
    explanation = LimeImageExplainer(network().to(dtype), normalised, random_state=0).explain_instance(image, **QUIET)
    reference = LimeImageExplainer(network(), normalised, random_state=0).explain_instance(image, **QUIET)
    assert explanation.top_labels[0] == reference.top_labels[0]
    assert explanation.score == pytest.approx(reference.score, abs=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_image_goes_to_the_device_of_the_model(image: np.ndarray) -> None:
    explanation = LimeImageExplainer(network().cuda(), normalised, random_state=0).explain_instance(image, **QUIET)
    reference = LimeImageExplainer(network(), normalised, random_state=0).explain_instance(image, **QUIET)
    assert_same(explanation, reference, 1e-4)


def test_preprocess_is_applied_once_and_leaves_the_image_alone(model: nn.Module, image: np.ndarray) -> None:
    calls = []

    def preprocess(image: np.ndarray) -> Tensor:
        calls.append(image.shape)
        image[:] = 255 - image  # in place
        return normalised(image)

    before = image.copy()
    flipped = image[:, ::-1]  # negative strides
    explanation = LimeImageExplainer(model, preprocess).explain_instance(flipped, **QUIET)
    assert calls == [(16, 16, 3)]
    assert np.array_equal(image, before)
    assert np.array_equal(explanation.image, before[:, ::-1])


# ---- mistakes --------------------------------------------------------------------------------------------------------


def explain(image: Any, model: Any = None, settings: dict[str, Any] | None = None, **arguments: Any) -> Any:
    explainer = LimeImageExplainer(network() if model is None else model, **(settings or {}))
    return explainer.explain_instance(image, **{**QUIET, **arguments})


def raw_logits(images: np.ndarray) -> Tensor:
    return network()(torch.stack([normalised(image) for image in images]))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda i: explain(torch.zeros(3, 8, 8)), InputTypeError, r"numpy array.*got Tensor.*permute\(1, 2, 0\)"),
        (lambda i: explain([[1, 2]]), InputTypeError, r"got list.*numpy\.array\(image\)"),
        (lambda i: explain(i > 3), InputTypeError, "integers or floats, got an array of bool"),
        (lambda i: explain(i[None]), ShapeError, r"one image.*got shape \(1, 16, 16, 3\)"),
        (lambda i: explain(i[:0]), ShapeError, r"got shape \(0, 16, 3\)"),
        (lambda i: explain(np.moveaxis(i, -1, 0)), ShapeError, r"channels last, got shape \(3, 16, 16\)"),
        (lambda i: explain(np.where(i > 250, np.nan, i)), NonFiniteError, "LIME needs finite images.*infinite or NaN"),
        (lambda i: explain(i.astype(int)), InputTypeError, "without preprocess.*got int64"),
        (lambda i: explain(i, 0.25), InputTypeError, "a torch model or a function.*got 0.25"),
        (lambda i: explain(i, nn.ReLU), InputTypeError, "got <class"),
        (
            lambda i: explain(i, network().train()),
            TrainingModeError,
            "LIME needs a model in evaluation mode",
        ),
        (lambda i: explain(i, lambda x: x), ShapeError, r"\(images, classes\), got \(1, 3, 16, 16\)"),
        (lambda i: explain(i, lambda x: x.mean()), InputTypeError, "one row for each of the 1 images"),
        (
            lambda i: explain(i, lambda x: x.mean((2, 3)).softmax(1)),
            OptionError,
            "already returns probabilities: pass output='probabilities'",
        ),
        (
            lambda i: explain(i, lambda x: torch.full((len(x), 4), 0.2502).half()),  # sums to 1.001
            OptionError,
            "already returns probabilities: pass output='probabilities'",
        ),
        (lambda i: explain(i, settings={"preprocess": 3}), InputTypeError, "preprocess is a function or None, got int"),
        (lambda i: explain(i, settings={"output": "odds"}), OptionError, "output is one of 'logits'.*got"),
        (lambda i: explain(i, settings={"removal": "paint"}), OptionError, "no removal is called 'paint'"),
        (lambda i: explain(i, settings={"kernel_width": 0}), OptionError, "kernel_width is above 0, got 0"),
        (lambda i: explain(i, settings={"feature_selection": "best"}), OptionError, "'lasso_path'; got 'best'"),
        (lambda i: explain(i, settings={"preprocess": np.array}), InputTypeError, "after preprocess.*got ndarray"),
        (
            lambda i: explain(i, settings={"preprocess": torch.from_numpy}),
            InputTypeError,
            "after preprocess.*uint8",
        ),
        (
            lambda i: explain(i, settings={"preprocess": lambda a: normalised(a)[:, :8]}),
            ShapeError,
            r"returned shape \(3, 8, 16\).*Resize and CenterCrop",
        ),
        (
            lambda i: explain(i, settings={"preprocess": lambda a: normalised(a) / 0}),
            NonFiniteError,
            "after preprocess, needs finite images",
        ),
        (lambda i: explain(i, segmentation_fn=lambda a: SEGMENTS[:8]), ShapeError, r"returned shape \(8, 16\)"),
        (lambda i: explain(i, segmentation_fn=lambda a: SEGMENTS + 0.5), InputTypeError, "whole numbers"),
        (lambda i: explain(i, segmentation_fn=lambda a: None), InputTypeError, "array of integers.*got NoneType"),
        (lambda i: explain(i, batch_size=0), OptionError, "batch_size is a whole number, at least 1; got 0"),
        (lambda i: explain(i, num_samples=0), OptionError, "num_samples is a whole number, at least 1; got 0"),
        (lambda i: explain(i, num_samples=1e3), OptionError, "got 1000.0"),
        (lambda i: explain(i, num_samples=None), OptionError, "got None"),
        (lambda i: explain(i, top_labels=-1), OptionError, "top_labels is a whole number, at least 0; got -1"),
        (
            lambda i: explain(i, classifier_fn=lambda images: np.zeros(4)),
            ShapeError,
            r"classifier_fn returned shape \(4,\) for one image, the model \(1, 4\)",
        ),
        (
            lambda i: explain(i, classifier_fn=batch_predict),
            OptionError,
            r"disagree.*top class is \d \(0\.\d+\), the model's \d \(0\.\d+\).*largest difference.*preprocess=",
        ),
        (lambda i: explain(i, settings={"preprocess": normalised}, classifier_fn=raw_logits), OptionError, "disagree"),
    ],
)
def test_bad_input(call: Callable[[np.ndarray], Any], error: type[Exception], text: str, image: np.ndarray) -> None:
    with pytest.raises(error, match=text):
        call(image)


def test_a_classifier_fn_that_agrees_changes_nothing(model: nn.Module, image: np.ndarray) -> None:
    explainer = LimeImageExplainer(model, normalised, random_state=0)
    reference = explainer.explain_instance(image, **QUIET)
    for classifier_fn in (batch_predict, lambda images: raw_logits(images).softmax(1)):
        assert_same(explainer.explain_instance(image, classifier_fn, **QUIET), reference, 0)


def test_without_lime_the_extra_is_named() -> None:
    code = "import sys; sys.modules['lime'] = None\nimport lm_plugins.lime"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingDependencyError: lm_plugins.lime needs LIME: pip install 'lm_plugins[lime]'" in result.stderr
