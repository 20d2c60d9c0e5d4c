"""The rule table: which torch function acts how on a `MaskedActivation`, or on `MaskedTokens`."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import EntryPoint, entry_points
from threading import RLock
from typing import Any, TypeVar

from lm_plugins.errors import DuplicateRuleError, PluginWarning, RuleError
from lm_plugins.masking.torch_functions import (
    check_overridable,
    function_name,
    is_in_place,
    spellings,
)

__all__ = [
    "GROUP",
    "adding_only",
    "complete_on_first_use",
    "function_name",
    "has_rule",
    "is_in_place",
    "load_plugins",
    "override_rule",
    "register_rule",
    "registered_functions",
    "rule_of",
    "spellings",
    "state_of_table",
    "unregister_rule",
]

#: The group of entry points under which other packages announce their rules.
GROUP = "lm_plugins.rules"

Rule = TypeVar("Rule", bound=Callable[..., Any])

Table = dict[Callable[..., Any], Callable[..., Any]]

_RULES: Table = {}
_TOKEN_RULES: Table = {}
_overrides: ContextVar[Mapping[Any, Any] | None] = ContextVar("lm_plugins_overrides", default=None)
_deferred: list[Callable[[], None]] = []
_edition = object()  # another one after every change of the table
_completing = RLock()  # what completes the table registers rules itself


def register_rule(
    *functions: Callable[..., Any], overwrite: bool = False, tokens: bool = False, both: bool = False
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
        both: The rule is for maps and for tokens: it does the same to either.

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
    check_overridable(functions)
    _complete()
    tables = [table for table, chosen in ((_RULES, both or not tokens), (_TOKEN_RULES, both or tokens)) if chosen]
    taken = dict.fromkeys(function_name(one) for table in tables for one in functions if one in table)
    if taken and not overwrite:
        raise DuplicateRuleError(
            f"{', '.join(taken)} already has a masking rule. Pass overwrite=True to replace it for the whole program."
        )

    def register(rule: Rule) -> Rule:
        for table in tables:
            table.update(dict.fromkeys(functions, rule))
        _note_change()
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
    _complete()
    table = _TOKEN_RULES if tokens else _RULES
    for function in functions:
        if function not in table:
            raise RuleError(f"{function_name(function)} has no masking rule that could be taken out.")
    for function in functions:
        del table[function]
    _note_change()


@contextmanager
def override_rule(
    functions: Callable[..., Any] | Sequence[Callable[..., Any]], rule: Callable[..., Any] | None = None
) -> Iterator[None]:
    """Use another rule within a block, for experiments. The table itself stays as it is.

    The override holds in the thread (or asyncio task) that entered the block, and in no other, so that experiments can
    run side by side; threads that start within the block, as those of ``nn.DataParallel`` do, see the table. Blocks
    nest, and end also after an exception.

    `LayerMasked` checks itself again within the block, and refuses a rule that changes what the model gives when everything
    is visible. For experiments with such rules, ``verify=False`` switches the check off.

    Args:
        functions: A torch function or method, or several; they may have a rule or not.
        rule: The rule within the block, as for `register_rule`, for maps and tokens. None: the functions have no rule
            within it.

    Raises:
        RuleError: Something that torch does not let anybody override was passed, or a rule that cannot be called.

    Example:
        >>> import torch
        >>> import lm_plugins as lm
        >>> model = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)).eval()
        >>> x, visible = torch.ones(1, 1, 2, 2), torch.eye(2)
        >>> with lm.override_rule(torch.nn.functional.relu, lambda input, inplace=False: input.like(input.values * 3)):
        ...     float(lm.LayerMasked(model, verify=False)(x, visible))
        3.0
        >>> float(lm.LayerMasked(model)(x, visible))
        1.0
    """
    chosen = functions if isinstance(functions, (list, tuple)) else [functions]
    if not chosen or not (rule is None or callable(rule)):
        raise RuleError(
            f"override_rule needs one torch function or several, and a rule or None; got {functions!r} and {rule!r}."
        )
    check_overridable(chosen)
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
    tables = (_RULES, _TOKEN_RULES)
    before = [dict(table) for table in tables]
    try:
        yield
        changed = [
            function_name(function)
            for table, old in zip(tables, before, strict=True)
            for function, rule in old.items()
            if table.get(function) is not rule
        ]
        if changed:
            raise DuplicateRuleError(
                f"the rules of {', '.join(changed[:3])} would be replaced; rules can be added only"
            )
    except BaseException:
        for table, old in zip(tables, before, strict=True):
            table.clear()
            table.update(old)
        _note_change()
        raise


def has_rule(function: Callable[..., Any]) -> bool:
    """Whether `function` has a rule here and now, for maps or for tokens."""
    return rule_of(function) is not None or rule_of(function, tokens=True) is not None


def rule_of(function: Callable[..., Any], tokens: bool = False) -> Callable[..., Any] | None:
    """The rule of a torch function here and now, for maps or for tokens; or None."""
    _complete()
    overrides = _overrides.get()
    if overrides and function in overrides:
        rule: Callable[..., Any] | None = overrides[function]
        return rule
    return (_TOKEN_RULES if tokens else _RULES).get(function)


def registered_functions(tokens: bool = False) -> Table:
    """A copy of the table: torch function to rule, for maps or for tokens."""
    _complete()
    return dict(_TOKEN_RULES if tokens else _RULES)


def _note_change() -> None:
    global _edition
    _edition = object()


def state_of_table() -> tuple[Any, ...]:
    """What decides which rule acts here and now: the same objects as long as nothing has changed."""
    _complete()
    return (_edition, *(_overrides.get() or {}).values())


def load_plugins() -> None:
    """Load the rules of other packages: every entry point of the group `GROUP`, a module that registers them or a function.

    A plug-in may add rules, not replace any, nor take any out. One that fails leaves the table as it was before it, and
    a `PluginWarning` that names the distribution; the rest is loaded all the same.
    """
    for entry_point in sorted(entry_points(group=GROUP), key=lambda one: (_distribution(one), one.name)):
        try:
            with adding_only():
                loaded = entry_point.load()
                if entry_point.attr:
                    loaded()
        except Exception as error:  # whatever a foreign package raises, it must not take layer masking down
            warnings.warn(
                f"the masking rules of the package {_distribution(entry_point)!r} (entry point {entry_point.name!r} = "
                f"{entry_point.value!r}) were not loaded: {type(error).__name__}: {error}. Update or uninstall the "
                "package; models that need its rules will say so.",
                PluginWarning,
                stacklevel=2,
            )


def _distribution(entry_point: EntryPoint) -> str:
    distribution = entry_point.dist
    return "(unknown)" if distribution is None else f"{distribution.name} {distribution.version}"
