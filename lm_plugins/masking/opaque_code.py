"""Code that no rule can look into: compiled, quantized, traced, or hidden from autograd. Each is an error that says so."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

import torch
from torch import nn
from torch.autograd.function import Function

from lm_plugins.errors import UnsupportedOperatorError

__all__ = [
    "BELOW",
    "check_autograd_function",
    "check_not_traced",
    "check_python",
    "explaining_compiled",
    "running_eagerly",
    "uncompiled",
    "where_raised",
]

#: In every error about code that computes below torch's functions, by which such errors are known.
BELOW = "below torch's functions"

# The stance of the compiler is one for the whole program: those who change it take turns.
_stance = RLock()

_QUANTIZED = ("torch.ao.nn.quantized.modules", "torch.ao.nn.intrinsic.quantized.modules")


def check_python(model: nn.Module) -> None:
    """Check that every part of a model runs in Python and in floating point, so that rules see its operations.

    Args:
        model: The model.

    Raises:
        UnsupportedOperatorError: A part is compiled by TorchScript, exported, or quantized; it is named.
    """
    for name, module in model.named_modules():
        what = _opaque(module)
        if what is not None:
            where = f"{name!r} ({type(module).__name__})" if name else f"the model itself ({type(module).__name__})"
            raise UnsupportedOperatorError(f"{where} {what}")


def _opaque(module: nn.Module) -> str | None:
    if isinstance(module, torch.jit.ScriptModule):
        return (
            "is compiled by torch.jit.script or torch.jit.trace: its operations cannot be seen, and so not be masked. Build "
            "the model from its Python code without TorchScript, and load the weights with load_state_dict; parts "
            "that were compiled while the model was built often have a switch for it."
        )
    kind = type(module).__module__
    if kind.startswith("pytorch_grad_cam") and type(module).__name__.startswith("AblationLayer"):
        return (
            "is a layer of AblationCAM, which replays activations that it kept from an earlier call; masks cannot follow. "
            "Ablate channels with captum.attr.LayerFeatureAblation(masked, layer), or take another CAM."
        )
    # Dynamically quantized layers take ordinary tensors in floating point; those of a head need no rule. The others here are
    # in models that may be quantized, and were not.
    is_harmless = type(module).__name__ in ("LinearPackedParams", "FloatFunctional", "FXFloatFunctional")
    if kind.startswith(_QUANTIZED) and not is_harmless:
        return (
            "is quantized: layer masking needs floating-point activations. Pass the model from before quantization; its "
            "explanation differs as little as its outputs do."
        )
    if isinstance(module, torch.fx.GraphModule) and any(
        isinstance(node.target, torch._ops.OpOverload) for node in module.graph.nodes
    ):
        return (
            "is a graph of low-level operators, such as torch.export makes: rules are written for the functions of "
            "Python code. Pass the model from before the export."
        )
    return None


def check_not_traced() -> None:
    """Check that nobody records what happens to replay it: the mask decides what is computed.

    Raises:
        UnsupportedOperatorError: Called under torch.jit.trace or torch.export.
    """
    is_exporting = getattr(torch.compiler, "is_exporting", None)  # torch 2.7
    if torch._C._get_tracing_state() is not None or (is_exporting is not None and is_exporting()):
        raise UnsupportedOperatorError(
            "LayerMasked cannot be traced or exported: what is computed depends on the mask, and a recording would hold "
            "one mask for ever. Call it from Python; torch.compile(LayerMasked(model)) works, and runs it uncompiled."
        )


def check_autograd_function(args: tuple[Any, ...]) -> None:
    """Check that an activation that autograd follows was not handed to a function that hides it from autograd.

    Autograd follows the values of an activation, not the activation itself. ``torch.autograd.Function.apply`` would take it
    for a tensor without gradients, and they would be missing.

    Raises:
        UnsupportedOperatorError: It was; the function is named.
    """
    if torch.is_grad_enabled() or not args or not hasattr(type(args[0]), "is_tokens") or not args[0].requires_grad:
        return
    frame = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("cls")
        if frame.f_code.co_name == "apply" and isinstance(owner, type) and issubclass(owner, Function):
            hint = (
                "Use checkpoint(..., use_reentrant=False), or call"
                if owner.__name__ == "CheckpointFunction"
                else "Write it with torch functions, or call"
            )
            raise UnsupportedOperatorError(
                f"the torch.autograd.Function {owner.__name__} would lose the gradients of an activation. {hint} the "
                "masked model under torch.no_grad() if you need none"
            )
        frame = frame.f_back  # type: ignore[assignment]


@contextmanager
def explaining_compiled(model: nn.Module) -> Iterator[None]:
    """Turn the error of code below torch's functions that was handed an activation into one that names the module.

    Raises:
        UnsupportedOperatorError: Something compiled by TorchScript or written in C++ computed on an activation.
    """
    try:
        yield
    except (RuntimeError, TypeError, NotImplementedError) as error:
        text = str(error).strip()
        is_ours = isinstance(error, UnsupportedOperatorError)
        is_refusal = not is_ours and re.search("Masked(Activation|Tokens)|TorchScript interpreter", text)
        if BELOW not in text and not is_refusal:
            raise
        where = where_raised(model, error)
        words = next((line for line in text.splitlines() if BELOW in line), text.partition("\n")[0])
        raise UnsupportedOperatorError(
            f"a function that computes on tensors {BELOW} was called in {where!r}, such as one compiled by torch.jit.script "
            f"or written in C++. Replace it by Python code that calls torch functions. Its own words: {words}"
        ) from error


def where_raised(model: nn.Module, error: BaseException) -> str:
    """The innermost module of a model that an error came through, with its class."""
    names = {id(module): name for name, module in model.named_modules()}
    where, step = "(outside of any module)", error.__traceback__
    while step is not None:
        owner = step.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner) in names:
            where = f"{names[id(owner)] or '(the model)'} ({type(owner).__name__})"
        step = step.tb_next
    return where


@contextmanager
def running_eagerly(model: nn.Module) -> Iterator[None]:
    """Let those of a model's modules that are compiled run as the Python code that they were compiled from."""
    # Where the compiler was never imported, nothing can be compiled; its own check of isinstance would import it.
    is_compiled = "torch._dynamo" in sys.modules and any(
        type(module).__name__ == "OptimizedModule" or module._compiled_call_impl is not None
        for module in model.modules()
    )
    if not is_compiled or not hasattr(torch.compiler, "set_stance"):  # torch 2.6
        yield
        return
    with _stance, torch.compiler.set_stance("force_eager"):
        yield


def uncompiled(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function so that ``torch.compile`` around it leaves it, and everything below, uncompiled.

    Masks decide what is computed, so that a compiler would specialize on every one of them.
    """
    # Importing the compiler takes seconds. Where it is not imported, nothing can be compiled.
    if "torch._dynamo" not in sys.modules:
        return function(*args)
    return torch.compiler.disable(function)(*args)  # type: ignore[no-untyped-call]
