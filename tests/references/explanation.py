"""The methods of `lm_plugins.attribution` as they are defined: loops over images, layers, maps and steps, no batches."""

import itertools
import math

import numpy as np
import torch


def maps_and_gradients(model, layer, x, score):
    """Maps (K, h, w) of a layer for one image, and the gradient of a score of the output."""
    kept = []

    def keep(module, args, output):
        # The last call counts; the model goes on with a copy that nobody else sees.
        kept.append(output)
        return output + 0

    handle = layer.register_forward_hook(keep)
    value = score(model(x.clone().requires_grad_()))
    handle.remove()
    (gradient,) = torch.autograd.grad(value, kept[-1])
    return kept[-1][0].detach(), gradient[0].detach()


def resized(image, size):
    """Bilinear interpolation with pixel centres at half numbers, borders repeated."""
    matrices = []
    for old, new in zip(image.shape, size, strict=True):
        matrix = np.zeros((new, old))
        for i in range(new):
            at = min(max((i + 0.5) * old / new - 0.5, 0.0), old - 1.0)
            low = math.floor(at)
            matrix[i, low] += 1 - (at - low)
            if low + 1 < old:
                matrix[i, low + 1] += at - low
        matrices.append(matrix)
    return torch.from_numpy(matrices[0] @ image.double().numpy() @ matrices[1].T)


def spread(image):
    low, high = float(image.min()), float(image.max())
    if high - low < 1e-12:
        return torch.zeros_like(image)
    return (image - low) / (high - low)


def otsu(values):
    """The middle of the split at which the variance between the two classes is largest, every split tried."""
    values = np.sort(np.asarray(values, float).ravel())
    best, threshold = -1.0, None
    for low, high in itertools.pairwise(values):
        if low == high:
            continue
        lower, upper = values[values <= low], values[values > low]
        variance = len(lower) * len(upper) * (lower.mean() - upper.mean()) ** 2
        if variance > best * (1 + 1e-12):
            best, threshold = variance, (low + high) / 2
    return threshold


def gate(value, how, factor):
    """What a layer lets through, pixel by pixel."""
    if how == "simple":
        return value
    threshold = otsu(value.numpy())
    above = [float(one) for one in value.flatten() if one > factor * threshold]
    if 0 < len(above) < 0.1 * value.numel():
        threshold *= factor
    difference = value - threshold
    return 1 / (1 + torch.exp(-100 * difference)) if how == "soft" else (difference > 0).double()


def sise(model, layers, x, target, black=0.0, mu=0.0, adaptive=False, how="soft", factor=1.0, weight=1.0):
    """One image (1, C, H, W), a model of logits, layers from shallow to deep: (H, W) in [0, 1]."""
    result, passes = None, 0
    for layer in layers:
        maps, gradients = maps_and_gradients(model, layer, x, lambda output: output.softmax(1)[0, target])
        slopes = [float(one.mean()) for one in gradients]
        largest = max(slopes)
        kept = [k for k, slope in enumerate(slopes) if slope > mu * largest and slope > 0]
        if adaptive and kept:
            threshold = otsu([slopes[k] / largest for k in kept])
            kept = [k for k in kept if slopes[k] / largest > threshold]
        value = torch.zeros(x.shape[2:], dtype=torch.float64)
        for k in kept:
            mask = spread(resized(maps[k].clamp(min=0), x.shape[2:]))
            if float(mask.max()) == 0:
                continue
            with torch.no_grad():
                score = model(x * mask + black * (1 - mask)).softmax(1)[0, target]
            passes += 1
            value += score * mask / mask.sum()
        if float(value.max()) == 0:
            continue
        value = spread(value)
        if result is None:
            result = value
            continue
        result = (weight * result + (2 - weight) * value) * gate(value, how, factor)
    return spread(result), passes


def rise(model, masks, x, target, probability):
    """One image, masks (N, H, W): the map, and its standard error."""
    draws = []
    for mask in masks:
        with torch.no_grad():
            draws.append(model(x * mask).softmax(1)[0, target] * mask / probability)
    mean = sum(draws) / len(draws)
    variance = sum((draw - mean) ** 2 for draw in draws) / (len(draws) - 1)
    return mean, (variance / len(draws)).sqrt()


def rise_mask(grid, down, across, size):
    """One mask from its grid and its shift."""
    cells = len(grid)
    height, width = math.ceil(size[0] / cells), math.ceil(size[1] / cells)
    grown = resized(grid, ((cells + 1) * height, (cells + 1) * width))
    mask = torch.zeros(size)
    for i in range(size[0]):
        for j in range(size[1]):
            mask[i, j] = grown[down + i, across + j]
    return mask


def integrated_grad_cam(model, layer, x, target, steps, baseline=0.0, subtract=True, relu="per_step"):
    """One image, right sum: (h, w)."""
    start = torch.full_like(x, baseline)
    base, _ = maps_and_gradients(model, layer, start, lambda output: output[0, target])
    total = torch.zeros(base.shape[1:], dtype=x.dtype)
    for t in range(1, steps + 1):
        maps, gradients = maps_and_gradients(
            model, layer, start + t / steps * (x - start), lambda output: output[0, target]
        )
        step = torch.zeros_like(total)
        for k in range(len(maps)):
            step += gradients[k].mean() * (maps[k] - (base[k] if subtract else 0))
        total += step.clamp(min=0) if relu == "per_step" else step
    return (total.clamp(min=0) if relu == "final" else total) / steps
