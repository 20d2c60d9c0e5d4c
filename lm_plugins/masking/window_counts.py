"""What each window of a map sees of a region: whether anything, and how much."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_plugins.masking.window import Pair, Window

__all__ = ["adaptive", "any_in", "count_in", "ratio", "triangular"]


def any_in(region: Tensor, window: Window) -> Tensor:
    """Whether anything of a region, bool ``(N, H, W)``, lies in each window."""
    # Along one axis after the other, on bools: several times as fast as a maximum over floats.
    region = F.pad(region, window.padding, value=False)
    for axis in range(2):
        first, *others = (_tap(region, axis, tap * window.dilation[axis], window) for tap in range(window.kernel[axis]))
        for one in others:
            first = first | one
        region = first
    return region.contiguous()


def triangular(signal: Tensor, window: Window) -> Tensor:
    """Sum over each window of float ``(N, H, W)``, weighted by the distance of its taps from the centre."""
    signal = F.pad(signal, window.padding)
    for axis in range(2):
        first, *others = (
            weight * _tap(signal, axis, offset, window) for offset, weight in window.triangular_taps(axis)
        )
        for one in others:
            first = first + one
        signal = first
    return signal


def _tap(padded: Tensor, axis: int, offset: int, window: Window) -> Tensor:
    """What lies at one offset in each window, along an axis of a padded map ``(N, H, W)``."""
    span, stride = (window.kernel[axis] - 1) * window.dilation[axis] + 1, window.stride[axis]
    count = (padded.shape[axis + 1] - span) // stride + 1
    part = padded.narrow(axis + 1, offset, (count - 1) * stride + 1)
    return part[(slice(None),) * (axis + 1) + (slice(None, None, stride),)]


def count_in(region: Tensor, window: Window, dtype: torch.dtype) -> Tensor:
    """Positions of a region, bool ``(N, H, W)``, in each window: ``(N, 1, H', W')``."""
    counts = F.pad(region.to(dtype), window.padding)
    if window.dilation == (1, 1):
        return F.avg_pool2d(counts[:, None], window.kernel, window.stride, divisor_override=1)
    for axis in range(2):
        taps = [_tap(counts, axis, tap * window.dilation[axis], window) for tap in range(window.kernel[axis])]
        counts = torch.stack(taps).sum(0)
    return counts[:, None]


def adaptive(region: Tensor, size: Pair, how: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """The ``"max"`` or ``"avg"`` of a region in each window of adaptive pooling to `size`: ``(N, 1, H', W')``."""
    pool = F.adaptive_max_pool2d if how == "max" else F.adaptive_avg_pool2d
    result: Tensor = pool(region[:, None].to(dtype), size)
    return result


def ratio(inside: Tensor, region: Tensor) -> Tensor:
    """How many times as much the image has as the region; 0 where the region has nothing."""
    return torch.where(region > 0, inside / region.clamp(min=torch.finfo(region.dtype).tiny), 0.0)
