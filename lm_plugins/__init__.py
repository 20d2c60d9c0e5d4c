"""Layer masking for any torch vision model, inside existing Captum, LIME and SHAP code.

A model should see only what is visible: `LayerMasked` runs an unmodified model on just the visible pixels.
"""

from lm_plugins import errors
from lm_plugins.masking import (
    MASKED,
    Calibration,
    LayerMasked,
    MaskingOptions,
    calibrate,
    coverage,
    override_rule,
    published,
    register_rule,
    unregister_rule,
)
from lm_plugins.masking import rules as _rules  # noqa: F401  fills the table
from lm_plugins.masking.registry import complete_on_first_use as _complete_on_first_use
from lm_plugins.masking.registry import load_plugins as _load_plugins

# Not now: a plug-in that is being imported may be what imports lm_plugins.
_complete_on_first_use(_load_plugins)

__version__ = "0.1.0"

__all__ = [
    "MASKED",
    "Calibration",
    "LayerMasked",
    "MaskingOptions",
    "calibrate",
    "coverage",
    "errors",
    "override_rule",
    "published",
    "register_rule",
    "unregister_rule",
]
