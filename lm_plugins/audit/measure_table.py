"""The measures of an audit by name. A further one is a `Measure`, and a line in the table."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from lm_plugins.audit.audited_image import OBJECT, AuditedImage
from lm_plugins.audit.measures import (
    ColourBias,
    HiddenPixels,
    LimeQuality,
    Linearity,
    Measure,
    Missingness,
    RankAgreement,
    ShapeBias,
    ShapeLeakage,
)
from lm_plugins.audit.measures.shape import HOSTS
from lm_plugins.errors import OptionError

__all__ = ["MEASURES", "Plan", "measures_for"]


@dataclass(frozen=True)
class Plan:
    """What an audit is asked to run.

    `has_regions` says whether somebody gave the objects of the images; `pool` chooses some of the images.
    """

    features: tuple[str, ...]
    orders: tuple[Any, ...]
    fractions: tuple[float, ...]
    seed: int
    lime_samples: int
    has_regions: bool
    pool: Callable[[int], tuple[AuditedImage, ...]]

    @property
    def regions_from(self) -> str:
        """Where the regions of objects come from: given, or made of features, of superpixels if there are any."""
        if self.has_regions:
            return OBJECT
        return "superpixels" if "superpixels" in self.features else self.features[0]


def _missingness(plan: Plan) -> list[Measure]:
    return [
        Missingness(features, order, plan.fractions, plan.seed) for features in plan.features for order in plan.orders
    ]


def _hidden_pixels(plan: Plan) -> list[Measure]:
    return [HiddenPixels(plan.features[0], plan.seed)]


def _colour_bias(plan: Plan) -> list[Measure]:
    return [ColourBias(features, plan.seed) for features in plan.features]


def _shape_bias(plan: Plan) -> list[Measure]:
    return [ShapeBias(plan.regions_from)]


def _shape_leakage(plan: Plan) -> list[Measure]:
    return [ShapeLeakage(plan.regions_from, plan.pool(2 * HOSTS))]


def _linearity(plan: Plan) -> list[Measure]:
    return [Linearity(features, plan.seed) for features in plan.features]


def _lime(plan: Plan) -> list[Measure]:
    return [LimeQuality(features, plan.lime_samples, plan.seed) for features in plan.features]


def _rank_agreement(plan: Plan) -> list[Measure]:
    return [RankAgreement(features, plan.lime_samples, plan.seed) for features in plan.features]


#: What each name of ``measures=`` runs.
MEASURES: dict[str, Callable[[Plan], list[Measure]]] = {
    "missingness": _missingness,
    "hidden_pixels": _hidden_pixels,
    "colour_bias": _colour_bias,
    "shape_bias": _shape_bias,
    "shape_leakage": _shape_leakage,
    "linearity": _linearity,
    "lime": _lime,
    "rank_agreement": _rank_agreement,
}


def measures_for(measures: Iterable[str], plan: Plan) -> list[Measure]:
    """The measures that some names stand for.

    Args:
        measures: Keys of `MEASURES`.
        plan: What is asked for.

    Returns:
        A list; each is to be run for every image.

    Raises:
        OptionError: An unknown measure, or none.
    """
    names = [measures] if isinstance(measures, str) else list(dict.fromkeys(measures))
    unknown = [name for name in names if name not in MEASURES]
    if unknown or not names:
        raise OptionError(f"measures are some of {', '.join(MEASURES)}; got {', '.join(map(str, unknown)) or 'none'}.")
    return [measure for name in names for measure in MEASURES[name](plan)]
