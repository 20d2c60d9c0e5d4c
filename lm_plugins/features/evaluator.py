"""Evaluate many coalitions of one image: deduplicated, in batches that fit into memory."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lm_plugins.checks import check_evaluation_mode, check_images
from lm_plugins.errors import OptionError, ShapeError
from lm_plugins.features.coalition import checked_features, present_in, spread
from lm_plugins.outputs.words import Output, parted, rows_of
from lm_plugins.progress import progress

__all__ = ["CoalitionEvaluator"]

# On a CPU, the activations of a small batch stay in its caches.
_FIRST_BATCH_SIZE = {"cpu": 8}
_FIRST_BATCH_SIZE_ELSEWHERE = 32


class CoalitionEvaluator:
    """The value function of one image: what a model says when only some features are present.

    Equal coalitions are evaluated once, pixels are masked in one gather a batch, and a batch that does not fit into
    memory is halved and tried again.

    Args:
        forward: ``forward(x, visible) -> output``, as every removal builds it.
        x: One image ``(1, C, H, W)``.
        feature_mask: Integer ``(H, W)`` with ids from 0 to F - 1, as `lm_plugins.features.relabelled` makes them.
        batch_size: Coalitions in one forward pass; None starts with 8 on a CPU, with 32 elsewhere, and halves if memory
            runs out.
        output: A word for what the model returns, for the probabilities that it means (see `lm_plugins.outputs.words`); or
            a function that turns it into a tensor ``(K, ...)``. None takes it as it is.
        autocast: Run the model under `torch.autocast` in this dtype, such as ``torch.bfloat16``: faster on GPUs, less
            precise; None leaves it as it is.
        progress: Show a progress bar (needs tqdm).

    Raises:
        ShapeError: `x` is not one image, or the feature mask does not fit it.
        InputTypeError: `x` is no floating-point tensor.
        OptionError: `batch_size` is below 1.

    Example:
        >>> import torch
        >>> from lm_plugins.features import CoalitionEvaluator, grid
        >>> from lm_plugins.removal import Colour
        >>> x = torch.ones(1, 1, 4, 4)
        >>> brightness = Colour(0.0)(torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval())
        >>> values = CoalitionEvaluator(brightness, x, grid((4, 4), 2))
        >>> values(torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]))
        tensor([[1.0000],
                [0.5000],
                [0.0000]])
    """

    def __init__(
        self,
        forward: Callable[[Tensor, Tensor], Any],
        x: Tensor,
        feature_mask: Tensor,
        batch_size: int | None = None,
        output: Output | None = None,
        autocast: torch.dtype | None = None,
        progress: bool = False,
    ) -> None:
        check_images(x, "the evaluation of coalitions")
        if x.shape[0] != 1:
            raise ShapeError(f"coalitions are evaluated for one image (1, C, H, W), got shape {tuple(x.shape)}.")
        if tuple(feature_mask.shape) != tuple(x.shape[2:]):
            raise ShapeError(
                f"the feature mask has shape {tuple(feature_mask.shape)}, the image {tuple(x.shape)}: expected "
                f"{tuple(x.shape[2:])}."
            )
        if batch_size is not None and batch_size < 1:
            raise OptionError(f"batch_size is at least 1, or None for an automatic choice; got {batch_size}.")
        self._forward = forward
        self._x = x
        self._feature_mask = feature_mask.to(x.device)
        self._batch_size = batch_size or _FIRST_BATCH_SIZE.get(x.device.type, _FIRST_BATCH_SIZE_ELSEWHERE)
        parted(output)  # an unknown word is said now
        self._output = output
        self._autocast = autocast
        self._progress = progress

    @torch.inference_mode()
    def __call__(self, coalitions: Tensor) -> Tensor:
        """Evaluate coalitions.

        Args:
            coalitions: Bool or 0/1 ``(K, F)``, True = the feature is present.

        Returns:
            ``(K, ...)``: the output of the model for each, on the device of the image.

        Raises:
            ShapeError: `coalitions` is not ``(K, F)``.
            InputTypeError: The model does not return a tensor with a value for each image.
            TrainingModeError: The model or a part of it is in training mode.
        """
        check_evaluation_mode(self._forward, "the evaluation of coalitions")
        if coalitions.ndim != 2 or not len(coalitions):
            raise ShapeError(f"expected coalitions (K, F) with at least one row, got {tuple(coalitions.shape)}.")
        features = checked_features(self._feature_mask, coalitions.shape[1])
        present = present_in(coalitions, self._x.device)
        unique, inverse = torch.unique(present, dim=0, return_inverse=True)
        outputs: list[Tensor] = []
        with progress(len(unique), "coalitions", self._progress) as done:
            start = 0
            while start < len(unique):
                part = unique[start : start + self._batch_size]
                try:
                    outputs.append(self._evaluate(spread(part, features)))
                except (torch.OutOfMemoryError, RuntimeError) as error:
                    self._halve(len(part), error)
                    continue
                start += len(part)
                done(len(part))
        return torch.cat(outputs)[inverse]

    def _evaluate(self, visible: Tensor) -> Tensor:
        with torch.autocast(self._x.device.type, self._autocast, enabled=self._autocast is not None):
            result = self._forward(self._x.expand(len(visible), -1, -1, -1), visible)
        return rows_of(result, len(visible), self._output)

    def _halve(self, size: int, error: RuntimeError) -> None:
        is_memory = isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)
        if not is_memory or size == 1:
            raise error
        self._batch_size = size // 2
        warnings.warn(
            f"a batch of {size} coalitions did not fit into memory; going on with batches of {self._batch_size}.",
            RuntimeWarning,
            stacklevel=3,
        )
        if self._x.is_cuda:
            torch.cuda.empty_cache()
