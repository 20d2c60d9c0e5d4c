"""Evaluation mode, of a model and of every module that a function is seen to hold."""

import dis
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from inspect import getattr_static
from itertools import islice
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from lm_plugins.errors import TrainingModeError

__all__ = ["check_evaluation_mode", "modules_of"]

#: How many containers and objects deep a module is looked for, at how many of their entries, and at how many values in all:
#: a function may close over a data set.
_DEPTH, _ENTRIES, _VALUES = 3, 100, 500

_NO_HOLDERS = (Tensor, type, ModuleType, str, bytes, int, float, complex, type(None))


def check_evaluation_mode(model: Any, what: str, modules: Iterable[nn.Module] | None = None) -> None:
    """Check that a model and all of its parts are in evaluation mode. Runs nothing.

    Args:
        model: A module, all parts of which are asked. Or a function: of the modules that it is seen to hold (`modules_of`),
            those are asked whose code looks at the mode, since transforms and the like never leave training mode.
        what: Who asks.
        modules: All modules of the model, where they are known.

    Raises:
        TrainingModeError: One is in training mode; the message names it.

    Example:
        >>> from torch import nn
        >>> from lm_plugins.checks import check_evaluation_mode
        >>> net = nn.Sequential(nn.BatchNorm2d(3))
        >>> check_evaluation_mode(lambda x: net(x), "the example")
        Traceback (most recent call last):
        lm_plugins.errors.TrainingModeError: the example needs a model in evaluation mode; in training mode: net.0. \
Call model.eval() first: dropout would draw at random, and batch norm would mix images and move its running statistics.
    """
    if modules is not None and not any(module.training for module in modules):
        return
    training = [
        ".".join(filter(None, (root, name))) or "the model itself"
        for root, held in modules_of(model)
        for name, module in held.named_modules()
        if module.training and (not root or _looks_at_mode(type(module)))
    ]
    if training:
        raise TrainingModeError(
            f"{what} needs a model in evaluation mode; in training mode: {', '.join(training[:3])}"
            f"{f' and {len(training) - 3} more' if len(training) > 3 else ''}. Call model.eval() first: dropout would draw "
            "at random, and batch norm would mix images and move its running statistics."
        )


def modules_of(function: Callable[..., Any]) -> list[tuple[str, nn.Module]]:
    """The modules that something to call is certain to hold.

    Looked into are the owner of a bound method, what a decorator wraps, arguments of a ``functools.partial``, the variables
    that a function closes over, its defaults, globals that its code loads, and attributes of objects. Nothing is called.
    What a function fetches in another way, say from an import within it, stays unseen.

    Args:
        function: A module, a function, or any other object.

    Returns:
        The outermost modules, each with the name that `function` has for it; ``""`` if it is one or is a method of one.

    Example:
        >>> from torch import nn
        >>> from lm_plugins.checks import modules_of
        >>> net = nn.ReLU()
        >>> modules_of(net), modules_of(lambda x: net(x))
        ([('', ReLU())], [('net', ReLU())])
    """
    found: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()
    queue: deque[tuple[str, Any, int]] = deque([("", function, _DEPTH)])
    while queue and len(seen) < _VALUES:
        name, value, depth = queue.popleft()
        if id(value) in seen or isinstance(value, _NO_HOLDERS):
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module) and not _stands_for_another(value):
            found.append((name, value))
            continue
        for part, one, is_nested in _parts(value):
            if depth or not is_nested:
                queue.append((".".join(filter(None, (name, part))), one, depth - is_nested))
    return found


def _stands_for_another(module: nn.Module) -> bool:
    """Whether a module has no mode of its own, and says in a property whose it has."""
    return isinstance(getattr(type(module), "__wrapped__", None), property)


def _parts(value: Any) -> Iterator[tuple[str, Any, bool]]:
    """What something is made of, by name; and whether that is nested in it, rather than a part of what it does."""
    if isinstance(value, nn.Module):
        yield "", value.__wrapped__, False
    elif isinstance(value, MethodType):
        yield from (("", value.__self__, False), ("", value.__func__, False))
    elif isinstance(value, partial):
        yield "", value.func, False
        yield from ((str(i), one, True) for i, one in enumerate(value.args))
        yield from ((name, one, True) for name, one in value.keywords.items())
    elif isinstance(value, dict):
        # Copied at once, as below: another thread may add to it.
        yield from ((str(key), one, True) for key, one in list(islice(value.items(), _ENTRIES)))
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((str(i), one, True) for i, one in enumerate(list(islice(value, _ENTRIES))))
    else:
        yield from (("" if name == "__wrapped__" else name, one, True) for name, one in _attributes(value))
        if isinstance(value, FunctionType):
            yield from ((name, one, True) for name, one in _variables(value))
        elif callable(value):
            yield "", getattr_static(type(value), "__call__", None), False


def _attributes(value: Any) -> list[tuple[str, Any]]:
    """What an object holds, past any ``__getattr__``."""
    try:
        return list(object.__getattribute__(value, "__dict__").items())
    except AttributeError:
        return []


def _variables(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function was given when it was made, and the globals that it loads."""
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    defaults = function.__defaults__ or ()
    yield from zip(code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount], defaults, strict=True)
    yield from (function.__kwdefaults__ or {}).items()
    for name in _loaded(code):
        found = function.__globals__.get(name)
        # Functions of other files are libraries more often than not.
        if not isinstance(found, FunctionType) or found.__globals__ is function.__globals__:
            yield name, found


@lru_cache(maxsize=1024)
def _loaded(code: CodeType) -> tuple[str, ...]:
    """The globals that code loads, that of functions within it included."""
    loads = [each for one in _with_inner(code) for each in dis.get_instructions(one)]
    return tuple(dict.fromkeys(each.argval for each in loads if each.opname == "LOAD_GLOBAL"))


def _with_inner(code: CodeType) -> Iterator[CodeType]:
    """Code, and that of the functions within it."""
    yield code
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from _with_inner(one)


def _looks_at_mode(kind: type[nn.Module]) -> bool:
    """Whether modules of a class can do something else in training mode."""
    if issubclass(kind, torch.jit.ScriptModule):  # no code to look at
        return True
    own = kind.__mro__[: kind.__mro__.index(nn.Module)]
    functions = [one for base in own for one in vars(base).values() if isinstance(one, FunctionType)]
    return any("training" in code.co_names for one in functions for code in _with_inner(one.__code__))
