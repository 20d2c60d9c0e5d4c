"""A torch model as SHAP's explainers call it: with images in NHWC, and with what is visible of them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lm_plugins.checks import check_evaluation_mode, check_finite, check_images, explaining_mismatch
from lm_plugins.errors import InputTypeError, ShapeError
from lm_plugins.outputs.words import Output, parted, rows_of
from lm_plugins.removal import Forward, Removal, as_removal
from lm_plugins.shap.migration import check_masker_of_caller

__all__ = ["Model"]


class Model:
    """What explainers of SHAP call in place of your ``predict``; goes with `lm_plugins.shap.Masker`.

    Args:
        model: A model of images ``(N, C, H, W)``, in evaluation mode when it is called.
        preprocess: What your ``predict`` did before the model, except for moving channels: a function of a tensor
            ``(N, C, H, W)`` on the CPU, float32 (float64 if the model is), such as
            ``lambda x: (x / 255 - mean) / std``. It must keep height and width. None leaves images as they are.
        removal: How pixels are removed: a removal, the name of one, or None for layer masking. It acts on preprocessed
            images.
        output: What the model returns, in a word, to explain the probabilities that it means: ``"logits"``,
            ``"probabilities"``, ``"sigmoid"``, ``"single_logit"`` (two outputs, classes 0 and 1) or
            ``"regression"``. Or a function that turns it into a tensor of one value ``(N,)`` or several ``(N, outputs)`` an
            image. None explains what it returns.

    Raises:
        InputTypeError: `model` is no module, or another argument has the wrong type.
        OptionError: No removal has that name; the message lists those there are.

    Example:
        >>> import numpy as np, torch
        >>> import lm_plugins.shap
        >>> model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
        >>> predict = lm_plugins.shap.Model(model, preprocess=lambda x: x / 255, removal="grey")
        >>> images = np.full((1, 4, 4, 3), 51, dtype=np.uint8)
        >>> predict(images)
        array([[0.2, 0.2, 0.2]], dtype=float32)
        >>> left_half = np.arange(4) < 2
        >>> predict(images, np.broadcast_to(left_half, (1, 4, 4)))
        array([[0.1, 0.1, 0.1]], dtype=float32)
    """

    def __init__(
        self,
        model: nn.Module,
        preprocess: Callable[[Tensor], Tensor] | None = None,
        removal: Removal | str | None = None,
        output: Output | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InputTypeError(
                f"model is a torch.nn.Module of images (N, C, H, W), got {type(model).__name__}. What a function did "
                "before and after it goes into preprocess= and output=."
            )
        if preprocess is not None and not callable(preprocess):
            raise InputTypeError(f"preprocess is a function or None, got {type(preprocess).__name__}.")
        parted(output)  # an unknown word is said now
        self.model = model
        self.preprocess = preprocess
        self.removal = as_removal(removal)
        self.output = output
        self.forward: Forward = self.removal(model)

    def __call__(self, images: Any, visible: Any = None, *further: Any) -> NDArray[Any]:
        """Run the model, on the visible pixels if told which.

        Args:
            images: ``(N, H, W, C)``, array or tensor; or a sequence of N images ``(H, W, C)``, of which each object is
                prepared once.
            visible: Bool ``(N, H, W)``, True = visible, array or tensor; None for the plain model.
            further: What else the model takes after the images, one row for each: arrays or tensors ``(N, ...)``, such as
                `shap.maskers.Composite` hands on. Floats get the dtype of the model.

        Returns:
            ``(N,)`` or ``(N, outputs)``, float32 (float64 if the model's is).

        Raises:
            ShapeError: `images` is no batch of images, `visible` does not fit it, or the model returns maps.
            InputTypeError: Images hold no numbers, the model does not return a tensor with a row for each image, or SHAP
                calls with a masker of its own, which paints.
            NonFiniteError: A pixel is infinite or NaN.
            TrainingModeError: The model or a part of it is in training mode.
        """
        check_evaluation_mode(self.model, "SHAP")
        if visible is None:
            check_masker_of_caller()
        with torch.inference_mode():
            x = self.prepared(images)
            more = [_like(x, _rows(one)) for one in further]
            with explaining_mismatch(self.model, x):
                result = (
                    self.model(x, *more) if visible is None else self.forward(x, _tensor(visible).to(x.device), *more)
                )
            return as_array(rows_of(result, len(x), self.output))

    def prepared(self, images: Any) -> Tensor:
        """The images as the model takes them.

        Args:
            images: See `__call__`.

        Returns:
            ``(N, C, H, W)``, in the dtype and on the device of the model.

        Raises:
            ShapeError: See `__call__`; also if `preprocess` changes height or width.
            InputTypeError: See `__call__`.
            NonFiniteError: See `__call__`.
        """
        like = next((p for p in self.model.parameters() if p.is_floating_point()), torch.zeros(()))
        is_sequence = not isinstance(images, Tensor) and (
            not isinstance(images, np.ndarray) or (images.dtype == object and images.ndim == 1)
        )
        rows = list(images) if is_sequence else images
        different = list({id(image): image for image in rows}.values()) if is_sequence else [images]
        parts = [_nchw(_tensor(image)[None] if is_sequence else image, like.dtype) for image in different]
        if len({part.shape for part in parts}) != 1:
            raise ShapeError(
                f"images have different shapes: {', '.join(str(tuple(part.shape[1:])) for part in parts)}."
            )
        x = self._preprocessed(torch.cat(parts)).to(like.device, like.dtype)
        if not is_sequence:
            return x
        if len(different) == 1:
            return x.expand(len(rows), -1, -1, -1)
        place = {id(image): index for index, image in enumerate(different)}
        return x[[place[id(image)] for image in rows]]

    def _preprocessed(self, x: Tensor) -> Tensor:
        made = x if self.preprocess is None else self.preprocess(x)
        if not isinstance(made, Tensor):
            raise InputTypeError(f"preprocess= must return a tensor (N, C, H, W), got {type(made).__name__}.")
        if made.ndim != 4 or len(made) != len(x) or made.shape[2:] != x.shape[2:]:
            raise ShapeError(
                f"preprocess= got images of shape {tuple(x.shape)} and returned {tuple(made.shape)}. It must keep height and "
                "width, on which the masks are: resize and crop images before they are explained."
            )
        return made

    def __getstate__(self) -> dict[str, Any]:
        # Some removals build a closure, which cannot be pickled.
        return {name: value for name, value in vars(self).items() if name != "forward"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.forward = self.removal(self.model)


def as_array(result: Tensor) -> NDArray[Any]:
    """The rows of a model's output as SHAP takes them.

    Args:
        result: ``(N,)`` or ``(N, outputs)``.

    Returns:
        The same, float32 (float64 if `result` is).

    Raises:
        ShapeError: There are more dimensions.
    """
    if result.ndim > 2:
        raise ShapeError(
            f"SHAP explains one value or one list of values an image, got outputs of shape {tuple(result.shape)}; choose "
            "with output=, for example output=lambda maps: maps.mean((2, 3))."
        )
    return np.asarray(result.to(torch.promote_types(torch.float32, result.dtype)).cpu())


def _nchw(images: Any, dtype: torch.dtype) -> Tensor:
    x = _tensor(images).detach().cpu()
    x = x.to(torch.promote_types(torch.float32, dtype))
    check_images(x, "SHAP", "(N, H, W, C)")
    x = x.movedim(3, 1)
    check_finite(x, "SHAP")
    return x


def _rows(values: Any) -> Tensor:
    """What goes with the images, with a row for each; SHAP joins arrays into an array of objects."""
    if isinstance(values, np.ndarray) and values.dtype == object:
        return torch.stack([_tensor(one) for one in values])
    return _tensor(values)


def _like(x: Tensor, values: Tensor) -> Tensor:
    return values.to(x.device, x.dtype if values.is_floating_point() else values.dtype)


def _tensor(array: Any) -> Tensor:
    if isinstance(array, Tensor):
        return array
    try:
        # A copy: torch warns where it would share memory that cannot be written to.
        return torch.tensor(np.asarray(array))
    except TypeError as error:
        raise InputTypeError(
            f"expected an array or a tensor of numbers, got {type(array).__name__}: {error}"
        ) from error
