"""The rule table: which torch function acts how on a `MaskedActivation`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from inspect import isbuiltin
from threading import RLock
from typing import Any, TypeVar

import torch
from torch.overrides import get_ignored_functions, get_overridable_functions, resolve_name

from lm_plugins.errors import DuplicateRuleError, RuleError, UnsupportedOperatorError
from lm_plugins.masking.compiled import check_autograd_function

__all__ = [
    "Observer",
    "adding_only",
    "call_rule",
    "complete_on_first_use",
    "function_name",
    "has_rule",
    "is_in_place",
    "observing",
    "override_rule",
    "register_rule",
    "registered_functions",
    "rule_of",
    "spellings",
    "unregister_rule",
]

Rule = TypeVar("Rule", bound=Callable[..., Any])

#: Sees every call of a torch function on an activation, together with the next step, and returns its result.
Observer = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any], Callable[[], Any]], Any]

_RULES: dict[Callable[..., Any], Callable[..., Any]] = {}
_overrides: ContextVar[Mapping[Any, Any] | None] = ContextVar("lm_plugins_overrides", default=None)
_observer: ContextVar[Observer | None] = ContextVar("lm_plugins_observer", default=None)
_deferred: list[Callable[[], None]] = []
_completing = RLock()  # what completes the table registers rules itself
_overridable: set[Any] = set()

# torch accepts NumPy's names for these two everywhere; rules are written with torch's own.
_NUMPY_NAMES = {"axis": "dim", "keepdims": "keepdim"}


def register_rule(*functions: Callable[..., Any], overwrite: bool = False) -> Callable[[Rule], Rule]:
    """Register a rule: how torch functions act on an activation of which a part is hidden.

    A rule is written with the torch function's own signature. Where torch passes a tensor, it gets a
    `lm_plugins.masking.MaskedActivation`, and returns one, or an ordinary tensor when the result has left the spatial
    world. It must keep the invariant: *values at hidden positions are unspecified*; it may leave anything there and
    must never let it reach a visible position.

    Args:
        functions: Torch functions or methods, public objects such as ``torch.nn.functional.relu``, ``torch.relu``,
            ``torch.Tensor.relu_``. Register all spellings that models use.
        overwrite: Replace existing rules instead of raising.

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
    _check_overridable(functions)
    _complete()
    taken = [function_name(function) for function in functions if function in _RULES]
    if taken and not overwrite:
        raise DuplicateRuleError(
            f"{', '.join(taken)} already has a masking rule. Pass overwrite=True to replace it for the whole program."
        )

    def register(rule: Rule) -> Rule:
        for function in functions:
            _RULES[function] = rule
        return rule

    return register


def unregister_rule(*functions: Callable[..., Any]) -> None:
    """Take the rules of `functions` out of the table.

    Args:
        functions: Torch functions that have a rule.

    Raises:
        RuleError: A function has no rule.
    """
    _complete()
    for function in functions:
        if function not in _RULES:
            raise RuleError(f"{function_name(function)} has no masking rule that could be taken out.")
    for function in functions:
        del _RULES[function]


@contextmanager
def override_rule(
    functions: Callable[..., Any] | Sequence[Callable[..., Any]], rule: Callable[..., Any] | None = None
) -> Iterator[None]:
    """Use another rule within a block, for experiments. The table itself stays as it is.

    The override holds in the thread (or asyncio task) that entered the block, and in no other, so that experiments can
    run side by side; threads that start within the block, as those of ``nn.DataParallel`` do, see the table. Blocks
    nest, and end also after an exception.

    Args:
        functions: A torch function or method, or several; they may have a rule or not.
        rule: The rule within the block, as for `register_rule`. None: the functions have no rule within the block.

    Raises:
        RuleError: Something that torch does not let anybody override was passed, or a rule that cannot be called.

    Example:
        >>> import torch
        >>> import lm_plugins as lm
        >>> model = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)).eval()
        >>> x, visible = torch.ones(1, 1, 2, 2), torch.eye(2)
        >>> with lm.override_rule(torch.nn.functional.relu, lambda input, inplace=False: input.like(input.values * 3)):
        ...     float(lm.LayerMasked(model)(x, visible))
        3.0
        >>> float(lm.LayerMasked(model)(x, visible))
        1.0
    """
    chosen = functions if isinstance(functions, (list, tuple)) else [functions]
    if not chosen or not (rule is None or callable(rule)):
        raise RuleError(
            f"override_rule needs one torch function or several, and a rule or None; got {functions!r} and {rule!r}."
        )
    _check_overridable(chosen)
    token = _overrides.set({**(_overrides.get() or {}), **dict.fromkeys(chosen, rule)})
    try:
        yield
    finally:
        _overrides.reset(token)


def complete_on_first_use(complete: Callable[[], None]) -> None:
    """Call `complete` once, before the table is first read or registered to from now on."""
    _deferred.append(complete)


def _complete() -> None:
    if _deferred:
        with _completing:
            while _deferred:
                _deferred.pop()()


@contextmanager
def adding_only() -> Iterator[None]:
    """Within the block, rules may be added. If one is replaced or taken out, or the block fails, the table is restored.

    Raises:
        DuplicateRuleError: The block replaced a rule, or took one out.
    """
    before = dict(_RULES)
    try:
        yield
        changed = [function_name(function) for function, rule in before.items() if _RULES.get(function) is not rule]
        if changed:
            raise DuplicateRuleError(
                f"the rules of {', '.join(changed[:3])} would be replaced; rules can be added only"
            )
    except BaseException:
        _RULES.clear()
        _RULES.update(before)
        raise


def _check_overridable(functions: Sequence[Any]) -> None:
    for function in functions:
        if not _is_overridable(function):
            raise RuleError(
                f"{function_name(function)} is not a torch function that can be overridden. Register the public "
                "function or method that the model calls, such as torch.nn.functional.relu or torch.Tensor.add; "
                "lm_plugins.coverage(model, x) prints it."
            )


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
    """Whether `function` has a rule here and now."""
    return rule_of(function) is not None


def rule_of(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """The rule of a torch function here and now, or None."""
    _complete()
    overrides = _overrides.get()
    return overrides[function] if overrides and function in overrides else _RULES.get(function)


def registered_functions() -> dict[Callable[..., Any], Callable[..., Any]]:
    """A copy of the table: torch function to rule."""
    _complete()
    return dict(_RULES)


def function_name(function: Callable[..., Any]) -> str:
    """The public name of a torch function, such as ``torch.nn.functional.conv2d``."""
    name = resolve_name(function) if callable(function) else None
    if name is not None:
        return str(name)
    module = getattr(function, "__module__", None)
    qualified = getattr(function, "__qualname__", None) or repr(function)
    return f"{module}.{qualified}" if module else str(qualified)


def call_rule(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Let the rule of a torch function act.

    Raises:
        UnsupportedOperatorError: The function has no rule.
    """
    kwargs = {_NUMPY_NAMES.get(name, name): value for name, value in kwargs.items()}

    def act() -> Any:
        check_autograd_function(args)
        rule = rule_of(function)
        if rule is None:
            raise UnsupportedOperatorError(f"no masking rule for {function_name(function)}")
        return rule(*args, **kwargs)

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
