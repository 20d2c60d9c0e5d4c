"""What is measured: models, photographs, and what is visible of them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.models import load, photographs
from lm_plugins.features import grid, superpixels, visible_from

SIDE = 224
PATCH = 16


@dataclass(frozen=True)
class Architecture:
    """A model to measure.

    Args:
        name: Of torchvision; None for the pretrained EfficientNet-Lite0.
        cost: Time of a forward pass in those of ResNet-50, roughly: only for the estimate of the run time.
        largest_batch: Larger ones are left out, unless everything is asked for.
    """

    name: str | None
    cost: float
    largest_batch: int = 32


MODELS = {
    "ResNet-50": Architecture("resnet50", 1.0),
    "EfficientNet-Lite0": Architecture(None, 0.35),
    "EfficientNet-B0": Architecture("efficientnet_b0", 0.3),
    "MobileNetV3-L": Architecture("mobilenet_v3_large", 0.15),
    "ConvNeXt-T": Architecture("convnext_tiny", 1.2, largest_batch=16),
    "DenseNet-121": Architecture("densenet121", 0.9, largest_batch=16),
    "VGG-16": Architecture("vgg16", 2.9, largest_batch=8),
    "ViT-B/16": Architecture("vit_b_16", 3.3, largest_batch=8),
}


def model_of(name: str, device: torch.device, seed: int) -> nn.Module:
    """A model in evaluation mode. Those of torchvision get random weights: speed does not depend on them."""
    architecture = MODELS[name].name
    if architecture is None:
        return load("lite0").model.to(device)
    from torchvision.models import get_model

    return random_weights(lambda: get_model(architecture), seed).to(device)


def random_weights(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a model without its own, slow, initialisation, and draw weights that keep activations in range."""
    with torch.device("meta"):
        model = build()
    model = model.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith(("running_var", "weight")) and tensor.ndim == 1:
                tensor.fill_(1)
            elif tensor.ndim > 1:
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
            else:
                tensor.zero_()
    return model


def images(count: int, device: torch.device, side: int = SIDE) -> Tensor:
    """Photographs in the normalisation of EfficientNet-Lite0, repeated ``(count, 3, side, side)``."""
    x = _photographs()
    x = x if side == SIDE else F.interpolate(x, (side, side), mode="bilinear", antialias=True)
    return x[torch.arange(count) % len(x)].contiguous().to(device)


@lru_cache
def _photographs() -> Tensor:
    preprocess = load("lite0").preprocess
    return torch.stack([preprocess(one) for one in photographs().values()])


@lru_cache
def feature_mask(kind: str, side: int = SIDE) -> Tensor:
    """Int64 ``(side, side)``: 16 x 16 ``"patches"``, or as many ``"superpixels"`` of a photograph (SLIC)."""
    if kind == "patches":
        return grid((side, side), PATCH)
    return superpixels(images(1, torch.device("cpu"), side)[0], n_segments=(side // PATCH) ** 2, compactness=10)


def visible_part(kind: str, fraction: float, count: int, device: torch.device, seed: int, side: int = SIDE) -> Tensor:
    """Bool ``(count, side, side)``: for each image another random choice of features, a `fraction` of them."""
    features = feature_mask(kind, side)
    total = int(features.max()) + 1
    random = np.random.default_rng([seed, round(fraction * 1000), side])
    order = np.stack([random.permutation(total) for _ in range(count)])
    return visible_from(torch.from_numpy(order < round(fraction * total)), features).to(device)
