"""Quantus' metrics with layer masking: what they perturb is hidden, and nothing else."""

import numpy as np
import pytest
import quantus
import torch
from torch import Tensor, nn

import lm_plugins as lm
from lm_plugins.errors import InputTypeError, MaskValueError, ShapeError
from lm_plugins.quantus import PixelMasks, hide_segments
from lm_plugins.removal import Colour

# Quantus 0.6 numbers segments from 0, scikit-image's SLIC from 1: it warns of the empty segment 0.
EMPTY_SEGMENT = [
    "ignore:The settings for perturbing input:UserWarning",
    "ignore:Mean of empty slice:RuntimeWarning",
    "ignore:invalid value encountered in scalar divide:RuntimeWarning",
    "ignore:invalid value encountered in divide:RuntimeWarning",
]


@pytest.fixture
def model() -> nn.Module:
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return nn.Sequential(*layers).eval()


@pytest.fixture
def data() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((3, 3, 16, 16)).astype(np.float32)
    return {"x_batch": x, "y_batch": np.array([0, 1, 2]), "a_batch": generator.random((3, 1, 16, 16))}


def probabilities(forward: nn.Module, x: np.ndarray, visible: Tensor) -> Tensor:
    with torch.no_grad():
        return forward(torch.from_numpy(x), visible).softmax(1)


def test_pixel_flipping_hides_the_pixels_in_order(model: nn.Module, data: dict[str, np.ndarray]) -> None:
    masks = PixelMasks(model, data["x_batch"])
    metric = quantus.PixelFlipping(features_in_step=64, perturb_baseline=0.0, disable_warnings=True)
    found = np.array(metric(model=masks, **{**data, "x_batch": masks.x_batch}, softmax=True, batch_size=2))
    masked = lm.LayerMasked(model)
    for image in range(3):
        order = np.argsort(-data["a_batch"][image].reshape(-1))
        for step in range(4):
            visible = torch.ones(256, dtype=torch.bool)
            visible[order[: 64 * (step + 1)].copy()] = False
            expected = probabilities(masked, data["x_batch"][image : image + 1], visible.reshape(1, 16, 16))
            assert found[image, step] == pytest.approx(float(expected[0, image]), abs=1e-5)


def test_faithfulness_correlation(model: nn.Module, data: dict[str, np.ndarray]) -> None:
    masks = PixelMasks(model, torch.from_numpy(data["x_batch"]), removal=Colour(0.0))
    metric = quantus.FaithfulnessCorrelation(nr_runs=20, subset_size=40, perturb_baseline=0.0, disable_warnings=True)
    scores = metric(model=masks, **{**data, "x_batch": masks.x_batch}, softmax=False)
    assert np.isfinite(scores).all()
    assert np.abs(scores).max() <= 1 + 1e-6


@pytest.mark.parametrize("name", ["RegionPerturbation", "Selectivity"])
def test_patches_are_hidden_through_the_sentinel(name: str, model: nn.Module, data: dict[str, np.ndarray]) -> None:
    settings = {"RegionPerturbation": {"patch_size": 4, "regions_evaluation": 3}, "Selectivity": {"patch_size": 8}}[
        name
    ]
    masked = lm.LayerMasked(model)
    seen = []
    masked.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    metric = getattr(quantus, name)(perturb_baseline=lm.MASKED, disable_warnings=True, **settings)
    scores = metric(model=masked, **data, softmax=True)
    assert np.isfinite(np.array(scores)).all()
    hidden = [int((x == lm.MASKED).all(1).sum()) for x in seen]
    assert hidden == sorted(hidden)
    assert hidden[-1] == {"RegionPerturbation": 3 * 3 * 16, "Selectivity": 3 * 256}[name]  # of three images


@pytest.mark.filterwarnings(*EMPTY_SEGMENT)
def test_irof_hides_segments(model: nn.Module, data: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(np, "trapz"):  # Quantus 0.6 calls it, NumPy 2.4 has taken it away
        monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)
    metric = quantus.IROF(segmentation_method="slic", perturb_func=hide_segments, disable_warnings=True)
    masked = lm.LayerMasked(model)
    seen = []
    masked.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    metric(model=masked, **data, softmax=True)
    assert any(bool((x == lm.MASKED).any()) for x in seen)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda m, x: PixelMasks(m, x.tolist()),
            InputTypeError,
            "Quantus needs images as a torch.Tensor.*got list",
        ),
        (lambda m, x: PixelMasks(m, x[0]), ShapeError, "got shape \\(3, 16, 16\\)"),
        (lambda m, x: PixelMasks(m, x)(torch.from_numpy(x)), ShapeError, "\\(K, 1, 16, 16\\), got \\(3, 3, 16, 16\\)"),
        (
            lambda m, x: PixelMasks(m, x)(torch.rand(1, 1, 16, 16)),
            MaskValueError,
            "perturb_baseline=0.0",
        ),
        (lambda m, x: PixelMasks(m, x)(torch.full((1, 1, 16, 16), 4.0)), MaskValueError, "rows of PixelMasks.x_batch"),
        (lambda m, x: PixelMasks(m, x, output=lambda r: {"a": r})(torch.zeros(1, 1, 16, 16)), InputTypeError, "'a'"),
    ],
)
def test_bad_input(call, error: type[Exception], text: str, model: nn.Module, data: dict[str, np.ndarray]) -> None:
    with pytest.raises(error, match=text):
        call(model, data["x_batch"])
