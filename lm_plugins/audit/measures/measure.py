"""What a measure of an audit is."""

import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from lm_plugins.audit.audited_image import AuditedImage
from lm_plugins.removal import Forward, Removal

__all__ = ["NO_FRACTION", "Measure", "Number", "Prepared"]

#: For measures that have no removed fraction.
NO_FRACTION = math.nan


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


class Measure(Protocol):
    """A part of an audit: run for each image, with one removal at a time or with all together."""

    @property
    def measure(self) -> str:
        """The name that it goes by."""

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
    def needs_saliency(self) -> bool:
        """Whether its numbers depend on the gradient of the model."""

    @property
    def key(self) -> str:
        """What its numbers depend on that has no place of its own."""

    def __call__(self, image: AuditedImage, removals: Mapping[str, Prepared]) -> list[Number]:
        """Measure one image."""
