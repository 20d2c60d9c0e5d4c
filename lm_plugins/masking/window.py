"""The geometry of a sliding window: what a convolution or a pooling layer looks at."""

from dataclasses import dataclass
from functools import cached_property

__all__ = ["Pair", "Window"]

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
