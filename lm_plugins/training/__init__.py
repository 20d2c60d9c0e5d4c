"""Training with explanations: EDDA, ExCon and ExConB, with any explainer and any removal, in one's own loop."""

from lm_plugins.errors import MissingDependencyError

try:
    import captum.attr  # noqa: F401
except ImportError as error:
    raise MissingDependencyError("lm_plugins.training needs Captum: pip install 'lm_plugins[training]'.") from error

from lm_plugins.training.contrastive_loss import supervised_contrastive_loss
from lm_plugins.training.edda import ExplanationDrivenAugmentation
from lm_plugins.training.excon import ExConViews
from lm_plugins.training.explainers import Attribution, Explainer, GradCam
from lm_plugins.training.explaining import explained, salient_region
from lm_plugins.training.views import Views

__all__ = [
    "Attribution",
    "ExConViews",
    "Explainer",
    "ExplanationDrivenAugmentation",
    "GradCam",
    "Views",
    "explained",
    "salient_region",
    "supervised_contrastive_loss",
]
