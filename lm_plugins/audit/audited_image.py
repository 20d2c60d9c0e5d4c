"""One image under audit: what the model says about it, and its features, each computed once."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from torch import Tensor

from lm_plugins.audit.audited_model import AuditedModel
from lm_plugins.audit.digests import digest, seed_from
from lm_plugins.audit.saliency import gradient_saliency
from lm_plugins.checks import check_finite, check_images
from lm_plugins.errors import ShapeError
from lm_plugins.features import grid, relabelled, superpixels

#: Who asks, in messages.
WHAT = "the audit"

__all__ = ["FEATURES", "OBJECT", "AuditedImage", "checked_image"]

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


class AuditedImage:
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

    @property
    def is_right(self) -> bool:
        """Whether the prediction is the label, as far as there is one."""
        return self.label in (None, self.predicted)

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
        """The features of this image: their name, and of which pixels they are."""
        if features not in self._features:
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
