"""Soft masks with any removal: faded into a colour, or cut into visible regions."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lm_plugins.errors import InputTypeError, OptionError
from lm_plugins.masking import LayerMasked
from lm_plugins.outputs.words import rows_of
from lm_plugins.removal import Colour, PixelColour, RandomColour, Removal, as_removal
from lm_plugins.removal.model_call import ModelCall, seen_by

__all__ = ["SoftMasks"]


class SoftMasks:
    r"""Runs a model on an image of which masks with values in [0, 1] say how visible each pixel is.

    A colour fades in, :math:`x \odot m + \text{colour} \odot (1 - m)`, as RISE and SISE are published. Every other removal,
    layer masking first of all, knows visible and hidden only. There each mask stands for its visible regions
    :math:`m > \tau`, one for each threshold; with evenly spaced thresholds, their mean is about the mask again.

    Args:
        call: The model.
        removal: A removal, the name of one, or None for layer masking.
        thresholds: Numbers in [0, 1).
        output: Turns what the model returns into a tensor ``(K, ...)``; None if it is one.

    Raises:
        OptionError: A threshold is outside of [0, 1), or there is none.
        InputTypeError: The model is a `LayerMasked`.
    """

    def __init__(
        self,
        call: ModelCall,
        removal: Removal | str | None,
        thresholds: Sequence[float],
        output: Callable[[Any], Any] | None = None,
    ) -> None:
        if not len(thresholds) or not all(0 <= one < 1 for one in thresholds):
            raise OptionError(f"thresholds are numbers in [0, 1), at least one of them; got {tuple(thresholds)}.")
        found = as_removal(removal)
        if any(isinstance(module, LayerMasked) for module in call.modules()):
            raise InputTypeError(
                f"the model is layer-masked, and the removal is {found!r}: pass the plain model, masked.model, "
                "with removal=masked for layer masking."
            )
        colour = found.colour(call) if isinstance(found, PixelColour) else found
        self.fades = isinstance(colour, (Colour, RandomColour))
        self._paint = colour if isinstance(colour, (Colour, RandomColour)) else None
        self._thresholds = tuple(thresholds)
        self._call = call
        self._forward = found(call)
        self._output = output

    @property
    def regions_per_mask(self) -> int:
        """How often the model runs for one mask."""
        return 1 if self.fades else len(self._thresholds)

    def seen(self, masks: Tensor) -> Tensor:
        """What of the image the model gets to see.

        Args:
            masks: ``(K, H, W)`` in [0, 1].

        Returns:
            The masks themselves if the removal fades, else the regions above each threshold, 0 or 1, ``(K', H, W)``.
        """
        if self.fades:
            return masks
        return torch.cat([masks > threshold for threshold in self._thresholds]).to(masks.dtype)

    def outputs(self, x: Tensor, seen: Tensor, arguments: tuple[Any, ...]) -> Tensor:
        """Run the model.

        Args:
            x: One image ``(1, C, H, W)``.
            seen: ``(K, H, W)``, as `seen` gives them.
            arguments: What else the model takes, for K images.

        Returns:
            What it returns, ``(K, ...)``.
        """
        images = x.expand(len(seen), -1, -1, -1)
        with torch.no_grad():
            if self._paint is None:
                result = seen_by(self._forward, images, seen > 0, arguments)
            else:
                nothing = torch.zeros(1, *x.shape[2:], dtype=torch.bool, device=x.device)
                paint = self._paint.replaced(x, nothing)
                result = self._call(images * seen[:, None] + paint * (1 - seen[:, None]), arguments)
        return rows_of(result, len(seen), self._output)
