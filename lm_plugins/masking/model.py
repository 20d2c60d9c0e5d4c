"""Any torch vision model, layer-masked."""

import concurrent.futures
from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.futures import Future

from lm_plugins.checks import (
    as_visible,
    check_data,
    check_evaluation_mode,
    check_finite,
    check_images,
    explaining_mismatch,
)
from lm_plugins.errors import InputTypeError, ShapeError, UnsupportedOperatorError
from lm_plugins.masking.activation import MaskedActivation
from lm_plugins.masking.arguments import Arguments, several
from lm_plugins.masking.batch_norm_folding import prepared
from lm_plugins.masking.carrier import Carrier
from lm_plugins.masking.channels_last import is_everything
from lm_plugins.masking.coverage import coverage_of
from lm_plugins.masking.futures import afterwards
from lm_plugins.masking.halo import run_with_halo
from lm_plugins.masking.mask import Mask
from lm_plugins.masking.model_state import ModelState, has_hooks
from lm_plugins.masking.opaque_code import (
    check_not_traced,
    check_python,
    explaining_compiled,
    running_eagerly,
    uncompiled,
    where_raised,
)
from lm_plugins.masking.options import MaskingOptions
from lm_plugins.masking.run import Run
from lm_plugins.masking.sentinel import unpainted
from lm_plugins.masking.tokens import MaskedTokens
from lm_plugins.masking.verification import verify
from lm_plugins.masking.visibility import Visibility

__all__ = ["LayerMasked", "run_masked"]

_WHAT = "layer masking"

# What computes when it is asked, or when somebody else gets to it.
_LATER = (Iterator, Awaitable, concurrent.futures.Future, FunctionType, MethodType, partial)


