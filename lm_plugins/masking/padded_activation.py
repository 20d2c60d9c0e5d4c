"""An activation with zeros around its map, left to the convolution behind it where that can write them itself."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_plugins.masking.activation import NCHW, MaskedActivation
from lm_plugins.masking.registry import wait_for_next_call
from lm_plugins.masking.window import Pair

__all__ = ["PaddedActivation"]


class PaddedActivation(MaskedActivation):
    """A map padded with zeros as soon as anybody reads it, or anything else is called.

    Models with TensorFlow's "same" padding pad right before every convolution. A convolution that pads by itself gives the
    same, and spares a copy of the map.

    Args:
        unpadded: The map, ``(N, C, H, W)``.
        padding: Zeros at the left, right, top and bottom; none negative.
    """

    def __init__(self, unpadded: MaskedActivation, padding: tuple[int, int, int, int]) -> None:
        # Neither values nor visibility are set here, so that reading them ends in __getattr__.
        wait_for_next_call(self)
        self.dims = NCHW
        self._unpadded = unpadded
        self._padding = padding

    @property
    def shape(self) -> torch.Size:
        """Shape of the values, without making them."""
        n, c, h, w = self._unpadded.shape
        left, right, top, bottom = self._padding
        return torch.Size((n, c, h + top + bottom, w + left + right))

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the values."""
        return self._unpadded.dtype

    @property
    def device(self) -> torch.device:
        """Device of the values."""
        return self._unpadded.device

    @property
    def requires_grad(self) -> bool:
        """Whether autograd follows the values."""
        return self._unpadded.requires_grad

    def __getattr__(self, name: str) -> Any:
        if name not in ("values", "visibility"):
            return super().__getattr__(name)
        self.make()
        return vars(self)[name]

    def make(self) -> None:
        """Write the zeros."""
        if not self._is_made:
            self.values: Tensor = F.pad(self._unpadded.values, self._padding)
            self.visibility = self._unpadded.visibility.padded(self._padding, "constant")

    @property
    def _is_made(self) -> bool:
        return "values" in vars(self)

    def left_to(self, padding: Any) -> tuple[MaskedActivation, Pair] | None:
        """The map without its zeros, and how far a convolution that pads by `padding` must pad it; None if it cannot."""
        left, right, top, bottom = self._padding
        if self._is_made or isinstance(padding, str) or left != right or top != bottom:
            return None
        down, across = (padding, padding) if isinstance(padding, int) else (padding[0], padding[-1])
        return self._unpadded, (top + down, left + across)
