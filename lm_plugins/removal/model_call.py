"""A model of images and further arguments, as the model of images that a removal needs."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from lm_plugins.checks import modules_of
from lm_plugins.errors import InputTypeError
from lm_plugins.removal.protocol import Forward

__all__ = ["ModelCall", "seen_by"]


class ModelCall(nn.Module):
    """A model or a function, called with the images first. Further arguments come with each call; none is kept.

    Its modules are those of the model, under the names that they have there, so that messages name what the user knows.

    Args:
        forward_func: A model, or a function of images and further arguments.

    Raises:
        InputTypeError: `forward_func` cannot be called.

    Example:
        >>> import torch
        >>> from lm_plugins.removal.model_call import ModelCall
        >>> call = ModelCall(lambda scale, x, shift: scale * x + shift)
        >>> call(torch.ones(2), after=(1.0,), before=(3.0,))
        tensor([4., 4.])
    """

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        super().__init__()
        if not callable(forward_func) or isinstance(forward_func, type):
            got = forward_func.__name__ if isinstance(forward_func, type) else type(forward_func).__name__
            raise InputTypeError(f"forward_func is a model or a function, got {got}.")
        self.forward_func = forward_func
        # It has no mode of its own.
        self.training = False

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """What is called; whoever looks for its mode looks there."""
        return self.forward_func

    def forward(self, x: Tensor, after: tuple[Any, ...] = (), before: tuple[Any, ...] = ()) -> Any:
        """Call the model.

        Args:
            x: Images ``(N, C, H, W)``.
            after: Arguments that follow the images.
            before: Arguments that precede them.

        Returns:
            What the model returns.
        """
        return self.forward_func(*before, x, *after)

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """The modules of the model, or those that a function holds. It is not one of them."""
        memo = set() if memo is None else memo
        for name, module in modules_of(self.forward_func):
            yield from module.named_modules(memo, ".".join(filter(None, (prefix, name))), remove_duplicate)


def seen_by(
    forward: Forward, x: Tensor, visible: Tensor, after: tuple[Any, ...] = (), before: tuple[Any, ...] = ()
) -> Any:
    """Call what a removal built around a `ModelCall`.

    Args:
        forward: What it built.
        x: Images ``(N, C, H, W)``.
        visible: Bool, as `lm_plugins.LayerMasked.forward` takes it.
        after: Arguments of the model that follow the images.
        before: Arguments that precede them.

    Returns:
        What the model returns.

    Raises:
        InputTypeError: There are further arguments, and the removal does not hand them on.
    """
    # A removal of somebody's own need not know about further arguments where there are none.
    if not after and not before:
        return forward(x, visible)
    try:
        inspect.signature(forward).bind(x, visible, after, before)
    except TypeError as error:
        raise InputTypeError(
            "the model takes further arguments, which this removal does not hand on: what it builds is to be "
            f"forward(x, visible, *further) and to call model(x, *further). Python: {error}."
        ) from error
    return forward(x, visible, after, before)
