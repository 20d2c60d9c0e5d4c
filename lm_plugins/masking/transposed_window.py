"""The geometry of a transposed convolution: which positions of a map reach an output, and which part of the map it is."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_plugins.masking.geometry import Pair
from lm_plugins.masking.mask import Mask

__all__ = ["TransposedWindow"]


@dataclass(frozen=True)
class TransposedWindow:
    """How a transposed convolution spreads positions over a larger map, with torch's own arguments, each for both axes.

    Input position ``i`` reaches the outputs ``i * stride - padding + tap * dilation``.

    Args:
        kernel: Height and width of the kernel.
        stride: Distance of the outputs of neighbouring positions.
        padding: Outputs left out in front and behind.
        output_padding: Outputs added behind.
        dilation: Distance of neighbouring taps.
    """

    kernel: Pair
    stride: Pair
    padding: Pair
    output_padding: Pair
    dilation: Pair

    @property
    def reach(self) -> int:
        """How far apart two positions can lie that reach the same output."""
        sides = zip(self.kernel, self.dilation, self.stride, strict=True)
        return max((k - 1) * d // s for k, d, s in sides)

    def any_in(self, mask: Mask) -> Mask:
        """The outputs that something of the region reaches; those that nothing reaches at all are constants."""

        def make() -> Mask:
            return Mask(self._reached(mask.positions), self._inside_after(mask))

        return mask.once(("transposed any", self), make)

    def resampled(self, mask: Mask, coverage: float) -> Mask:
        """The outputs whose own part of the map the region covers to at least `coverage`.

        That part lies around the centre of the kernel and is as wide as the output's distance from the next. Where it lies
        outside of the image, anything that reaches the output suffices; so does it in an image that would lose its last
        position.
        """

        def make() -> Mask:
            touched = self.any_in(mask)
            inside = torch.ones_like(mask.positions[:1]) if mask.inside is None else mask.inside[None]
            output = (touched.size[0], touched.size[1])
            covered, possible = self._parts(mask.positions, output), self._parts(inside, output)
            positions = (covered >= coverage * possible - 1e-5) & touched.positions
            is_lost = ~positions.flatten(1).any(1)  # (N,)
            return Mask(positions | (is_lost[:, None, None] & touched.positions), touched.inside)

        return mask.once(("transposed", self, coverage), make)

    def _reached(self, region: Tensor) -> Tensor:
        """Bool ``(N, H', W')``: what a region, bool ``(N, H, W)``, reaches."""
        ones = torch.ones(1, 1, *self.kernel, device=region.device)
        spread = F.conv_transpose2d(
            region[:, None].float(), ones, None, self.stride, self.padding, self.output_padding, 1, self.dilation
        )
        return spread[:, 0] > 0.5

    def _inside_after(self, mask: Mask) -> Tensor | None:
        inside = torch.ones_like(mask.positions[0]) if mask.inside is None else mask.inside
        reached = self._reached(inside[None])[0]
        return None if bool(reached.all()) else reached

    def _parts(self, region: Tensor, output: Pair) -> Tensor:
        """How much of the part of each output is in a region, bool ``(N, H, W)``: float ``(N, H', W')``."""
        share = region.float()
        for axis, size in enumerate(output):
            stride, span = self.stride[axis], (self.kernel[axis] - 1) * self.dilation[axis]
            # Cut into 2 * stride pieces each, positions have every part begin and end between two pieces.
            first = 2 * (torch.arange(size, device=region.device) + self.padding[axis]) - span + stride - 1
            padded = F.pad(share, (0, 0, 1, 1) if axis == 0 else (1, 1))
            pieces = [(first + one).div(2 * stride, rounding_mode="floor") + 1 for one in (0, 1)]
            halves = [padded.index_select(axis + 1, one.clamp(0, padded.shape[axis + 1] - 1)) for one in pieces]
            share = (halves[0] + halves[1]) / 2
        return share
