"""Layouts of tokens: whatever moves the values moves their positions alike."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.carrier import Carrier
from lm_plugins.masking.registry import function_name, is_in_place, register_rule, spellings
from lm_plugins.masking.rules.patch_merging import with_channels
from lm_plugins.masking.token_positions import CONSTANT, TokenPositions, compact
from lm_plugins.masking.tokens import MaskedTokens, as_dropped, gathered, sequence_of
from lm_plugins.masking.torch_functions import properties

__all__: list[str] = []

_MOVES = (
    "permute transpose swapdims swapaxes movedim moveaxis squeeze unsqueeze narrow select chunk split tensor_split unbind "
    "roll flip expand repeat tile repeat_interleave index_select"
).split()
_CUTS = "narrow select chunk split split_with_sizes tensor_split index_select __getitem__".split()
_RESHAPES = "reshape view flatten unflatten reshape_as view_as".split()


def _holds_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, (list, tuple)) and any(_holds_tensor(one) for one in value))


def _key(function: Callable[..., Any], args: Any, kwargs: Any) -> Hashable | None:
    if any(_holds_tensor(one) for one in (*args, *kwargs.values())):
        return None
    return function.__name__, repr(args), repr(kwargs)


def _lay_out(function: Callable[..., Any], input: MaskedTokens, args: Any, kwargs: Any) -> Any:
    if input.is_dropped:
        return _lay_out_dropped(function, input, args, kwargs)
    values = function(input.values, *args, **kwargs)
    positions = _positions_after(function, input.positions, input.shape, args, kwargs)
    if isinstance(values, Tensor):
        return MaskedTokens(values, tuple(positions)).simplified()
    return tuple(
        MaskedTokens(one, of_one).simplified() for one, of_one in zip(values, zip(*positions, strict=True), strict=True)
    )


def _on_host(value: Any) -> Any:
    """An index, or several, where the numbers of positions are."""
    if isinstance(value, (list, tuple)):
        return type(value)(_on_host(one) for one in value)
    return value.cpu() if isinstance(value, Tensor) and not isinstance(value, Carrier) else value


def _positions_after(function: Callable[..., Any], positions: Any, shape: Any, args: Any, kwargs: Any) -> list[Any]:
    key = _key(function, args, kwargs)
    if key is None:
        args, kwargs = _on_host(args), {name: _on_host(value) for name, value in kwargs.items()}
    return [one.laid_out(key, shape, lambda numbers: function(numbers, *args, **kwargs)) for one in positions]


def _lay_out_dropped(function: Callable[..., Any], input: MaskedTokens, args: Any, kwargs: Any) -> Any:
    """Where the full sequence stays one in order, do with the kept tokens what the model does with all."""
    whole = [one.whole or one for one in input.positions]
    after = _positions_after(function, whole, input.shape, args, kwargs)
    stay = _is_in_order(input.positions, after)
    if not stay:
        return _lay_out(function, input.whole(), args, kwargs)
    if function.__name__ in (*_RESHAPES, "expand"):
        shape = list(function(torch.empty(input.shape, device="meta"), *args, **kwargs).shape)
        for one, of_whole in zip(input.positions, after, strict=True):
            if one.whole is not None:
                before, now = sequence_of(one.whole), sequence_of(of_whole)
                shape[now.dim] = one.numbers.shape[before.dim]  # type: ignore[union-attr]
        function, args, kwargs = (
            getattr(torch.Tensor, "expand" if function.__name__ == "expand" else "reshape"),
            (shape,),
            {},
        )
    if function.__name__ in _CUTS:
        return _cut_dropped(function, input, args, kwargs, after)
    values = function(input.values, *args, **kwargs)
    positions = _positions_after(function, input.positions, input.values.shape, args, kwargs)
    if isinstance(values, Tensor):
        return MaskedTokens(values, _beside(input.positions, positions, after)).simplified()
    parts = zip(values, zip(*positions, strict=True), zip(*after, strict=True), strict=True)
    return tuple(MaskedTokens(one, _beside(input.positions, kept, full)).simplified() for one, kept, full in parts)


def _cut_dropped(function: Callable[..., Any], input: MaskedTokens, args: Any, kwargs: Any, after: Any) -> Any:
    """Cut a sequence of which tokens were dropped: where numbers of tokens count from the first or the last of all."""
    is_single = isinstance(after[0], TokenPositions)
    full_of = [after] if is_single else list(zip(*after, strict=True))
    try:
        values = function(input.values, *args, **kwargs)
        positions = _positions_after(function, input.positions, input.values.shape, args, kwargs)
        found = (values,) if is_single else tuple(values)
        kept_of: list[Any] = [positions] if is_single else list(zip(*positions, strict=True))
        is_right = len(found) == len(full_of) and all(
            _as_expected(input.positions, kept, full) for kept, full in zip(kept_of, full_of, strict=True)
        )
    except (IndexError, RuntimeError, ValueError):
        is_right = False
    if not is_right:
        whole = input.whole()
        cut = function(whole.values, *args, **kwargs)
        found, kept_of = (cut,) if is_single else tuple(cut), [None] * len(full_of)
    parts = []
    for one, kept, full in zip(found, kept_of, full_of, strict=True):
        if kept is not None:
            parts.append(MaskedTokens(one, _beside(input.positions, kept, full)).simplified())
            continue
        shortened = [
            now if before.whole is None or now.is_constant else as_dropped(now, before)
            for before, now in zip(input.positions, full, strict=True)
        ]
        if any(now is None for now in shortened):
            parts.append(MaskedTokens(one, tuple(full)).simplified())
            continue
        for now in shortened:
            one = one if now is None or now.whole is None else gathered(one, now)
        parts.append(MaskedTokens(one, tuple(shortened)).simplified())  # type: ignore[arg-type]
    return parts[0] if is_single else tuple(parts)


def _as_expected(
    before: Sequence[TokenPositions], kept: Sequence[TokenPositions], full: Sequence[TokenPositions]
) -> bool:
    """Whether cutting the kept tokens has left those that stay of all tokens that the cut leaves."""
    for one, now, whole in zip(before, kept, full, strict=True):
        if one.whole is None:
            continue
        if whole.is_constant:
            if now.numbers.shape != whole.numbers.shape or not now.is_constant:
                return False
            continue
        expected = as_dropped(whole, one)
        if expected is None or not torch.equal(now.numbers, compact(expected.numbers)):
            return False
    return True


def _is_in_order(positions: Sequence[TokenPositions], after: Sequence[Any]) -> bool:
    return all(
        one.whole is None
        or all(part.is_constant or sequence_of(part) for part in (full if isinstance(full, tuple) else (full,)))
        for one, full in zip(positions, after, strict=True)
    )


def _beside(
    positions: Sequence[TokenPositions], kept: Sequence[TokenPositions], after: Sequence[TokenPositions]
) -> tuple[TokenPositions, ...]:
    return tuple(
        now if one.whole is None or now.is_constant else now.kept_of(full)
        for one, now, full in zip(positions, kept, after, strict=True)
    )


def _check_input(function: Callable[..., Any], input: Any) -> None:
    if not isinstance(input, MaskedTokens):
        raise UnsupportedOperatorError(
            f"{function_name(function)} of an ordinary tensor with tokens of which a part is hidden"
        )


def _move(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: MaskedTokens, *args: Any, **kwargs: Any) -> Any:
        """Move values, and their positions alike."""
        _check_input(function, input)
        return _lay_out(function, input, args, kwargs)

    return rule


def _reshape(function: Callable[..., Any]) -> Callable[..., Any]:
    name = function.__name__

    def rule(input: Any, *args: Any, **kwargs: Any) -> Any:
        """Merge and split dimensions, of values and of their positions alike."""
        if args and isinstance(args[0], torch.dtype):
            raise UnsupportedOperatorError("no masking rule for torch.Tensor.view(dtype)")
        if name.endswith("_as"):
            return input.reshape((args[0] if args else kwargs["other"]).shape)
        if (
            name == "view"
        ):  # what is a view of the values need not be one of their positions, nor of another memory format
            return input.reshape(*(args or (kwargs["size"],)))
        _check_input(function, input)
        return _lay_out(function, input, args, kwargs)

    return rule


for _function in spellings(*_MOVES):
    if not is_in_place(_function):
        register_rule(_function, tokens=True)(_move(_function))

for _function in spellings(*_RESHAPES):
    register_rule(_function, tokens=True)(_reshape(_function))

register_rule(torch.Tensor.__getitem__, tokens=True)(_move(torch.Tensor.__getitem__))
register_rule(torch.Tensor.unfold, tokens=True)(_move(torch.Tensor.unfold))


@register_rule(*spellings("expand_as"), tokens=True)
def expand_as(input: Tensor | MaskedTokens, other: Tensor | MaskedTokens) -> Any:
    """Broadcast to the shape of another."""
    return input.expand(other.shape)


def _same_positions(some: Sequence[TokenPositions], others: Sequence[TokenPositions]) -> bool:
    return len(some) == len(others) and all(any(one.matches(other) for other in others) for one in some)


@register_rule(torch.Tensor.__setitem__, tokens=True)
def setitem(input: MaskedTokens, index: Any, value: Any) -> None:
    """Overwrite a part, by tokens of the same positions or by constants."""
    if not isinstance(input, MaskedTokens):
        raise UnsupportedOperatorError("torch.Tensor.__setitem__ would write tokens into an ordinary tensor")
    if input.is_dropped and not _holds_tensor(index):
        part = _lay_out(torch.Tensor.__getitem__, input, (index,), {})
        values = part.values if isinstance(part, Carrier) else part
        is_same = not isinstance(value, MaskedTokens) or (
            isinstance(part, MaskedTokens) and _same_positions(part.positions, value.positions)
        )
        if is_same and values.untyped_storage().data_ptr() == input.values.untyped_storage().data_ptr():
            values[...] = value.values if isinstance(value, MaskedTokens) else value
            return
    if isinstance(value, MaskedTokens):
        input.take_over(input.whole())
        value = value.whole()
        on_host = _on_host(index)
        part = [one.laid_out(None, input.shape, lambda numbers: numbers[on_host]) for one in input.positions]
        if not _same_positions(part, value.positions):
            raise UnsupportedOperatorError(
                f"torch.Tensor.__setitem__ of a part of {input!r} by {value!r} of other positions"
            )
        value = value.values
    input.take_over(input.whole())
    input.values[index] = value


for _name, _dims in (
    ("mT", lambda ndim: (*range(ndim - 2), ndim - 1, ndim - 2)),
    ("T", lambda ndim: tuple(range(ndim))[::-1]),
):

    def _swapped(input: MaskedTokens, owner: Any = None, dims: Callable[[int], Any] = _dims) -> Any:
        """Reorder dimensions."""
        return torch.permute(input, dims(input.ndim))

    register_rule(*properties(_name), tokens=True)(_swapped)


@register_rule(*properties("data"), tokens=True)
def data(input: MaskedTokens, owner: Any = None) -> MaskedTokens:
    """The same values, that autograd does not follow."""
    return input.like(input.values.detach())


@register_rule(F.pad, tokens=True)
def pad(input: MaskedTokens, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """Pad with constants, which are always visible."""
    if mode != "constant" and input.ndim == 4 and not input.is_channels(1):
        as_map = with_channels("torch.nn.functional.pad", input, [1]).simplified()
        if not as_map.is_tokens:  # what was space to depth, before a convolution
            return F.pad(as_map, tuple(pad), mode, value)
    input = input.whole()
    if mode != "constant" or len(input.positions) != 1:
        raise UnsupportedOperatorError(f"torch.nn.functional.pad of {input!r} with mode={mode!r}")
    # Along channels, positions do not vary, and shall not.
    amounts = [
        amount if input.positions[0].varies(input.ndim - 1 - i // 2) else 0
        for i, amount in enumerate(int(one) for one in pad)
    ]
    numbers = F.pad(input.positions[0].numbers, amounts, value=CONSTANT)
    positions = TokenPositions(numbers, input.positions[0].visibility)
    return MaskedTokens(F.pad(input.values, tuple(pad), mode, value), (positions,)).simplified()
