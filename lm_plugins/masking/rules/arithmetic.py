"""Arithmetic: activations added, multiplied, compared, concatenated or stacked."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.activation import MaskedActivation
from lm_plugins.masking.carrier import Carrier
from lm_plugins.masking.part import are_cuts_of_same
from lm_plugins.masking.registry import function_name, is_in_place, register_rule, spellings
from lm_plugins.masking.token_positions import TokenPositions
from lm_plugins.masking.tokens import MaskedTokens

__all__ = ["ELEMENTWISE", "POWERS", "merged"]

ELEMENTWISE = (
    "add sub subtract mul multiply div divide true_divide maximum minimum "
    "__add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ __mul__ __rmul__ __imul__ "
    "__truediv__ __rtruediv__ __itruediv__ "
    "fmod remainder floor_divide __mod__ __rmod__ __floordiv__ __rfloordiv__ "
    "eq ne lt le gt ge greater greater_equal less less_equal not_equal __lt__ __le__ __gt__ __ge__ "
    "logical_and logical_or logical_xor __and__ __or__ __xor__ __rand__ __ror__ __rxor__"
).split()
POWERS = "pow float_power __pow__ __ipow__ __rpow__".split()


def _elementwise(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: Any, other: Any, **kwargs: Any) -> MaskedActivation:
        """Merge two activations where both (or either) are visible; a number or an ordinary tensor changes values only."""
        return merged(function, (input, other), kwargs)

    return rule


def merged(function: Callable[..., Any], operands: Sequence[Any], kwargs: dict[str, Any]) -> MaskedActivation:
    """The result of an element-wise function of activations, ordinary tensors and numbers, at least one of the first."""
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
        return merged(function, (input, tensor1, tensor2), kwargs)

    return rule


for _function in spellings("addcmul", "addcdiv"):
    register_rule(_function)(_with_product(_function))


def _between(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: Any, end: Any, weight: Any) -> MaskedActivation:
        """Interpolate between two: a merge of all activations among the three."""
        return merged(function, (input, end, weight), {})

    return rule


for _function in spellings("lerp"):
    register_rule(_function)(_between(_function))


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


# ---- of tokens -------------------------------------------------------------------------------------------------------


def _elementwise_of_tokens(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: Any, other: Any = None, **kwargs: Any) -> Any:
        """Merge tokens; an ordinary tensor or a number changes values only."""
        other = kwargs.pop("exponent") if "exponent" in kwargs else other
        if isinstance(input, MaskedTokens) and isinstance(other, MaskedTokens):
            if not _fit(input, other):
                other = other.whole()
                input = _made_whole(function, input)
            positions = _merged_positions(function, input, other)
            operands = (input.values, other.values)
        else:
            carrier = input if isinstance(input, MaskedTokens) else other
            plain = other if carrier is input else input
            plain = carrier.fitted(plain) if isinstance(plain, Tensor) else plain
            operands = (carrier.values, plain) if carrier is input else (plain, carrier.values)
            positions = carrier.positions
        if is_in_place(function) and not isinstance(input, MaskedTokens):
            raise UnsupportedOperatorError(
                f"{function_name(function)} would write tokens of which a part is hidden into an ordinary tensor"
            )
        values = function(*operands, **kwargs)
        if is_in_place(function):
            input.values, input.positions = values, positions
            return input
        return MaskedTokens(values, tuple(_raised(one, values.ndim) for one in positions)).simplified()

    return rule


def _made_whole(function: Callable[..., Any], input: MaskedTokens) -> MaskedTokens:
    if is_in_place(function):
        input.take_over(input.whole())
        return input
    return input.whole()


def _fit(input: MaskedTokens, other: MaskedTokens) -> bool:
    """Whether values broadcast: not if tokens were dropped from one of the operands only."""
    sizes = zip(input.values.shape[::-1], other.values.shape[::-1], strict=False)
    return all(one == two or 1 in (one, two) for one, two in sizes)


def _raised(positions: TokenPositions, ndim: int) -> TokenPositions:
    """The same positions with as many dimensions in front as broadcasting adds."""
    missing = ndim - positions.numbers.ndim
    if missing == 0:
        return positions
    return positions.once(
        ("raised", missing),
        lambda: TokenPositions(
            positions.numbers[(None,) * missing],
            positions.visibility,
            None if positions.whole is None else _raised(positions.whole, ndim),
        ),
    )


def _merged_positions(
    function: Callable[..., Any], input: MaskedTokens, other: MaskedTokens
) -> tuple[TokenPositions, ...]:
    ndim = max(input.ndim, other.ndim)
    result = [_raised(one, ndim) for one in input.positions]
    for one in (_raised(one, ndim) for one in other.positions):
        if any(one.matches(known) for known in result):
            continue
        same = [i for i, known in enumerate(result) if _positions_alike(known, one)]
        if same:
            result[same[0]] = _of_both(function, result[same[0]], one)
        elif any(
            one.varies(dim) and known.varies(dim) and not _shares_images(one, known, dim)
            for known in result
            for dim in range(ndim)
        ):
            raise UnsupportedOperatorError(
                f"{function_name(function)} of {input!r} and {other!r}, whose tokens belong to different positions"
            )
        else:
            result.append(one)
    return tuple(result)


def _positions_alike(one: TokenPositions, other: TokenPositions) -> bool:
    return (
        one.map_shape == other.map_shape
        and one.numbers.shape == other.numbers.shape
        and bool((one.numbers == other.numbers).all())
    )


def _shares_images(one: TokenPositions, other: TokenPositions, dim: int) -> bool:
    """Whether both vary along a dimension only because it holds the images of the batch (or their windows)."""
    return one.numbers.shape[dim] == other.numbers.shape[dim] and any(
        one.varies(i) and not other.varies(i) for i in range(one.numbers.ndim)
    )


def _of_both(function: Callable[..., Any], one: TokenPositions, other: TokenPositions) -> TokenPositions:
    merged = one.visibility.after_addition([other.visibility])
    if one.visibility.options.addition == "union":
        raise UnsupportedOperatorError(
            f"{function_name(function)} of tokens of which different ones are visible; with "
            'MaskingOptions(addition="intersection") it is masked'
        )
    if not (one.visibility.visible.covers(merged.visible) and other.visibility.visible.covers(merged.visible)):
        raise UnsupportedOperatorError(
            f"{function_name(function)} of tokens that have no visible position in common in an image, so that they would "
            "count as an image of which nothing is visible; tokens are not padded from their neighbours, as maps are. With "
            'MaskingOptions(sampling="point") it is masked'
        )
    return TokenPositions(one.numbers, merged)


for _function in spellings(*ELEMENTWISE, *POWERS):
    register_rule(_function, tokens=True)(_elementwise_of_tokens(_function))
