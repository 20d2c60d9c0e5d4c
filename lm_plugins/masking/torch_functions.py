"""Torch's functions as the rule table knows them: their names, their spellings, and which can be overridden."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from inspect import isbuiltin
from typing import Any

import torch
from torch.overrides import get_ignored_functions, get_overridable_functions, resolve_name

from lm_plugins.errors import RuleError

__all__ = [
    "check_overridable",
    "function_name",
    "gives_view",
    "is_in_place",
    "may_copy",
    "properties",
    "reads_values",
    "spellings",
]

_overridable: set[Any] = set()

# Their results share the memory of their first argument, or may.
_VIEWS = frozenset(
    "view reshape flatten unflatten ravel permute transpose swapdims swapaxes movedim moveaxis squeeze unsqueeze narrow "
    "select chunk split split_with_sizes tensor_split hsplit vsplit dsplit unbind expand expand_as view_as reshape_as "
    "diagonal real detach contiguous to type_as float half double bfloat16 cpu cuda adjoint unfold __getitem__ data T mT H "
    "mH".split()
)
# They may as well copy, as the memory format tells, which need not be that of the plain model.
_MAYBE_COPIES = frozenset("reshape reshape_as flatten ravel contiguous".split())
# They are about the values themselves and autograd, whoever asks, also after the model has returned.
_OF_VALUES = frozenset(
    "detach_ register_hook register_post_accumulate_grad_hook retain_grad retains_grad requires_grad requires_grad_ grad "
    "grad_fn is_leaf autograd_grad".split()
)


def check_overridable(functions: Sequence[Any]) -> None:
    """Refuse what torch lets nobody override.

    Raises:
        RuleError: One of `functions` is no torch function that can be overridden.
    """
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
        # Torch does not list these, and hands them over all the same.
        _overridable.update((torch.autograd.grad, torch.rand_like, torch.randn_like, torch.randint_like))
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


def properties(*names: str) -> list[Callable[..., Any]]:
    """The functions that torch calls when somebody reads these properties of a tensor.

    Args:
        names: Names such as ``"mT"``.
    """
    return [getattr(torch.Tensor, name).__get__ for name in names]


@lru_cache(maxsize=4096)
def _plain_name(function: Callable[..., Any]) -> str:
    if function is torch.autograd.grad:
        return "autograd_grad"
    name = getattr(function, "__name__", "")
    owner = getattr(function, "__self__", None)
    return getattr(owner, "__name__", "") if name == "__get__" else name


def gives_view(function: Callable[..., Any]) -> bool:
    """Whether the result of a torch function may share the memory of its first argument."""
    return _plain_name(function) in _VIEWS


def may_copy(function: Callable[..., Any]) -> bool:
    """Whether the memory format decides if the result of a torch function shares the memory of its first argument."""
    return _plain_name(function) in _MAYBE_COPIES


def reads_values(function: Callable[..., Any]) -> bool:
    """Whether a torch function is about values as autograd knows them: gradients, and hooks on them."""
    return _plain_name(function) in _OF_VALUES


@lru_cache(maxsize=4096)
def is_in_place(function: Callable[..., Any]) -> bool:
    """Whether a torch function changes its first argument: ``relu_``, ``__iadd__``."""
    name = getattr(function, "__name__", "")
    if name.startswith("__"):
        return name in ("__setitem__", "__set__") or (
            name.startswith("__i") and name not in ("__invert__", "__index__")
        )
    return bool(name.endswith("_"))


def function_name(function: Callable[..., Any]) -> str:
    """The public name of a torch function, such as ``torch.nn.functional.conv2d``."""
    name = resolve_name(function) if callable(function) else None
    if name is not None:
        return str(name)
    module = getattr(function, "__module__", None)
    qualified = getattr(function, "__qualname__", None) or repr(function)
    return f"{module}.{qualified}" if module else str(qualified)
