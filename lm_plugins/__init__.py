"""Layer masking for any torch vision model, inside existing Captum, LIME and SHAP code.

A model should see only what is visible: `LayerMasked` runs an unmodified model on just the visible pixels.
"""

from lm_plugins import errors
from lm_plugins.masking import (
    MASKED,
    LayerMasked,
    MaskingOptions,
    coverage,
    published,
    register_rule,
    unregister_rule,
)
from lm_plugins.masking import rules as _rules  # noqa: F401  fills the table

__version__ = "0.1.0"

__all__ = [
    "MASKED",
    "LayerMasked",
    "MaskingOptions",
    "coverage",
    "errors",
    "published",
    "register_rule",
    "unregister_rule",
]
