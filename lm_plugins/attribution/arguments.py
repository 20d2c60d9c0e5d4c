"""What the methods are called with: images, and further arguments of the model."""

from typing import Any

from torch import Tensor

from lm_plugins.errors import InputTypeError, ShapeError

__all__ = ["arguments_of", "checked_images"]


def arguments_of(additional_forward_args: Any, images: Tensor, rows: Tensor) -> tuple[Any, ...]:
    """Further arguments for some of the images, each perhaps several times.

    Args:
        additional_forward_args: As Captum takes them: one, or a tuple. Tensors with as many rows as there are images
            are meant one row an image.
        images: All images ``(N, C, H, W)``.
        rows: Int64 ``(K,)``: of which image each row of a batch is.

    Returns:
        A tuple; tensors of images have K rows.
    """
    given = () if additional_forward_args is None else additional_forward_args
    given = given if isinstance(given, tuple) else (given,)
    n = len(images)
    return tuple(
        one[rows.to(one.device)] if isinstance(one, Tensor) and one.ndim and len(one) == n else one for one in given
    )


def checked_images(inputs: Any) -> Tensor:
    """The images of a call of ``attribute``.

    Args:
        inputs: A tensor ``(N, C, H, W)``, floating point; a tuple of one as well.

    Returns:
        The tensor, detached.

    Raises:
        InputTypeError: It is no floating point tensor.
        ShapeError: It is no batch of images.
    """
    x = inputs[0] if isinstance(inputs, tuple) and len(inputs) == 1 else inputs
    if not isinstance(x, Tensor):
        raise InputTypeError(
            f"inputs is one image tensor (N, C, H, W), got {type(x).__name__}; what else the model takes goes into "
            "additional_forward_args."
        )
    if x.ndim != 4 or 0 in x.shape:
        hint = "; add the batch dimension with x[None]" if x.ndim == 3 else ""
        raise ShapeError(f"inputs is a batch of images (N, C, H, W), got shape {tuple(x.shape)}{hint}.")
    if not x.is_floating_point():
        raise InputTypeError(f"images are floating point in the normalisation of the model, got {x.dtype}.")
    return x.detach()
