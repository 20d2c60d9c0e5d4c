"""What is run for each image: missingness, colour bias, and whether hidden pixels matter."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lm_plugins.audit.colour_bias import colour_bias, with_colours
from lm_plugins.audit.missingness import ClassSimilarity, missingness
from lm_plugins.audit.removal_order import Order, coalitions_after, removal_order
from lm_plugins.audit.subject import Subject, digest
from lm_plugins.features import visible_from
from lm_plugins.removal import Forward, Removal

__all__ = ["ColourBias", "HiddenPixels", "Job", "Missingness", "Number", "Prepared"]

#: For measures that have no removed fraction.
NO_FRACTION = math.nan

#: Of the features, where a measure removes just some.
SOME = 0.3


class Prepared(NamedTuple):
    """A removal, and the forward that it built from the model."""

    removal: Removal
    forward: Forward


class Number(NamedTuple):
    """One number for one image."""

    removal: str
    measure: str
    fraction: float
    value: float


class Job(Protocol):
    """A part of an audit: run for each image, with one removal at a time or with all together."""

    @property
    def measure(self) -> str:
        """The name that the part goes by."""

    @property
    def features(self) -> str:
        """The features that it removes; ``""`` for none."""

    @property
    def order(self) -> str:
        """The order of removal; ``""`` for none."""

    @property
    def together(self) -> bool:
        """Whether it needs all removals at once."""

    @property
    def key(self) -> str:
        """What its numbers depend on that has no place of its own."""

    def __call__(self, subject: Subject, removals: Mapping[str, Prepared]) -> list[Number]:
        """Measure one image."""


@dataclass(frozen=True)
class Missingness:
    """Curves over the removed fraction."""

    features: str
    order: Order
    fractions: tuple[float, ...]
    seed: int
    similarity: ClassSimilarity | None = None
    measure: str = "missingness"
    together: bool = False

    @property
    def key(self) -> str:
        """The similarity of classes, if there is one."""
        if isinstance(self.similarity, Tensor):
            return digest(self.similarity)
        return (
            "" if self.similarity is None else getattr(self.similarity, "__qualname__", type(self.similarity).__name__)
        )

    def __call__(self, subject: Subject, removals: Mapping[str, Prepared]) -> list[Number]:
        """Remove more and more features."""
        feature_mask = subject.feature_mask(self.features)
        saliency = None if self.order == "random" else subject.saliency
        sequence = removal_order(feature_mask, self.order, saliency, subject.seed(self.seed, self.features))
        coalitions = coalitions_after(sequence, self.fractions)
        numbers = []
        for name, prepared in removals.items():
            after = subject.model.probabilities(prepared.forward, subject.x, feature_mask, coalitions)
            # Nothing removed is the plain model under every removal, and needs no run.
            left = missingness(torch.cat([subject.plain[None], after]), subject.plain, subject.label, self.similarity)
            for measure, values in left.items():
                for fraction, value in zip((0.0, *self.fractions), values.tolist(), strict=True):
                    numbers.append(Number(name, measure, fraction, value))
        return numbers


@dataclass(frozen=True)
class HiddenPixels:
    """Whether the answer depends on pixels that are hidden: 0 for everything that deserves to be called a removal."""

    features: str
    seed: int
    measure: str = "hidden_pixels"
    order: str = "random"
    together: bool = False
    key: str = ""

    def __call__(self, subject: Subject, removals: Mapping[str, Prepared]) -> list[Number]:
        """Fill hidden pixels by noise and compare."""
        visible = _some_visible(subject, self.features, self.seed)
        generator = torch.Generator().manual_seed(subject.seed(self.seed, "noise"))
        noise = torch.randn(subject.x.shape, generator=generator).to(subject.x)
        numbers = []
        for name, prepared in removals.items():
            one, other = (
                _answer(subject, prepared.forward, x, visible)
                for x in (subject.x, torch.where(visible[None].to(noise.device), subject.x, noise))
            )
            numbers.append(Number(name, self.measure, SOME, float((one - other).abs().sum() / 2)))
        return numbers


@dataclass(frozen=True)
class ColourBias:
    """How much the answer depends on the colour of the paint."""

    features: str
    seed: int
    measure: str = "colour_bias"
    order: str = "random"
    together: bool = False
    key: str = ""

    def __call__(self, subject: Subject, removals: Mapping[str, Prepared]) -> list[Number]:
        """Remove the same features in several colours."""
        visible = _some_visible(subject, self.features, self.seed)
        return [
            Number(name, self.measure, SOME, colour_bias(_in_colours(subject, prepared, visible)))
            for name, prepared in removals.items()
        ]


def _in_colours(subject: Subject, prepared: Prepared, visible: Tensor) -> Tensor:
    answers = [_answer(subject, one(subject.model.model), subject.x, visible) for one in with_colours(prepared.removal)]
    return torch.stack(answers)


def _some_visible(subject: Subject, features: str, seed: int) -> Tensor:
    feature_mask = subject.feature_mask(features)
    sequence = removal_order(feature_mask, "random", seed=subject.seed(seed, features))
    return visible_from(coalitions_after(sequence, [SOME]), feature_mask)[0]


def _answer(subject: Subject, forward: Forward, x: Tensor, visible: Tensor) -> Tensor:
    """Probabilities ``(classes,)`` for an image with one pixel mask."""
    return answers(subject, forward, x, visible[None])[0]


def answers(subject: Subject, forward: Forward, x: Tensor, visible: Tensor) -> Tensor:
    """Probabilities ``(K, classes)`` for one image ``(1, C, H, W)`` with K pixel masks ``(K, H, W)``."""
    rows: Sequence[Tensor] = [
        subject.model.probabilities(forward, x, one.long(), torch.tensor([[False, True]])) for one in visible
    ]
    return torch.cat(list(rows))
