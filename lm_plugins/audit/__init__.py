"""Measures of explanations: pure functions of tensors, with any removal."""

from lm_plugins.audit.confidence import confidence_in_top, drop_in_confidence, increase_in_confidence
from lm_plugins.audit.cost import Cost, measured_cost
from lm_plugins.audit.insertion_deletion import Curve, deletion, insertion
from lm_plugins.audit.overlap import bbox, mask_l1, top_iou
from lm_plugins.audit.pointing import energy_pointing_game, pointing_game
from lm_plugins.audit.ranking import top_pixels

__all__ = [
    "Cost",
    "Curve",
    "bbox",
    "confidence_in_top",
    "deletion",
    "drop_in_confidence",
    "energy_pointing_game",
    "increase_in_confidence",
    "insertion",
    "mask_l1",
    "measured_cost",
    "pointing_game",
    "top_iou",
    "top_pixels",
]
