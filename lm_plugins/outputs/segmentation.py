"""Segmentation: what a model says of each class, on average over a region of the image."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_plugins.errors import InputTypeError, MaskValueError, OptionError, ShapeError
from lm_plugins.outputs.words import chosen_by

__all__ = ["Segmentation"]


class Segmentation:
    """The mean output of each class over a region: an ``output=`` for models of segmentation, and of any dense map.

    The region stays the same while parts of the image are hidden. What is hidden counts as 0 in the mean under layer masking,
    whose maps are 0 there; under paint, the model says something there too.

    Args:
        region: Where to look: bool ``(H, W)``, for all classes; or ``(classes, H, W)``, one for each. None: the whole image.
            Of another size than the maps, it is brought to theirs, by the nearest position.
        field: What of the model's output holds the maps ``(N, classes, H, W)``: the name of a field, as ``"out"`` or
            ``"logits"``, or a function. None if the model returns the tensor itself.

    Raises:
        ShapeError: The region is neither ``(H, W)`` nor ``(classes, H, W)``.
        MaskValueError: It holds something else than 0 and 1, or nothing.

    Example:
        >>> import torch
        >>> from lm_plugins.outputs import Segmentation
        >>> maps = torch.stack([torch.eye(2), 1 - torch.eye(2)])[None]
        >>> Segmentation(torch.tensor([[True, False], [False, False]]))(maps)
        tensor([[1., 0.]])
    """

    def __init__(self, region: Tensor | None = None, field: str | Callable[[Any], Any] | None = None) -> None:
        self._choose = chosen_by(field)
        self.region = None if region is None else _checked(region)

    @classmethod
    @torch.no_grad()
    def of_prediction(
        cls, model: Callable[[Tensor], Any], x: Tensor, field: str | Callable[[Any], Any] | None = None
    ) -> "Segmentation":
        """Look at each class where the model finds it in the whole image.

        Args:
            model: The model.
            x: One image ``(1, C, H, W)``.
            field: As of the class.

        Returns:
            With one region for each class. A class that is found nowhere has the whole image.

        Raises:
            ShapeError: The maps of the image are not ``(1, classes, H, W)``.
        """
        chosen = cls(None, field)
        maps = chosen._maps(model(x))
        if len(maps) != 1:
            raise ShapeError(f"the prediction for one image is needed, got maps of shape {tuple(maps.shape)}.")
        # Of a single map, a logit above 0 is a yes.
        found = maps[0] > 0 if maps.shape[1] == 1 else F.one_hot(maps[0].argmax(0), maps.shape[1]).movedim(-1, 0) > 0
        chosen.region = found | ~found.flatten(1).any(1)[:, None, None]
        return chosen

    def _maps(self, result: Any) -> Tensor:
        maps = self._choose(result)
        if not isinstance(maps, Tensor):
            raise InputTypeError(
                f"a segmentation is a tensor (N, classes, H, W), got {type(maps).__name__}; name the field of the output "
                "that holds it."
            )
        if maps.ndim != 4:
            raise ShapeError(f"a segmentation is (N, classes, H, W), got {tuple(maps.shape)}.")
        return maps

    def __call__(self, result: Any) -> Tensor:
        """The means of what a model returned for N images: ``(N, classes)``.

        Raises:
            InputTypeError: There is no tensor of maps in it.
            ShapeError: It is not ``(N, classes, H, W)``, or has other classes than the region.
            OptionError: Nothing of the region is left at the size of the maps.
        """
        maps = self._maps(result)
        if self.region is None:
            return maps.mean((2, 3))
        region = self.region.to(maps.device)
        if region.ndim == 2:
            region = region.expand(maps.shape[1], -1, -1)
        if len(region) != maps.shape[1]:
            raise ShapeError(f"there are regions for {len(region)} classes, the model has {maps.shape[1]}.")
        if region.shape[1:] != maps.shape[2:]:
            region = F.interpolate(region[None].to(maps.dtype), maps.shape[2:], mode="nearest-exact")[0] > 0.5
        size = region.flatten(1).sum(1)
        if not bool(size.all()):
            raise OptionError(
                f"the region of class {int((size == 0).nonzero()[0])} has no position at the size of the maps, "
                f"{tuple(maps.shape[2:])}; take a larger one."
            )
        return (maps * region).flatten(2).sum(2) / size


def _checked(region: Tensor) -> Tensor:
    if not isinstance(region, Tensor) or region.ndim not in (2, 3):
        shape = tuple(region.shape) if isinstance(region, Tensor) else type(region).__name__
        raise ShapeError(f"a region is bool (H, W) or (classes, H, W), got {shape}.")
    if not bool(((region == 0) | (region == 1)).all()) or not bool((region != 0).flatten(-2).any(-1).all()):
        raise MaskValueError("a region holds 0 and 1 (or bool), and something of each class.")
    return region != 0
