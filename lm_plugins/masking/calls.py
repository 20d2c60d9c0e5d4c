"""Calls of torch functions on activations: which rule acts, and what has to hold before and after it."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.halo import are_saves_hooked
from lm_plugins.masking.opaque_code import check_autograd_function
from lm_plugins.masking.registry import rule_of
from lm_plugins.masking.torch_functions import function_name, gives_view, is_in_place, may_copy, reads_values

__all__ = ["call_rule", "converted"]

# torch accepts NumPy's names for these two everywhere; rules are written with torch's own.
_NUMPY_NAMES = {"axis": "dim", "keepdims": "keepdim"}

# What most arguments are, and no activation is: told apart by one look-up.
_PLAIN = frozenset({Tensor, Parameter, bool, int, float, str, type(None)})


def call_rule(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Let the rule of a torch function act: the one for maps if all carriers are maps and it can, or the one for tokens.

    Once the run is over, the function itself acts on the ordinary tensors that the carriers stand for.

    Raises:
        UnsupportedOperatorError: The function has no rule, or would mix activations of two calls of a model.
    """
    carriers = _carriers(args)
    if kwargs:
        kwargs = {_NUMPY_NAMES.get(name, name): value for name, value in kwargs.items()}
        carriers += _carriers(kwargs.values())
    run = carriers[0].run
    is_read_later = run.is_over and not reads_values(function) and not _is_computed_again()
    if (len(carriers) > 1 and _are_of_several_runs(carriers)) or (is_read_later and run.is_within_later):
        raise UnsupportedOperatorError(
            f"{function_name(function)} mixes activations of two calls of a model: the model, or a hook on it, keeps one "
            "from an earlier call. Let it keep x.detach().clone() after the call, or nothing"
        )
    if is_read_later:
        _check_read_only(function, args, kwargs)
        return function(*_ordinary(args), **_ordinary(kwargs))
    run.is_recorded = run.is_recorded or torch.is_grad_enabled()
    run.make_pending(args[0] if args else None)
    if run.observer is None:
        return _act(function, args, kwargs, carriers)
    return run.observer(function, args, kwargs, lambda: _act(function, args, kwargs, carriers))


def _is_computed_again() -> bool:
    """Whether a checkpoint runs a part of the model again, during a backward pass. It keeps then what autograd saves."""
    return torch._C._current_graph_task_id() != -1 and are_saves_hooked() is not False


def _check_read_only(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    is_write = bool(kwargs.get("inplace")) or is_in_place(function)
    if (is_write and args and _carriers(args[:1])) or _carriers([kwargs.get("out")]):
        raise UnsupportedOperatorError(
            f"{function_name(function)} would write into an activation that was kept until after the call of the model, "
            "which can only be read then. Write into a copy: x = x.clone()"
        )


def _are_of_several_runs(carriers: list[Any]) -> bool:
    run = carriers[0].run
    return any(one.run is not run for one in carriers) and not all(one.run.is_over for one in carriers)


def _act(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], carriers: list[Any]) -> Any:
    check_autograd_function(args)
    for one in carriers:
        if one._memory is not None:
            one.check_left(function)
    if kwargs.get("out") is not None:
        return _written_out(function, args, kwargs)
    target = carriers[0] if (args[0] if args else kwargs.get("input")) is carriers[0] else None
    is_write = target is not None and (is_in_place(function) or bool(kwargs.get("inplace")))
    before = target.regions() if is_write and target is not None else None
    holds_tokens = carriers[0].is_tokens or (len(carriers) > 1 and any(one.is_tokens for one in carriers))
    result = _result(function, args, kwargs, holds_tokens, is_write)
    if target is not None:
        if is_write:
            target.check_views(function, before)
        elif gives_view(function) and not (function is Tensor.__getitem__ and _holds_tensor(args[1:])):
            if result is target and may_copy(function) and not target.is_channels_first:
                result = target.twin()
            target.share_memory_with(result, may_copy(function))
    return result


def _result(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], holds_tokens: bool, is_write: bool
) -> Any:
    refusal = None
    rule = rule_of(function)
    if rule is not None and not holds_tokens:
        try:
            return rule(*args, **kwargs)
        except UnsupportedOperatorError as error:
            refusal = error
    token_rule = rule_of(function, tokens=True)
    if token_rule is None:
        raise refusal or UnsupportedOperatorError(f"no masking rule for {function_name(function)}")
    try:
        tokens = _as_tokens(args)
        result = token_rule(*tokens, **_as_tokens(kwargs))
        if is_write and tokens[0] is not args[0]:
            args[0].take_back(tokens[0])
            return args[0] if result is tokens[0] else result
        return result
    except UnsupportedOperatorError as error:
        raise (refusal or error) from None
    finally:
        refusal = None  # it knows this frame: the two would keep each other, and the activation, until Python cleans up


def _written_out(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of a function, written into the activation that ``out=`` names."""
    out = kwargs["out"]
    result = call_rule(function, args, {name: value for name, value in kwargs.items() if name != "out"})
    if not hasattr(type(out), "is_tokens") or type(result) is not type(out) or result.shape != out.shape:
        raise UnsupportedOperatorError(
            f"{function_name(function)} with out={type(out).__name__} {tuple(getattr(out, 'shape', ()))}: its result, "
            f"{type(result).__name__}, can only be written into an activation of its own kind and shape"
        )
    before = out.regions()
    out.take_over(result)
    out.check_views(function, before)
    return out


def _carriers(values: Iterable[Any]) -> list[Any]:
    """The carriers among arguments, also in lists and dictionaries."""
    found = []
    for one in values:
        kind = type(one)
        if kind in _PLAIN:
            continue
        if isinstance(one, (list, tuple)):
            found += _carriers(one)
        elif isinstance(one, dict):
            found += _carriers(one.values())
        elif hasattr(kind, "is_tokens"):
            found.append(one)
    return found


def _holds_tensor(values: Iterable[Any]) -> bool:
    return any(_holds_tensor(one) if isinstance(one, (list, tuple)) else isinstance(one, Tensor) for one in values)


def converted(value: Any, convert: Callable[[Any], Any]) -> Any:
    """Arguments with every carrier in them converted, also in lists and dictionaries."""
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        parts = [converted(one, convert) for one in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        return {name: converted(one, convert) for name, one in value.items()}
    return convert(value) if hasattr(type(value), "is_tokens") else value


def _as_tokens(value: Any) -> Any:
    return converted(value, lambda one: one.as_tokens())


def _ordinary(value: Any) -> Any:
    return converted(value, lambda one: one.ordinary())
