"""The geometry of a resized map: what an interpolation looks at."""

from dataclasses import dataclass

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
