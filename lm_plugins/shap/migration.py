"""Half a migration: `Model` without `Masker` would be explained through paint, `Masker` without `Model` is not understood.

SHAP hands over nothing but arrays, so that the other half is looked up where SHAP calls from.
"""

import inspect
import sys
from typing import Any

from torch import nn

from lm_plugins.errors import InputTypeError
from lm_plugins.masking import LayerMasked

__all__ = ["check_masker_of_caller", "check_model_of_caller"]

#: Between SHAP's evaluation of masked inputs and a model there are SHAP's wrapper and functions of the user.
_FRAMES = 8


def check_masker_of_caller() -> None:
    """Refuse to be the model of a masker that paints. To be called by a model that was not told what is visible.

    Raises:
        InputTypeError: SHAP evaluates masked inputs, and no pixel mask came with them.
    """
    import shap  # not above: whoever has none is to be told by the package which extra installs it
    from shap.utils import MaskedModel

    frame = sys._getframe(2)
    for _ in range(_FRAMES):
        caller = frame.f_locals.get("self")
        if isinstance(caller, shap.maskers.Masker):  # asks about the whole image
            return
        if isinstance(caller, MaskedModel):
            painter = f"shap.maskers.{type(caller.masker).__name__}"
            raise InputTypeError(
                f"{painter} paints pixels, and lm_plugins.shap.Model was not told which are visible: change the other line, "
                f"too. Pass lm_plugins.shap.Masker(shape, features=...) in place of {painter}(...); for paint, give "
                "lm_plugins.shap.Model a removal=."
            )
        if frame.f_back is None:
            return
        frame = frame.f_back


def check_model_of_caller() -> None:
    """Refuse to be the masker of a model that takes painted images. To be called by a masker.

    Raises:
        InputTypeError: The explainer's model does not take images and a pixel mask.
    """
    from shap.utils import MaskedModel

    caller = sys._getframe(2).f_locals.get("self")
    if not isinstance(caller, MaskedModel):
        return
    model = getattr(caller.model, "inner_model", caller.model)
    if _takes_mask(model):
        return
    name = getattr(model, "__name__", type(model).__name__)
    inner = "masked.model" if isinstance(model, LayerMasked) else "model"
    raise InputTypeError(
        f"lm_plugins.shap.Masker hands over images and a pixel mask, which {name} does not take: change the other line, too. "
        f"Pass lm_plugins.shap.Model({inner}, preprocess=..., output=...) to the explainer in place of {name}; what {name} "
        "does before and after the model goes into preprocess= and output=."
    )


def _takes_mask(model: Any) -> bool:
    """Whether a model takes SHAP's arrays of images and masks."""
    if isinstance(model, LayerMasked):  # takes tensors
        return False
    try:
        inspect.signature(model.forward if isinstance(model, nn.Module) else model).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # code without a signature
        return True
    return True
