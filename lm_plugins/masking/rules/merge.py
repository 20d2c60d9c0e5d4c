"""Merges: two activations added, multiplied, compared or concatenated."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.activation import MaskedActivation
from lm_plugins.masking.registry import function_name, is_in_place, register_rule, spellings

__all__: list[str] = []

_ELEMENTWISE = (
    "add sub subtract mul multiply div divide true_divide maximum minimum "
    "__add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ __mul__ __rmul__ __imul__ "
    "__truediv__ __rtruediv__ __itruediv__"
).split()
_POWERS = "pow float_power __pow__ __ipow__ __rpow__".split()


def _elementwise(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: Any, other: Any, **kwargs: Any) -> MaskedActivation:
        """Merge two activations where both (or either) are visible; a number or an ordinary tensor changes values only."""
        if isinstance(input, MaskedActivation) and isinstance(other, MaskedActivation):
            return _merge_two(function, input, other, kwargs)
        carrier = input if isinstance(input, MaskedActivation) else other
        plain = other if carrier is input else input
        if isinstance(plain, Tensor):
            _check_broadcast(function, carrier, plain)
        if carrier is not input and is_in_place(function):
            raise UnsupportedOperatorError(
                f"{function_name(function)} would write an activation of which a part is hidden into an ordinary tensor"
            )
        return carrier.like(
            function(carrier.values, plain, **kwargs) if carrier is input else function(plain, carrier.values, **kwargs)
        )

    return rule


def _check_broadcast(function: Callable[..., Any], carrier: MaskedActivation, plain: Tensor) -> None:
    broadcasts = all(size in (1, have) for size, have in zip(plain.shape[::-1], carrier.shape[::-1], strict=False))
    if plain.ndim > carrier.ndim or not broadcasts:
        raise UnsupportedOperatorError(
            f"{function_name(function)} of an activation {tuple(carrier.shape)} and a tensor {tuple(plain.shape)} would "
            "enlarge the activation"
        )


def _merge_two(
    function: Callable[..., Any], input: MaskedActivation, other: MaskedActivation, kwargs: dict[str, Any]
) -> MaskedActivation:
    sizes = [(one.dims, *(one.shape[one.dim_of(letter)] for letter in "NHW")) for one in (input, other)]
    if sizes[0] != sizes[1]:
        raise UnsupportedOperatorError(
            f"{function_name(function)} of two activations needs the same dimensions and positions; got {input!r} and "
            f"{other!r}"
        )
    visibility = input.visibility.after_addition([other.visibility])
    values = function(input.completed_to(visibility.visible), other.completed_to(visibility.visible), **kwargs)
    if not is_in_place(function):
        return MaskedActivation(values, visibility, input.dims)
    input.values, input.visibility = values, visibility
    return input


def _power(function: Callable[..., Any]) -> Callable[..., Any]:
    merge = _elementwise(function)

    def rule(input: Any, exponent: Any) -> MaskedActivation:
        """Raise to a power: a number, an ordinary tensor or another activation."""
        result: MaskedActivation = merge(input, exponent)
        return result

    return rule


for _function in spellings(*_ELEMENTWISE):
    register_rule(_function)(_elementwise(_function))

for _function in spellings(*_POWERS):
    register_rule(_function)(_power(_function))


@register_rule(*spellings("cat", "concat", "concatenate"))
def cat(tensors: Sequence[MaskedActivation | Tensor], dim: int = 0) -> MaskedActivation:
    """Concatenate channels; the option `concatenation` says what is visible, `missing` what fills the rest."""
    carriers = [one for one in tensors if isinstance(one, MaskedActivation)]
    first = carriers[0]
    if first.dims[dim] != "C" or any(one.dims != first.dims for one in carriers):
        raise UnsupportedOperatorError(
            f"torch.cat is masked along channels of activations with the same dimensions only; got dim={dim} of "
            f"{[one.dims for one in carriers]}"
        )
    if any(one.visibility.visible.is_cut_of_same(first.visibility.visible) for one in carriers[1:]):
        raise UnsupportedOperatorError(
            "torch.cat of several cuts of one map puts patches into channels: a matter of tokens"
        )
    visibility = first.visibility.after_concatenation([one.visibility for one in carriers[1:]])
    # An ordinary tensor beside activations does not depend on the image's hidden part: it is visible wherever they are.
    values = [one.completed_to(visibility.visible) if isinstance(one, MaskedActivation) else one for one in tensors]
    return MaskedActivation(torch.cat(values, dim), visibility, first.dims)