class LayerMasked(nn.Module):
    """A model that sees only what is visible: layer masking around any unmodified vision model.

    The mask travels through the network with the activations. Every convolution pads the visible region from its
    neighbours, pooling averages what is visible, and the region moves along as `options` say. The model itself is
    neither changed, copied nor traced; hooks on it still fire, also during the check that `verify` asks for.

    Args:
        model: A model of images ``(N, C, H, W)``, in evaluation mode when it is called.
        options: The semantics; by default those that kept most accuracy in our study.
        verify: Before the first masked answer, check that the model gives its own output through the engine when all is
            visible; again when its modules, their attributes, hooks or code, or the size of the images have changed. It costs
            two passes of one image. Without it, a model that steps outside of what the engine sees gives wrong numbers.

    Raises:
        InputTypeError: `model` is no ``torch.nn.Module``, or `options` no `MaskingOptions`.

    Example:
        >>> import torch
        >>> import lm_plugins as lm
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        >>> masked = lm.LayerMasked(model.eval())
        >>> x = torch.rand(2, 3, 16, 16)
        >>> visible = torch.ones(16, 16, dtype=torch.bool)
        >>> visible[4:8, 4:8] = False
        >>> masked(x, visible).shape
        torch.Size([2, 8])

        The same through a sentinel, for code that can only change pixels:

        >>> painted = x.masked_fill(~visible, lm.MASKED)
        >>> bool((masked(painted) == masked(x, visible)).all())
        True

    References:
        Balasubramanian and Feizi, "Towards Improved Input Masking for Convolutional Neural Networks", ICCV 2023.
        Differs from the published code in the default semantics (see `MaskingOptions`) and in the inconsistencies
        listed in docs/layer_masking.md; `published` gives theirs.
    """

    def __init__(self, model: nn.Module, options: MaskingOptions | None = None, *, verify: bool = True) -> None:
        if not isinstance(model, nn.Module):
            raise InputTypeError(f"LayerMasked needs a torch.nn.Module, got {type(model).__name__}.")
        if options is not None and not isinstance(options, MaskingOptions):
            raise InputTypeError(f"options must be a MaskingOptions or None, got {type(options).__name__}.")
        super().__init__()
        self.model = model
        self.options = MaskingOptions() if options is None else options
        # It has no mode of its own: that of the model is asked in every call.
        self.training = False
        self._verify = verify
        self._learned: dict[Any, _Learned] = {}

    def forward(
        self,
        x: Tensor | Sequence[Tensor] | None = None,
        visible: Tensor | Sequence[Tensor | None] | None = None,
        *further: Any,
        **named: Any,
    ) -> Any:
        """Run the model on the visible pixels.

        Args:
            x: Images ``(N, C, H, W)``, floating point, in the normalisation that the model expects. Without `visible`,
                a pixel whose channels all equal `MASKED` is hidden. A tuple of images for a model that takes several, such
                as a siamese one; or none, and the image under the keyword that the model knows it by, ``pixel_values=x``.
            visible: True (or 1) = the model may see this pixel. Bool or 0/1 of any dtype; ``(N, 1, H, W)``,
                ``(N, H, W)``, ``(1, 1, H, W)``, ``(1, H, W)`` or ``(H, W)``. Of several images, a tuple with one for each.
            further: What else the model takes after the images; handed on as it is.
            named: The same by keyword.

        Returns:
            What the model returns. Maps come back as ordinary tensors with 0 at hidden positions. If everything is
            visible, this is the model's own output, bit for bit; an image of which nothing is visible gives a finite
            output that does not depend on it.

        Raises:
            ShapeError: `x` is no batch of images, or `visible` does not fit it.
            InputTypeError: `x` is not floating point, an argument is no tensor, or model and images differ in device or
                dtype.
            MaskValueError: `visible` holds something other than 0 and 1; or, without it, a pixel of `x` equals `MASKED` in
                only some of its channels, or painted pixels have been resized or normalised.
            NonFiniteError: A visible pixel is infinite or NaN.
            TrainingModeError: The model or a part of it is in training mode.
            UnsupportedOperatorError: The model calls functions that have no masking rule; all are listed. Or a part of it
                is compiled, exported or quantized, or this is called while a tracer records. Or it returns what would compute
                later, such as a generator.
            VerificationError: With everything visible, the model gives another output through the engine than by itself.
        """
        return uncompiled(self._forward, x, visible, further, named)

    def _forward(self, given: Any, visible: Any, further: tuple[Any, ...], named: dict[str, Any]) -> Any:
        check_not_traced()
        given, arguments = Arguments.of(given, further, named)
        checked = [self._checked(*one) for one in zip(*several(given, visible), strict=True)]
        (x, visible, is_finite), *others = checked
        if any(len(one) != len(x) for one, _, _ in others):
            raise ShapeError(f"the images come in batches of one size, got {[len(one) for one, _, _ in checked]}.")
        arguments = replace(arguments, others=tuple((one, mask) for one, mask, _ in others))
        if all(is_everything(mask) for _, mask, _ in checked):
            check_evaluation_mode(self.model, _WHAT, self.model.modules())
            with explaining_mismatch(self.model, x):
                return arguments.call(self.model, x)
        kind = (x.shape[1:], x.dtype, x.device, torch.is_autocast_enabled(x.device.type), arguments.kind)
        learned = self._learned.get(kind)

        def run() -> Any:
            needed = None if learned is None else learned.halo
            return run_with_halo(
                lambda halo: _run(self.model, x, visible, Run(self.options, halo), arguments, is_finite), needed
            )

        if learned is None or learned.state.has_changed(self.model):
            learned = None
            check_python(self.model)
            check_evaluation_mode(self.model, _WHAT)
            if self._verify and has_hooks(self.model):
                # Hooks keep the first of what they see, or the last: both are to belong to the answer, not to the check.
                run()
            learned = self._learned[kind] = self._verified(x, visible, arguments)
        output, learned.halo = run()
        return output

    def _checked(self, x: Any, visible: Tensor | None) -> tuple[Tensor, Tensor, bool]:
        """Images, what of them is visible, and whether all of their pixels are finite."""
        x = _given(x)
        check_images(x, _WHAT)
        check_data(self.model, x, visible)
        visible = unpainted(x) if visible is None else as_visible(visible, x)
        return x, visible, check_finite(x, _WHAT, visible)

    def _verified(self, x: Tensor, visible: Tensor, arguments: Arguments) -> "_Learned":
        """What is known of the model once it was checked."""
        learned = _Learned(ModelState(self.model))
        if self._verify:

            def run(model: nn.Module, images: Tensor) -> Any:
                everything = torch.ones_like(visible[: len(images)])
                return _run(model, images, everything, Run(self.options), arguments.all_visible(len(images)))

            # With gradients where the answer has them: hooks on activations ask for them.
            images = torch.where(visible[:, None], x.detach(), 0.0).requires_grad_(x.requires_grad)
            others = tuple((torch.where(mask[:, None], one.detach(), 0.0), mask) for one, mask in arguments.others)
            arguments = replace(arguments, others=others)
            with explaining_mismatch(self.model, x):
                verify(self.model, images, run, arguments)
            learned.state.ignore_changes(self.model)
        return learned

    def __getstate__(self) -> dict[str, Any]:
        """Without what was learned about the model: a copy has a model of its own."""
        return {**self.__dict__, "_learned": {}}

    def prepare(self, x: Tensor, dtype: torch.dtype | None = None) -> "LayerMasked":
        """An inference copy: batch norm folded into the convolutions, weights channels-last.

        Faster, and the same up to rounding (logits to about 1e-5 of the largest in float32). The copy's weights take no
        gradients; the model itself is not touched.

        Args:
            x: Images ``(N, C, H, W)`` that the model takes; the first is run, to see what can be folded.
            dtype: Of the copy's weights, such as ``torch.bfloat16``; images must then come in it. None keeps them.

        Returns:
            A `LayerMasked` with the same options, around a copy of the model.

        Raises:
            ShapeError: `x` is no batch of images.
            InputTypeError: `x` is not floating point.
            TrainingModeError: The model or a part of it is in training mode.

        Example:
            >>> import torch
            >>> import lm_plugins as lm
            >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
            >>> lm.LayerMasked(model.eval()).prepare(torch.rand(1, 3, 16, 16)).model
            Sequential(
              (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
              (1): Identity()
              (2): ReLU()
            )
        """
        check_images(x, _WHAT)
        check_evaluation_mode(self.model, _WHAT)
        return LayerMasked(prepared(self.model, x, dtype), self.options, verify=self._verify)


