"""Features: which pixels go together, which of them are present, and what a model says about it."""

from lm_plugins.features.coalition import visible_from
from lm_plugins.features.evaluator import CoalitionEvaluator
from lm_plugins.features.feature_mask import grid, relabelled, superpixels
from lm_plugins.features.specification import Features

__all__ = ["CoalitionEvaluator", "Features", "grid", "relabelled", "superpixels", "visible_from"]
