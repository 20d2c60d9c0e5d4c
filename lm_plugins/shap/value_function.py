"""The value function of one image, for SHAP's explainers of tables: KernelExplainer and SamplingExplainer."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import shap
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lm_plugins.checks import check_evaluation_mode
from lm_plugins.errors import ShapeError
from lm_plugins.features import CoalitionEvaluator
from lm_plugins.outputs.words import Output
from lm_plugins.removal import Removal
from lm_plugins.shap.layout import Features, Layout, as_numpy, feature_mask_of
from lm_plugins.shap.model import Model, as_array

__all__ = ["ValueFunction"]


class ValueFunction:
    """What a model says about one image when only some features are present: a function of rows of 0 and 1.

    `shap.KernelExplainer` and `shap.SamplingExplainer` send all their samples at once; they are evaluated in batches that
    fit into memory, equal ones once.

    Args:
        model: As for `lm_plugins.shap.Model`.
        image: One image ``(H, W, C)``, array or tensor.
        features: As for `lm_plugins.shap.Masker`.
        preprocess: As for `lm_plugins.shap.Model`.
        removal: As for `lm_plugins.shap.Model`.
        output: As for `lm_plugins.shap.Model`. Both explainers treat every output of its own: choose a few.
        batch_size: Coalitions in one forward pass; None starts with 32 and halves if memory runs out.

    Raises:
        ShapeError: `image` is not one image, or the feature mask does not fit it.
        InputTypeError: An argument has the wrong type.
        OptionError: `batch_size` or a patch size is below 1, or no removal has that name.
        NonFiniteError: A pixel is infinite or NaN.

    Example:
        >>> import numpy as np, shap, torch
        >>> import lm_plugins.shap
        >>> model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
        >>> image = np.ones((4, 4, 1))
        >>> function = lm_plugins.shap.ValueFunction(model, image, features=2, removal="grey")
        >>> explainer = shap.KernelExplainer(function, function.background)
        >>> values = explainer.shap_values(function.everything, silent=True)
        >>> values.shape, bool(np.allclose(values, 0.25))
        ((1, 4, 1), True)
        >>> function.to_pixels(values).shape
        (1, 4, 4, 1, 1)
    """

    def __init__(
        self,
        model: nn.Module,
        image: Any,
        features: Features,
        preprocess: Callable[[Tensor], Tensor] | None = None,
        removal: Removal | str | None = None,
        output: Output | None = None,
        batch_size: int | None = None,
    ) -> None:
        if len(np.shape(image)) != 3:
            raise ShapeError(f"image is one image (H, W, C), got shape {tuple(np.shape(image))}.")
        self.image = image
        self._layout = Layout(feature_mask_of(features, np.shape(image), image), np.shape(image)[2])
        prepared = Model(model, preprocess, removal, output)
        self._model = model
        self._evaluate = CoalitionEvaluator(
            prepared.forward,
            prepared.prepared([image]),
            torch.from_numpy(self._layout.feature_mask),
            batch_size=batch_size,
            output=output,
        )

    @property
    def background(self) -> NDArray[np.float64]:
        """Nothing present: zeros ``(1, K)``."""
        return np.zeros((1, self._layout.count))

    @property
    def everything(self) -> NDArray[np.float64]:
        """All present: ones ``(1, K)``."""
        return np.ones((1, self._layout.count))

    def __call__(self, coalitions: Any) -> NDArray[Any]:
        """Evaluate coalitions.

        Args:
            coalitions: ``(nsamples, K)`` of 0 (absent) and 1 (present).

        Returns:
            ``(nsamples,)`` or ``(nsamples, outputs)``.

        Raises:
            ShapeError: `coalitions` is not ``(nsamples, K)``, or the model returns maps.
            MaskValueError: It holds something other than 0 and 1.
            InputTypeError: The model does not return a tensor with a row for each image.
            TrainingModeError: The model or a part of it is in training mode.
        """
        check_evaluation_mode(self._model, "SHAP")
        rows = np.asarray(coalitions)
        if rows.ndim != 2 or rows.shape[1] != self._layout.count:
            raise ShapeError(f"expected coalitions (nsamples, {self._layout.count}), got {rows.shape}.")
        return as_array(self._evaluate(torch.tensor(rows)))

    def to_pixels(self, values: Any, output_names: Sequence[str] | None = None) -> Any:
        """Spread SHAP values over pixels, for `shap.image_plot`, as `lm_plugins.shap.Masker.to_pixels` does.

        Args:
            values: What the explainer returned for `everything`: ``(1, K)``, ``(1, K, outputs)``, or a `shap.Explanation`
                of it.
            output_names: A name for each output.

        Returns:
            A `shap.Explanation` with values ``(1, H, W, C)`` or ``(1, H, W, C, outputs)``.

        Raises:
            ShapeError: `values` has another shape.
        """
        array = np.asarray(getattr(values, "values", values))
        if array.ndim not in (2, 3) or array.shape[:2] != (1, self._layout.count):
            raise ShapeError(
                f"expected SHAP values (1, {self._layout.count}) or (1, {self._layout.count}, outputs), got {array.shape}."
            )
        return shap.Explanation(
            self._layout.spread(array[0])[None],
            base_values=getattr(values, "base_values", None),
            data=as_numpy(self.image)[None],
            output_names=None if output_names is None else list(output_names),
        )
