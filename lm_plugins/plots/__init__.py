"""Plots: each takes an axis or makes one, and returns figure and axis."""

from lm_plugins.plots.audit import compare_removals, missingness_curves
from lm_plugins.plots.overlay import attribution_overlay

__all__ = ["attribution_overlay", "compare_removals", "missingness_curves"]
