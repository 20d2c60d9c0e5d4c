"""One pass of a model: images become activations with a mask, and what the model returns becomes ordinary again."""

import concurrent.futures
from collections.abc import Awaitable, Iterator
from dataclasses import fields, is_dataclass, replace
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.futures import Future

from lm_plugins.checks import check_evaluation_mode, explaining_mismatch
from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.activation import MaskedActivation
from lm_plugins.masking.arguments import Arguments
from lm_plugins.masking.calibration import Calibration
from lm_plugins.masking.carrier import Carrier
from lm_plugins.masking.coverage import coverage_of
from lm_plugins.masking.futures import afterwards
from lm_plugins.masking.mask import Mask
from lm_plugins.masking.opaque_code import check_python, explaining_compiled, running_eagerly, where_raised
from lm_plugins.masking.options import MaskingOptions
from lm_plugins.masking.run import Run
from lm_plugins.masking.tokens import MaskedTokens
from lm_plugins.masking.visibility import Visibility

__all__ = ["run_masked", "send"]

# What computes when it is asked, or when somebody else gets to it.
_LATER = (Iterator, Awaitable, concurrent.futures.Future, FunctionType, MethodType, partial)


def run_masked(
    model: nn.Module,
    x: Tensor,
    visible: Tensor,
    options: MaskingOptions,
    further: tuple[Any, ...] = (),
    calibration: Calibration | None = None,
) -> Any:
    """Send `x` through the engine, also when all of it is visible. Nothing is left out, and nothing verified.

    Args:
        model: A model in evaluation mode.
        x: Images ``(N, C, H, W)``, floating point.
        visible: Bool ``(N, H, W)``.
        options: The semantics.
        further: What else the model takes after the images.
        calibration: Of this model; not checked either.

    Returns:
        What the model returns, with ordinary tensors.

    Raises:
        TrainingModeError: The model or a part of it is in training mode.
        UnsupportedOperatorError: The model calls functions that have no masking rule; all are listed.
    """
    check_python(model)
    check_evaluation_mode(model, "layer masking")
    run = Run(options)
    if calibration is not None:
        names = {id(one): name for name, one in model.named_parameters()}
        run.calibrated = calibration.matching(visible, names)
    return send(model, x, visible, run, Arguments(further))


def send(model: nn.Module, x: Tensor, visible: Tensor, run: Run, arguments: Arguments, is_finite: bool = False) -> Any:
    """Send images through a model in a run of the engine.

    Args:
        model: A model in evaluation mode.
        x: Images ``(N, C, H, W)``, floating point.
        visible: Bool ``(N, H, W)``.
        run: The run, which nothing has used.
        arguments: What else the model takes.
        is_finite: Whether all pixels are finite, the hidden ones too.

    Returns:
        What the model returns, with ordinary tensors.

    Raises:
        UnsupportedOperatorError: The model calls functions that have no masking rule; all are listed.
    """
    carrier = _carrier(x, visible, run, is_finite)
    others = [_carrier(one, mask, run, False) for one, mask in arguments.others]
    try:
        with run.open(), explaining_mismatch(model, x), explaining_compiled(model), running_eagerly(model):
            return _ordinary(arguments.call(model, carrier, others), run)
    except UnsupportedOperatorError as error:
        raise UnsupportedOperatorError(_explain(error, model, x, run.options, arguments)) from error


def _carrier(x: Tensor, visible: Tensor, run: Run, is_finite: bool) -> MaskedActivation:
    region = Mask(visible)
    # Made for every run: a model may write into its images.
    values = x if region.is_full else _without_hidden(x, visible, is_finite)
    return MaskedActivation(values, Visibility(region, region, run, is_image=True))


def _without_hidden(x: Tensor, visible: Tensor, is_finite: bool) -> Tensor:
    """The images in channels-last format, 0 where hidden: some convolution algorithms let far positions touch each other."""
    if is_finite:
        values = _different(x).contiguous(memory_format=torch.channels_last) * visible[:, None]
    else:
        values = torch.where(visible[:, None], x, 0.0)
    return values.contiguous(memory_format=torch.channels_last)


def _different(x: Tensor) -> Tensor:
    """The first image, if all are views of it, as ``expand`` makes them: there is one to copy, not N. Otherwise all."""
    return x[:1] if x.stride(0) == 0 else x


def _explain(
    error: UnsupportedOperatorError, model: nn.Module, x: Tensor, options: MaskingOptions, arguments: Arguments
) -> str:
    found = coverage_of(model, x, options, arguments)
    return f"{error}. {found.advice()}" if not found else f"{error}. Called in {where_raised(model, error)!r}."


def _ordinary(output: Any, run: Run) -> Any:
    """The model's output with every activation in it turned into an ordinary tensor, 0 where hidden."""
    if isinstance(output, Carrier):
        output.check_left(None)
    if isinstance(output, MaskedActivation):
        return output.with_hidden(0.0)
    if isinstance(output, Future):
        if not output.done():
            run.await_(output)
        return afterwards(output, lambda value: _ordinary(value, run))
    if isinstance(output, _LATER):
        raise UnsupportedOperatorError(
            f"the model returns something of type {type(output).__name__}, which would compute after the call, when masks "
            "are gone. Let it return tensors, in lists or dictionaries, or a torch.futures.Future"
        )
    if isinstance(output, MaskedTokens):
        return output.whole().with_hidden(0.0)
    if isinstance(output, dict):
        items = {key: _ordinary(value, run) for key, value in output.items()}
        try:
            return type(output)(items)
        except TypeError:
            return items
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*(_ordinary(value, run) for value in output))
    if isinstance(output, (list, tuple)):
        return type(output)(_ordinary(value, run) for value in output)
    if is_dataclass(output) and not isinstance(output, type):
        return replace(output, **{field.name: _ordinary(getattr(output, field.name), run) for field in fields(output)})
    return output
