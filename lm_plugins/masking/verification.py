"""Nothing is believed unchecked: with everything visible, the engine has to give what the plain model gives."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from operator import is_
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.futures import Future

from lm_plugins.errors import LMPluginsError, VerificationError
from lm_plugins.masking.carrier import Carrier
from lm_plugins.masking.registry import state_of_table

__all__ = ["ModelState", "verify"]

_Call = Callable[[nn.Module, Tensor], Any]

# What most attributes are; nothing in them can change.
_SIMPLE = frozenset({bool, int, float, str, bytes, type(None), Tensor, nn.Parameter, FunctionType, type, torch.dtype})


class ModelState:
    """What of a model decides what it computes, the values of its weights apart.

    These are its modules, their classes, code, attributes and hooks, global hooks, and the rule table. What changes in every
    call, such as a counter, is left out once that was seen. Not seen are functions outside of classes, and what attributes
    hold deeper than two levels down.

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
        before = dict(zip(self._names, self._objects, strict=True))
        now = dict(zip(_names(model), _objects(model), strict=True))
        return frozenset(
            name for name in before.keys() | now.keys() if name not in before or before[name] is not now.get(name)
        )


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
            if kind is dict or kind is OrderedDict:
                if value:
                    yield (key, name), value
            elif kind in _SIMPLE:
                continue
            elif kind in (list, tuple):
                yield (key, name), dict(enumerate(value))
            elif hasattr(value, "__dict__") and not isinstance(value, (nn.Module, type)) and id(value) not in seen:
                seen.add(id(value))
                yield (key, name), vars(value)
        stack += [child for child in state["_modules"].values() if child is not None]
    yield "classes", dict(enumerate(classes))
    bases = dict.fromkeys(
        base for kind in classes for base in kind.__mro__[: -2 if kind.__mro__[-2] is nn.Module else None]
    )
    for base in bases:
        yield base, {name: getattr(value, "__code__", value) for name, value in vars(base).items()}


def verify(model: nn.Module, x: Tensor, run: _Call, further: tuple[Any, ...] = ()) -> None:
    """Check that the engine gives what the plain model gives, on images of which everything is visible.

    Args:
        model: The model, in evaluation mode.
        x: Images ``(N, C, H, W)``. The first is taken, or all if the model does not run on one.
        run: Sends images through the engine, for a model.
        further: What else the model takes after the images.

    Raises:
        VerificationError: It gives something else. The message names the first module whose output differs.
    """

    def plain(model: nn.Module, x: Tensor) -> Any:
        return model(x, *further)

    with torch.no_grad():
        try:
            found, expected = run(model, x[:1].clone()), plain(model, x[:1].clone())
            x = x[:1]
        except LMPluginsError:
            raise
        except Exception:  # a model may know the size of its batches
            found, expected = run(model, x.clone()), plain(model, x.clone())
        difference = _difference(expected, found)
        if difference is None or _agree_in_double(model, x, plain, run):
            return
        again = _difference(expected, plain(model, x.clone()))
        where = None if again else _first_difference(model, x, plain, run)
    if again:
        reason = (
            "The model gives another answer to the same image every time, so that nothing can be explained: look for dropout, "
            "noise or batch norm in training mode that model.eval() does not reach, such as in a function that is no module."
        )
    else:
        reason = (
            f"{where or 'No module alone differs, so it is code of the model outside of its modules that does'}. Likely "
            "reasons: code that asks what kind of tensor it has, works on values that it kept from an earlier call, or computes "
            "outside of torch. Rewrite that part with torch functions, or choose another removal."
        )
    raise VerificationError(
        f"with every pixel visible, layer masking gives another answer than the model itself: {difference}. {reason} "
        "LayerMasked(model, verify=False) skips this check, and gives numbers that nobody should believe."
    )


def _agree_in_double(model: nn.Module, x: Tensor, plain: _Call, run: _Call) -> bool:
    """Whether a copy in float64 agrees: then it was rounding, which some networks amplify beyond any tolerance."""
    if x.dtype == torch.float64:
        return False
    try:
        copied = copy.deepcopy(model).double()
        return _difference(plain(copied, x.double()), run(copied, x.double())) is None
    except Exception:  # what cannot be copied or run in float64 is judged as it is
        return False


