"""What the methods are called with: images, and further arguments of the model."""

from typing import Any

from torch import Tensor

from lm_plugins.checks import check_finite, check_images
from lm_plugins.errors import InputTypeError

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


def checked_images(inputs: Any, what: str) -> Tensor:
    """The images of a call of ``attribute``.

    Args:
        inputs: A tensor ``(N, C, H, W)``, floating point; a tuple of one as well.
        what: Who asks.

    Returns:
        The tensor, detached.

    Raises:
        InputTypeError: It is no floating point tensor.
        ShapeError: It is no batch of images.
        NonFiniteError: A pixel is infinite or NaN.
    """
    x = inputs[0] if isinstance(inputs, tuple) and len(inputs) == 1 else inputs
    if isinstance(x, (tuple, list)):
        raise InputTypeError(
            f"inputs is one image tensor (N, C, H, W), got {type(x).__name__}; what else the model takes goes into "
            "additional_forward_args."
        )
    check_images(x, what)
    check_finite(x, what)
    images: Tensor = x.detach()
    return images
