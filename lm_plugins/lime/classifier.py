"""A model as LIME asks it: preprocessing, removal and probabilities in one place."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lm_plugins.checks import check_evaluation_mode
from lm_plugins.errors import InputTypeError, LMPluginsError, OptionError, ShapeError
from lm_plugins.lime.image import as_input
from lm_plugins.outputs.words import Output, OutputIs, as_probabilities, guessed, parted, rows_of
from lm_plugins.removal import Removal, as_removal
from lm_plugins.removal.model_call import ModelCall

__all__ = ["Classifier", "Model", "Preprocess", "check_agreement"]

Model = nn.Module | Callable[[Tensor], Any]
Preprocess = Callable[[NDArray[Any]], Tensor]


class Classifier:
    """Probabilities of images of which only a part is visible.

    Args:
        model: See `lm_plugins.lime.LimeImageExplainer`, as for the rest.
        preprocess: From the array to the tensor.
        removal: How pixels are removed.
        output: What the model returns, in a word; or a function from that to the tensor that is explained.

    Raises:
        InputTypeError: An argument is not of its type.
        OptionError: No removal has that name.
    """

    def __init__(
        self, model: Model, preprocess: Preprocess | None, removal: Removal | str | None, output: Output | None
    ) -> None:
        if not callable(model) or isinstance(model, type):
            raise InputTypeError(f"model is a torch model or a function of images (N, C, H, W), got {model!r}.")
        if preprocess is not None and not callable(preprocess):
            raise InputTypeError(f"preprocess is a function or None, got {type(preprocess).__name__}.")
        self._model = model if isinstance(model, nn.Module) else ModelCall(model)
        self._forward = as_removal(removal)(self._model)
        self._preprocess = preprocess
        self._output, self._word = parted(output)

    def input_of(self, image: NDArray[Any]) -> Tensor:
        """Preprocess an image ``(H, W, C)`` into ``(1, C, H, W)``, on the model's device and in its dtype."""
        x = as_input(image, self._preprocess)
        parameters = [one for one in self._model.parameters() if one.is_floating_point()]
        return x.to(parameters[0]) if parameters else x

    def __call__(self, x: Tensor, visible: Tensor) -> Tensor:
        """Ask the model about images ``(N, C, H, W)``, visible bool ``(N, H, W)``; returns ``(N, classes)``.

        Raises:
            TrainingModeError: The model or a part of it is in training mode.
            InputTypeError: What is explained is no tensor with a row for each image.
            ShapeError: It is not ``(N, classes)``.
            OptionError: The model returns, or may return, probabilities, and no `output` says so.
        """
        check_evaluation_mode(self._model, "LIME")
        return self._classes(self._rows(x, visible), self._word)

    def _rows(self, x: Tensor, visible: Tensor) -> Tensor:
        """What the model returns, ``(N, classes)``."""
        rows = rows_of(self._forward(x, visible), len(x), self._output)
        rows = rows[:, None] if rows.ndim == 1 else rows
        if rows.ndim != 2 or not rows.shape[1]:
            raise ShapeError(
                f"LIME explains an output (images, classes), got {tuple(rows.shape)}; choose or reduce it with output=, for "
                "example output=lambda maps: maps.mean((2, 3)).softmax(1)."
            )
        return rows

    def _classes(self, rows: Tensor, word: OutputIs | None) -> Tensor:
        """What LIME explains, ``(N, classes)``."""
        rows = rows if rows.dtype == torch.float64 else rows.float()  # numpy has no bfloat16
        return rows if word is None else as_probabilities(rows, word)

    @torch.inference_mode()
    def clean(self, x: Tensor) -> Tensor:
        """What the model says about all of one image ``(1, C, H, W)``: ``(1, classes)``.

        The first answer also tells what the model returns, where nobody said.
        """
        check_evaluation_mode(self._model, "LIME")
        everything = torch.ones(1, *x.shape[2:], dtype=torch.bool, device=x.device)
        try:
            rows = self._rows(x, everything)
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            if isinstance(error, LMPluginsError) or not isinstance(self._model, ModelCall):
                raise
            raise InputTypeError(
                f"the function that was passed as model= failed for a tensor of shape {tuple(x.shape)}: "
                f"{type(error).__name__}: {error}. It is called with preprocessed tensors (N, C, H, W). If it is LIME's "
                "classifier_fn, which takes arrays (N, H, W, C), pass the model that it calls, and what it does before and "
                "after that as preprocess= and output=."
            ) from error
        if self._word is None and self._output is None:
            self._word = guessed(rows)
        return self._classes(rows, self._word)


def check_agreement(classifier_fn: Callable[..., Any], image: NDArray[Any], expected: Tensor) -> None:
    """Check that a ``classifier_fn``, asked about the unperturbed image, says what the model says.

    Args:
        classifier_fn: The user's own, from LIME.
        image: ``(H, W, C)``.
        expected: ``(1, classes)``.

    Raises:
        ShapeError: It returns something else than ``(1, classes)``.
        OptionError: It says something else.
    """
    returned = classifier_fn(image[None].copy())
    said = returned.detach().cpu().double().numpy() if isinstance(returned, Tensor) else np.asarray(returned)
    known = expected.double().cpu().numpy()
    if said.shape != known.shape:
        raise ShapeError(
            f"classifier_fn returned shape {said.shape} for one image, the model {known.shape}: expected (images, classes) "
            "from both."
        )
    difference = np.abs(said - known).max()
    if not difference <= 1e-3 * max(1.0, np.abs(known).max()):
        raise OptionError(
            f"classifier_fn and the model disagree about the unperturbed image: classifier_fn's top class is "
            f"{said[0].argmax()} ({said[0].max():.3f}), the model's {known[0].argmax()} ({known[0].max():.3f}), and the "
            f"largest difference is {difference:.3g}. The model is what gets explained: pass the preprocess= and output= "
            "that classifier_fn applies, or leave classifier_fn out."
        )
