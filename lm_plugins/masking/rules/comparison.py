"""Comparisons and choices by a condition: `==`, `where` and `masked_fill`. A condition is as hidden as what it is about."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.registry import function_name, is_in_place, register_rule, spellings
from lm_plugins.masking.rules.arithmetic import merged
from lm_plugins.masking.tokens import MaskedTokens

__all__: list[str] = []


def _equality(function: Callable[..., Any], compare: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: Any, other: Any) -> Any:
        """Compare at every position; with what is no number, as Python does."""
        return compare(input, other) if isinstance(other, (Tensor, bool, int, float, complex)) else NotImplemented

    return rule


for _name in ("eq", "ne"):
    _function = getattr(Tensor, f"__{_name}__")
    register_rule(_function, both=True)(_equality(_function, getattr(torch, _name)))


def _of_tokens(function: Callable[..., Any], operands: Sequence[Any]) -> MaskedTokens:
    carriers = [one for one in operands if isinstance(one, MaskedTokens)]
    first = carriers[0]
    if any(len(one.positions) != len(first.positions) for one in carriers) or not all(
        mine.matches(other) for one in carriers for mine, other in zip(one.positions, first.positions, strict=True)
    ):
        raise UnsupportedOperatorError(
            f"{function_name(function)} of tokens that belong to different positions: {carriers}"
        )
    if is_in_place(function) and operands[0] is not first:
        raise UnsupportedOperatorError(
            f"{function_name(function)} would write tokens of which a part is hidden into an ordinary tensor"
        )
    values = [
        one.values if isinstance(one, MaskedTokens) else first.fitted(one) if isinstance(one, Tensor) else one
        for one in operands
    ]
    return first.like(function(*values))


def _chosen(function: Callable[..., Any], operands: Sequence[Any]) -> Any:
    is_of_tokens = any(isinstance(one, MaskedTokens) for one in operands)
    return _of_tokens(function, operands) if is_of_tokens else merged(function, operands, {})


@register_rule(torch.where, both=True)
def where(condition: Any, input: Any = None, other: Any = None) -> Any:
    """Choose one of two at every position: a merge of all activations among the three."""
    if input is None or other is None:
        raise UnsupportedOperatorError("torch.where of a condition alone lists positions: it is masked with two values")
    return _chosen(torch.where, (condition, input, other))


@register_rule(Tensor.where, both=True)
def where_method(input: Any, condition: Any, other: Any) -> Any:
    """Choose one of two at every position."""
    return where(condition, input, other)


def _filling(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: Any, mask: Any, value: Any) -> Any:
        """Overwrite where a mask says so: a merge of all activations among the three."""
        return _chosen(function, (input, mask, value))

    return rule


for _function in spellings("masked_fill"):
    register_rule(_function, both=True)(_filling(_function))
