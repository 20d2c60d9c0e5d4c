"""The rule table: which torch function acts how on a `MaskedActivation`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from inspect import isbuiltin
from typing import Any, TypeVar

import torch
from torch.overrides import get_ignored_functions, get_overridable_functions, resolve_name

from lm_plugins.errors import DuplicateRuleError, RuleError, UnsupportedOperatorError

__all__ = [
    "Observer",
    "call_rule",
    "function_name",
    "has_rule",
    "is_in_place",
    "observing",
    "register_rule",
    "registered_functions",
    "spellings",
    "unregister_rule",
]

Rule = TypeVar("Rule", bound=Callable[..., Any])

#: Sees every call of a torch function on an activation, together with the next step, and returns its result.
Observer = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any], Callable[[], Any]], Any]

_RULES: dict[Callable[..., Any], Callable[..., Any]] = {}
_TOKEN_RULES: dict[Callable[..., Any], Callable[..., Any]] = {}
_observer: ContextVar[Observer | None] = ContextVar("lm_plugins_observer", default=None)
_overridable: set[Any] = set()

# torch accepts NumPy's names for these two everywhere; rules are written with torch's own.
_NUMPY_NAMES = {"axis": "dim", "keepdims": "keepdim"}


def register_rule(
    *functions: Callable[..., Any], overwrite: bool = False, tokens: bool = False
) -> Callable[[Rule], Rule]:
    """Register a rule: how torch functions act on an activation of which a part is hidden.

    A rule is written with the torch function's own signature. Where torch passes a tensor, it gets a
    `lm_plugins.masking.MaskedActivation`, and returns one, or an ordinary tensor when the result has left the spatial
    world. It must keep the invariant: *values at hidden positions are unspecified*; it may leave anything there and
    must never let it reach a visible position.

    Args:
        functions: Torch functions or methods, public objects such as ``torch.nn.functional.relu``, ``torch.relu``,
            ``torch.Tensor.relu_``. Register all spellings that models use.
        overwrite: Replace existing rules instead of raising.
        tokens: The rule is for `lm_plugins.masking.MaskedTokens`, whose positions are in any layout. A map is turned
            into them where its own rule is missing or refuses.

    Returns:
        A decorator that returns the rule unchanged.

    Raises:
        RuleError: No function was given, or one that torch does not let anybody override.
        DuplicateRuleError: A function has a rule already.

    Example:
        >>> import torch
        >>> import lm_plugins as lm
        >>> @lm.register_rule(torch.erfinv)
        ... def erfinv(input):
        ...     return input.like(torch.erfinv(input.values))
        >>> lm.unregister_rule(torch.erfinv)
    """
    if not functions:
        raise RuleError(
            "register_rule needs the torch functions that the rule is for, such as register_rule(torch.relu)."
        )
    for function in functions:
        if not _is_overridable(function):
            raise RuleError(
                f"{function_name(function)} is not a torch function that can be overridden. Register the public "
                "function or method that the model calls, such as torch.nn.functional.relu or torch.Tensor.add; "
                "lm_plugins.coverage(model, x) prints it."
            )
    table = _TOKEN_RULES if tokens else _RULES
    taken = [function_name(function) for function in functions if function in table]
    if taken and not overwrite:
        raise DuplicateRuleError(
            f"{', '.join(taken)} already has a masking rule. Pass overwrite=True to replace it for the whole program."
        )

    def register(rule: Rule) -> Rule:
        for function in functions:
            table[function] = rule
        return rule

    return register


def unregister_rule(*functions: Callable[..., Any], tokens: bool = False) -> None:
    """Take the rules of `functions` out of the table.

    Args:
        functions: Torch functions that have a rule.
        tokens: The rules for tokens, as in `register_rule`.

    Raises:
        RuleError: A function has no rule.
    """
    table = _TOKEN_RULES if tokens else _RULES
    for function in functions:
        if function not in table:
            raise RuleError(f"{function_name(function)} has no masking rule that could be taken out.")
    for function in functions:
        del table[function]


def _is_overridable(function: Any) -> bool:
    if not _overridable:
        for members in get_overridable_functions().values():
            _overridable.update(members)
    try:
        if function in _overridable:
            return True
        # Of what torch does not list as overridable, built-in functions such as torch.zeros never hand over; methods are
        # looked up on the activation itself.
        is_method = getattr(torch.Tensor, getattr(function, "__name__", ""), None) is function
        never = isbuiltin(function) and function in get_ignored_functions() and not is_method
        return resolve_name(function) is not None and not never
    except TypeError:  # unhashable
        return False


def spellings(*names: str) -> list[Callable[..., Any]]:
    """Every public spelling of torch functions: ``torch.NAME``, ``Tensor.NAME``, ``F.NAME``, each also in place.

    Args:
        names: Names such as ``"relu"`` or ``"__add__"``; one that nothing in torch bears is an error.

    Raises:
        RuleError: No overridable function of that name exists.
    """
    found: dict[Callable[..., Any], None] = {}
    for name in names:
        spelled = (name,) if name.endswith("_") else (name, name + "_")
        places = (torch, torch.Tensor, torch.nn.functional, torch.special)
        functions = [getattr(place, one) for one in spelled for place in places if hasattr(place, one)]
        functions = [function for function in functions if _is_overridable(function)]
        if not functions:
            raise RuleError(f"torch has no function {name!r} that can be overridden.")
        found.update(dict.fromkeys(functions))
    return list(found)


def is_in_place(function: Callable[..., Any]) -> bool:
    """Whether a torch function changes its first argument: ``relu_``, ``__iadd__``."""
    name = function.__name__
    if name.startswith("__"):
        return name.startswith("__i") and name not in ("__invert__", "__index__")
    return name.endswith("_")


def has_rule(function: Callable[..., Any]) -> bool:
    """Whether `function` has a rule, for maps or for tokens."""
    return function in _RULES or function in _TOKEN_RULES


def registered_functions(tokens: bool = False) -> dict[Callable[..., Any], Callable[..., Any]]:
    """A copy of the table: torch function to rule, for maps or for tokens."""
    return dict(_TOKEN_RULES if tokens else _RULES)


def function_name(function: Callable[..., Any]) -> str:
    """The public name of a torch function, such as ``torch.nn.functional.conv2d``."""
    name = resolve_name(function) if callable(function) else None
    if name is not None:
        return str(name)
    module = getattr(function, "__module__", None)
    qualified = getattr(function, "__qualname__", None) or repr(function)
    return f"{module}.{qualified}" if module else str(qualified)


def _holds_tokens(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_holds_tokens(one) for one in value)
    if isinstance(value, dict):
        return any(_holds_tokens(one) for one in value.values())
    return getattr(type(value), "is_tokens", False)


def _as_tokens(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return type(value)(_as_tokens(one) for one in value)
    if isinstance(value, dict):
        return {name: _as_tokens(one) for name, one in value.items()}
    return value.as_tokens() if hasattr(type(value), "as_tokens") else value


def call_rule(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Let the rule of a torch function act: the one for maps if all carriers are maps and it can, or the one for tokens.

    Raises:
        UnsupportedOperatorError: The function has no rule.
    """
    kwargs = {_NUMPY_NAMES.get(name, name): value for name, value in kwargs.items()}

    def act() -> Any:
        refusal = None
        if function in _RULES and not _holds_tokens((args, kwargs)):
            try:
                return _RULES[function](*args, **kwargs)
            except UnsupportedOperatorError as error:
                refusal = error
        if function not in _TOKEN_RULES:
            raise refusal or UnsupportedOperatorError(f"no masking rule for {function_name(function)}")
        try:
            return _TOKEN_RULES[function](*_as_tokens(args), **_as_tokens(kwargs))
        except UnsupportedOperatorError as error:
            raise (refusal or error) from None

    observer = _observer.get()
    return act() if observer is None else observer(function, args, kwargs, act)


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Let `observer` see, and possibly change, every call of a torch function on an activation."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)
