"""Tokens added, multiplied or compared with other tokens and with ordinary tensors."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.registry import function_name, is_in_place, register_rule, spellings
from lm_plugins.masking.rules.merge import ELEMENTWISE, POWERS
from lm_plugins.masking.token_positions import Places
from lm_plugins.masking.tokens import MaskedTokens

__all__: list[str] = []


def _elementwise(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: Any, other: Any = None, **kwargs: Any) -> Any:
        """Merge tokens; an ordinary tensor or a number changes values only."""
        other = kwargs.pop("exponent") if "exponent" in kwargs else other
        if isinstance(input, MaskedTokens) and isinstance(other, MaskedTokens):
            if not _fit(input, other):
                other = other.whole()
                input = _made_whole(function, input)
            places = _merged(function, input, other)
            operands = (input.values, other.values)
        else:
            carrier = input if isinstance(input, MaskedTokens) else other
            plain = other if carrier is input else input
            plain = carrier.fitted(plain) if isinstance(plain, Tensor) else plain
            operands = (carrier.values, plain) if carrier is input else (plain, carrier.values)
            places = carrier.places
        if is_in_place(function) and not isinstance(input, MaskedTokens):
            raise UnsupportedOperatorError(
                f"{function_name(function)} would write tokens of which a part is hidden into an ordinary tensor"
            )
        values = function(*operands, **kwargs)
        if is_in_place(function):
            input.values, input.places = values, places
            return input
        return MaskedTokens(values, tuple(_raised(one, values.ndim) for one in places)).settled()

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


def _raised(places: Places, ndim: int) -> Places:
    """The same places with as many dimensions in front as broadcasting adds."""
    missing = ndim - places.numbers.ndim
    if missing == 0:
        return places
    return places.once(
        ("raised", missing),
        lambda: Places(
            places.numbers[(None,) * missing],
            places.visibility,
            None if places.whole is None else _raised(places.whole, ndim),
        ),
    )


def _merged(function: Callable[..., Any], input: MaskedTokens, other: MaskedTokens) -> tuple[Places, ...]:
    ndim = max(input.ndim, other.ndim)
    result = [_raised(one, ndim) for one in input.places]
    for one in (_raised(one, ndim) for one in other.places):
        if any(one.matches(known) for known in result):
            continue
        same = [i for i, known in enumerate(result) if _places_alike(known, one)]
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


def _places_alike(one: Places, other: Places) -> bool:
    return (
        one.map_shape == other.map_shape
        and one.numbers.shape == other.numbers.shape
        and bool((one.numbers == other.numbers).all())
    )


def _shares_images(one: Places, other: Places, dim: int) -> bool:
    """Whether both vary along a dimension only because it holds the images of the batch (or their windows)."""
    return one.numbers.shape[dim] == other.numbers.shape[dim] and any(
        one.varies(i) and not other.varies(i) for i in range(one.numbers.ndim)
    )


def _of_both(function: Callable[..., Any], one: Places, other: Places) -> Places:
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
    return Places(one.numbers, merged)


for _function in spellings(*ELEMENTWISE, *POWERS):
    register_rule(_function, tokens=True)(_elementwise(_function))


def _masking(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: MaskedTokens, mask: Tensor, value: Any) -> MaskedTokens:
        """Overwrite where an ordinary mask says so."""
        return input.like(function(input.values, input.fitted(mask), value))

    return rule


for _function in spellings("masked_fill"):
    register_rule(_function, tokens=True)(_masking(_function))
