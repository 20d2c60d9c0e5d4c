"""What an audit runs for each image, one file for each kind of measure."""

from lm_plugins.audit.measures.lime import LimeQuality, RankAgreement
from lm_plugins.audit.measures.measure import Measure, Number, Prepared
from lm_plugins.audit.measures.missingness import Missingness
from lm_plugins.audit.measures.paint import ColourBias, HiddenPixels
from lm_plugins.audit.measures.shape import Linearity, ShapeBias, ShapeLeakage

__all__ = [
    "ColourBias",
    "HiddenPixels",
    "LimeQuality",
    "Linearity",
    "Measure",
    "Missingness",
    "Number",
    "Prepared",
    "RankAgreement",
    "ShapeBias",
    "ShapeLeakage",
]
