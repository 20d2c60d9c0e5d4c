"""The state of a model: what decides which way it takes, so that a change of it is noticed."""

import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain
from operator import is_, methodcaller
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lm_plugins.masking.registry import state_of_table

__all__ = ["ModelState", "has_hooks"]

# What most attributes are; nothing in them can change.
_SIMPLE = frozenset({bool, int, float, str, bytes, type(None), Tensor, nn.Parameter, type, torch.dtype, torch.device})
_MAPPINGS = (dict, OrderedDict)
_VALUES = methodcaller("values")
_UNCHANGEABLE = (tuple, frozenset)
# How many levels down attributes are looked into, at how many objects in all, and with how many entries at most: a model
# may hold a data set, or a logger that knows all others.
_DEPTH, _OBJECTS, _ENTRIES = 4, 500, 1000
# What decides nothing: what `LayerMasked` keeps itself, where a hook holds it, and what is saved.
_ASIDE = frozenset({"_learned", "_non_persistent_buffers_set"})


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
        self._changing: frozenset[Any] = frozenset()
        self._look(model)

    def _look(self, model: nn.Module) -> None:
        # Holding the objects themselves keeps others from taking their identity.
        self._model = model
        sections = list(_sections(model))
        self._objects = {(one.name, key): value for one in sections for key, value in one.contents.items()}
        live = [one.owner for one in sections if one.read is None]
        self._empty = [one for one in live if not one]  # most are: hooks that nobody has
        self._live = [one for one in live if one]
        self._in_live = [value for one in self._live for value in one.values()]
        self._derived = [
            (one.read, one.owner, list(one.contents.values()))
            for one in sections
            if one.read is not None and type(one.owner) not in _UNCHANGEABLE
        ]

    def has_changed(self, model: nn.Module) -> bool:
        """Whether anything is not as it was."""
        return not self._is_same(model) and bool(self._changed(model) - self._changing)

    def _is_same(self, model: nn.Module) -> bool:
        """Whether everything holds the objects that it held. Then there is also nothing else to look into."""
        # Asked before every batch, and of thousands of objects: no step of it is Python's.
        return (
            model is self._model
            and not any(self._empty)
            and _are_same(list(chain.from_iterable(map(_VALUES, self._live))), self._in_live)
            and all(_are_same(list(read(owner).values()), values) for read, owner, values in self._derived)
        )

    def ignore_changes(self, model: nn.Module) -> None:
        """Leave out from now on what has changed since: calls of the model have changed it."""
        self._changing |= self._changed(model)
        self._look(model)

    def _changed(self, model: nn.Module) -> frozenset[Any]:
        """The names of what is not as it was, and those of the lists and dictionaries that hold it."""
        before = self._objects
        now = {(one.name, key): value for one in _sections(model) for key, value in one.contents.items()}
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


class _Section(NamedTuple):
    """Objects that count, by name, in a part that has a name itself."""

    name: Any
    owner: Any
    read: Callable[[Any], Mapping[Any, Any]] | None = None  # None: the owner is the mapping

    @property
    def contents(self) -> Mapping[Any, Any]:
        return self.owner if self.read is None else self.read(self.owner)


def _are_same(some: list[Any], others: list[Any]) -> bool:
    return len(some) == len(others) and all(map(is_, some, others))


def _sections(model: nn.Module) -> Iterator[_Section]:
    """Everything that counts."""
    yield _Section("rules", None, lambda _: dict(enumerate(state_of_table())))
    registry = torch.nn.modules.module
    yield _Section("hooks", registry._global_forward_hooks)
    yield _Section("hooks before", registry._global_forward_pre_hooks)
    stack, seen = [model], set()
    inner: set[int] = set()  # objects that attributes hold
    if type(model).named_modules is not nn.Module.named_modules:  # it stands for modules that it does not own
        yield _Section("modules", model, lambda model: dict(enumerate(model.modules())))
        stack += model.modules()
    modules: list[nn.Module] = []
    while stack:
        module = stack.pop()
        key = id(module)
        if key in seen:
            continue
        seen.add(key)
        modules.append(module)
        state = module.__dict__
        yield _Section(key, state)
        for name, value in list(state.items()):
            if type(value) not in _SIMPLE and name not in _ASIDE:
                yield from _inner((key, name), value, inner, stack, _DEPTH)
        stack += [child for child in state["_modules"].values() if child is not None]
    yield _Section("classes", modules, lambda modules: dict(enumerate(map(type, modules))))
    bases = dict.fromkeys(
        base for kind in map(type, modules) for base in kind.__mro__[: -2 if kind.__mro__[-2] is nn.Module else None]
    )
    for base in bases:
        yield _Section(base, base, _code)


def _code(kind: type) -> dict[str, Any]:
    """What a class holds; of its functions the code, which may be exchanged."""
    return {name: getattr(value, "__code__", value) for name, value in vars(kind).items()}


def _inner(name: Any, value: Any, inner: set[int], stack: list[nn.Module], depth: int) -> Iterator[_Section]:
    """What an attribute holds: entries, attributes, variables of a function. Modules are left for later, on the stack."""
    if isinstance(value, nn.Module):
        stack.append(value)
        return
    if type(value) in _MAPPINGS and not value:
        yield _Section(name, value)
        return
    if id(value) in inner or len(inner) > _OBJECTS:
        return
    contents = _contents(value)
    if contents is None:
        return
    inner.add(id(value))
    if len(contents) > _ENTRIES:
        yield _Section(name, value, _size)
        return
    yield _Section(name, value, None if contents is value else _contents_or_nothing)
    if depth:
        for part, one in list(contents.items()):
            if type(one) not in _SIMPLE:
                yield from _inner((name, part), one, inner, stack, depth - 1)


def _size(value: Any) -> dict[str, Any]:
    return {"size": sys.intern(str(len(_contents_or_nothing(value))))}


def _contents_or_nothing(value: Any) -> Mapping[Any, Any]:
    return _contents(value) or {}


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
