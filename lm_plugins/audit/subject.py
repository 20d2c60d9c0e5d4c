"""One image under audit: what the model says about it, and its features, each computed once."""

import hashlib
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lm_plugins.audit.saliency import gradient_saliency
from lm_plugins.checks import check_finite, check_images
from lm_plugins.errors import OptionError, ShapeError
from lm_plugins.features import CoalitionEvaluator, grid, relabelled, superpixels
from lm_plugins.features.output import Output, OutputIs, as_probabilities, guessed, parted, rows_of
from lm_plugins.removal import Forward

#: Who asks, in messages.
WHAT = "the audit"

__all__ = ["FEATURES", "AuditedModel", "Subject", "digest", "seed_from"]

#: Makes a feature mask ``(H, W)`` of an image ``(C, H, W)``.
FeatureMaker = Callable[[Tensor], Tensor]


def _patches(image: Tensor) -> Tensor:
    """14 patches along the shorter side: 16 x 16 pixels at 224, as in the paper."""
    return grid((image.shape[1], image.shape[2]), max(1, round(min(image.shape[1:]) / 14)))


def _superpixels(image: Tensor) -> Tensor:
    """About as many SLIC superpixels as there are patches."""
    return superpixels(image, "slic", n_segments=196, compactness=10, start_label=0)


#: The column ``features`` of measures that remove the object that somebody gave.
OBJECT = "object"

#: What each name of features stands for.
FEATURES: dict[str, FeatureMaker] = {"patches": _patches, "superpixels": _superpixels}


class AuditedModel:
    """A model with all that turns its output into probabilities."""

    def __init__(
        self,
        model: nn.Module,
        output_is: OutputIs | None = None,
        output: Output | None = None,
        batch_size: int | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise OptionError(f"batch_size is at least 1, or None for an automatic choice; got {batch_size}.")
        self.model = model
        self.output, self.output_is = parted(output, output_is)
        self.is_single = False  # whether the model has one output, that of two classes
        self.batch_size = batch_size
        first = next(model.parameters(), None)
        self.device = torch.device("cpu") if first is None else first.device

    def outputs(self, forward: Forward, x: Tensor, feature_mask: Tensor, coalitions: Tensor) -> Tensor:
        """What the model returns, ``(K, classes)``, for coalitions ``(K, F)`` of the features of one image."""
        outputs = CoalitionEvaluator(forward, x, feature_mask, self.batch_size, self.output)(coalitions)
        return outputs[:, None] if outputs.ndim == 1 else outputs

    def probabilities(self, forward: Forward, x: Tensor, feature_mask: Tensor, coalitions: Tensor) -> Tensor:
        """The same as probabilities ``(K, classes)`` on the CPU."""
        return self._as_probabilities(self.outputs(forward, x, feature_mask, coalitions)).cpu()

    def plain(self, x: Tensor) -> Tensor:
        """Probabilities ``(classes,)`` for a whole image ``(1, C, H, W)``."""
        with torch.inference_mode():
            return self._as_probabilities(rows_of(self.model(x), 1, self.output))[0].cpu()

    def normalised(self, result: Any) -> Tensor:
        """Probabilities ``(N, classes)`` from what the model returned."""
        return self._as_probabilities(result if self.output is None else self.output(result))

    def _as_probabilities(self, output: Tensor) -> Tensor:
        if output.ndim not in (1, 2):
            raise ShapeError(
                f"the audit needs a classifier: outputs (N, classes), got {tuple(output.shape)}; choose them with output=."
            )
        if self.output_is is None:
            self.output_is = guessed(output)
        self.is_single = output.ndim == 1 or output.shape[1] == 1
        probabilities = as_probabilities(output, self.output_is)
        if probabilities.ndim < 2 or probabilities.shape[1] < 2:
            raise ShapeError(
                "the audit compares classes, the model returns one number for each image, which is no probability: "
                "output='single_logit' or output='probabilities' make two classes of it."
            )
        return probabilities


class Subject:
    """One image under audit."""

    def __init__(
        self,
        name: str,
        image: Tensor,
        model: AuditedModel,
        features: Mapping[str, FeatureMaker],
        label: int | None = None,
        region: Tensor | None = None,
    ) -> None:
        if region is not None and region.shape != image.shape[1:]:
            raise ShapeError(
                f"the region of image {name!r} has shape {tuple(region.shape)}: expected {tuple(image.shape[1:])}."
            )
        self.name = name
        self.model = model
        self.x = image[None].to(model.device)
        self.label = label
        self._features = features
        self._region = region
        self._feature_masks: dict[str, Tensor] = {}
        #: What measures of the same image share, such as an explanation that two of them judge.
        self.shared: dict[Any, Any] = {}

    @cached_property
    def plain(self) -> Tensor:
        """Probabilities ``(classes,)`` for the whole image."""
        return self.model.plain(self.x)

    @cached_property
    def predicted(self) -> int:
        """The class of the whole image by the model."""
        return int(self.plain.argmax())

    @cached_property
    def saliency(self) -> Tensor:
        """``(H, W)``: the size of the gradient for the predicted class."""
        # Of a single output, it is the same for both classes.
        target = 0 if self.model.is_single else self.predicted
        return gradient_saliency(self.model.model, self.x, target, self.model.output).cpu()

    @property
    def region(self) -> Tensor | None:
        """The object, bool ``(H, W)``, where somebody gave one."""
        return self._region

    def feature_mask(self, features: str) -> Tensor:
        """Int64 ``(H, W)`` with ids from 0."""
        if features not in self._feature_masks:
            made = relabelled(self._features[features](self.x[0].cpu()))
            if made.shape != self.x.shape[2:]:
                raise ShapeError(
                    f"the features {features!r} of image {self.name!r} have shape {tuple(made.shape)}: expected "
                    f"{tuple(self.x.shape[2:])}."
                )
            self._feature_masks[features] = made
        return self._feature_masks[features]

    @property
    def key(self) -> str:
        """What the numbers of this image depend on."""
        region = "" if self._region is None else digest(self._region)
        return f"{self.name} {digest(self.x)} {self.label} {region}"

    def features_key(self, features: str) -> str:
        """What the features of this image depend on: the name of built-in ones, the pixels of a user's."""
        if features in FEATURES or features not in self._features:
            return features
        return f"{features} {digest(self.feature_mask(features))}"

    def seed(self, seed: int, *key: str) -> int:
        """A seed for this image, whatever its place among the others."""
        return seed_from(seed, self.name, *key)


def checked_image(name: str, image: Any) -> Tensor:
    """An image of the audit, ``(C, H, W)``.

    Args:
        name: For the message.
        image: What came.

    Returns:
        The image.

    Raises:
        InputTypeError: It is no floating point tensor.
        ShapeError: It is not ``(C, H, W)``.
        NonFiniteError: It holds NaN or infinity.
    """
    what = f"{WHAT}, for image {name!r},"
    check_images(image, what, "(C, H, W)")
    checked: Tensor = image
    check_finite(checked[None], what)
    return checked


def digest(tensor: Tensor) -> str:
    """The content of a tensor in 16 letters."""
    flat = tensor.detach().cpu().contiguous()
    raw = flat.reshape(-1).view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return hashlib.sha256(f"{flat.dtype} {tuple(flat.shape)} ".encode() + raw).hexdigest()[:16]


def seed_from(*key: Any) -> int:
    """A seed from anything that has a stable text."""
    return int.from_bytes(hashlib.sha256("\n".join(map(str, key)).encode()).digest()[:6], "big")
