"""The one change to Captum's perturbation methods: they perturb what is present, a removal acts on the images."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.futures import Future

from lm_plugins.checks import Target, check_evaluation_mode, check_finite, check_images, check_target, targets_for
from lm_plugins.checks.explanations import warn_of_few_samples, warn_of_zeros
from lm_plugins.errors import InputTypeError, MaskValueError, OptionError, ShapeError, UnsupportedOperatorError
from lm_plugins.features import relabelled
from lm_plugins.features.coalition import spread
from lm_plugins.masking import MASKED
from lm_plugins.masking.futures import afterwards
from lm_plugins.outputs.words import Output, parted, rows_of
from lm_plugins.removal import LayerMasking, Removal, as_removal
from lm_plugins.removal.model_call import ModelCall, seen_by

__all__ = ["PixelMasks", "image_position"]


@dataclass(frozen=True)
class _Call:
    """One call of ``attribute``, as its forward function needs to know it: Captum hands it on untouched."""

    x: Tensor
    """The images ``(N, C, H, W)``. Captum would copy a tensor for every perturbation of it."""
    position: int
    """Of the image among the inputs."""
    targets: tuple[Target, ...]
    """Of which outputs are explained, each once."""
    one_output: bool
    """Whether the method explains one number for each image, so that a target must choose it."""
    feature_of_pixel: Tensor | None
    """Int64 ``(1 or N, H, W)``: which column of the coalitions a pixel belongs to. None: pixel masks are perturbed."""
    dtypes: set[torch.dtype] = field(default_factory=set)
    """Of the outputs that the model gave."""

    def rows(self, images: Tensor) -> Tensor:
        """The image that each row is a perturbation of."""
        return self.x.expand(len(images), -1, -1, -1) if len(self.x) == 1 else self.x[images]

    def visible(self, perturbed: Tensor, images: Tensor) -> Tensor:
        """The pixel mask that Captum's perturbed input means, in one gather; `images` says whose row each is."""
        if self.feature_of_pixel is None:
            return perturbed
        if len(self.feature_of_pixel) == 1:
            return spread(perturbed != 0, self.feature_of_pixel[0])
        pixels = self.feature_of_pixel[images]
        return perturbed.gather(1, pixels.flatten(1)).reshape(pixels.shape) != 0

    def as_map(self, values: Tensor) -> Tensor:
        """Attributions ``(..., 1, H, W)`` of pixels from those of features."""
        if self.feature_of_pixel is None:
            return values
        if len(self.feature_of_pixel) == 1:
            return values[..., None, self.feature_of_pixel[0]]
        # Captum gives the outputs of an image as neighbouring rows, in one dimension or in several.
        rows = values.flatten(0, -2)
        pixels = self.feature_of_pixel.repeat_interleave(len(rows) // len(self.feature_of_pixel), 0)
        maps = rows.gather(1, pixels.flatten(1))
        return maps.reshape(*values.shape[:-1], 1, *pixels.shape[1:])

    def seen(self, output: Any) -> None:
        """Look at an output: name a class that it does not have, where Captum would say that an index is out of range."""
        outputs_of_image = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()
        for target in self.targets:
            check_target(target, outputs_of_image, is_whole=self.one_output)
        if isinstance(output, Tensor) and output.is_floating_point():
            self.dtypes.add(output.dtype)

    def widened(self, values: Tensor) -> Tensor:
        """Attributions in the dtype of the outputs, where Captum's is narrower."""
        if not values.is_floating_point():
            return values
        return values.to(reduce(torch.promote_types, self.dtypes, values.dtype))


class PixelMasks:
    """Mixed into a perturbation method of Captum: what is present takes the place of the image.

    That is a coalition ``(N, F)`` where there is a feature mask, so that Captum's arithmetic never touches a pixel, and else
    a pixel mask ``(N, 1, H, W)``.
    """

    _one_output = False
    #: What to do where all attributions are 0.
    _if_zero = "The output for the target is the same whatever is hidden: look at target= and output=."

    def __init__(
        self,
        forward_func: Callable[..., Any],
        removal: Removal | str | None = None,
        output: Output | None = None,
        **upstream: Any,
    ) -> None:
        self._explained = forward_func
        parted(output)  # an unknown word is said now
        self._removal = as_removal(removal)
        forward = self._removal(ModelCall(forward_func))

        def forward_masks(*values: Any) -> Any:
            count = next(i for i, value in enumerate(values) if isinstance(value, _Call))
            call, images, *more = values[count:]
            inputs = values[:count]
            after, before = (*inputs[call.position + 1 :], *more), inputs[: call.position]
            visible = call.visible(inputs[call.position], images)
            result = seen_by(forward, call.rows(images), visible, after, before)
            if isinstance(result, Future):
                return afterwards(result, lambda value: _explained(value, output, call, len(images)))
            return _explained(result, output, call, len(images))

        # The next class in line is Captum's.
        super().__init__(forward_masks, **upstream)  # type: ignore[call-arg]

    def _check_features(self, count: int) -> None:
        """Check that a method which draws coalitions can do so for a number of features."""

    def attribute_future(self, *args: Any, **kwargs: Any) -> Any:
        """Not available, as upstream.

        Raises:
            UnsupportedOperatorError: Always.
        """
        raise UnsupportedOperatorError(
            f"{type(self).__name__}.attribute_future is not available, neither here nor in Captum; call attribute."
        )

    def _attribute(
        self,
        attribute: Callable[..., Any],
        inputs: Any,
        baselines: Any,
        additional_forward_args: Any,
        feature_mask: Any = None,
        **settings: Any,
    ) -> Any:
        what = type(self).__name__
        check_evaluation_mode(self._explained, what)
        tensors = inputs if isinstance(inputs, tuple) else (inputs,)
        position = image_position(tensors)
        x = tensors[position]
        check_images(x, what)
        check_finite(x, what)
        present, features = torch.ones(x.shape[0], 1, *x.shape[2:], device=x.device), None
        if feature_mask is not None:
            masks = _features_of_pixels(feature_mask, tensors, position)
            ids, features = torch.unique(masks[position][:, 0], return_inverse=True)
            present = torch.ones(len(x), len(ids), device=x.device)
            settings["feature_mask"] = tuple(ids[None] if i == position else one for i, one in enumerate(masks))
        targets = targets_for(settings.get("target"), len(x))
        different = tuple(dict.fromkeys(targets))
        # Captum takes indices from the end, and maps, for one target or for tuples, but not for a list of classes.
        settings["target"] = different[0] if len(different) == 1 else [_indices(one) for one in targets]
        call = _Call(x, position, different, self._one_output, features)
        if self._one_output:
            count = sum(one.numel() // len(x) for one in tensors) - x[0].numel() + x[0, 0].numel()
            if feature_mask is not None:
                count = int(torch.cat([one.flatten() for one in settings["feature_mask"]]).max()) + 1
            self._check_features(count)
            warn_of_few_samples(settings["n_samples"], count, what, "n_samples")
        more = () if additional_forward_args is None else additional_forward_args
        result = attribute(
            inputs=tuple(present if i == position else one for i, one in enumerate(tensors)),
            baselines=_without_image(baselines, len(tensors), position, self._removal),
            additional_forward_args=(
                call, torch.arange(len(x), device=x.device), *(more if isinstance(more, tuple) else (more,))
            ),
            **settings,
        )  # fmt: skip

        def as_inputs(result: Any) -> Any:
            warn_of_zeros(result if isinstance(result, tuple) else (result,), what, self._if_zero)
            if not settings.get("return_input_shape", True):
                return call.widened(result)
            # Captum puts the dimensions of a multi-dimensional output first.
            map_of_image = call.as_map(result[position])
            size = (*map_of_image.shape[:-3], x.shape[1], *map_of_image.shape[-2:])
            maps = tuple(
                call.widened(map_of_image.expand(size).clone() if i == position else one)
                for i, one in enumerate(result)
            )
            return maps if isinstance(inputs, tuple) else maps[0]

        if isinstance(result, torch._C.Future):
            return result.then(lambda done: as_inputs(done.value()))
        return as_inputs(result)


def image_position(tensors: tuple[Any, ...]) -> int:
    """Which of the inputs is the image: the only tensor ``(N, C, H, W)``.

    Args:
        tensors: What was passed as ``inputs``.

    Returns:
        Its index.

    Raises:
        InputTypeError: An input is no tensor, or two are images.
        ShapeError: None is.
    """
    for one in tensors:
        if not isinstance(one, Tensor):
            raise InputTypeError(
                f"inputs is an image tensor (N, C, H, W), or a tuple of it and other tensors; got {type(one).__name__}. What "
                "else the model takes goes into additional_forward_args."
            )
    images = [i for i, one in enumerate(tensors) if one.ndim == 4]
    if not images:
        shapes = ", ".join(str(tuple(one.shape)) for one in tensors)
        raise ShapeError(f"inputs needs a batch of images (N, C, H, W), got shape {shapes}.")
    if len(images) > 1:
        raise InputTypeError(
            f"inputs has {len(images)} image tensors (N, C, H, W); pixels are removed from one: a removal is a function of "
            "one image and its mask. Explain one and pass the others in additional_forward_args (with a function that puts "
            "the arguments in order), or join images of one size along their channels, where one mask hides a pixel of all."
        )
    return images[0]


def _explained(result: Any, output: Output | None, call: _Call, count: int) -> Any:
    choose, word = parted(output)
    chosen = result if choose is None else choose(result)
    if word is not None or not isinstance(chosen, (Tensor, int, float)):
        chosen = rows_of(result, count, output)  # raises for what is no tensor: says what came and how to choose
    call.seen(chosen)
    return chosen


def _indices(target: Target) -> Target:
    return (target,) if isinstance(target, int) else target


def _without_image(baselines: Any, count: int, position: int, removal: Removal) -> tuple[Any, ...]:
    """Baselines for Captum: 0 (hidden) for the mask, the user's for what else is perturbed."""
    given = baselines if isinstance(baselines, tuple) else (baselines,) * count
    if len(given) != count:
        raise OptionError(f"baselines has {len(given)} values for {count} inputs: pass one for each.")
    image = given[position]
    is_masked = isinstance(image, float) and image == MASKED
    if is_masked and not isinstance(removal, LayerMasking):
        raise OptionError(
            f"baselines=lm_plugins.MASKED asks for layer masking, removal={removal!r} for something else: leave one of them "
            "out."
        )
    if image is not None and not is_masked:
        warnings.warn(
            "baselines is not used for images: hidden pixels are removed by layer masking, or by what was passed as "
            "removal= (a colour, say: removal=lm_plugins.removal.Colour(0.0)).",
            UserWarning,
            stacklevel=5,
        )
    if count > 1 and not isinstance(baselines, tuple):
        given = (None if baselines == MASKED else baselines,) * count
    return tuple(0 if i == position or one is None else one for i, one in enumerate(given))


def _features_of_pixels(feature_mask: Any, tensors: tuple[Tensor, ...], position: int) -> tuple[Tensor, ...]:
    """Feature masks as Captum's mask perturbation needs them: ids from 0 without gaps, the image's ``(1 or N, 1, H, W)``."""
    masks = feature_mask if isinstance(feature_mask, tuple) else (feature_mask,)
    if len(masks) != len(tensors):
        raise OptionError(f"feature_mask has {len(masks)} masks for {len(tensors)} inputs: pass one for each.")
    for mask in masks:
        if not isinstance(mask, Tensor):
            raise InputTypeError(f"feature_mask is an integer tensor, got {type(mask).__name__}.")
    shaped = [_of_pixels(mask, tensors[i]) if i == position else mask for i, mask in enumerate(masks)]
    # One id in two masks is one feature, so that all are renumbered together.
    together = relabelled(torch.cat([mask.to(tensors[position].device).flatten() for mask in shaped]))
    parts = torch.split(together, [mask.numel() for mask in shaped])
    return tuple(part.reshape(mask.shape) for part, mask in zip(parts, shaped, strict=True))


def _of_pixels(mask: Tensor, x: Tensor) -> Tensor:
    shaped = mask.reshape((1,) * (4 - mask.ndim) + mask.shape) if mask.ndim < 4 else mask
    fits = shaped.ndim == 4 and shaped.shape[0] in (1, x.shape[0]) and shaped.shape[1] in (1, x.shape[1])
    if not fits or shaped.shape[2:] != x.shape[2:]:
        raise ShapeError(
            f"feature_mask has shape {tuple(mask.shape)}, the images {tuple(x.shape)}: expected (H, W), (1, 1, H, W) or "
            "(1, C, H, W) of the same height and width. NoiseTunnel repeats the first dimension: give it (1, 1, H, W)."
        )
    if bool((shaped != shaped[:, :1]).any()):
        raise MaskValueError(
            "feature_mask gives the channels of a pixel different ids; a pixel is visible or hidden as a whole, so all its "
            "channels belong to one feature."
        )
    return shaped[:, :1]
