"""Captum's perturbation methods, with any removal: change one import line.

    from lm_plugins.captum import Occlusion      # instead of: from captum.attr import Occlusion
    Occlusion(model).attribute(x, sliding_window_shapes=(3, 32, 32), strides=(3, 16, 16), target=281)

The classes perturb which features are present (or a pixel mask) instead of the image; a removal acts on the image. So no
baseline value has to survive Captum's arithmetic, any dtype works, and LIME's similarity is computed on which features are
present.
"""

import dis
import sys
from typing import Any

from lm_plugins.captum.explainers import (
    FeatureAblation,
    KernelShap,
    Lime,
    Occlusion,
    ShapleyValues,
    ShapleyValueSampling,
)
from lm_plugins.captum.similarity import feature_similarity
from lm_plugins.errors import NotOfferedError

__all__ = [
    "FeatureAblation",
    "KernelShap",
    "Lime",
    "Occlusion",
    "ShapleyValueSampling",
    "ShapleyValues",
    "feature_similarity",
]


def __getattr__(name: str) -> Any:
    import captum.attr

    if name not in captum.attr.__all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    message = (
        f"lm_plugins.captum has the methods that hide something: {', '.join(sorted(__all__)[:6])}. {name} is "
        f"Captum's own and needs no adapter: from captum.attr import {name}, with the model, or with "
        "lm_plugins.LayerMasked(model) for an image of which something is hidden."
    )
    # Python would drop the message of an AttributeError here; `hasattr` needs one everywhere else.
    caller = sys._getframe(1)
    if dis.opname[caller.f_code.co_code[caller.f_lasti]] == "IMPORT_FROM":
        raise NotOfferedError(message)
    raise AttributeError(message)
