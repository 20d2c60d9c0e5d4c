"""Nothing is believed unchecked: with everything visible, the engine has to give what the plain model gives."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.futures import Future

from lm_plugins.errors import LMPluginsError, VerificationError
from lm_plugins.masking.arguments import Arguments
from lm_plugins.masking.carrier import Carrier

__all__ = ["verify"]

_Call = Callable[[nn.Module, Tensor], Any]


def verify(model: nn.Module, x: Tensor, run: _Call, arguments: Arguments | None = None) -> None:
    """Check that the engine gives what the plain model gives, on images of which everything is visible.

    Args:
        model: The model, in evaluation mode.
        x: Images ``(N, C, H, W)``. The first is taken, or all if the model does not run on one.
        run: Sends images through the engine, for a model.
        arguments: What else the model takes.

    Raises:
        VerificationError: It gives something else. The message names the first module whose output differs.
    """

    def plain(model: nn.Module, x: Tensor) -> Any:
        return (arguments or Arguments()).call(model, x)

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
            "The model gives another answer to the same image every time, so that nothing can be explained: look for "
            "dropout, noise or batch norm in training mode that model.eval() does not reach, as in a function that is no "
            "module."
        )
    else:
        reason = (
            f"{where or 'No module alone differs, so it is code of the model outside of its modules that does'}. Likely "
            "reasons: code that asks what kind of tensor it has, works on values that it kept from an earlier call, or "
            "computes outside of torch. Rewrite that part with torch functions, or choose another removal."
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
