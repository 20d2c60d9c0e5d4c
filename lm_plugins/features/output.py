"""What a model returns, as the one tensor that an explainer asks for."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lm_plugins.errors import InputTypeError

__all__ = ["rows_of"]


def rows_of(result: Any, count: int, output: Callable[[Any], Any] | None = None) -> Tensor:
    """The part of a model's output that is explained, with one row for each image.

    Args:
        result: What the model returned: a tensor, tuple, dict, dataclass, ...
        count: The number of images.
        output: Chooses or computes the tensor from it, such as ``lambda result: result["out"].mean((2, 3))``; None if
            `result` is the tensor.

    Returns:
        ``(count, ...)``.

    Raises:
        InputTypeError: The choice is no tensor with one row for each image.

    Example:
        >>> import torch
        >>> from lm_plugins.features.output import rows_of
        >>> rows_of({"out": torch.ones(2, 5, 4, 4), "aux": None}, 2, output=lambda result: result["out"].mean((2, 3))).shape
        torch.Size([2, 5])
    """
    chosen = result if output is None else output(result)
    if isinstance(chosen, Tensor) and chosen.ndim and len(chosen) == count:
        return chosen
    got = f"a tensor of shape {tuple(chosen.shape)}" if isinstance(chosen, Tensor) else type(chosen).__name__
    if isinstance(chosen, dict):
        got += f" with {', '.join(map(repr, chosen))}"
    source = "the model must return" if output is None else "output= must return"
    raise InputTypeError(
        f"{source} a tensor with one row for each of the {count} images, got {got}. Choose a part of what the model "
        "returns with output=, for example output=lambda result: result.logits."
    )
