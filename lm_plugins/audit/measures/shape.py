"""Shape bias, shape leakage and linearity."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lm_plugins.audit.audited_image import OBJECT, AuditedImage
from lm_plugins.audit.linearity import linearity
from lm_plugins.audit.measures.measure import NO_FRACTION, Measure, Number, Prepared
from lm_plugins.audit.removal_order import removal_order
from lm_plugins.audit.shape_bias import salient_region, shape_leakage, swapped_quadrants

__all__ = ["HOSTS", "Linearity", "ShapeBias", "ShapeLeakage"]

#: Other images that get the hole of an object.
HOSTS = 4

#: Features that are compared one by one and together.
TERMS = 4


@dataclass(frozen=True)
class _OfAnObject(Measure):
    """What the measures of an object's shape share."""

    features: str
    order = ""

    @property
    def needs_saliency(self) -> bool:
        """Whether the object is what is salient, since nobody gave one."""
        return self.features != OBJECT

    def _region(self, image: AuditedImage) -> Tensor | None:
        if self.features == OBJECT:
            return image.region
        return salient_region(image.saliency, image.feature_mask(self.features))


def _both_holes(region: Tensor) -> Tensor:
    """What is visible, ``(2, H, W)``, beside the object's hole and beside the same with swapped quadrants."""
    return ~torch.stack([region, swapped_quadrants(region)])


@dataclass(frozen=True)
class ShapeBias(_OfAnObject):
    """Whether the prediction stays when the object is removed, and when as large a hole of another shape is."""

    measure = "shape_bias"

    def __call__(self, image: AuditedImage, removals: Mapping[str, Prepared]) -> list[Number]:
        """Remove the object, and the same with swapped quadrants; only images that are predicted right count."""
        region = self._region(image) if image.is_right else None
        if region is None:
            return []
        numbers = []
        for name, prepared in removals.items():
            answers = image.model.answers(prepared.forward, image.x, _both_holes(region))
            after = answers.argmax(1) == image.predicted
            numbers.append(Number(name, "shape_bias_object", NO_FRACTION, float(after[0])))
            numbers.append(Number(name, "shape_bias_swapped", NO_FRACTION, float(after[1])))
        return numbers


@dataclass(frozen=True)
class ShapeLeakage(_OfAnObject):
    """Whether the hole of an object pulls other images towards its class."""

    pool: tuple[AuditedImage, ...]
    measure = "shape_leakage"

    @property
    def key(self) -> str:
        """The images that get holes."""
        return " ".join(host.key for host in self.pool)

    def __call__(self, image: AuditedImage, removals: Mapping[str, Prepared]) -> list[Number]:
        """Cut the hole of this image's object into others; only images that are predicted right count."""
        region = self._region(image) if image.is_right else None
        hosts = [host for host in self.pool if self._is_of_something_else(host, image)][:HOSTS]
        if region is None or not hosts:
            return []
        images = torch.cat([host.x.expand(2, -1, -1, -1) for host in hosts])
        masks = _both_holes(region).repeat(len(hosts), 1, 1)
        numbers = []
        for name, prepared in removals.items():
            answers = image.model.answers(prepared.forward, images, masks)
            pull = shape_leakage(answers[0::2], answers[1::2], image.predicted).double().mean()
            numbers.append(Number(name, self.measure, NO_FRACTION, float(pull)))
        return numbers

    def _is_of_something_else(self, host: AuditedImage, image: AuditedImage) -> bool:
        return (
            host.name != image.name
            and image.predicted not in (host.predicted, host.label)
            and host.x.shape == image.x.shape
        )


@dataclass(frozen=True)
class Linearity(Measure):
    """Whether features add up."""

    features: str
    seed: int
    measure = "linearity"
    order = "random"

    def __call__(self, image: AuditedImage, removals: Mapping[str, Prepared]) -> list[Number]:
        """Show a few random features one by one, together, and nothing."""
        feature_mask = image.feature_mask(self.features)
        chosen = removal_order(feature_mask, "random", seed=image.seed(self.seed, self.features, "parts"))
        count, terms = len(chosen), min(TERMS, len(chosen))
        coalitions = torch.zeros(terms + 2, count, dtype=torch.bool)
        coalitions[range(terms), chosen[:terms]] = True
        coalitions[terms, chosen[:terms]] = True  # all together; the last row shows nothing
        numbers = []
        for name, prepared in removals.items():
            outputs = image.model.outputs(prepared.forward, image.x, feature_mask, coalitions).cpu()
            cosine, error = linearity(outputs[:terms], outputs[terms], outputs[terms + 1])
            numbers.append(Number(name, "linearity_cosine", NO_FRACTION, cosine))
            if math.isfinite(error):
                numbers.append(Number(name, "linearity_error", NO_FRACTION, error))
        return numbers
