"""LIME for images, with any removal: change one line.

    explainer = lm_plugins.lime.LimeImageExplainer(model, preprocess)      # instead of: lime_image.LimeImageExplainer()
    explanation = explainer.explain_instance(image, num_samples=1000)      # LIME's own ImageExplanation

Superpixels are removed by a pixel mask that goes to the removal together with the preprocessed image, so no `hide_color`
has to be chosen. `MaskedClassifier` does the same for code that has to keep LIME's own explainer.
"""

from lm_plugins.errors import MissingDependencyError

try:
    import lime.lime_image as _lime_image  # noqa: F401
except ImportError as error:
    raise MissingDependencyError("lm_plugins.lime needs LIME: pip install 'lm_plugins[lime]'.") from error

from lm_plugins.lime.explainer import LimeImageExplainer
from lm_plugins.lime.masked_classifier import MaskedClassifier

__all__ = ["LimeImageExplainer", "MaskedClassifier"]
