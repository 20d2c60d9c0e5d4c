"""What sliding windows do to maps and regions, one position at a time."""

import math

import torch


def taps(size, kernel, stride, padding, dilation):
    """For every output position, the taps of its window: (tap row, tap column, row, column) of those on the map.

    `padding` is (left, right, top, bottom).
    """
    left, right, top, bottom = padding
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    rows = (size[0] + top + bottom - spans[0]) // stride[0] + 1
    columns = (size[1] + left + right - spans[1]) // stride[1] + 1
    windows = {}
    for i in range(rows):
        for j in range(columns):
            windows[i, j] = []
            for a in range(kernel[0]):
                for b in range(kernel[1]):
                    y, x = i * stride[0] - top + a * dilation[0], j * stride[1] - left + b * dilation[1]
                    if 0 <= y < size[0] and 0 <= x < size[1]:
                        windows[i, j].append((a, b, y, x))
    return windows


def parts(size, kernel, stride, padding, dilation):
    """As `taps`, but along axes on which windows skip positions, all that are nearer than a stride to their centre."""
    of_axis = []
    for axis in range(2):
        start = padding[2] if axis == 0 else padding[0]
        total = size[axis] + sum(padding[2:] if axis == 0 else padding[:2])
        span = (kernel[axis] - 1) * dilation[axis] + 1
        starts = [i * stride[axis] - start for i in range((total - span) // stride[axis] + 1)]
        steps = [tap * dilation[axis] for tap in range(kernel[axis])]
        # Of many windows, whether any looks at a position depends on where it lies between two of them.
        if any(all((y - step) % stride[axis] for step in steps) for y in range(stride[axis])):
            centre = (span - 1) / 2
            first = min(0, math.floor(centre - stride[axis]) + 1)
            steps = range(first, max(span, math.ceil(centre + stride[axis])))
        of_axis.append([[first + step for step in steps if 0 <= first + step < size[axis]] for first in starts])
    return {
        (i, j): [(None, None, y, x) for y in rows for x in columns]
        for i, rows in enumerate(of_axis[0])
        for j, columns in enumerate(of_axis[1])
    }


def adaptive_taps(size, output):
    """The same for the uneven windows of adaptive pooling."""
    windows = {}
    for i in range(output[0]):
        for j in range(output[1]):
            rows = range(i * size[0] // output[0], math.ceil((i + 1) * size[0] / output[0]))
            columns = range(j * size[1] // output[1], math.ceil((j + 1) * size[1] / output[1]))
            windows[i, j] = [(a, b, y, x) for a, y in enumerate(rows) for b, x in enumerate(columns)]
    return windows


def shape_of(windows):
    return tuple(max(index) + 1 for index in zip(*windows, strict=True))


def any_in(region, windows):
    """Bool ``(N, H, W)``: whether a window holds a position of the region."""
    result = torch.zeros(region.shape[0], *shape_of(windows), dtype=torch.bool)
    for (i, j), window in windows.items():
        for n in range(region.shape[0]):
            result[n, i, j] = any(region[n, y, x] for _, _, y, x in window)
    return result


def maximum(values, region, windows):
    """Largest value of the region in each window; NaN where there is none."""
    result = torch.full((*values.shape[:2], *shape_of(windows)), torch.nan, dtype=torch.float64)
    for (i, j), window in windows.items():
        for n in range(values.shape[0]):
            found = [values[n, :, y, x] for _, _, y, x in window if region[n, y, x]]
            if found:
                result[n, :, i, j] = torch.stack(found).amax(0)
    return result


def mean(values, region, windows):
    """Mean of the region in each window; NaN where there is none."""
    result = torch.full((*values.shape[:2], *shape_of(windows)), torch.nan, dtype=torch.float64)
    for (i, j), window in windows.items():
        for n in range(values.shape[0]):
            found = [values[n, :, y, x] for _, _, y, x in window if region[n, y, x]]
            if found:
                result[n, :, i, j] = torch.stack(found).mean(0)
    return result


def resampled(region, inside, threshold, kernel, stride, padding, dilation):
    """Visible positions after a window, by the definition of `Mask.resampled`.

    Coverage is the weighted share of the taps inside of the image that lie in the region; a tap weighs the less the
    further it is from the centre of its window, nothing from a stride on.
    """
    windows = taps(region.shape[1:], kernel, stride, padding, dilation)
    weight_of = [
        [max(0.0, stride[axis] - abs(tap - (kernel[axis] - 1) / 2) * dilation[axis]) for tap in range(kernel[axis])]
        for axis in range(2)
    ]
    for axis in range(2):
        if not any(weight_of[axis]):  # an even, dilated kernel: its two central taps
            weight_of[axis] = [float(tap in (kernel[axis] // 2 - 1, kernel[axis] // 2)) for tap in range(kernel[axis])]
    touched = any_in(region, windows)
    visible = torch.zeros_like(touched)
    for n in range(region.shape[0]):
        for (i, j), window in windows.items():
            weighted = [
                (weight_of[0][a] * weight_of[1][b], bool(region[n, y, x])) for a, b, y, x in window if inside[y, x]
            ]
            covered, possible = (
                sum(weight for weight, is_in in weighted if is_in),
                sum(weight for weight, _ in weighted),
            )
            # Where the centre lies outside of the image, nothing is possible, and anything in the window suffices.
            visible[n, i, j] = bool(touched[n, i, j]) and covered >= threshold * possible - 1e-5
        if not visible[n].any():
            visible[n] = touched[n]  # an image never loses its last position
    return visible
