"""The model under audit: its answers as probabilities, in batches."""

from typing import Any

import torch
from torch import Tensor, nn

from lm_plugins.errors import OptionError, ShapeError
from lm_plugins.features import CoalitionEvaluator
from lm_plugins.outputs.words import Output, as_probabilities, guessed, parted, rows_of
from lm_plugins.removal import Forward

__all__ = ["AuditedModel"]

# As the evaluator of coalitions begins.
_BATCH_SIZE, _BATCH_SIZE_ELSEWHERE = {"cpu": 8}, 32


class AuditedModel:
    """A model with all that turns its output into probabilities.

    Args:
        model: A classifier of images.
        output: A word for what it returns, a function that turns that into a tensor ``(N, classes)``, or ``(function,
            word)``. Without a word, its first answer tells.
        batch_size: Images in one forward pass; None chooses.

    Raises:
        OptionError: `batch_size` is below 1.
    """

    def __init__(
        self,
        model: nn.Module,
        output: Output | None = None,
        batch_size: int | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise OptionError(f"batch_size is at least 1, or None for an automatic choice; got {batch_size}.")
        self.model = model
        self.output, self.word = parted(output)
        self.is_single = False  # whether the model has one output, that of two classes
        self.batch_size = batch_size
        first = next(model.parameters(), None)
        self.device = torch.device("cpu") if first is None else first.device

    def outputs(self, forward: Forward, x: Tensor, feature_mask: Tensor, coalitions: Tensor) -> Tensor:
        """What the model returns, ``(K, classes)``, for coalitions ``(K, F)`` of the features of one image."""
        outputs = CoalitionEvaluator(forward, x, feature_mask, self.batch_size, self.output)(coalitions)
        return outputs[:, None] if outputs.ndim == 1 else outputs

    def probabilities(self, forward: Forward, x: Tensor, feature_mask: Tensor, coalitions: Tensor) -> Tensor:
        """The same as probabilities ``(K, classes)`` on the CPU."""
        return self._as_probabilities(self.outputs(forward, x, feature_mask, coalitions)).cpu()

    def answers(self, forward: Forward, x: Tensor, visible: Tensor) -> Tensor:
        """Probabilities ``(K, classes)`` on the CPU for images with a pixel mask each, as `outputs_for` takes them."""
        return self._as_probabilities(self.outputs_for(forward, x, visible)).cpu()

    @torch.inference_mode()
    def outputs_for(self, forward: Forward, x: Tensor, visible: Tensor) -> Tensor:
        """What the model returns for images with a pixel mask each.

        Args:
            forward: As a removal builds it.
            x: Images ``(K, C, H, W)``, or one for all masks, ``(1, C, H, W)``.
            visible: Bool ``(K, H, W)``.

        Returns:
            ``(K, classes)``, through `output`.
        """
        images, masks = x.expand(len(visible), -1, -1, -1), visible.to(x.device)
        size = self.batch_size or _BATCH_SIZE.get(x.device.type, _BATCH_SIZE_ELSEWHERE)
        parts = [
            rows_of(forward(one, mask), len(one), self.output)
            for one, mask in zip(torch.split(images, size), torch.split(masks, size), strict=True)
        ]
        return torch.cat(parts)

    @torch.inference_mode()
    def plain_output(self, x: Tensor) -> Tensor:
        """What the model returns for a whole image ``(1, C, H, W)``, through `output`: ``(1, classes)``."""
        return rows_of(self.model(x), 1, self.output)

    def plain(self, x: Tensor) -> Tensor:
        """Probabilities ``(classes,)`` on the CPU for a whole image ``(1, C, H, W)``."""
        return self._as_probabilities(self.plain_output(x))[0].cpu()

    def normalised(self, result: Any) -> Tensor:
        """Probabilities ``(N, classes)`` from what the model returned."""
        return self._as_probabilities(result if self.output is None else self.output(result))

    def _as_probabilities(self, output: Tensor) -> Tensor:
        if output.ndim not in (1, 2):
            raise ShapeError(
                f"the audit needs a classifier: outputs (N, classes), got {tuple(output.shape)}; choose them with output=."
            )
        if self.word is None:
            self.word = guessed(output)
        self.is_single = output.ndim == 1 or output.shape[1] == 1
        probabilities = as_probabilities(output, self.word)
        if probabilities.ndim < 2 or probabilities.shape[1] < 2:
            raise ShapeError(
                "the audit compares classes, the model returns one number for each image, which is no probability: "
                "output='single_logit' or output='probabilities' make two classes of it."
            )
        return probabilities
