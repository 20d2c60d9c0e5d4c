"""Insertion and deletion: the score of the target while pixels appear or disappear in the order of an attribution."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lm_plugins.audit.ranking import pixel_maps
from lm_plugins.checks import check_evaluation_mode, check_finite, check_images, targets_for
from lm_plugins.errors import OptionError, ShapeError
from lm_plugins.features.score import selected
from lm_plugins.outputs.words import Output, as_probabilities, parted, rows_of

__all__ = ["Curve", "deletion", "insertion"]


@dataclass(frozen=True)
class Curve:
    """Scores over the share of pixels that were deleted or inserted.

    Args:
        share: ``(steps + 1,)``, from 0 to 1.
        scores: ``(N, steps + 1)``.
    """

    share: Tensor
    scores: Tensor

    @property
    def auc(self) -> Tensor:
        """The area under each curve by the trapezoid rule, ``(N,)``."""
        return torch.trapezoid(self.scores, self.share.to(self.scores), dim=1)


def deletion(
    forward: Callable[[Tensor, Tensor], Any],
    x: Tensor,
    attribution: Tensor,
    target: Any = None,
    steps: int = 32,
    output: Output | None = None,
    batch_size: int = 32,
) -> Curve:
    """Delete the pixels of the highest attribution first. A small area under the curve is good.

    Args:
        forward: ``forward(x, visible)``, as every removal builds it from a model. RISE deletes to 0 in the space of the
            model's input, ``as_removal("grey")(model)``, and inserts into a blurred copy of the whole image,
            ``BlurredCopy()(model)``.
        x: Images ``(N, C, H, W)``.
        attribution: ``(N, C, H, W)`` or ``(N, H, W)``; channels are summed. Pixels of equal value go in reading order.
        target: A class, or one for each image.
        steps: Parts of about equal size that the pixels are deleted in, at least 1. RISE uses as many as the image has
            rows.
        batch_size: Images in one forward pass.
        output: A word for what the model returns, a function that turns it into a tensor ``(K, ...)``, or ``(function,
            word)``. Without a word it is checked to be probabilities.

    Returns:
        The curve, from the whole image to nothing.

    Raises:
        OptionError: `steps` or `batch_size` is below 1 or above the number of pixels.
        ShapeError: The attribution does not fit the images.
        ProbabilityError: The model does not return probabilities and `output` says that it does.
        TrainingModeError: The model or a part of it is in training mode.

    Example:
        >>> import torch
        >>> from lm_plugins.audit import deletion
        >>> from lm_plugins.removal import as_removal
        >>> forward = as_removal("grey")(torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval())
        >>> x = torch.tensor([[[[4.0, 0.0], [0.0, 0.0]]]])
        >>> deletion(forward, x, x, target=0, steps=4, output="regression").scores
        tensor([[1., 0., 0., 0., 0.]])

    References:
        Petsiuk, Das and Saenko, "RISE", BMVC 2018.
    """
    return _curve(forward, x, attribution, target, steps, output, batch_size, is_insertion=False)


def insertion(
    forward: Callable[[Tensor, Tensor], Any],
    x: Tensor,
    attribution: Tensor,
    target: Any = None,
    steps: int = 32,
    output: Output | None = None,
    batch_size: int = 32,
) -> Curve:
    """Insert the pixels of the highest attribution first. A large area under the curve is good.

    Args:
        forward: As `deletion` takes it, and so are all others.
        x: Images ``(N, C, H, W)``.
        attribution: ``(N, C, H, W)`` or ``(N, H, W)``.
        target: A class, or one for each image.
        steps: Parts that the pixels are inserted in.
        batch_size: Images in one forward pass.
        output: A word, a function that turns what the model returns into a tensor, or both; see `deletion`.

    Returns:
        The curve, from nothing to the whole image.

    Raises:
        OptionError: `steps` or `batch_size` is below 1 or above the number of pixels.
        ShapeError: The attribution does not fit the images.
        ProbabilityError: The model does not return probabilities and `output` says that it does.
        TrainingModeError: The model or a part of it is in training mode.
    """
    return _curve(forward, x, attribution, target, steps, output, batch_size, is_insertion=True)


def _curve(
    forward: Callable[[Tensor, Tensor], Any],
    x: Tensor,
    attribution: Tensor,
    target: Any,
    steps: int,
    output: Output | None,
    batch_size: int,
    is_insertion: bool,
) -> Curve:
    what = "insertion" if is_insertion else "deletion"
    choose, word = parted(output)
    check_evaluation_mode(forward, what)
    check_images(x, what)
    check_finite(x, what)
    maps = pixel_maps(attribution)
    if maps.shape != (len(x), *x.shape[2:]):
        raise ShapeError(
            f"the attribution has shape {tuple(attribution.shape)}, the images {tuple(x.shape)}: interpolate it to "
            f"{tuple(x.shape[2:])}."
        )
    pixels = maps[0].numel()
    if not 1 <= steps <= pixels or batch_size < 1:
        raise OptionError(f"steps is from 1 to {pixels}, batch_size at least 1; got {steps!r} and {batch_size!r}.")
    # The place of each pixel, 0 for the highest: (N, H, W).
    order = maps.flatten(1).sort(dim=1, descending=True, stable=True).indices
    place = torch.empty_like(order).scatter_(1, order, torch.arange(pixels, device=order.device).expand_as(order))
    place = place.reshape(maps.shape).to(x.device)
    changed = [step * pixels // steps for step in range(steps + 1)]
    scores = []
    for row, one, chosen in zip(x, place, targets_for(target, len(x)), strict=True):
        parts = []
        for start in range(0, steps + 1, batch_size):
            counts = torch.tensor(changed[start : start + batch_size], device=x.device)[:, None, None]
            visible = (one[None] < counts) if is_insertion else (one[None] >= counts)
            with torch.no_grad():
                result = forward(row.expand(len(visible), -1, -1, -1), visible)
            rows = as_probabilities(rows_of(result, len(visible), choose), word)
            parts.append(selected(rows, [chosen] * len(visible)))
        scores.append(torch.cat(parts))
    return Curve(torch.tensor(changed, dtype=torch.float64) / pixels, torch.stack(scores))
