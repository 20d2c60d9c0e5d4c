"""Small networks and explainers whose answers are known."""

import torch
from torch import nn


def network(outputs=3, seed=0):
    """A convolutional network with batch norm, in training mode."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, outputs),
    )


def images(count=4, seed=0):
    """Images and labels of three classes."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 8, 8, generator=random), torch.arange(count) % 3


def left_half(model, x, labels):
    """Says that the left half of an image is what matters."""
    maps = torch.zeros(len(x), *x.shape[2:])
    maps[..., : x.shape[3] // 2] = 1
    return maps
