"""The engine of layer masking. Knows no framework and no explainer."""

from lm_plugins.checks import as_visible
from lm_plugins.masking.activation import MaskedActivation
from lm_plugins.masking.calibrate import calibrate
from lm_plugins.masking.calibration import Calibration
from lm_plugins.masking.coverage import Coverage, coverage
from lm_plugins.masking.forward import run_masked
from lm_plugins.masking.geometry import Window
from lm_plugins.masking.mask import Mask
from lm_plugins.masking.model import LayerMasked
from lm_plugins.masking.options import MaskingOptions
from lm_plugins.masking.published import published
from lm_plugins.masking.registry import (
    override_rule,
    register_rule,
    registered_functions,
    unregister_rule,
)
from lm_plugins.masking.run import Run, observing
from lm_plugins.masking.sentinel import MASKED
from lm_plugins.masking.tokens import MaskedTokens
from lm_plugins.masking.visibility import Visibility

__all__ = [
    "MASKED",
    "Calibration",
    "Coverage",
    "LayerMasked",
    "Mask",
    "MaskedActivation",
    "MaskedTokens",
    "MaskingOptions",
    "Run",
    "Visibility",
    "Window",
    "as_visible",
    "calibrate",
    "coverage",
    "observing",
    "override_rule",
    "published",
    "register_rule",
    "registered_functions",
    "run_masked",
    "unregister_rule",
]
