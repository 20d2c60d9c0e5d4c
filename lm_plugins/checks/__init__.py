"""What an input has to be: one home for every check that more than one part of the library makes.

Messages say who asks (``what="layer masking"``), what was expected, what came, and what to do.
"""

from lm_plugins.checks.agreement import check_data, explaining_mismatch
from lm_plugins.checks.evaluation_mode import check_evaluation_mode, modules_of
from lm_plugins.checks.images import as_visible, check_finite, check_images
from lm_plugins.checks.targets import Target, check_target, targets_for

__all__ = [
    "Target",
    "as_visible",
    "check_data",
    "check_evaluation_mode",
    "check_finite",
    "check_images",
    "check_target",
    "explaining_mismatch",
    "modules_of",
    "targets_for",
]