@dataclass
class _Learned:
    """What one image has taught about a model: that its answers can be believed, and which halos are looked at."""

    state: ModelState
    halo: frozenset[int] | None = None


def run_masked(
    model: nn.Module, x: Tensor, visible: Tensor, options: MaskingOptions, further: tuple[Any, ...] = ()
) -> Any:
    """Send `x` through the engine, also when all of it is visible. Nothing is left out, and nothing verified.

    Args:
        model: A model in evaluation mode.
        x: Images ``(N, C, H, W)``, floating point.
        visible: Bool ``(N, H, W)``.
        options: The semantics.
        further: What else the model takes after the images.

    Returns:
        What the model returns, with ordinary tensors.

    Raises:
        TrainingModeError: The model or a part of it is in training mode.
        UnsupportedOperatorError: The model calls functions that have no masking rule; all are listed.
    """
    check_python(model)
    check_evaluation_mode(model, _WHAT)
    return _run(model, x, visible, Run(options), Arguments(further))


def _run(model: nn.Module, x: Tensor, visible: Tensor, run: Run, arguments: Arguments, is_finite: bool = False) -> Any:
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


def _given(x: Any) -> Any:
    """The images; those of an activation that was kept until after its run are ordinary."""
    if isinstance(x, Carrier) and x.run.is_over:
        return x.ordinary()
    if isinstance(x, Carrier):
        raise InputTypeError(
            "LayerMasked was called within the run of another LayerMasked: wrap the model once, as lm.LayerMasked(model)."
        )
    return x


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
