"""Merges: activations added, multiplied, compared, concatenated or stacked."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.activation import MaskedActivation
from lm_plugins.masking.carrier import Carrier
from lm_plugins.masking.part import are_cuts_of_same
from lm_plugins.masking.registry import function_name, is_in_place, register_rule, spellings

__all__ = ["ELEMENTWISE", "POWERS"]

ELEMENTWISE = (
    "add sub subtract mul multiply div divide true_divide maximum minimum "
    "__add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ __mul__ __rmul__ __imul__ "
    "__truediv__ __rtruediv__ __itruediv__"
).split()
POWERS = "pow float_power __pow__ __ipow__ __rpow__".split()


def _elementwise(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: Any, other: Any, **kwargs: Any) -> MaskedActivation:
        """Merge two activations where both (or either) are visible; a number or an ordinary tensor changes values only."""
        return _merged(function, (input, other), kwargs)

    return rule


def _merged(function: Callable[..., Any], operands: Sequence[Any], kwargs: dict[str, Any]) -> MaskedActivation:
    carriers = [one for one in operands if isinstance(one, MaskedActivation)]
    first = carriers[0]
    for one in operands:
        if isinstance(one, Tensor) and not isinstance(one, Carrier):
            _check_broadcast(function, first, one)
    if operands[0] is not first and is_in_place(function):
        raise UnsupportedOperatorError(
            f"{function_name(function)} would write an activation of which a part is hidden into an ordinary tensor"
        )
    if len(carriers) == 1:
        return first.like(function(*(first.values if one is first else one for one in operands), **kwargs))
    for one in carriers:
        if one.dims != first.dims or any(one.shape[i] != first.shape[i] for i in _positions(first)):
            raise UnsupportedOperatorError(
                f"{function_name(function)} of two activations needs the same dimensions and positions; got {first!r} and "
                f"{one!r}"
            )
    visibility = first.visibility.after_addition([one.visibility for one in carriers[1:]])
    is_same = all(one.visibility is visibility for one in carriers)

    def complete(one: Any) -> Any:
        if not isinstance(one, MaskedActivation):
            return one
        return one.values if is_same else one.completed_to(visibility.computed)

    values = function(*(complete(one) for one in operands), **kwargs)
    if not is_in_place(function):
        return MaskedActivation(values, visibility, first.dims)
    first.values, first.visibility = values, visibility
    return first


def _positions(carrier: MaskedActivation) -> list[int]:
    """The indices of the dimensions that are no channels."""
    return [i for i, letter in enumerate(carrier.dims) if letter != "C"]


def _check_broadcast(function: Callable[..., Any], carrier: MaskedActivation, plain: Tensor) -> None:
    fits = plain.ndim <= carrier.ndim and all(
        size in (1, have) or (have == 1 and letter == "C")
        for size, have, letter in zip(plain.shape[::-1], carrier.shape[::-1], carrier.dims[::-1], strict=False)
    )
    if not fits:
        raise UnsupportedOperatorError(
            f"{function_name(function)} of an activation {tuple(carrier.shape)} and a tensor {tuple(plain.shape)} would "
            "enlarge the activation"
        )


def _power(function: Callable[..., Any]) -> Callable[..., Any]:
    merge = _elementwise(function)

    def rule(input: Any, exponent: Any) -> MaskedActivation:
        """Raise to a power: a number, an ordinary tensor or another activation."""
        result: MaskedActivation = merge(input, exponent)
        return result

    return rule


for _function in spellings(*ELEMENTWISE):
    register_rule(_function)(_elementwise(_function))

for _function in spellings(*POWERS):
    register_rule(_function)(_power(_function))


def _with_product(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: Any, tensor1: Any, tensor2: Any, **kwargs: Any) -> MaskedActivation:
        """Add a product or a quotient: a merge of all activations among the three."""
        return _merged(function, (input, tensor1, tensor2), kwargs)

    return rule


for _function in spellings("addcmul", "addcdiv"):
    register_rule(_function)(_with_product(_function))


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
    return _joined(lambda values: torch.cat(values, dim), tensors, first.dims)


@register_rule(*spellings("stack"))
def stack(tensors: Sequence[MaskedActivation | Tensor], dim: int = 0) -> MaskedActivation:
    """Stack along a new channel dimension: what is visible as for a concatenation."""
    carriers = [one for one in tensors if isinstance(one, MaskedActivation)]
    dims = list(carriers[0].dims)
    if any(one.dims != carriers[0].dims for one in carriers):
        raise UnsupportedOperatorError(
            f"torch.stack is masked for activations with the same dimensions only; got dim={dim} of "
            f"{[one.dims for one in carriers]}"
        )
    dims.insert(dim % (len(dims) + 1), "C")
    return _joined(lambda values: torch.stack(values, dim), tensors, tuple(dims))


def _joined(
    join: Callable[[list[Tensor]], Tensor], tensors: Sequence[MaskedActivation | Tensor], dims: tuple[str, ...]
) -> MaskedActivation:
    first, *others = (one.visibility for one in tensors if isinstance(one, MaskedActivation))
    if any(are_cuts_of_same(one.visible, first.visible) for one in others):
        raise UnsupportedOperatorError("joining several cuts of one map puts patches into channels: a matter of tokens")
    visibility = first.after_concatenation(others)
    # An ordinary tensor beside activations does not depend on the image's hidden part: it is visible wherever they are.
    values = [one.completed_to(visibility.visible) if isinstance(one, MaskedActivation) else one for one in tensors]
    return MaskedActivation(join(values), visibility, dims)
