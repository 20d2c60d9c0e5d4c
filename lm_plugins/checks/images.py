"""Images and pixel masks: their form, and that they are finite."""

import math
from typing import Any

import torch
from torch import Tensor

from lm_plugins.errors import InputTypeError, MaskValueError, NonFiniteError, ShapeError

__all__ = ["as_visible", "check_finite", "check_images"]


def check_images(x: Any, what: str, layout: str = "(N, C, H, W)") -> None:
    """Check that something is a batch of images, or one image.

    Args:
        x: What came.
        what: Who asks.
        layout: Its dimensions: ``"(C, H, W)"`` for one image, ``"(N, H, W, C)"`` for channels at the end.

    Raises:
        InputTypeError: It is no tensor, or not floating point.
        ShapeError: It has other dimensions, or none of something.

    Example:
        >>> import torch
        >>> from lm_plugins.checks import check_images
        >>> check_images(torch.rand(3, 8, 8), "the example")
        Traceback (most recent call last):
        lm_plugins.errors.ShapeError: the example needs images (N, C, H, W), got shape (3, 8, 8); add the batch dimension \
with x[None]. Models of other inputs are not supported.
    """
    if not isinstance(x, Tensor):
        raise InputTypeError(
            f"{what} needs images as a torch.Tensor {layout}, got {type(x).__name__}; convert arrays with torch.as_tensor."
        )
    dims = layout.count(",") + 1
    if x.ndim != dims or 0 in x.shape:
        is_batch = layout.startswith("(N")
        hint = "pass a batch of images" if is_batch else "pass one image"
        if is_batch and x.ndim == dims - 1:
            hint = "add the batch dimension with x[None]"
        elif x.ndim == dims:
            hint = "the batch is empty: pass at least one image" if is_batch else "the image is empty"
        raise ShapeError(
            f"{what} needs images {layout}, got shape {tuple(x.shape)}; {hint}. Models of other inputs are not supported."
        )
    if not x.is_floating_point():
        raise InputTypeError(
            f"{what} needs images that are floating point in the normalisation of the model, got {x.dtype}. Convert them "
            "first, for example x.float() / 255, then normalise."
        )


def check_finite(x: Tensor, what: str, visible: Tensor | None = None) -> bool:
    """Check that visible pixels are finite.

    Args:
        x: Images ``(N, C, H, W)``, floating point.
        what: Who asks.
        visible: Bool ``(N, H, W)``; None for all pixels.

    Returns:
        Whether the hidden ones are known to be finite, too.

    Raises:
        NonFiniteError: A visible pixel is infinite or NaN.
    """
    # Images that are all the same, without a step from one to the next, are looked at once. One sum of all is a tenth of
    # the time of looking at each: anything that is not finite makes it so.
    different = x.detach()[:1] if x.stride(0) == 0 else x.detach()
    if math.isfinite(different.sum(dtype=torch.promote_types(x.dtype, torch.float32))):
        return True
    bad = ~x.isfinite().all(1)  # (N, H, W)
    bad = bad if visible is None else bad & visible
    if bool(bad.any()):
        image, row, column = (int(one) for one in bad.nonzero()[0])
        raise NonFiniteError(
            f"{what} needs finite images; {int(bad.sum())} visible pixels are infinite or NaN (the first: image {image}, "
            f"row {row}, column {column}). Hide them through the mask, or repair the image. A baseline of NaN or infinity "
            "does not survive Captum's arithmetic; use lm_plugins.MASKED."
        )
    return False


def as_visible(visible: Tensor, x: Tensor) -> Tensor:
    """Check a pixel mask and bring it to the one form that the engine knows.

    Args:
        visible: See `lm_plugins.LayerMasked.forward`.
        x: The images that it is for, ``(N, C, H, W)``.

    Returns:
        Bool ``(N, H, W)`` on the device of `x`.

    Raises:
        InputTypeError: `visible` is no tensor.
        ShapeError: It does not fit `x`.
        MaskValueError: It holds something other than 0 and 1.
    """
    if not isinstance(visible, Tensor):
        raise InputTypeError(
            f"visible must be a torch.Tensor (True = visible), got {type(visible).__name__}; convert arrays with "
            "torch.as_tensor."
        )
    n, _, h, w = x.shape
    flat = visible[:, 0] if visible.ndim == 4 and visible.shape[1] == 1 else visible
    flat = flat[None] if flat.ndim == 2 else flat
    if flat.ndim != 3 or flat.shape[0] not in (1, n) or tuple(flat.shape[1:]) != (h, w):
        raise ShapeError(
            f"visible has shape {tuple(visible.shape)}, the images {tuple(x.shape)}: expected ({n}, 1, {h}, {w}) or "
            f"({n}, {h}, {w}), with 1 in place of {n} for one mask for all images, or ({h}, {w}). Resize the mask to "
            f"{h} x {w} with nearest-neighbour interpolation, or the images to the mask."
        )
    if flat.dtype != torch.bool:
        is_visible = flat == 1
        if not bool((is_visible | (flat == 0)).all()):
            raise MaskValueError(
                "visible must hold 0 (hidden) and 1 (visible) only; it also holds "
                f"{flat[~(is_visible | (flat == 0))][0].item()}. Threshold soft masks first, for example mask > 0.5."
            )
        flat = is_visible
    return flat.to(x.device).expand(n, h, w)
