"""Neighbour padding, one position at a time."""

import torch

STEPS = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]


def fill(values, known, fillable=None, diagonal=1.0, epsilon=0.0, count=1000):
    """Fill `count` rings around the known region of ``(N, C, H, W)``; returns the map and what is known then."""
    values, known = values.double().clone(), known.clone()
    n, _, h, w = values.shape
    for _ in range(count):
        before, source = known.clone(), values.clone()
        for image in range(n):
            for y in range(h):
                for x in range(w):
                    if before[image, y, x] or (fillable is not None and not fillable[y, x]):
                        continue
                    total, weights = torch.zeros_like(source[image, :, y, x]), 0.0
                    for i, j in STEPS:
                        inside = 0 <= y + i < h and 0 <= x + j < w
                        if inside and before[image, y + i, x + j]:
                            weight = diagonal if i and j else 1.0
                            total = total + weight * source[image, :, y + i, x + j]
                            weights += weight
                    if weights:
                        values[image, :, y, x] = total / (weights + epsilon)
                        known[image, y, x] = True
        if torch.equal(before, known):
            break
    return values, known
