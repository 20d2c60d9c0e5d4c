"""Three classes of small images, told by the colour of a square; a data set for recipes."""

import numpy as np
import torch


class Squares:
    """``count`` images ``(3, 16, 16)`` on [0, 1]."""

    def __init__(self, count, seed):
        random = np.random.default_rng(seed)
        self.labels = random.integers(3, size=count).tolist()
        self.images = random.random((count, 3, 16, 16), dtype=np.float32) * 0.3
        for image, label in zip(self.images, self.labels, strict=True):
            top, left = random.integers(0, 8, 2)
            image[label, top : top + 8, left : left + 8] = 1

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return torch.from_numpy(self.images[index]), self.labels[index]


def squares():
    """A training and a test set."""
    return Squares(60, 0), Squares(20, 1)


def small_network(outputs):
    """A classifier for them."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2, 1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3, 1, 1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, outputs),
    )
