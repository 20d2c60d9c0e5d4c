"""Any torch vision model, layer-masked."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lm_plugins.checks import (
    as_visible,
    check_data,
    check_evaluation_mode,
    check_finite,
    check_images,
    explaining_mismatch,
)
from lm_plugins.errors import ExplanationWarning, InputTypeError, ShapeError
from lm_plugins.masking.arguments import Arguments, several
from lm_plugins.masking.batch_norm_folding import prepared
from lm_plugins.masking.calibration import Calibration
from lm_plugins.masking.carrier import Carrier
from lm_plugins.masking.channels_last import is_everything
from lm_plugins.masking.forward import send
from lm_plugins.masking.halo import Halo, run_with_halo
from lm_plugins.masking.model_state import ModelState, has_hooks
from lm_plugins.masking.opaque_code import check_not_traced, check_python, uncompiled
from lm_plugins.masking.options import MaskingOptions
from lm_plugins.masking.run import Run
from lm_plugins.masking.sentinel import share_of_grey, unpainted
from lm_plugins.masking.verification import verify

__all__ = ["LayerMasked"]

_WHAT = "layer masking"
# Of the pixels of an image: photographs have next to none that are exactly 0 in every channel.
_GREY = 0.01


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
        calibration: What `lm_plugins.calibrate` fitted to this model, with its options; None leaves moments as they come.

    Raises:
        InputTypeError: `model` is no ``torch.nn.Module``, `options` no `MaskingOptions`, or `calibration` no `Calibration`.
        CalibrationError: The calibration belongs to another model.
        OptionError: It was fitted under other options.

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

    def __init__(
        self,
        model: nn.Module,
        options: MaskingOptions | None = None,
        *,
        verify: bool = True,
        calibration: Calibration | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InputTypeError(f"LayerMasked needs a torch.nn.Module, got {type(model).__name__}.")
        if options is not None and not isinstance(options, MaskingOptions):
            raise InputTypeError(f"options must be a MaskingOptions or None, got {type(options).__name__}.")
        if calibration is not None and not isinstance(calibration, Calibration):
            raise InputTypeError(
                f"calibration must be a Calibration or None, got {type(calibration).__name__}; one is read from a file with "
                "lm.Calibration.load(path)."
            )
        super().__init__()
        if calibration is not None:
            options = calibration.checked_options(options)
            calibration.check_model(model)
        self.model = model
        self.options = MaskingOptions() if options is None else options
        self.calibration = calibration
        # It has no mode of its own: that of the model is asked in every call.
        self.training = False
        self.verify = verify
        self._learned: dict[Any, _Learned] = {}
        self._watched = _Watched()
        self._has_warned_of_grey = False

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

        Warns:
            ExplanationWarning: Without `visible`, once: images look painted in grey, and nothing is hidden in them.
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
        if self.calibration is not None and others:
            raise InputTypeError(
                "a calibration is for models of one image, and this one takes several: use it without."
            )
        kind = (x.shape[1:], x.dtype, x.device, torch.is_autocast_enabled(x.device.type), arguments.kind)
        learned = self._learned.get(kind)

        def run() -> Any:
            needed = None if learned is None else learned.halo
            return run_with_halo(
                lambda halo: send(self.model, x, visible, self._begun(visible, halo), arguments, is_finite), needed
            )

        if learned is not None and learned.state.has_changed(self.model):
            learned = None
        if self.calibration is not None and (learned is None or not self._weights_are_same()):
            self._watch(self.calibration)
        if learned is None:
            if self.calibration is not None:
                self.calibration.images.check(x, visible)
            check_python(self.model)
            check_evaluation_mode(self.model, _WHAT)
            if self.verify and has_hooks(self.model):
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
        if visible is None:
            visible = unpainted(x)
            self._look_for_grey(x, visible)
        else:
            visible = as_visible(visible, x)
        return x, visible, check_finite(x, _WHAT, visible)

    def _look_for_grey(self, x: Tensor, visible: Tensor) -> None:
        """Warn once of images that are painted in another colour than `MASKED`, in which nothing is hidden then."""
        if self._has_warned_of_grey or not is_everything(visible):
            return
        share = share_of_grey(x.detach())
        if share >= _GREY:
            self._has_warned_of_grey = True
            warnings.warn(
                f"{share:.0%} of the pixels of an image are exactly 0, and none equals lm_plugins.MASKED: they are seen as "
                "grey, and nothing is hidden. To hide them, pass baselines=lm_plugins.MASKED to the explainer, or the mask "
                "to LayerMasked, (x, visible). If grey belongs to the image, pass visible=torch.ones(x.shape[2:]).",
                ExplanationWarning,
                stacklevel=5,
            )

    def _verified(self, x: Tensor, visible: Tensor, arguments: Arguments) -> "_Learned":
        """What is known of the model once it was checked."""
        learned = _Learned(ModelState(self.model))
        if self.verify:

            def run(model: nn.Module, images: Tensor) -> Any:
                everything = torch.ones_like(visible[: len(images)])
                return send(model, images, everything, self._begun(everything), arguments.all_visible(len(images)))

            # With gradients where the answer has them: hooks on activations ask for them.
            images = torch.where(visible[:, None], x.detach(), 0.0).requires_grad_(x.requires_grad)
            others = tuple((torch.where(mask[:, None], one.detach(), 0.0), mask) for one, mask in arguments.others)
            arguments = replace(arguments, others=others)
            with explaining_mismatch(self.model, x):
                verify(self.model, images, run, arguments)
            learned.state.ignore_changes(self.model)
        return learned

    def _begun(self, visible: Tensor, halo: Halo | None = None) -> Run:
        """A run of the model on images of which this is visible."""
        if self.calibration is None:
            return Run(self.options, halo)
        return Run(self.options, halo, calibrated=self.calibration.matching(visible, self._watched.names))

    def _watch(self, calibration: Calibration) -> None:
        """Note the weights that a calibration belongs to.

        Raises:
            CalibrationError: They are others than those that it was fitted to.
        """
        prefix = calibration.check_model(self.model)
        named = dict(self.model.named_parameters())
        versions = [(one, _version(one)) for one in (*named.values(), *self.model.buffers())]
        self._watched = _Watched(versions, {id(one): name.removeprefix(prefix) for name, one in named.items()})

    def _weights_are_same(self) -> bool:
        return bool(self._watched.versions) and all(_version(one) == known for one, known in self._watched.versions)

    def __getstate__(self) -> dict[str, Any]:
        """Without what was learned about the model: a copy has a model of its own."""
        return {**self.__dict__, "_learned": {}, "_watched": _Watched()}

    def prepare(self, x: Tensor, dtype: torch.dtype | None = None) -> "LayerMasked":
        """An inference copy: batch norm folded into the convolutions, weights channels-last.

        Faster, and the same up to rounding (logits to about 1e-5 of the largest in float32). The copy's weights take no
        gradients; the model itself is not touched.

        Args:
            x: Images ``(N, C, H, W)`` that the model takes; the first is run, to see what can be folded.
            dtype: Of the copy's weights, such as ``torch.bfloat16``; images must then come in it. None keeps them.

        Returns:
            A `LayerMasked` with the same options and calibration, around a copy of the model.

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
        copy, folds = prepared(self.model, x, dtype)
        calibration = None if self.calibration is None else self.calibration.folded(copy, folds)
        return LayerMasked(copy, self.options, verify=self.verify, calibration=calibration)


@dataclass
class _Learned:
    """What one image has taught about a model: that its answers can be believed, and which halos are looked at."""

    state: ModelState
    halo: frozenset[int] | None = None


@dataclass
class _Watched:
    """The weights that a calibration belongs to: how often each was written to, and its name by its id."""

    versions: list[tuple[Tensor, int]] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _given(x: Any) -> Any:
    """The images; those of an activation that was kept until after its run are ordinary."""
    if isinstance(x, Carrier) and x.run.is_over:
        return x.ordinary()
    if isinstance(x, Carrier):
        raise InputTypeError(
            "LayerMasked was called within the run of another LayerMasked: wrap the model once, as lm.LayerMasked(model)."
        )
    return x
