"""The geometry of a resized map: what an interpolation looks at."""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_plugins.masking.window import Pair

__all__ = ["Resizing"]


@dataclass(frozen=True)
class Resizing:
    """An interpolation of a map, with torch's own arguments. Every output position looks at 2 x 2 positions at most.

    Args:
        size: Height and width of the result, or None.
        scale_factor: The same relative to the map, or None.
        mode: ``"nearest"``, ``"nearest-exact"`` or ``"bilinear"``.
        align_corners: As in `torch.nn.functional.interpolate`.
        recompute_scale_factor: As in `torch.nn.functional.interpolate`.
        dtype: Of the weights. Masks are resized with those of the values, so that both look at the same positions.
    """

    size: Pair | None
    scale_factor: tuple[float, float] | None
    mode: str
    align_corners: bool | None
    recompute_scale_factor: bool | None
    dtype: torch.dtype

    def output_of(self, size: Pair) -> Pair:
        """Height and width of the result for a map of `size`."""
        height, width = self(torch.empty(1, 1, *size, device="meta")).shape[2:]
        return int(height), int(width)

    def step_of(self, size: Pair) -> float:
        """Distance between neighbours of the result on a map of `size`, in its positions; the larger of both axes."""
        return max(have / want for have, want in zip(size, self.output_of(size), strict=True))

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
        )


@lru_cache(maxsize=1024)
def _reduced(resizing: Resizing, size: Pair) -> Pair:
    """The size with that of the result in place of those axes along which positions are skipped."""
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
