"""A ``classifier_fn`` for LIME's own explainer, which tells hidden pixels from visible ones by their value."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lm_plugins.errors import InputTypeError, MaskValueError, ShapeError
from lm_plugins.lime.classifier import Classifier, Model, Preprocess
from lm_plugins.lime.image import as_image
from lm_plugins.outputs.words import Output
from lm_plugins.removal import Removal

__all__ = ["MaskedClassifier"]


class MaskedClassifier:
    """A ``classifier_fn`` for `lime.lime_image.LimeImageExplainer` with any removal, for one image.

    LIME paints hidden superpixels with `hide_color`, a whole image that differs from `image` in every value. So the
    mask can be read off the painted images without error, in integers and floats. No model sees the paint.

    Args:
        model: See `LimeImageExplainer`, as for the rest.
        image: The array that `explain_instance` gets.
        preprocess: From the array to the tensor.
        removal: How pixels are removed; layer masking by default.
        output: What the model returns, in a word; or a function from that to the tensor that is explained.

    Attributes:
        hide_color: To be passed to `explain_instance`; ``(H, W, C)`` in the dtype of `image`.

    Raises:
        InputTypeError: An argument is not of its type.
        OptionError: No removal has that name, or the model returns probabilities and no `output` was given.
        ShapeError: The image, what `preprocess` returns or what the model returns has the wrong shape.
        NonFiniteError: The image is infinite or NaN somewhere.
        TrainingModeError: The model is in training mode.

    Example:
        >>> import numpy as np, torch
        >>> from lm_plugins.lime import MaskedClassifier
        >>> model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
        >>> image = np.full((2, 2, 3), 51, np.uint8)
        >>> masked = MaskedClassifier(model, image, output=lambda means: means)
        >>> painted = image.copy()
        >>> painted[0] = masked.hide_color[0]
        >>> masked(np.stack([image, painted])).round(3)
        array([[0.2, 0.2, 0.2],
               [0.2, 0.2, 0.2]], dtype=float32)

        With LIME: ``lime_image.LimeImageExplainer().explain_instance(image, masked, hide_color=masked.hide_color)``.
    """

    def __init__(
        self,
        model: Model,
        image: NDArray[Any],
        preprocess: Preprocess | None = None,
        removal: Removal | str | None = None,
        output: Output | None = None,
    ) -> None:
        self._classifier = Classifier(model, preprocess, removal, output)
        self._image = as_image(image).copy()
        self._x = self._classifier.input_of(self._image)
        self._classifier.clean(self._x)  # mistakes surface here, not in the middle of LIME
        self.hide_color = _different_everywhere(self._image)

    @torch.inference_mode()
    def __call__(self, images: NDArray[Any]) -> NDArray[Any]:
        """Say what the model says about what is left of the image.

        Args:
            images: ``(N, H, W, C)`` in the dtype of the image; every pixel is that of the image or that of `hide_color`.

        Returns:
            ``(N, classes)``.

        Raises:
            InputTypeError: The images are of another dtype.
            ShapeError: They are of another shape.
            MaskValueError: A pixel is neither of the two.
        """
        visible = torch.from_numpy(self._visible(images)).to(self._x.device)
        return self._classifier(self._x.expand(len(visible), -1, -1, -1), visible).cpu().numpy()

    def _visible(self, images: NDArray[Any]) -> NDArray[np.bool_]:
        """Bool ``(N, H, W)``: the pixels that are still those of the image."""
        if not isinstance(images, np.ndarray) or images.dtype != self._image.dtype:
            got = f"an array of {images.dtype}" if isinstance(images, np.ndarray) else type(images).__name__
            raise InputTypeError(
                f"MaskedClassifier was made for an image of {self._image.dtype}, got {got}; pass the same array to it and "
                "to explain_instance."
            )
        if images.shape[1:] != self._image.shape or not len(images):
            raise ShapeError(
                f"MaskedClassifier was made for an image of shape {self._image.shape}, got images of shape {images.shape}; "
                "pass the same array to it and to explain_instance."
            )
        visible: NDArray[np.bool_] = (images == self._image).all(-1)
        foreign = ~visible & (images != self.hide_color).any(-1)
        if foreign.any():
            raise MaskValueError(
                f"{int(foreign.sum())} pixels are neither those of the image nor those of hide_color; pass the same image to "
                "explain_instance, and hide_color=masked.hide_color, where masked is this MaskedClassifier."
            )
        return visible


def _different_everywhere(image: NDArray[Any]) -> NDArray[Any]:
    if image.dtype.kind == "u":
        different: NDArray[Any] = image ^ image.dtype.type(1 << (8 * image.dtype.itemsize - 1))
        return different
    return np.where(image > 0, -image, image.dtype.type(1))
