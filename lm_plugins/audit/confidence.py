"""Drop and increase in confidence: what a model says when it sees the explanation only."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lm_plugins.audit.ranking import top_pixels
from lm_plugins.checks import check_evaluation_mode, check_finite, check_images, targets_for
from lm_plugins.errors import ProbabilityError, ShapeError
from lm_plugins.features.score import selected
from lm_plugins.outputs.words import Output, as_probabilities, parted, rows_of

__all__ = ["confidence_in_top", "drop_in_confidence", "increase_in_confidence"]


def drop_in_confidence(before: Tensor, after: Tensor) -> Tensor:
    r"""How much confidence is lost when only the explanation is visible.

    .. math::
        \text{Drop} = 100 \cdot \frac{\max(0, p - p')}{p}

    Its mean over images is the papers' Drop %; lower is better.

    Args:
        before: Probabilities p of the target for the images, ``(N,)``.
        after: Probabilities p' for what the explanation keeps, ``(N,)``.

    Returns:
        ``(N,)`` in per cent; 0 where p is 0.

    Raises:
        ShapeError: The two do not fit.
        ProbabilityError: One holds something outside of [0, 1].

    Example:
        >>> import torch
        >>> from lm_plugins.audit import drop_in_confidence
        >>> drop_in_confidence(torch.tensor([0.8, 0.5]), torch.tensor([0.2, 0.6]))
        tensor([75.,  0.])

    References:
        Chattopadhay et al., "Grad-CAM++", WACV 2018.
    """
    _check(before, after)
    positive = before > 0
    return 100 * torch.where(
        positive, (before - after).clamp(min=0) / before.where(positive, torch.ones_like(before)), 0.0
    )


def increase_in_confidence(before: Tensor, after: Tensor) -> Tensor:
    r"""Whether the model is surer when only the explanation is visible.

    .. math::
        \text{Increase} = 100 \cdot 1[p' > p]

    Its mean over images is the papers' Increase %; higher is better.

    Args:
        before: Probabilities p of the target for the images, ``(N,)``.
        after: Probabilities p' for what the explanation keeps, ``(N,)``.

    Returns:
        ``(N,)``: 0 or 100.

    Raises:
        ShapeError: The two do not fit.
        ProbabilityError: One holds something outside of [0, 1].

    Example:
        >>> import torch
        >>> from lm_plugins.audit import increase_in_confidence
        >>> increase_in_confidence(torch.tensor([0.8, 0.5]), torch.tensor([0.2, 0.6]))
        tensor([  0., 100.])
    """
    _check(before, after)
    return 100 * (after > before).to(before.dtype)


def confidence_in_top(
    forward: Callable[[Tensor, Tensor], Any],
    x: Tensor,
    attribution: Tensor,
    target: Any = None,
    share: float = 0.15,
    output: Output | None = None,
) -> tuple[Tensor, Tensor]:
    """Probabilities of the target with the whole image, and with only the pixels of the highest attribution.

    Args:
        forward: ``forward(x, visible)``, as every removal builds it from a model. SISE and its kin set the other pixels to 0
            in the space of the model's input: ``as_removal("grey")(model)``.
        x: Images ``(N, C, H, W)``.
        attribution: ``(N, C, H, W)`` or ``(N, H, W)``.
        target: A class, or one for each image.
        share: Of the pixels that stay visible, in [0, 1]. The papers keep 15 %.
        output: A word for what the model returns, a function that turns it into a tensor ``(N, ...)``, or ``(function,
            word)``. Without a word it is checked to be probabilities.

    Returns:
        p and p', ``(N,)`` each, for `drop_in_confidence` and `increase_in_confidence`.

    Raises:
        ShapeError: The attribution does not fit the images.
        ProbabilityError: The model does not return probabilities and `output` says that it does.
        TrainingModeError: The model or a part of it is in training mode.

    Example:
        >>> import torch
        >>> from lm_plugins.audit import confidence_in_top
        >>> from lm_plugins.removal import as_removal
        >>> forward = as_removal("grey")(torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval())
        >>> x = torch.ones(1, 1, 10, 10)
        >>> confidence_in_top(forward, x, torch.arange(100.0).reshape(1, 10, 10), target=0)
        (tensor([1.]), tensor([0.1500]))
    """
    check_evaluation_mode(forward, "confidence")
    check_images(x, "confidence")
    check_finite(x, "confidence")
    targets = targets_for(target, len(x))
    choose, word = parted(output)
    top = top_pixels(attribution, share)
    if top.shape != (len(x), *x.shape[2:]):
        raise ShapeError(
            f"the attribution has shape {tuple(attribution.shape)}, the images {tuple(x.shape)}: interpolate it to "
            f"{tuple(x.shape[2:])}."
        )
    with torch.no_grad():
        results = [forward(x, visible) for visible in (torch.ones_like(top), top)]
    before, after = (selected(as_probabilities(rows_of(result, len(x), choose), word), targets) for result in results)
    return before, after


def _check(before: Tensor, after: Tensor) -> None:
    if before.shape != after.shape or before.ndim != 1:
        raise ShapeError(
            f"probabilities are (N,) before and after, got {tuple(before.shape)} and {tuple(after.shape)}."
        )
    for one in (before, after):
        if not bool(((one >= 0) & (one <= 1 + 1e-3)).all()):
            raise ProbabilityError(
                f"drop and increase compare probabilities, got values from {float(one.min()):.4g} to {float(one.max()):.4g}."
            )
