"""What is run for each image: shape bias, shape leakage, linearity."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lm_plugins.audit.jobs import NO_FRACTION, Number, Prepared, answers
from lm_plugins.audit.linearity import linearity
from lm_plugins.audit.removal_order import removal_order
from lm_plugins.audit.shape_bias import salient_region, shape_leakage, swapped_quadrants
from lm_plugins.audit.subject import OBJECT, Subject

__all__ = ["Linearity", "ShapeBias", "ShapeLeakage"]

#: Other images that get the hole of an object.
HOSTS = 4

#: Features that are compared one by one and together.
PARTS = 4


def _region(subject: Subject, features: str) -> Tensor | None:
    """The object of an image: given, or the most salient features if nobody gave any."""
    if features == OBJECT:
        return subject.region
    return salient_region(subject.saliency, subject.feature_mask(features))


def _both_holes(region: Tensor) -> Tensor:
    """What is visible, ``(2, H, W)``, beside the object's hole and beside the same with swapped quadrants."""
    return ~torch.stack([region, swapped_quadrants(region)])


@dataclass(frozen=True)
class ShapeBias:
    """Whether the prediction stays when the object is removed, and when as large a hole of another shape is."""

    features: str
    measure: str = "shape_bias"
    order: str = ""
    together: bool = False
    key: str = ""

    def __call__(self, subject: Subject, removals: Mapping[str, Prepared]) -> list[Number]:
        """Remove the object, and the same with swapped quadrants; only images that are predicted right count."""
        region = _region(subject, self.features)
        if region is None or subject.label not in (None, subject.predicted):
            return []
        numbers = []
        for name, prepared in removals.items():
            after = answers(subject, prepared.forward, subject.x, _both_holes(region)).argmax(1) == subject.predicted
            numbers.append(Number(name, "shape_bias_object", NO_FRACTION, float(after[0])))
            numbers.append(Number(name, "shape_bias_swapped", NO_FRACTION, float(after[1])))
        return numbers


@dataclass(frozen=True)
class ShapeLeakage:
    """Whether the hole of an object pulls other images towards its class."""

    features: str
    pool: tuple[Subject, ...]
    measure: str = "shape_leakage"
    order: str = ""
    together: bool = False

    @property
    def key(self) -> str:
        """The images that get holes."""
        return " ".join(host.key for host in self.pool)

    def __call__(self, subject: Subject, removals: Mapping[str, Prepared]) -> list[Number]:
        """Cut the hole of this image's object into others."""
        region = _region(subject, self.features)
        hosts = [
            host
            for host in self.pool
            if host.name != subject.name and host.predicted != subject.predicted and host.x.shape == subject.x.shape
        ][:HOSTS]
        if region is None or not hosts:
            return []
        numbers = []
        for name, prepared in removals.items():
            pairs = [answers(host, prepared.forward, host.x, _both_holes(region)) for host in hosts]
            of_shape, of_swapped = (torch.stack([pair[i] for pair in pairs]) for i in (0, 1))
            pull = shape_leakage(of_shape, of_swapped, subject.predicted).double().mean()
            numbers.append(Number(name, self.measure, NO_FRACTION, float(pull)))
        return numbers


@dataclass(frozen=True)
class Linearity:
    """Whether features add up."""

    features: str
    seed: int
    measure: str = "linearity"
    order: str = "random"
    together: bool = False
    key: str = ""

    def __call__(self, subject: Subject, removals: Mapping[str, Prepared]) -> list[Number]:
        """Show a few random features one by one, together, and nothing."""
        feature_mask = subject.feature_mask(self.features)
        chosen = removal_order(feature_mask, "random", seed=subject.seed(self.seed, self.features, "parts"))
        count, parts = len(chosen), min(PARTS, len(chosen))
        coalitions = torch.zeros(parts + 2, count, dtype=torch.bool)
        coalitions[range(parts), chosen[:parts]] = True
        coalitions[parts, chosen[:parts]] = True  # all together; the last row shows nothing
        numbers = []
        for name, prepared in removals.items():
            outputs = subject.model.outputs(prepared.forward, subject.x, feature_mask, coalitions).cpu()
            cosine, error = linearity(outputs[:parts], outputs[parts], outputs[parts + 1])
            numbers.append(Number(name, "linearity_cosine", NO_FRACTION, cosine))
            if math.isfinite(error):
                numbers.append(Number(name, "linearity_error", NO_FRACTION, error))
        return numbers
