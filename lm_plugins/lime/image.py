"""The image as users of LIME hand it over, as it is plotted, and as the model needs it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lm_plugins.checks import check_finite, check_images
from lm_plugins.errors import InputTypeError, ShapeError

__all__ = ["as_image", "as_input", "as_rgb"]

Image = NDArray[Any]


def as_image(image: Any) -> Image:
    """Check an image. ``(H, W)`` becomes ``(H, W, 3)``, as in LIME; one channel ``(H, W, 1)`` stays one.

    Args:
        image: Array of integers or floats.

    Returns:
        ``(H, W, C)`` of the same dtype: what `preprocess` and a ``classifier_fn`` get.

    Raises:
        InputTypeError: It is no array of numbers.
        ShapeError: It is no image.
        NonFiniteError: A pixel is infinite or NaN.
    """
    if not isinstance(image, np.ndarray):
        fix = "tensor.permute(1, 2, 0).cpu().numpy()" if isinstance(image, Tensor) else "numpy.array(image)"
        raise InputTypeError(
            f"image is a numpy array (H, W, 3), (H, W, 1) or (H, W), got {type(image).__name__}; convert it with {fix}."
        )
    if image.dtype.kind not in "iuf":
        raise InputTypeError(f"image holds integers or floats, got an array of {image.dtype}.")
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise ShapeError(f"image is one image (H, W, 3), (H, W, 1) or (H, W), got shape {image.shape}.")
    if image.ndim == 3 and image.shape[0] in (1, 3) and image.shape[2] > 4:
        raise ShapeError(
            f"image has its channels last, got shape {image.shape}; numpy.moveaxis(image, 0, -1) puts them there."
        )
    channels_last: Image = np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image
    check_finite(torch.from_numpy(np.array(channels_last, np.float64)).permute(2, 0, 1)[None], "LIME")
    return channels_last


def as_rgb(image: Image) -> Image:
    """What is segmented and plotted: an image of one channel as RGB, any other as it is."""
    return np.repeat(image, 3, 2) if image.shape[2] == 1 else image


def as_input(image: Image, preprocess: Callable[[Image], Tensor] | None) -> Tensor:
    """Preprocess one image.

    Args:
        image: ``(H, W, C)``, as `as_image` returns it.
        preprocess: The user's own; None for uint8 in [0, 1] and floats as they are.

    Returns:
        ``(1, C, H, W)``, floating point.

    Raises:
        InputTypeError: Something else than a floating-point tensor came out.
        ShapeError: It has another height or width.
        NonFiniteError: It is infinite or NaN somewhere.
    """
    # A copy, since preprocessing may work in place and torch takes no negative strides.
    x = _channels_first(image.copy()) if preprocess is None else preprocess(image.copy())
    check_images(x, "LIME, after preprocess,", "(C, H, W)")
    if tuple(x.shape[1:]) != image.shape[:2]:
        raise ShapeError(
            f"preprocess returned shape {tuple(x.shape)} for an image {image.shape}: expected (C, {image.shape[0]}, "
            f"{image.shape[1]}). Superpixels are removed after preprocessing, so it has to keep height and width: apply "
            "Resize and CenterCrop to the image before explain_instance."
        )
    check_finite(x[None], "LIME, after preprocess,")
    return x[None]


def _channels_first(image: Image) -> Tensor:
    if image.dtype == np.uint8:
        return torch.from_numpy(image).permute(2, 0, 1).float() / 255
    if image.dtype.kind != "f":
        raise InputTypeError(
            f"without preprocess, image is uint8 (0 to 255) or floating point, got {image.dtype}; pass "
            "preprocess=, a function from the array to a tensor (C, H, W)."
        )
    return torch.from_numpy(image).permute(2, 0, 1)
