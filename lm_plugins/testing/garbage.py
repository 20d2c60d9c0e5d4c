"""The invariant put to the test: values at hidden positions are unspecified, so any may stand there."""

from collections.abc import Callable
from typing import Any

import torch

from lm_plugins.masking.carrier import Carrier
from lm_plugins.masking.run import Observer

__all__ = ["carriers", "overwrite_hidden"]


def carriers(value: Any) -> list[Any]:
    """The activations in a result or in arguments, however they are packed."""
    if isinstance(value, (list, tuple)):
        return [found for one in value for found in carriers(one)]
    if isinstance(value, dict):
        return carriers(list(value.values()))
    return [value] if isinstance(value, Carrier) else []


def overwrite_hidden(value: float | None = None, seed: int = 0) -> Observer:
    """An observer that overwrites hidden positions after every rule.

    Args:
        value: What they all hold afterwards; by default random numbers of a large magnitude.
        seed: Of the random numbers.

    Returns:
        An observer for `lm_plugins.masking.observing`.

    Example:
        >>> import torch
        >>> import lm_plugins as lm
        >>> from lm_plugins.masking import observing
        >>> from lm_plugins.testing import overwrite_hidden
        >>> masked = lm.LayerMasked(torch.nn.Sequential(torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)).eval())
        >>> with observing(overwrite_hidden(torch.nan)):
        ...     float(masked(torch.ones(1, 1, 2, 2), torch.eye(2)))
        1.0
    """
    generator = torch.Generator().manual_seed(seed)

    def observer(
        function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], act: Callable[[], Any]
    ) -> Any:
        result = act()
        for one in carriers(result):
            overwrite(one, value, generator)
        return result

    return observer


def overwrite(activation: Any, value: float | None, generator: torch.Generator) -> None:
    """Overwrite the hidden positions of one activation: with `value`, or at random."""
    values = activation.values
    if value is None:
        garbage = (100 * torch.randn(values.shape, generator=generator)).to(values)
    else:
        garbage = torch.full_like(values, value)
    # Out of place: the tensor may be shared with what autograd saved or with another branch.
    activation.values = torch.where(activation.is_hidden(), garbage, values)
