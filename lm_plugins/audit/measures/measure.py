"""What a measure of an audit is."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

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


class Measure(ABC):
    """A part of an audit: run for each image, with one removal at a time or with all together.

    Subclasses are frozen dataclasses: their fields, with what follows, are what their numbers depend on.
    """

    #: The name that it goes by.
    measure: ClassVar[str]
    #: Whether it needs all removals at once.
    together: ClassVar[bool] = False

    #: The features that it removes; ``""`` for none.
    features: str
    #: The order of removal; ``""`` for none.
    order: str

    @property
    def needs_saliency(self) -> bool:
        """Whether its numbers depend on the gradient of the model."""
        return False

    @property
    def key(self) -> str:
        """What its numbers depend on that has no place of its own."""
        return ""

    @abstractmethod
    def __call__(self, image: AuditedImage, removals: Mapping[str, Prepared]) -> list[Number]:
        """Measure one image."""
