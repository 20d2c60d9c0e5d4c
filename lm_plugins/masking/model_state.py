"""The state of a model: what decides which way it takes, so that a change of it is noticed."""

import sys
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from functools import partial
from operator import is_
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from lm_plugins.masking.registry import state_of_table

__all__ = ["ModelState", "has_hooks"]

# What most attributes are; nothing in them can change.
_SIMPLE = frozenset({bool, int, float, str, bytes, type(None), Tensor, nn.Parameter, type, torch.dtype, torch.device})
_MAPPINGS = (dict, OrderedDict)
# How many levels down attributes are looked into, at how many objects in all, and with how many entries at most: a model
# may hold a data set, or a logger that knows all others.
_DEPTH, _OBJECTS, _ENTRIES = 4, 500, 1000
# What `LayerMasked` keeps itself, where a hook holds it.
_OWN = frozenset({"_learned"})


class ModelState:
    """What of a model decides what it computes, the values of its weights apart.

    These are its modules, their classes, code, attributes and hooks, global hooks, and the rule table; of attributes also
    what lists, dictionaries, functions and objects hold, a few levels down. What changes in every call, such as a counter or
    a log, is left out once that was seen. Not seen are functions that are no attribute of anything here, and what is written
    into arrays and buffers.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        # Holding the objects themselves keeps others from taking their identity.
        self._objects = _objects(model)
        self._names = _names(model)
        self._changing: frozenset[Any] = frozenset()

    def has_changed(self, model: nn.Module) -> bool:
        """Whether anything is not as it was."""
        objects = _objects(model)
        if len(objects) == len(self._objects) and all(map(is_, objects, self._objects)):
            return False
        return bool(self._changed(model) - self._changing)

    def ignore_changes(self, model: nn.Module) -> None:
        """Leave out from now on what has changed since: calls of the model have changed it."""
        self._changing |= self._changed(model)
        self._objects, self._names = _objects(model), _names(model)

    def _changed(self, model: nn.Module) -> frozenset[Any]:
        """The names of what is not as it was, and those of the lists and dictionaries that hold it."""
        before = dict(zip(self._names, self._objects, strict=True))
        now = dict(zip(_names(model), _objects(model), strict=True))
        changed = [
            (owner, name)
            for owner, name in before.keys() | now.keys()
            if owner not in self._changing
            and ((owner, name) not in before or before[owner, name] is not now.get((owner, name)))
        ]
        holders = (owner for owner, _ in changed if isinstance(owner, tuple))
        return frozenset(changed).union(holders) if changed else frozenset()


def has_hooks(model: nn.Module) -> bool:
    """Whether somebody may keep what modules of a model take or give. A hook that ``keeps_nothing`` says so itself."""
    registry = torch.nn.modules.module
    found = [registry._global_forward_hooks, registry._global_forward_pre_hooks]
    for module in (model, *model.modules()):
        found += [module._forward_hooks, module._forward_pre_hooks]
    return any(not getattr(hook, "keeps_nothing", False) for hooks in found for hook in hooks.values())


def _objects(model: nn.Module) -> list[Any]:
    """Everything that counts."""
    return [one for _, section in _sections(model) for one in section.values()]


def _names(model: nn.Module) -> list[Any]:
    """What names each of them."""
    return [(owner, name) for owner, section in _sections(model) for name in section]


def _sections(model: nn.Module) -> Iterator[tuple[Any, Mapping[Any, Any]]]:
    """Everything that counts, by name, in parts that have a name themselves."""
    yield "rules", dict(enumerate(state_of_table()))
    registry = torch.nn.modules.module
    yield "hooks", registry._global_forward_hooks
    yield "hooks before", registry._global_forward_pre_hooks
    stack, seen = [model], set()
    inner: set[int] = set()  # objects that attributes hold
    if type(model).named_modules is not nn.Module.named_modules:  # it stands for modules that it does not own
        stack += model.modules()
    classes: dict[type, None] = {}
    while stack:
        module = stack.pop()
        key = id(module)
        if key in seen:
            continue
        seen.add(key)
        classes[type(module)] = None
        state = module.__dict__
        yield key, state
        for name, value in state.items():
            kind = type(value)
            if kind not in _SIMPLE and (kind not in _MAPPINGS or value) and name not in _OWN:
                yield from _inner((key, name), value, inner, stack, _DEPTH)
        stack += [child for child in state["_modules"].values() if child is not None]
    yield "classes", dict(enumerate(classes))
    bases = dict.fromkeys(
        base for kind in classes for base in kind.__mro__[: -2 if kind.__mro__[-2] is nn.Module else None]
    )
    for base in bases:
        yield base, {name: getattr(value, "__code__", value) for name, value in vars(base).items()}


def _inner(
    name: Any, value: Any, inner: set[int], stack: list[nn.Module], depth: int
) -> Iterator[tuple[Any, Mapping[Any, Any]]]:
    """What an attribute holds: entries, attributes, variables of a function. Modules are left for later, on the stack."""
    if isinstance(value, nn.Module):
        stack.append(value)
        return
    if id(value) in inner or len(inner) > _OBJECTS:
        return
    contents = _contents(value)
    if contents is None:
        return
    inner.add(id(value))
    if len(contents) > _ENTRIES:
        yield name, {"size": sys.intern(str(len(contents)))}
        return
    yield name, contents
    if depth:
        for part, one in list(contents.items()):
            if type(one) not in _SIMPLE:
                yield from _inner((name, part), one, inner, stack, depth - 1)


def _contents(value: Any) -> Mapping[Any, Any] | None:
    kind = type(value)
    if kind in _MAPPINGS:
        return value  # type: ignore[no-any-return]
    if kind in (list, tuple, set, frozenset, deque):
        return dict(enumerate(value))
    if kind is FunctionType:
        cells = {i: cell.cell_contents for i, cell in enumerate(value.__closure__ or ()) if cell != CellType()}
        return {"code": value.__code__, "defaults": value.__defaults__, **cells}
    if kind is partial:
        return {"function": value.func, "arguments": value.args, **value.keywords}
    if kind is MethodType:
        return {"owner": value.__self__, "function": value.__func__}
    if isinstance(value, (type, ModuleType, Tensor)):
        return None
    slots = {name: getattr(value, name, None) for name in getattr(kind, "__slots__", ()) if isinstance(name, str)}
    return {**slots, **getattr(value, "__dict__", {})} or None
