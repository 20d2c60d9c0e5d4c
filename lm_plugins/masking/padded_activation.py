"""An activation with zeros around its map, left to the convolution behind it where that can write them itself."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_plugins.masking.activation import NCHW, MaskedActivation
from lm_plugins.masking.window import Pair

__all__ = ["PaddedActivation"]


class PaddedActivation(MaskedActivation):
    """A map padded with zeros as soon as anybody reads it.

    Models with TensorFlow's "same" padding pad before every convolution. A convolution that pads by itself gives the same,
    and spares a copy of the map.

    Args:
        unpadded: The map, ``(N, C, H, W)``.
        padding: Zeros at the left, right, top and bottom; none negative.
    """

    def __init__(self, unpadded: MaskedActivation, padding: tuple[int, int, int, int]) -> None:
        # Neither values nor visibility are set here, so that reading them ends in __getattr__.
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
        if name == "values":
            self.values: Tensor = F.pad(self._unpadded.values, self._padding)
            return self.values
        if name == "visibility":
            self.visibility = self._unpadded.visibility.padded(self._padding, "constant")
            return self.visibility
        return super().__getattr__(name)

    def left_to(self, padding: Any) -> tuple[MaskedActivation, Pair] | None:
        """The map without its zeros, and how far a convolution that pads by `padding` must pad it; None if it cannot."""
        if "values" in vars(self):  # somebody may have written into them
            return None
        left, right, top, bottom = self._padding
        if isinstance(padding, str) or left != right or top != bottom:
            return None
        down, across = (padding, padding) if isinstance(padding, int) else (padding[0], padding[-1])
        return self._unpadded, (top + down, left + across)
