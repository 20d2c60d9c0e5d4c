"""Removal by paint: one colour for all hidden pixels, the mean of what is visible, or a random colour."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lm_plugins.checks import check_images
from lm_plugins.errors import InputTypeError, OptionError
from lm_plugins.removal.protocol import Forward, PixelRemoval

__all__ = ["Colour", "ImageMean", "PixelColour", "RandomColour"]

#: Mean and standard deviation of ImageNet's pixels in [0, 1], with which most models are trained.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Colour(PixelRemoval):
    """Paint hidden pixels in one colour, given in the normalised space of the model's input.

    Args:
        value: One number for all channels or one a channel. 0 is the mean colour of the data set (the usual grey), not
            black; for a colour in pixel values see `PixelColour`.

    Raises:
        OptionError: The number of values is neither 1 nor the number of channels, or one is not finite (when images
            come).

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

    @classmethod
    def mean_of(cls, images: Iterable[Tensor]) -> "Colour":
        """The mean colour of a data set.

        Args:
            images: Images ``(C, H, W)`` or batches ``(N, C, H, W)``, in the normalisation of the model; read once.

        Returns:
            A removal that paints hidden pixels in it.

        Raises:
            InputTypeError: There is no image, or something is no image.
        """
        total, count = torch.zeros(()), 0
        for image in images:
            if not isinstance(image, Tensor) or image.ndim not in (3, 4):
                raise InputTypeError(
                    "images are tensors (C, H, W) or (N, C, H, W), got "
                    f"{tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__}."
                )
            pixels = image.movedim(-3, 0).flatten(1).double().cpu()
            total, count = total + pixels.sum(1), count + pixels.shape[1]
        if not count:
            raise InputTypeError("there is no image to take the mean colour of.")
        return cls(tuple((total / count).tolist()))

    def replaced(self, x: Tensor, visible: Tensor) -> Tensor:
        """Paint hidden pixels; shapes as in `PixelRemoval.replaced`."""
        check_images(x, type(self).__name__)
        colour = torch.as_tensor(self.value, dtype=x.dtype, device=x.device).reshape(-1, 1, 1)
        if len(colour) not in (1, x.shape[1]):
            raise OptionError(f"Colour needs 1 value or one a channel ({x.shape[1]}), got {len(colour)}.")
        if not bool(colour.isfinite().all()):
            raise OptionError(f"the values of a Colour are finite, got {self.value}.")
        return torch.where(visible[:, None], x, colour)


@dataclass(frozen=True)
class PixelColour:
    """Paint hidden pixels in one colour, given in pixel values: 0 is black, 1 is white.

    Args:
        value: One number for all channels or one a channel, in [0, 1].
        mean: Mean with which the model's images are normalised, in [0, 1]. None takes that of the model's own
            ``pretrained_cfg``, where timm keeps it, else ImageNet's.
        std: Standard deviation likewise.

    Raises:
        OptionError: A value is outside of [0, 1], or a standard deviation is not above 0.

    Example:
        >>> from lm_plugins.removal import PixelColour
        >>> PixelColour(0.0, mean=0.5, std=0.25).colour(torch.nn.Identity())
        Colour(value=(-2.0,))
    """

    value: float | Sequence[float] = 0.0
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None

    def __post_init__(self) -> None:
        if not bool(((_values(self.value) >= 0) & (_values(self.value) <= 1)).all()):
            raise OptionError(f"the values of a PixelColour are in [0, 1], got {self.value}.")
        if self.std is not None and not bool((_values(self.std) > 0).all()):
            raise OptionError(f"standard deviations are above 0, got {self.std}.")

    def colour(self, model: nn.Module) -> Colour:
        """The same colour in the normalised space of `model`."""
        found: dict[str, Any] = {}
        for module in model.modules():
            found = found or getattr(module, "pretrained_cfg", None) or {}
        mean = self.mean if self.mean is not None else found.get("mean", IMAGENET_MEAN)
        std = self.std if self.std is not None else found.get("std", IMAGENET_STD)
        return Colour(tuple(((_values(self.value) - _values(mean)) / _values(std)).tolist()))

    def __call__(self, model: nn.Module) -> Forward:
        """Build ``forward(x, visible, *further)``."""
        return self.colour(model)(model)


@dataclass(frozen=True)
class ImageMean(PixelRemoval):
    """Paint hidden pixels in the mean colour of the image's visible pixels; 0 if there is none.

    The usual "mean of the image" (LIME's default is that of each superpixel) also counts the hidden pixels, and so tells
    the model about what was removed. This one does not.
    """

    def replaced(self, x: Tensor, visible: Tensor) -> Tensor:
        """Paint hidden pixels; shapes as in `PixelRemoval.replaced`."""
        check_images(x, type(self).__name__)
        mask = visible[:, None]
        total = torch.where(mask, x, 0.0).sum((2, 3), keepdim=True)
        return torch.where(mask, x, total / mask.sum((2, 3), keepdim=True).clamp(min=1))


@dataclass(frozen=True)
class RandomColour(PixelRemoval):
    """Paint hidden pixels in a random colour, or every pixel in one of its own.

    Colours are drawn from a normal distribution of mean 0 and standard deviation 1, which is the data set's own in
    the normalised space of the model's input. They depend on the seed alone: every image, in whatever batch, gets the
    same ones, so that differences between outputs are due to what is visible.

    Args:
        seed: Of the colours.
        per: ``"image"`` for one colour, ``"pixel"`` for noise.

    Raises:
        OptionError: `per` is neither.
    """

    seed: int = 0
    per: Literal["image", "pixel"] = "image"

    def __post_init__(self) -> None:
        if self.per not in ("image", "pixel"):
            raise OptionError(f"RandomColour.per is 'image' or 'pixel', got {self.per!r}.")

    def replaced(self, x: Tensor, visible: Tensor) -> Tensor:
        """Paint hidden pixels; shapes as in `PixelRemoval.replaced`."""
        check_images(x, type(self).__name__)
        size = x.shape[2:] if self.per == "pixel" else (1, 1)
        generator = torch.Generator().manual_seed(self.seed)
        colours = torch.randn(x.shape[1], *size, generator=generator)
        return torch.where(visible[:, None], x, colours.to(x))


def _values(numbers: float | Sequence[float]) -> Tensor:
    return torch.as_tensor(numbers, dtype=torch.float64).reshape(-1)
