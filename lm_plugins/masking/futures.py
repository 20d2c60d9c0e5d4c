"""Outputs that come later, as futures: a change of one is made when it comes."""

from collections.abc import Callable
from typing import Any

from torch.futures import Future

__all__ = ["afterwards"]


def afterwards(future: Future[Any], change: Callable[[Any], Any]) -> Future[Any]:
    """Return a future of the changed value.

    `Future.then` gives an object of another class, which Captum does not take for a future.

    Args:
        future: It will hold the value.
        change: A function of it.

    Returns:
        What `change` will return, or its error.

    Example:
        >>> import torch
        >>> future = torch.futures.Future()
        >>> changed = afterwards(future, lambda value: value + 1)
        >>> future.set_result(1)
        >>> changed.wait()
        2
    """
    changed: Future[Any] = Future()

    def done(value: Future[Any]) -> None:
        try:
            changed.set_result(change(value.value()))
        except Exception as error:
            changed.set_exception(error)

    future.add_done_callback(done)
    return changed
