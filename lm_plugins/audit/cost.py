"""What an explanation costs: images that the model runs on, and seconds."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lm_plugins.errors import InputTypeError

__all__ = ["Cost", "measured_cost"]


@dataclass
class Cost:
    """Filled in at the end of the block of `measured_cost`.

    Args:
        images: Images that went through the model, whatever the batches, those of the check of layer masking included.
        calls: Calls of the model.
        seconds: Wall-clock time.
    """

    images: int = 0
    calls: int = 0
    seconds: float = 0.0


@contextmanager
def measured_cost(model: nn.Module) -> Iterator[Cost]:
    """Count what runs through a model within the block, and take the time.

    The hook that counts is gone afterwards, also after an exception. On a GPU the clock waits for it.

    Args:
        model: The model, called with images ``(N, ...)`` first.

    Yields:
        The cost; complete after the block.

    Raises:
        InputTypeError: `model` is no module.

    Example:
        >>> import torch
        >>> from lm_plugins.audit import measured_cost
        >>> model = torch.nn.Flatten()
        >>> with measured_cost(model) as cost:
        ...     output = model(torch.ones(3, 2, 2))
        >>> cost.images, cost.calls
        (3, 1)
    """
    if not isinstance(model, nn.Module):
        raise InputTypeError(f"model is a torch.nn.Module, got {type(model).__name__}.")
    cost = Cost()

    def count(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first = next(iter((*args, *kwargs.values())), None)
        cost.images += int(getattr(first, "shape", (1,))[0])
        cost.calls += 1

    count.keeps_nothing = True  # type: ignore[attr-defined]  # layer masking need not show it the answer twice
    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    start = _now(model)
    try:
        yield cost
    finally:
        cost.seconds = _now(model) - start
        handle.remove()


def _now(model: nn.Module) -> float:
    if any(parameter.is_cuda for parameter in model.parameters()):
        torch.cuda.synchronize()
    return time.perf_counter()
