"""Which torch functions a model calls on its activations, and which of them have a rule."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lm_plugins.checks import check_evaluation_mode, check_images
from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.activation import MaskedActivation
from lm_plugins.masking.arguments import Arguments
from lm_plugins.masking.calls import converted
from lm_plugins.masking.mask import Mask
from lm_plugins.masking.opaque_code import running_eagerly
from lm_plugins.masking.options import MaskingOptions
from lm_plugins.masking.registry import function_name, has_rule
from lm_plugins.masking.run import Run
from lm_plugins.masking.visibility import Visibility

__all__ = ["Coverage", "coverage", "coverage_of"]


@dataclass
class Coverage:
    """What a model calls on activations that are still spatial. Falsy when something is missing.

    Args:
        supported: Names of functions with a rule, and the module paths that call them.
        missing: The same for functions without a rule, or called in a way that their rule does not cover.
        reasons: Why a function that has a rule is missing all the same.
        stopped: The error with which the run ended early, if it did; more may be missing after it.
    """

    supported: dict[str, list[str]] = field(default_factory=dict)
    missing: dict[str, list[str]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    stopped: str | None = None

    def __bool__(self) -> bool:
        return not self.missing and self.stopped is None

    def advice(self) -> str:
        """What is missing and what to do about it, as the text of an error."""
        why = {name: f" ({reason})" for name, reason in self.reasons.items()}
        lines = [f"{_line(name, paths)}{why.get(name, '')}" for name, paths in self.missing.items()]
        stopped = [f"The model then failed with: {self.stopped}; more may be missing."] if self.stopped else []
        return "\n".join(
            [
                "Missing in this model:",
                *(f"  {line}" for line in lines),
                *stopped,
                "Register a rule with lm_plugins.register_rule (docs/writing_a_rule.md), or choose another removal.",
            ]
        )

    def __str__(self) -> str:
        head = f"{len(self.supported)} functions have a rule, {len(self.missing)} do not."
        supported = [f"  {_line(name, paths)}" for name, paths in self.supported.items()]
        return "\n".join([head, *supported, *([self.advice()] if not self else [])])


def _line(name: str, paths: list[str]) -> str:
    named = ", ".join(repr(path) for path in paths[:3])
    return f"{name}, called in {named}{f' and {len(paths) - 3} more' if len(paths) > 3 else ''}"


def coverage(model: nn.Module, x: Tensor, options: MaskingOptions | None = None, *further: Any) -> Coverage:
    """Find out whether a model can be layer-masked, and what is missing if not.

    Runs the model once on `x`, all of it visible. Where a function has no rule, the plain function is called and the
    run goes on with its result, so that everything missing is found at once.

    Args:
        model: A model of images.
        x: Images ``(N, C, H, W)``; one suffices.
        options: The semantics; they decide few cases.
        further: What else the model takes after the images.

    Returns:
        What was found; falsy when something is missing.

    Raises:
        InputTypeError: `x` is no floating-point tensor.
        ShapeError: It is no batch of images.
        TrainingModeError: The model or a part of it is in training mode.

    Example:
        >>> import torch
        >>> import lm_plugins as lm
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.LPPool3d(2, 2)).eval()
        >>> found = lm.coverage(model, torch.rand(1, 3, 8, 8))
        >>> bool(found), found.missing
        (False, {'torch.nn.functional.lp_pool3d': ['1 (LPPool3d)']})
    """
    check_images(x, "coverage")
    check_evaluation_mode(model, "coverage")
    return coverage_of(model, x, options, Arguments(further))


def coverage_of(model: nn.Module, x: Tensor, options: MaskingOptions | None, arguments: Arguments) -> Coverage:
    """As `coverage`, for a model that takes other arguments as well.

    Args:
        model: A model of images, in evaluation mode.
        x: Images ``(N, C, H, W)``.
        options: The semantics.
        arguments: What else the model takes.
    """
    found = Coverage()
    names = {id(module): name for name, module in model.named_modules()}

    def record(
        function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], act: Callable[[], Any]
    ) -> Any:
        name, path = function_name(function), _module_path(names)
        try:
            result = act()
        except UnsupportedOperatorError as error:
            _add(found.missing, name, path)
            if has_rule(function):
                found.reasons[name] = str(error)
            return _go_on(function(*_plain(args), **_plain(kwargs)), run)
        _add(found.supported, name, path)
        return result

    run = Run(MaskingOptions() if options is None else options, observer=record)
    try:
        with torch.no_grad(), running_eagerly(model):
            others = [_all_visible(one.clone(), run, is_image=True) for one, _ in arguments.others]
            arguments.call(model, _all_visible(x.clone(), run, is_image=True), others)
    except Exception as error:  # whatever a foreign model raises, what was found so far is worth reporting
        found.stopped = f"{type(error).__name__}: {error}"
    finally:
        run.is_over = True
    return found


def _add(found: dict[str, list[str]], name: str, path: str) -> None:
    paths = found.setdefault(name, [])
    if path not in paths:
        paths.append(path)


def _module_path(names: dict[int, str]) -> str:
    """The innermost module of the model on the call stack, with its class. Needs no hooks, so it leaves none."""
    frame = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner) in names:
            return f"{names[id(owner)] or '(the model)'} ({type(owner).__name__})"
        frame = frame.f_back  # type: ignore[assignment]
    return "(outside of any module)"


def _plain(value: Any) -> Any:
    return converted(value, lambda one: one.values)


def _go_on(result: Any, run: Run) -> Any:
    if isinstance(result, Tensor) and result.ndim == 4 and result.is_floating_point():
        return _all_visible(result, run)
    if isinstance(result, (list, tuple)):
        return type(result)(_go_on(one, run) for one in result)
    return result


def _all_visible(values: Tensor, run: Run, is_image: bool = False) -> MaskedActivation:
    visible = Mask(torch.ones(values.shape[0], *values.shape[2:], dtype=torch.bool, device=values.device))
    return MaskedActivation(values, Visibility(visible, visible, run, is_image))