def _tolerance(values: Tensor) -> float:
    """Rounding may differ where a rule computes in another order, as in attention: half of the digits must agree."""
    return float(torch.finfo(values.dtype).eps ** 0.5) if values.is_floating_point() else 0.0


def _difference(expected: Any, found: Any, path: str = "output") -> str | None:
    """How two outputs differ, in words; None if they agree."""
    if isinstance(expected, Carrier):
        expected = expected.ordinary()
    if isinstance(found, Carrier):
        found = found.ordinary()
    if isinstance(expected, Tensor) and isinstance(found, Tensor):
        if expected.shape != found.shape or expected.dtype != found.dtype:
            return f"{path} is {found.dtype} {tuple(found.shape)}, not {expected.dtype} {tuple(expected.shape)}"
        return _largest(expected.detach(), found.detach(), path)
    if isinstance(expected, Future) and isinstance(found, Future):
        # Nobody may wait here: what completes a future may come only after the call.
        done = expected.done() and found.done()
        return _difference(expected.value(), found.value(), path) if done else None
    if isinstance(expected, dict) and isinstance(found, dict):
        if expected.keys() != found.keys():
            return f"{path} has the keys {sorted(map(str, found))}, not {sorted(map(str, expected))}"
        pairs: Any = [(f"{path}[{key!r}]", one, found[key]) for key, one in expected.items()]
    elif isinstance(expected, (list, tuple)) and isinstance(found, (list, tuple)):
        if len(expected) != len(found):
            return f"{path} has {len(found)} parts, not {len(expected)}"
        pairs = [(f"{path}[{i}]", one, other) for i, (one, other) in enumerate(zip(expected, found, strict=True))]
    elif type(expected) is not type(found):
        return f"{path} is of type {type(found).__name__}, not {type(expected).__name__}"
    else:
        fields = getattr(expected, "__dict__", {})
        pairs = [(f"{path}.{name}", one, getattr(found, name, None)) for name, one in fields.items()]
    return next((text for text in (_difference(one, other, name) for name, one, other in pairs) if text), None)


def _largest(expected: Tensor, found: Tensor, path: str) -> str | None:
    if torch.equal(expected, found) or not expected.numel():
        return None
    if not expected.is_floating_point():
        return f"{path} differs at {int((expected != found).sum())} of {expected.numel()} entries"
    off = (expected != found) & ~(expected.isnan() & found.isnan())
    difference = torch.where(off, (expected - found).abs(), 0.0).max()
    scale = torch.where(expected.isfinite(), expected.abs(), 0.0).max()
    if bool(difference <= _tolerance(expected) * scale):
        return None
    return f"{path} differs by {float(difference):.2g}, where its largest value is {float(scale):.2g}"


def _first_difference(model: nn.Module, x: Tensor, plain: _Call, run: _Call) -> str | None:
    """The first module whose output differs, in words."""
    of_plain = _outputs(model, lambda: plain(model, x.clone()))
    of_masked = _outputs(model, lambda: run(model, x.clone()))
    names = {id(module): name for name, module in model.named_modules()}
    for (module, one), (other_module, other) in zip(of_plain, of_masked, strict=False):
        name = f"{names[id(module)] or '(the model itself)'!r} ({type(module).__name__})"
        if module is not other_module:
            return f"The two take different ways: the plain model calls {name} where layer masking does not"
        text = _difference(one, other)
        if text is not None:
            return f"The first module that differs is {name}: its {text}"
    if len(of_plain) != len(of_masked):
        return f"The plain model makes {len(of_plain)} calls of modules, layer masking {len(of_masked)}"
    return None


def _outputs(model: nn.Module, call: Callable[[], Any]) -> list[tuple[nn.Module, Any]]:
    """The output of every call of a module, in the order in which they end."""
    found: list[tuple[nn.Module, Any]] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        found.append((module, _copied(output)))

    handles = [module.register_forward_hook(keep) for module in model.modules()]
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
    return found


def _copied(output: Any) -> Any:
    """The output as it is now, before anything works on it in place."""
    if isinstance(output, Carrier):
        return output.ordinary().clone()
    if isinstance(output, Tensor):
        return output.clone()
    if isinstance(output, dict):
        return {key: _copied(one) for key, one in output.items()}
    if isinstance(output, (list, tuple)):
        return [_copied(one) for one in output]
    return output
