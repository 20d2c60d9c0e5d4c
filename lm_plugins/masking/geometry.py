"""Geometry: what a convolution, a pooling layer or an interpolation looks at, and what it sees of a region."""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Pair", "Resizing", "Window", "adaptive", "any_in", "count_in", "ratio", "triangular"]

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """A sliding window over a map, with its input and output sizes resolved.

    Args:
        kernel: Height and width of the kernel, in taps.
        stride: Step between two windows.
        padding: Positions added (left, right, top, bottom), as `torch.nn.functional.pad` orders them. The right and
            bottom amounts may be larger than the layer's own (``ceil_mode``) or negative (positions never looked at).
        dilation: Step between two taps.
    """

    kernel: Pair
    stride: Pair
    padding: tuple[int, int, int, int]
    dilation: Pair

    @classmethod
    def between(cls, kernel: Pair, stride: Pair, start: Pair, dilation: Pair, size: Pair, output: Pair) -> "Window":
        """Resolve the window that maps a map of `size` onto one of `output`, with `start` positions padded in front.

        Working back from the real output size makes asymmetric padding and ``ceil_mode`` ordinary cases.
        """
        spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
        bottom, right = ((output[i] - 1) * stride[i] + spans[i] - size[i] - start[i] for i in range(2))
        return cls(kernel, stride, (start[1], right, start[0], bottom), dilation)

    @classmethod
    def of_cut(cls, rows: slice, columns: slice, size: Pair) -> "Window":
        """The window that looks at what a slice of a map of `size` keeps: one position, in steps."""
        ranges = [range(size[axis])[one] for axis, one in enumerate((rows, columns))]
        output = (len(ranges[0]), len(ranges[1]))
        stride = (ranges[0].step, ranges[1].step) if all(output) else (1, 1)
        return cls.between((1, 1), stride, (-ranges[0].start, -ranges[1].start), (1, 1), size, output)

    @classmethod
    def block(cls, size: Pair) -> "Window":
        """The window that cuts a map into blocks of `size`."""
        return cls(size, size, (0, 0, 0, 0), (1, 1))

    @cached_property
    def is_identity(self) -> bool:
        """Whether every output position looks at its own position only."""
        return self.kernel == (1, 1) and self.stride == (1, 1) and not any(self.padding)

    @cached_property
    def is_patch(self) -> bool:
        """Whether windows do not overlap, so that they cut the map into patches."""
        return self.kernel == self.stride and self.dilation == (1, 1) and self.kernel != (1, 1)

    @cached_property
    def keeps_grid(self) -> bool:
        """Whether output positions lie on the centres of the windows of the input positions of the same index."""
        if self.stride != (1, 1) or not all(k % 2 for k in self.kernel):
            return False
        half_h, half_w = (k // 2 * d for k, d in zip(self.kernel, self.dilation, strict=True))
        return self.padding == (half_w, half_w, half_h, half_h)

    @cached_property
    def is_oversized(self) -> bool:
        """Whether the centre of some window lies outside of the map."""
        half = [k // 2 * d for k, d in zip(self.kernel, self.dilation, strict=True)]
        left, right, top, bottom = self.padding
        return max(left, right) > half[1] or max(top, bottom) > half[0]

    @cached_property
    def reach(self) -> int:
        """Distance from one end of the window to the other, in positions: 0 for a 1x1 kernel."""
        return max((k - 1) * d for k, d in zip(self.kernel, self.dilation, strict=True))

    @cached_property
    def half_reach(self) -> int:
        """Distance from the centre of the window to its far end."""
        return max(k // 2 * d for k, d in zip(self.kernel, self.dilation, strict=True))

    @cached_property
    def skips(self) -> bool:
        """Whether there are positions between windows at which none of them looks: it samples the map."""
        return any(self._skips_along(axis) for axis in range(2))

    @cached_property
    def widened(self) -> "Window":
        """The window, along every axis on which it skips positions as wide as its stride, around the same centre.

        What a 1x1 convolution of stride 2 samples becomes the window of a 3x3 convolution beside it.
        """
        if not self.skips:
            return self
        kernel, padding, dilation = list(self.kernel), list(self.padding), list(self.dilation)
        for axis in range(2):
            if self._skips_along(axis):
                span = (kernel[axis] - 1) * dilation[axis] + 1
                more = max(0, self.stride[axis] - 1 - (span - 1) // 2)
                kernel[axis], dilation[axis] = span + 2 * more, 1
                for end in ((2, 3), (0, 1))[axis]:
                    padding[end] += more
        left, right, top, bottom = padding
        return Window((kernel[0], kernel[1]), self.stride, (left, right, top, bottom), (dilation[0], dilation[1]))

    @cached_property
    def reach_of_widened(self) -> int:
        """Distance from one end of the window to the other end of the widened one, in positions."""
        sides = zip(self.kernel, self.dilation, self.widened.kernel, self.widened.dilation, strict=True)
        return max(((k - 1) * d + (wide - 1) * step) // 2 for k, d, wide, step in sides)

    def _skips_along(self, axis: int) -> bool:
        taps = range(0, self.kernel[axis] * self.dilation[axis], self.dilation[axis])
        return len({tap % self.stride[axis] for tap in taps}) < self.stride[axis]

    def triangular_taps(self, axis: int) -> list[tuple[int, float]]:
        """Offsets and weights of the taps around the centre along `axis`: a triangle as wide as the stride.

        With it, neighbouring windows share each position in equal parts, as in linear resampling.
        """
        kernel, stride, dilation = self.kernel[axis], self.stride[axis], self.dilation[axis]
        centre = (kernel - 1) / 2
        weights = [(tap * dilation, stride - abs(tap - centre) * dilation) for tap in range(kernel)]
        near = [(offset, weight) for offset, weight in weights if weight > 0]
        # The central taps of an even, dilated kernel may lie further out than the stride.
        return near or [(kernel // 2 * dilation - dilation, 1.0), (kernel // 2 * dilation, 1.0)]


# ---- what windows see of a region ------------------------------------------------------------------------------------


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
    """The count of the image over that of the region: 1 where nothing is hidden, 0 where all of the image is."""
    return torch.where(
        region > 0, inside / region.clamp(min=torch.finfo(region.dtype).tiny), (inside == 0).to(inside.dtype)
    )


# ---- resizing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Resizing:
    """An interpolation of a map, with torch's own arguments.

    Args:
        size: Height and width of the result, or None.
        scale_factor: The same relative to the map, or None.
        mode: ``"nearest"``, ``"nearest-exact"``, ``"bilinear"`` or ``"bicubic"``.
        align_corners: As in `torch.nn.functional.interpolate`.
        recompute_scale_factor: As in `torch.nn.functional.interpolate`.
        dtype: Of the weights. Masks are resized with those of the values, so that both look at the same positions.
        antialias: As in `torch.nn.functional.interpolate`.
    """

    size: Pair | None
    scale_factor: tuple[float, float] | None
    mode: str
    align_corners: bool | None
    recompute_scale_factor: bool | None
    dtype: torch.dtype
    antialias: bool = False

    def output_of(self, size: Pair) -> Pair:
        """Height and width of the result for a map of `size`."""
        height, width = self(torch.empty(1, 1, *size, device="meta")).shape[2:]
        return int(height), int(width)

    def step_of(self, size: Pair) -> float:
        """Distance between neighbours of the result on a map of `size`, in its positions; the larger of both axes."""
        return max(have / want for have, want in zip(size, self.output_of(size), strict=True))

    @property
    def of_regions(self) -> "Resizing":
        """The same for regions: what is bicubic, with weights below 0, is bilinear for them."""
        return replace(self, mode="bilinear") if self.mode == "bicubic" else self

    def skips(self, size: Pair) -> bool:
        """Whether there are positions of a map of `size` from which nothing is interpolated: it samples the map."""
        return _reduced(self, size) != size

    def of_parts(self, region: Tensor) -> Tensor:
        """Resize ``(N, 1, H, W)``; along an axis on which positions are skipped, take means over parts of the map."""
        size = (int(region.shape[2]), int(region.shape[3]))
        reduced = _reduced(self, size)
        factors = None
        if self.scale_factor is not None:
            kept = zip(self.scale_factor, size, reduced, strict=True)
            height, width = (factor if have == want else 1.0 for factor, have, want in kept)
            factors = (height, width)
        result: Tensor = F.adaptive_avg_pool2d(region, reduced)
        return replace(self, scale_factor=factors)(result)

    def __call__(self, values: Tensor) -> Tensor:
        """Resize ``(N, C, H, W)``."""
        return F.interpolate(
            values,
            self.size,
            self.scale_factor,
            self.mode,
            self.align_corners,
            recompute_scale_factor=self.recompute_scale_factor,
            antialias=self.antialias,
        )


@lru_cache(maxsize=1024)
def _reduced(resizing: Resizing, size: Pair) -> Pair:
    """The size of the map, with that of the result along those axes on which positions are skipped."""
    output = resizing.output_of(size)
    if all(want >= have for have, want in zip(size, output, strict=True)):
        return size
    with torch.inference_mode(False), torch.enable_grad():
        values = torch.zeros(1, 1, *size, requires_grad=True)
        (weights,) = torch.autograd.grad(resizing(values).sum(), values)
    # Where the distance of two samples is whole, rounding leaves their neighbours a weight of about 1e-7.
    is_skipped = [bool((weights[0, 0].sum(1 - axis) < 1e-3).any()) for axis in range(2)]
    height, width = (output[axis] if is_skipped[axis] else size[axis] for axis in range(2))
    return height, width
