"""Mistakes with the SHAP adapter: each is named, with what to do."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import shap
from torch import Tensor, nn

import lm_plugins.shap as ours
from lm_plugins.errors import (
    InputTypeError,
    LMPluginsError,
    MaskValueError,
    NonFiniteError,
    OptionError,
    ShapeError,
    TrainingModeError,
)

SHAPE = (12, 12, 3)
NET = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
IMAGES = np.zeros((1, *SHAPE), np.float32)


class Maps(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": x, "aux": x}


def explained(masker: object, model: object = None, images: object = IMAGES, **settings: object) -> object:
    return shap.Explainer(model or ours.Model(NET), masker, **settings)(images, max_evals=1000, silent=True)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: ours.Masker((12, 12)), ShapeError, r"one image, \(H, W, C\), got \(12, 12\)"),
        (lambda: ours.Masker((1, *SHAPE)), ShapeError, r"for a batch X it is X\[0\]\.shape"),
        (lambda: ours.Masker((3, 224, 224)), ShapeError, r"looks like \(C, H, W\)"),
        (lambda: ours.Masker(SHAPE, values="patches"), OptionError, "'pixels' or 'features', got 'patches'"),
        (lambda: ours.Masker(SHAPE, 0), OptionError, "at least 1"),
        (lambda: ours.Masker(SHAPE, (2, 2.5)), OptionError, "two whole numbers"),
        (lambda: ours.Masker(SHAPE, "slic"), OptionError, "neither grid:N .* nor slic:N"),
        (lambda: ours.Masker(SHAPE, True), InputTypeError, "features is bool"),
        (lambda: ours.Masker(SHAPE, np.zeros((4, 4), int)), ShapeError, r"\(4, 4\), .* expected \(12, 12\)"),
        (lambda: ours.Masker(SHAPE, np.full((12, 12), 0.5)), InputTypeError, "whole numbers"),
        (lambda: explained(ours.Masker(SHAPE, lambda image: 4)), InputTypeError, "the function features= returned int"),
        (lambda: explained(ours.Masker((8, 8, 3))), ShapeError, r"shape \(8, 8, 3\), got \(12, 12, 3\)"),
        (lambda: explained(ours.Masker(SHAPE), images=IMAGES[0]), ShapeError, r"batch of them \(N, H, W, C\)"),
        (lambda: explained(ours.Masker(SHAPE), images=IMAGES * np.nan), NonFiniteError, "144 visible pixels are infinite"),
        (lambda: ours.Masker(SHAPE)(np.ones(5, bool), IMAGES[0]), ShapeError, r"\(432,\), got \(5,\)"),
        (
            lambda: explained(ours.Masker(SHAPE), algorithm="permutation"),
            MaskValueError,
            'channels of a pixel.*values="features"',
        ),
        (lambda: ours.Masker(SHAPE, 6, "features").to_pixels(np.ones((1, 4)), IMAGES), InputTypeError, "got ndarray"),
        (lambda: ours.Masker(SHAPE).to_pixels(shap.Explanation(IMAGES), IMAGES), OptionError, "shape of the images"),
        (
            lambda: ours.Masker(SHAPE, 6, "features").to_pixels(shap.Explanation(np.ones((2, 4))), IMAGES),
            ShapeError,
            "of 2 images, got 1",
        ),
        (
            lambda: ours.Masker(SHAPE, 6, "features").to_pixels(shap.Explanation(np.ones((1, 5))), IMAGES),
            ShapeError,
            "expected 4 values, one for each feature; got 5",
        ),
        (lambda: ours.Model(lambda x: x), InputTypeError, "torch.nn.Module.*got function.*preprocess="),
        (lambda: ours.Model(NET, preprocess=2), InputTypeError, "preprocess is a function or None, got int"),
        (lambda: ours.Model(NET, output="odds"), OptionError, "output is one of 'logits'.*got 'odds'"),
        (lambda: ours.Model(NET, output=2), InputTypeError, "got int"),
        (lambda: ours.Model(NET, removal="gray"), OptionError, "no removal is called 'gray'; there are layer_masking"),
        (lambda: ours.Model(nn.Linear(2, 2).train())(IMAGES), TrainingModeError, "model.eval"),
        (lambda: ours.Model(NET)(IMAGES[0]), ShapeError, r"SHAP needs images \(N, H, W, C\), got shape \(12, 12, 3\)"),
        (lambda: ours.Model(NET)(["a"]), InputTypeError, "tensor of numbers, got"),
        (lambda: ours.Model(NET)([IMAGES[0], IMAGES[0, 1:]]), ShapeError, "different shapes"),
        (lambda: ours.Model(NET)(IMAGES, np.ones((1, 8, 8))), ShapeError, r"\(1, 8, 8\)"),
        (lambda: ours.Model(NET, preprocess=lambda x: x[:, :, 2:])(IMAGES), ShapeError, "keep height and width"),
        (lambda: ours.Model(NET, preprocess=lambda x: x.numpy())(IMAGES), InputTypeError, "must return a tensor"),
        (lambda: explained(ours.Masker(SHAPE), ours.Model(Maps().eval())), InputTypeError, "dict with 'out', 'aux'.*output="),
        (
            lambda: explained(ours.Masker(SHAPE), ours.Model(Maps().eval(), output=lambda maps: maps["out"])),
            ShapeError,
            "choose with output=",
        ),
        (lambda: ours.ValueFunction(NET, IMAGES, 4), ShapeError, r"one image \(H, W, C\), got shape \(1, 12"),
        (lambda: ours.ValueFunction(NET, IMAGES[0], 4, batch_size=0), OptionError, "batch_size is at least 1"),
        (lambda: ours.ValueFunction(NET, IMAGES[0] + np.inf, 4), NonFiniteError, "infinite or NaN"),
        (lambda: ours.ValueFunction(NET, IMAGES[0], 6)(np.ones((2, 3))), ShapeError, r"\(nsamples, 4\), got \(2, 3\)"),
        (lambda: ours.ValueFunction(NET, IMAGES[0], 6)(np.full((2, 4), 0.5)), MaskValueError, "0 .absent"),
        (lambda: ours.ValueFunction(NET, IMAGES[0], 6).to_pixels(np.ones((1, 3))), ShapeError, r"\(1, 4\)"),
    ],
)  # fmt: skip
def test_mistakes_are_named(call: Callable[[], object], error: type[LMPluginsError], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


def test_without_shap_the_extra_is_named() -> None:
    code = """
import sys
sys.modules["shap"] = None
import lm_plugins.errors as errors
try:
    import lm_plugins.shap
except errors.MissingDependencyError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'lm_plugins[shap]'" in result.stdout, result.stderr
