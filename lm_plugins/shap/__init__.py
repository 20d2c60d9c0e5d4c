"""SHAP with any removal: change the masker and the model.

    masker = lm_plugins.shap.Masker((224, 224, 3), features=16)     # instead of: shap.maskers.Image("inpaint_telea", ...)
    explainer = shap.Explainer(lm_plugins.shap.Model(model), masker, output_names=class_names)
    shap.image_plot(explainer(images, max_evals=500, outputs=shap.Explanation.argsort.flip[:4]))

The masker says which pixels are visible instead of painting the others, and the model runs on those. `ValueFunction` is the
same for `shap.KernelExplainer` and `shap.SamplingExplainer`.
"""

from lm_plugins.shap.masker import Masker
from lm_plugins.shap.model import Model
from lm_plugins.shap.value_function import ValueFunction

__all__ = ["Masker", "Model", "ValueFunction"]
