"""Which output of a model is explained."""

import math
from typing import Any

import torch
from torch import Tensor

from lm_plugins.errors import InputTypeError, OptionError

__all__ = ["Target", "check_target", "targets_for"]

#: The class of one image: an index, indices of an output with more dimensions, or None for an output without classes.
Target = int | tuple[int, ...] | None


def targets_for(target: Any, count: int) -> list[Target]:
    """Targets as Captum takes them, as one for each image.

    Args:
        target: An int or tuple of ints for all images, an integer tensor or a list with one for each, or None for a
            model with one output.
        count: The number of images.

    Returns:
        A target for each image.

    Raises:
        InputTypeError: `target` is something else.
        OptionError: There are not as many targets as images.

    Example:
        >>> import torch
        >>> from lm_plugins.checks import targets_for
        >>> targets_for(3, 2), targets_for(torch.tensor([1, 0]), 2)
        ([3, 3], [1, 0])
    """
    if isinstance(target, Tensor):
        if target.is_floating_point() or target.dtype == torch.bool or target.ndim > 1:
            raise InputTypeError(
                f"target is an int, a tuple, a list or an integer tensor (N,), got a tensor of {target.dtype} and shape "
                f"{tuple(target.shape)}; convert labels with target.long(), and one row for each with target.flatten()."
            )
        target = target.tolist()
        target = target[0] if isinstance(target, list) and len(target) == 1 else target
    given = target if isinstance(target, list) else [target] * count
    for one in given:
        indices = one if isinstance(one, tuple) else (one,)
        if one is not None and not all(isinstance(index, int) and not isinstance(index, bool) for index in indices):
            raise InputTypeError(
                f"target is an int, a tuple, a list or an integer tensor (N,), got {one!r}; convert numbers with int(...), "
                "arrays with .tolist()."
            )
    if len(given) != count:
        raise OptionError(f"target has {len(given)} classes for {count} images: pass one class, or one for each image.")
    return list(given)


def check_target(target: Target, shape: tuple[int, ...], *, is_whole: bool = True) -> tuple[int, ...]:
    """Check that a target is one of the outputs that a model has for an image.

    Args:
        target: Of one image.
        shape: Of the outputs for one image.
        is_whole: Whether it must choose a single number. Some methods explain all outputs that are left.

    Returns:
        Its indices, as many as there are dimensions if it must be whole.

    Raises:
        OptionError: There is no such output, or the target is missing, or there is nothing to choose from.

    Example:
        >>> from lm_plugins.checks import check_target
        >>> check_target(3, (10,))
        (3,)
    """
    has = f"the model has {shape[0]} outputs" if len(shape) == 1 else f"the model has outputs of shape {shape}"
    or_output = (
        ", or make one number for each class of the maps with output=, such as output=lambda maps: maps.mean((2, 3))"
        if shape[1:]
        else ""
    )
    if target is None:
        first = (0,) * len(shape)
        if is_whole and math.prod(shape) != 1:
            raise OptionError(
                f"target is missing: {has}; choose one, such as target={first if shape[1:] else 0}{or_output}."
            )
        return first if is_whole else ()
    if not shape:
        raise OptionError(
            f"target is {target}, and the model has one number for each image: there is nothing to choose from. Leave target "
            "out."
        )
    indices = target if isinstance(target, tuple) else (target,)
    if len(indices) > len(shape) or (is_whole and len(indices) != len(shape)):
        wanted = "1 index" if len(shape) == 1 else f"{len(shape)} indices"
        raise OptionError(f"target is {target}, {has}: pass {wanted}{or_output if is_whole else ''}.")
    if not all(-size <= i < size for i, size in zip(indices, shape, strict=False)):
        hint = " For two classes, 0 and 1, of a single logit or probability, pass output='single_logit' or 'probabilities'."
        raise OptionError(
            f"target is {target}, {has}: choose {', '.join(f'0 to {size - 1}' for size in shape)}."
            f"{hint if shape == (1,) else ''}"
        )
    return indices
