"""Removal by a constant colour: the usual black, grey or white paint."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lm_plugins.errors import OptionError
from lm_plugins.removal.protocol import PixelRemoval

__all__ = ["Colour"]


@dataclass(frozen=True)
class Colour(PixelRemoval):
    """Paint hidden pixels in one colour.

    Args:
        value: One number for all channels or one a channel, in the *normalised* space of the model's input. 0 is the mean
            colour of the data set there (grey), not black.

    Raises:
        OptionError: The number of values is neither 1 nor the number of channels (when images come).

    Example:
        >>> import torch
        >>> from lm_plugins.removal import Colour
        >>> x, visible = torch.ones(1, 3, 1, 2), torch.tensor([[[True, False]]])
        >>> Colour((0.1, 0.2, 0.3)).replaced(x, visible)[0, :, 0]
        tensor([[1.0000, 0.1000],
                [1.0000, 0.2000],
                [1.0000, 0.3000]])
    """

    value: float | Sequence[float] = 0.0

    def replaced(self, x: Tensor, visible: Tensor) -> Tensor:
        """Paint hidden pixels; shapes as in `PixelRemoval.replaced`."""
        colour = torch.as_tensor(self.value, dtype=x.dtype, device=x.device).reshape(-1, 1, 1)
        if len(colour) not in (1, x.shape[1]):
            raise OptionError(f"Colour needs 1 value or one a channel ({x.shape[1]}), got {len(colour)}.")
        return torch.where(visible[:, None], x, colour)
