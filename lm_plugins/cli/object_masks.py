"""Where the object is in each image: a folder of black and white pictures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lm_plugins.cli.loading_images import ImageFiles
from lm_plugins.errors import ImageFileError, LabelFileError
from lm_plugins.scale.decoding import read_image

__all__ = ["read_object_masks"]


def read_object_masks(folder: Path, images: ImageFiles) -> list[Tensor | None]:
    """Read a mask for each image, resized and cropped as the image is.

    Args:
        folder: Holds a PNG of the name of each image, ``photo.png`` for ``photo.jpg``: white is the object, and what is
            transparent is not. Images without one have no object.
        images: The images.

    Returns:
        Bool ``(H, W)`` with True = object, or None, for each image.

    Raises:
        LabelFileError: No image has a mask, or a mask has another size than its image.
        ImageFileError: A mask cannot be read.
    """
    files = [(folder / name).with_suffix(".png") for name in images.names]
    if not any(file.is_file() for file in files):
        raise LabelFileError(f"{folder.name} holds no mask for any image: looked for {files[0].name} and the like.")
    nearest = replace(images.preprocessing, mean=(0.0,), std=(1.0,), interpolation="nearest")
    masks: list[Tensor | None] = []
    for file, image in zip(files, images.files, strict=True):
        if not file.is_file():
            masks.append(None)
            continue
        mask, size = read_image(file, background=0), read_image(image).size
        if mask.size != size:
            raise LabelFileError(
                f"the mask {file.name} is {mask.size} pixels large, its image {size}: make them equal."
            )
        is_object = np.asarray(nearest.crop(mask.convert("L"))) > 127
        if not is_object.any() or is_object.all():
            raise ImageFileError(
                f"the mask {file.name} is all black or all white within the crop; white is the object."
            )
        masks.append(torch.from_numpy(is_object))
    return masks
