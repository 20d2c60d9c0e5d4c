"""Layouts of tokens: whatever moves the values moves their places alike."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.carrier import Carrier
from lm_plugins.masking.places import CONSTANT, Places, compact
from lm_plugins.masking.dropping import leaves_sequence
from lm_plugins.masking.registry import function_name, is_in_place, register_rule, spellings
from lm_plugins.masking.tokens import MaskedTokens

__all__: list[str] = []

_MOVES = (
    "permute transpose swapdims swapaxes movedim moveaxis squeeze unsqueeze narrow select chunk split tensor_split unbind "
    "roll flip expand repeat tile repeat_interleave index_select"
).split()
_RESHAPES = "reshape view flatten unflatten reshape_as view_as".split()


def _holds_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, (list, tuple)) and any(_holds_tensor(one) for one in value))


def _key(function: Callable[..., Any], args: Any, kwargs: Any) -> Hashable | None:
    if any(_holds_tensor(one) for one in (*args, *kwargs.values())):
        return None
    return function.__name__, repr(args), repr(kwargs)


def _lay_out(function: Callable[..., Any], input: MaskedTokens, args: Any, kwargs: Any) -> Any:
    values = function(input.values, *args, **kwargs)
    key = _key(function, args, kwargs)
    places = [one.laid_out(key, input.shape, lambda numbers: function(numbers, *args, **kwargs)) for one in input.places]
    if isinstance(values, Tensor):
        return MaskedTokens(values, tuple(places)).settled()
    return tuple(MaskedTokens(one, of_one).settled() for one, of_one in zip(values, zip(*places, strict=True), strict=True))


def _check_input(function: Callable[..., Any], input: Any) -> None:
    if not isinstance(input, MaskedTokens):
        raise UnsupportedOperatorError(
            f"{function_name(function)} of an ordinary tensor with tokens of which a part is hidden"
        )


def _move(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: MaskedTokens, *args: Any, **kwargs: Any) -> Any:
        """Move values, and their places alike."""
        _check_input(function, input)
        return _lay_out(function, input, args, kwargs)

    return rule


def _reshape(function: Callable[..., Any]) -> Callable[..., Any]:
    name = function.__name__

    def rule(input: MaskedTokens | Tensor, *args: Any, **kwargs: Any) -> Any:
        """Merge and split dimensions, of values and of their places alike."""
        if args and isinstance(args[0], torch.dtype):
            raise UnsupportedOperatorError("no masking rule for torch.Tensor.view(dtype)")
        if name.endswith("_as"):
            return input.reshape((args[0] if args else kwargs["other"]).shape)
        if name == "view":  # what is a view of the values need not be one of their places, nor of another memory format
            return input.reshape(*(args or (kwargs["size"],)))
        _check_input(function, input)
        if any(one.is_dropped for one in input.places) and not _is_for_kept(function, input, args, kwargs):
            input = input.whole()
        return _lay_out(function, input, args, kwargs)

    return rule


def _is_for_kept(function: Callable[..., Any], input: MaskedTokens, args: Any, kwargs: Any) -> bool:
    """Whether a new shape was made for the kept tokens rather than for all."""
    try:
        after = [function(one.numbers.expand(input.shape), *args, **kwargs) for one in input.places]
    except RuntimeError:
        return False
    return all(leaves_sequence(one, compact(numbers)) for one, numbers in zip(input.places, after, strict=True))


for _function in spellings(*_MOVES):
    if not is_in_place(_function):
        register_rule(_function, tokens=True)(_move(_function))

for _function in spellings(*_RESHAPES):
    register_rule(_function, tokens=True)(_reshape(_function))

register_rule(torch.Tensor.__getitem__, tokens=True)(_move(torch.Tensor.__getitem__))


@register_rule(*spellings("expand_as"), tokens=True)
def expand_as(input: Tensor | MaskedTokens, other: Tensor | MaskedTokens) -> Any:
    """Broadcast to the shape of another."""
    return input.expand(other.shape)


@register_rule(torch.Tensor.__setitem__, tokens=True)
def setitem(input: MaskedTokens, index: Any, value: Any) -> None:
    """Overwrite a part, by tokens of the same places or by constants."""
    if not isinstance(input, MaskedTokens):
        raise UnsupportedOperatorError("torch.Tensor.__setitem__ would write tokens into an ordinary tensor")
    if isinstance(value, MaskedTokens):
        part = [one.laid_out(None, input.shape, lambda numbers: numbers[index]) for one in input.places]
        if len(part) != len(value.places) or not all(any(a.matches(b) for b in value.places) for a in part):
            raise UnsupportedOperatorError(f"torch.Tensor.__setitem__ of a part of {input!r} by {value!r} of other places")
        value = value.values
    values = input.values.clone()
    values[index] = value
    input.values = values


@register_rule(F.pad, tokens=True)
def pad(input: MaskedTokens, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """Pad with constants, which are always visible."""
    if mode != "constant" or len(input.places) != 1:
        raise UnsupportedOperatorError(f"torch.nn.functional.pad of {input!r} with mode={mode!r}")
    # Along channels, places do not vary, and shall not.
    amounts = [
        amount if input.places[0].varies(input.ndim - 1 - i // 2) else 0 for i, amount in enumerate(int(one) for one in pad)
    ]
    numbers = F.pad(input.places[0].numbers, amounts, value=CONSTANT)
    places = Places(numbers, input.places[0].visibility, input.places[0].is_dropped)
    return MaskedTokens(F.pad(input.values, tuple(pad), mode, value), (places,)).settled()


# ---- putting together ------------------------------------------------------------------------------------------------


@register_rule(*spellings("cat", "concat", "concatenate"), tokens=True)
def cat(tensors: Sequence[MaskedTokens | Tensor], dim: int = 0) -> Any:
    """Put tokens beside each other. An ordinary tensor among them belongs to no position: class tokens, registers."""
    carriers = [one for one in tensors if isinstance(one, MaskedTokens)]
    first = carriers[0]
    dim %= first.ndim
    masks = {id(one.places[0].visibility.visible) for one in carriers}
    if len(masks) > 1 or any(len(one.places) > 1 for one in carriers):
        raise UnsupportedOperatorError(f"torch.cat of tokens of different maps: {carriers}")
    values = torch.cat([one.values if isinstance(one, Carrier) else one for one in tensors], dim)
    places = first.places[0]
    if not all(one.places[0].matches(places) for one in carriers) or len(carriers) < len(tensors) or places.varies(dim):
        places = _joined(tensors, dim, places)
    return MaskedTokens(values, (places,)).settled()


def _joined(tensors: Sequence[MaskedTokens | Tensor], dim: int, like: Places) -> Places:
    keys = tuple(one.places[0] if isinstance(one, MaskedTokens) else None for one in tensors)
    sizes = tuple(one.shape[dim] for one in tensors)

    def make() -> Places:
        numbers = [like.numbers.new_full((), CONSTANT) if key is None else key.numbers for key in keys]
        shape = list(torch.broadcast_shapes(*([1 if i == dim else n for i, n in enumerate(one.shape)] for one in numbers)))
        parts = []
        for one, size in zip(numbers, sizes, strict=True):
            shape[dim] = size
            parts.append(one.expand(shape))
        return Places(compact(torch.cat(parts, dim)), like.visibility, like.is_dropped)

    return like.derived(("cat", dim, keys, sizes), make)


@register_rule(*spellings("stack"), tokens=True)
def stack(tensors: Sequence[MaskedTokens | Tensor], dim: int = 0) -> Any:
    """Put tokens beside each other along a new dimension."""
    return torch.cat([one.unsqueeze(dim) for one in tensors], dim)  # type: ignore[misc]
