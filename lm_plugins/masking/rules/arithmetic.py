"""Arithmetic: activations added, multiplied, compared, or chosen from by a condition."""

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.activation import MaskedActivation
from lm_plugins.masking.carrier import Carrier
from lm_plugins.masking.coarse_positions import is_coarser, within
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
    "hypot atan2 arctan2 copysign logaddexp heaviside fmax fmin xlogy "
    "logical_and logical_or logical_xor __and__ __or__ __xor__ __rand__ __ror__ __rxor__"
).split()
POWERS = "pow float_power __pow__ __ipow__ __rpow__".split()


def merged(function: Callable[..., Any], operands: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The result of an element-wise function of activations, ordinary tensors and numbers, at least one of the first.

    Args:
        function: Acts on values.
        operands: Its arguments.
        kwargs: The others.

    Raises:
        UnsupportedOperatorError: The activations belong to different positions, or one would be written into a tensor.
    """
    carriers = [one for one in operands if isinstance(one, Carrier)]
    if is_in_place(function) and operands[0] is not carriers[0]:
        raise UnsupportedOperatorError(
            f"{function_name(function)} would write an activation of which a part is hidden into an ordinary tensor"
        )
    if any(one.is_tokens for one in carriers):
        return _merged_tokens(function, operands, kwargs)
    return _merged_maps(function, operands, kwargs)


def _merged_maps(function: Callable[..., Any], operands: Sequence[Any], kwargs: dict[str, Any]) -> MaskedActivation:
    """Maps are merged where both (or either) are visible, and padded from neighbours where one of them is not."""
    carriers = [one for one in operands if isinstance(one, MaskedActivation)]
    first = carriers[0]
    for one in operands:
        if isinstance(one, Tensor) and not isinstance(one, Carrier):
            _check_broadcast(function, first, one)
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


def _merged_tokens(function: Callable[..., Any], operands: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Tokens are merged with those of the same position; a tensor or a number changes values only."""
    carriers = [one for one in operands if isinstance(one, MaskedTokens)]
    if not _fit(carriers):
        if is_in_place(function):
            carriers[0].take_over(carriers[0].whole())
        operands = [one.whole() if isinstance(one, MaskedTokens) and one.is_dropped else one for one in operands]
        carriers = [one for one in operands if isinstance(one, MaskedTokens)]
    positions = carriers[0].positions
    for one in carriers[1:]:
        positions = _merged_positions(function, carriers[0], positions, one)
    # Where several have lost tokens, all have lost the same.
    like = next((one for one in carriers if one.is_dropped), carriers[0])
    values = function(*(_plain_beside(like, one) for one in operands), **kwargs)
    if is_in_place(function):
        carriers[0].values, carriers[0].positions = values, positions
        return carriers[0]
    return MaskedTokens(values, tuple(_raised(one, values.ndim) for one in positions)).simplified()


def _plain_beside(carrier: MaskedTokens, operand: Any) -> Any:
    if isinstance(operand, MaskedTokens):
        return operand.values
    return carrier.fitted(operand) if isinstance(operand, Tensor) else operand


def _fit(carriers: Sequence[MaskedTokens]) -> bool:
    """Whether values broadcast: not if tokens were dropped from some of the operands only."""
    sides = zip_longest(*(one.values.shape[::-1] for one in carriers), fillvalue=1)
    return all(len(set(sizes) - {1}) <= 1 for sizes in sides)


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
    function: Callable[..., Any], input: MaskedTokens, positions: Sequence[TokenPositions], other: MaskedTokens
) -> tuple[TokenPositions, ...]:
    ndim = max(positions[0].numbers.ndim, other.ndim)
    result = [_raised(one, ndim) for one in positions]
    for one in (_raised(one, ndim) for one in other.positions):
        if any(one.matches(known) for known in result):
            continue
        finer = [i for i, known in enumerate(result) if is_coarser(one, known)]
        if finer:
            result[finer[0]] = _within(function, result[finer[0]], one)
            continue
        for known in [known for known in result if is_coarser(known, one)]:
            result = [left for left in result if left is not known]
            one = _within(function, one, known)
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


def _within(function: Callable[..., Any], positions: TokenPositions, blocks: TokenPositions) -> TokenPositions:
    narrowed = within(positions, blocks)
    if narrowed is None:
        raise UnsupportedOperatorError(
            f"{function_name(function)} of tokens and of what belongs to blocks of the map, of which nothing is visible in "
            "common in an image"
        )
    if narrowed is not positions and positions.visibility.options.addition == "union":
        raise UnsupportedOperatorError(
            f"{function_name(function)} of tokens and of what belongs to blocks of the map, of which different ones are "
            'visible; with MaskingOptions(addition="intersection") it is masked'
        )
    return narrowed


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
    whole = None if one.whole is None else TokenPositions(one.whole.numbers, merged)
    return TokenPositions(one.numbers, merged, whole)


# ---- rules of maps and of tokens ----------------------------------------------------------------------------------------


def _elementwise(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: Any, other: Any, **kwargs: Any) -> Any:
        """Merge two activations where both (or either) are visible; a number or an ordinary tensor changes values only."""
        return merged(function, (input, other), kwargs)

    return rule


def _power(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: Any, exponent: Any) -> Any:
        """Raise to a power: a number, an ordinary tensor or another activation."""
        return merged(function, (input, exponent), {})

    return rule


def _with_product(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: Any, tensor1: Any, tensor2: Any, **kwargs: Any) -> Any:
        """Add a product or a quotient: a merge of all activations among the three."""
        return merged(function, (input, tensor1, tensor2), kwargs)

    return rule


def _between(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: Any, end: Any, weight: Any) -> Any:
        """Interpolate between two: a merge of all activations among the three."""
        return merged(function, (input, end, weight), {})

    return rule


def _filling(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: Any, mask: Any, value: Any) -> Any:
        """Overwrite where a mask says so: a merge of all activations among the three."""
        return merged(function, (input, mask, value), {})

    return rule


def _equality(compare: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: Any, other: Any) -> Any:
        """Compare at every position; with what is no number, as Python does."""
        return compare(input, other) if isinstance(other, (Tensor, bool, int, float, complex)) else NotImplemented

    return rule


for _names, _rule in (
    (ELEMENTWISE, _elementwise),
    (POWERS, _power),
    (("addcmul", "addcdiv"), _with_product),
    (("lerp",), _between),
    (("masked_fill",), _filling),
):
    for _function in spellings(*_names):
        register_rule(_function, both=True)(_rule(_function))

for _name in ("eq", "ne"):
    register_rule(getattr(Tensor, f"__{_name}__"), both=True)(_equality(getattr(torch, _name)))


@register_rule(torch.where, both=True)
def where(condition: Any, input: Any = None, other: Any = None) -> Any:
    """Choose one of two at every position: a merge of all activations among the three."""
    if input is None or other is None:
        raise UnsupportedOperatorError("torch.where of a condition alone lists positions: it is masked with two values")
    return merged(torch.where, (condition, input, other), {})


@register_rule(Tensor.where, both=True)
def where_method(input: Any, condition: Any, other: Any) -> Any:
    """Choose one of two at every position."""
    return where(condition, input, other)
