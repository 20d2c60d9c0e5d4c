"""A small model and photographs of noise, importable on workers."""

import numpy as np
import torch
from PIL import Image

SIZE = 24


def small_model():
    """A classifier of three classes, in evaluation mode."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2, 1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3, 1, 1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 3),
    ).eval()


def preprocess(picture):
    """A picture as ``(3, 24, 24)`` around 0, and its pixels."""
    array = np.asarray(picture.convert("RGB").resize((SIZE, SIZE)), np.float32) / 255
    pixels = torch.from_numpy(array.copy()).permute(2, 0, 1)
    return (pixels - 0.5) / 0.25, pixels


def picture(seed):
    """A picture of coloured noise with a bright square."""
    random = np.random.default_rng(seed)
    array = random.integers(0, 120, (30, 36, 3), np.uint8)
    top, left = random.integers(0, 18, 2)
    array[top : top + 12, left : left + 12, seed % 3] = 250
    return Image.fromarray(array)


def folder_of(place, count=7):
    """A folder with a folder a class."""
    for i in range(count):
        inside = place / f"class{i % 3}"
        inside.mkdir(parents=True, exist_ok=True)
        picture(i).save(inside / f"{i:03d}.png")
    return place
