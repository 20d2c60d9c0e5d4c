"""New tensors made from an activation: constants of its shape, and what models write into them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.carrier import Carrier
from lm_plugins.masking.registry import register_rule
from lm_plugins.masking.tokens import MaskedTokens

__all__: list[str] = []


def _alike(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: Carrier, *args: Any, **kwargs: Any) -> Any:
        """Make constants of the same shape, at the same positions: models write parts of activations into them."""
        return input.like(function(input.values, *args, **kwargs))

    return rule


for _function in (torch.zeros_like, torch.ones_like, torch.full_like, torch.empty_like):
    register_rule(_function, both=True)(_alike(_function))


def _new(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: Carrier, *args: Any, **kwargs: Any) -> Tensor:
        """Make an ordinary tensor of the same dtype and device."""
        result: Tensor = function(input.values, *args, **kwargs)
        return result

    return rule


for _name in ("new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"):
    register_rule(getattr(Tensor, _name), both=True)(_new(getattr(Tensor, _name)))


@register_rule(Tensor.copy_, both=True)
def copy_(input: Any, src: Any, non_blocking: bool = False) -> Any:
    """Overwrite all values: by an activation, whose positions come with them, or by an ordinary tensor."""
    if not isinstance(input, Carrier):
        raise UnsupportedOperatorError(
            "torch.Tensor.copy_ would write an activation of which a part is hidden into an ordinary tensor; make it of the "
            "activation, by torch.empty_like(x)"
        )
    if isinstance(src, Carrier):
        src = src.expand(input.shape).to(input.dtype)
        if src.is_tokens != input.is_tokens or src.values.shape != input.values.shape:
            raise UnsupportedOperatorError(f"torch.Tensor.copy_ of {src!r} into {input!r}, of other positions")
        input.values.copy_(src.values, non_blocking)
        input.take_over(src.like(input.values))
        return input
    plain = input.fitted(src.expand(input.shape)) if isinstance(input, MaskedTokens) else src
    return input.like(input.values.copy_(plain, non_blocking))
