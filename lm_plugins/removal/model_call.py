"""A model of images and further arguments, as the model of images that a removal needs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lm_plugins.errors import InputTypeError

__all__ = ["ModelCall"]


class ModelCall(nn.Module):
    """A model of an image and further arguments, as the model of an image that a removal needs.

    Args:
        forward_func: A model, or a function of images and further arguments.

    Raises:
        InputTypeError: `forward_func` cannot be called.
    """

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        super().__init__()
        if not callable(forward_func):
            raise InputTypeError(f"forward_func is a model or a function, got {type(forward_func).__name__}.")
        self.forward_func = forward_func
        self.training = getattr(forward_func, "training", False)
        self.before: tuple[Any, ...] = ()
        self.after: tuple[Any, ...] = ()

    def forward(self, x: Tensor) -> Any:
        """What the model returns for images ``(N, C, H, W)`` and the arguments at hand."""
        return self.forward_func(*self.before, x, *self.after)

    @contextmanager
    def given(self, after: tuple[Any, ...], before: tuple[Any, ...] = ()) -> Iterator[None]:
        """Further arguments for the calls within the block.

        Args:
            after: They follow the images.
            before: They precede the images.

        Yields:
            Nothing.
        """
        self.before, self.after = before, after
        try:
            yield
        finally:
            self.before = self.after = ()
