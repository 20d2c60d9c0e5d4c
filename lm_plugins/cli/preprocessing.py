"""How a model wants its images: size, crop and normalisation."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lm_plugins.errors import OptionError
from lm_plugins.removal.colour import IMAGENET_MEAN, IMAGENET_STD
from lm_plugins.scale.decoding import eight_bits

__all__ = ["INTERPOLATIONS", "Preprocessing", "pixels_of"]

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop the centre, normalise.

    Args:
        resize: The shorter side after resizing, in pixels.
        size: Height and width of the crop.
        mean: Of each channel, on [0, 1].
        std: Standard deviation of each channel.
        interpolation: A key of `INTERPOLATIONS`.

    Raises:
        OptionError: A size is below 1, the crop is larger than the image, or there is no such interpolation.

    Example:
        >>> from PIL import Image
        >>> from lm_plugins.cli.preprocessing import Preprocessing
        >>> Preprocessing(resize=16, size=8)(Image.new("RGB", (40, 20))).shape
        torch.Size([3, 8, 8])
    """

    resize: int = 256
    size: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.resize:
            raise OptionError(f"size is at least 1 and at most resize, got size={self.size}, resize={self.resize}.")
        if self.interpolation not in INTERPOLATIONS:
            raise OptionError(f"interpolation is one of {', '.join(INTERPOLATIONS)}; got {self.interpolation!r}.")
        # Written so that NaN is refused, too.
        if (
            len(self.mean) not in (1, 3)
            or len(self.std) != len(self.mean)
            or not all(0 < one < math.inf for one in self.std)
        ):
            raise OptionError(f"mean and std are 1 or 3 numbers each, std above 0; got {self.mean} and {self.std}.")

    @classmethod
    def of_torchvision(cls, transform: Any) -> "Preprocessing | None":
        """From ``weights.transforms()`` of torchvision; None if it is of another kind."""
        if not hasattr(transform, "crop_size") or not hasattr(transform, "mean"):
            return None
        interpolation = getattr(transform.interpolation, "value", "bilinear")
        return cls(
            transform.resize_size[0],
            transform.crop_size[0],
            tuple(transform.mean),
            tuple(transform.std),
            interpolation if interpolation in INTERPOLATIONS else "bilinear",
        )

    @classmethod
    def of_timm(cls, config: dict[str, Any]) -> "Preprocessing":
        """From ``timm.data.resolve_model_data_config(model)``."""
        size = config["input_size"][-1]
        interpolation = config.get("interpolation", "bilinear")
        return cls(
            max(size, int(size / config.get("crop_pct", 0.875))),
            size,
            tuple(config["mean"]),
            tuple(config["std"]),
            interpolation if interpolation in INTERPOLATIONS else "bilinear",
        )

    def changed(
        self,
        size: int | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        interpolation: str | None = None,
    ) -> "Preprocessing":
        """The same with some options replaced; the resize keeps its ratio to the crop."""
        resize = self.resize if size is None else round(self.resize * size / self.size)
        return replace(
            self,
            resize=max(resize, size or 1),
            size=size or self.size,
            mean=mean or self.mean,
            std=std or self.std,
            interpolation=interpolation or self.interpolation,
        )

    def crop(self, image: Image.Image) -> Image.Image:
        """The resized centre of an image, ``size x size``, in colour or, for one channel, grey.

        It is cropped after resizing, since torchvision does so and its models shall see the very same pixels. What
        `lm_plugins.scale.decoding.read_image` lets through is short enough for that.
        """
        short = min(image.size)
        image, mode = eight_bits(image), "RGB" if len(self.mean) == 3 else "L"
        image = image if image.mode == mode else image.convert(mode)  # a copy, of what may be large
        # Rounded as torchvision does it.
        sides = (int(self.resize * image.width / short), int(self.resize * image.height / short))
        image = image.resize(sides, INTERPOLATIONS[self.interpolation])
        left, top = (round((side - self.size) / 2) for side in image.size)
        return image.crop((left, top, left + self.size, top + self.size))

    def normalised(self, pixels: Tensor) -> Tensor:
        """Pixels ``(C, H, W)`` on [0, 1] as the model's tensor ``(C, H, W)``."""
        return (pixels - _channels(self.mean)) / _channels(self.std)

    def __call__(self, image: Image.Image) -> Tensor:
        """An image as the model's tensor ``(C, size, size)``."""
        return self.normalised(pixels_of(self.crop(image)))

    def pixels(self, x: Tensor) -> Tensor:
        """A normalised image ``(C, H, W)`` as pixels on [0, 1], ``(C, H, W)``."""
        return (x * _channels(self.std).to(x) + _channels(self.mean).to(x)).clamp(0, 1)


def pixels_of(picture: Image.Image) -> Tensor:
    """A picture of 8 bits as pixels on [0, 1]: ``(C, H, W)``, float32."""
    values = torch.from_numpy(np.asarray(picture, np.float32) / 255)
    return values[None] if values.ndim == 2 else values.permute(2, 0, 1)


def _channels(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values)[:, None, None]
