"""The audit: how much each removal distorts a model, measured on one's own model and images.

Measures are pure functions of tensors; `run_audit` runs them for every removal and recommends one.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lm_plugins.audit.alignment import alignment, top_jaccard
from lm_plugins.audit.blurred_copy import BlurredCopy
from lm_plugins.audit.bootstrap import entropy_interval, mean_interval
from lm_plugins.audit.class_hierarchy import wordnet_similarity
from lm_plugins.audit.colour_bias import colour_bias
from lm_plugins.audit.confidence import confidence_in_top, drop_in_confidence, increase_in_confidence
from lm_plugins.audit.cost import Cost, measured_cost
from lm_plugins.audit.insertion_deletion import Curve, deletion, insertion
from lm_plugins.audit.lime_explanation import lime_attribution
from lm_plugins.audit.linearity import linearity
from lm_plugins.audit.measure_table import MEASURES
from lm_plugins.audit.missingness import class_entropy, missingness
from lm_plugins.audit.overlap import bbox, mask_l1, top_iou
from lm_plugins.audit.pointing import energy_pointing_game, pointing_game
from lm_plugins.audit.rank_agreement import rank_agreement
from lm_plugins.audit.ranking import top_pixels
from lm_plugins.audit.removal_order import coalitions_after, removal_order
from lm_plugins.audit.saliency import gradient_saliency
from lm_plugins.audit.shape_bias import salient_region, shape_leakage, swapped_quadrants

if TYPE_CHECKING:
    from lm_plugins.audit.recommendation import Recommendation, cost_of, recommend
    from lm_plugins.audit.result import AuditResult
    from lm_plugins.audit.run import run_audit

__all__ = [
    "MEASURES",
    "AuditResult",
    "BlurredCopy",
    "Cost",
    "Curve",
    "Recommendation",
    "alignment",
    "bbox",
    "class_entropy",
    "coalitions_after",
    "colour_bias",
    "confidence_in_top",
    "cost_of",
    "deletion",
    "drop_in_confidence",
    "energy_pointing_game",
    "entropy_interval",
    "gradient_saliency",
    "increase_in_confidence",
    "insertion",
    "lime_attribution",
    "linearity",
    "mask_l1",
    "mean_interval",
    "measured_cost",
    "missingness",
    "pointing_game",
    "rank_agreement",
    "recommend",
    "removal_order",
    "run_audit",
    "salient_region",
    "shape_leakage",
    "swapped_quadrants",
    "top_iou",
    "top_jaccard",
    "top_pixels",
    "wordnet_similarity",
]

# These work on tables and need pandas; the measures themselves need torch only.
_WITH_TABLES = {
    "AuditResult": "result",
    "Recommendation": "recommendation",
    "cost_of": "recommendation",
    "recommend": "recommendation",
    "run_audit": "run",
}


def __getattr__(name: str) -> Any:
    if name not in _WITH_TABLES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WITH_TABLES[name]}"), name)
