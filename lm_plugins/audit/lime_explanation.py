"""An explanation by LIME under a removal, as the audit judges it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lm_plugins.checks import check_evaluation_mode
from lm_plugins.errors import OptionError, ShapeError
from lm_plugins.features import CoalitionEvaluator
from lm_plugins.features.score import selected
from lm_plugins.removal import Forward, Removal, as_removal

__all__ = ["lime_attribution", "lime_coalitions", "lime_coefficients"]

#: Of the exponential kernel, as lime has it for images.
_WIDTH = 0.25

#: Of the ridge regression.
_PENALTY = 1.0


def lime_attribution(
    model: nn.Module, removal: Removal | str, x: Tensor, feature_mask: Tensor, target: int, samples: int = 512,
    seed: int = 0, batch_size: int | None = None, output: Callable[[Any], Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """Coefficients of LIME for the features of one image, with the settings of the layer masking paper.

    The first sample is the whole image, as in lime. The others keep each feature with probability one half and depend on
    the seed alone, so that every removal gets the same ones. Ridge regression with an intercept (penalty 1), weights
    :math:`e^{-d^2 / 2w^2}` with the cosine distance d from the whole image and w = 0.25.

    Args:
        model: A model that returns scores ``(N, classes)``, or anything that `output` takes them from. LIME explains
            probabilities: let `output` end in a softmax where the model returns logits.
        removal: An object or a name of `lm_plugins.removal`.
        x: One image ``(1, C, H, W)``.
        feature_mask: Integer ``(H, W)`` with ids from 0 to F - 1.
        target: The class to explain.
        samples: Coalitions, the whole image included, at least 2.
        seed: Of the coalitions.
        batch_size: Coalitions in one forward pass; None chooses.
        output: Turns what the model returns into the scores; None if they are.

    Returns:
        ``(F,)`` on the CPU, float32.

    Raises:
        OptionError: There are fewer than 2 samples, or the model has no such class.
        ShapeError: `x` is not one image, or the feature mask does not fit it.
        TrainingModeError: The model or a part of it is in training mode.

    Example:
        >>> import torch
        >>> from lm_plugins.audit import lime_attribution
        >>> brightness = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
        >>> lime_attribution(brightness, "grey", torch.ones(1, 1, 2, 2), torch.tensor([[0, 0], [0, 1]]), 0).argmax()
        tensor(0)

    References:
        Ribeiro, Singh and Guestrin, "Why should I trust you?", KDD 2016; Balasubramanian and Feizi, ICCV 2023: 512 samples.
    """
    check_evaluation_mode(model, "LIME")
    forward = as_removal(removal)(model)
    return lime_coefficients(forward, x, feature_mask, target, samples, seed, batch_size, output)


def lime_coefficients(
    forward: Forward, x: Tensor, feature_mask: Tensor, target: int, samples: int, seed: int,
    batch_size: int | None = None, output: Callable[[Any], Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """The same as `lime_attribution`, of what a removal built from a model."""
    coalitions = lime_coalitions(int(feature_mask.max()) + 1, samples, seed)
    found = CoalitionEvaluator(forward, x, feature_mask, batch_size, output)(coalitions)
    scores = selected(found, [target] * samples)
    return _ridge(coalitions.double(), scores.detach().double().cpu(), _similarity(coalitions)).float()


def lime_coalitions(count: int, samples: int, seed: int) -> Tensor:
    """Coalitions as lime draws them, bool ``(samples, count)``: first all features, then each with probability one half."""
    if samples < 2:
        raise OptionError(f"LIME needs at least 2 samples, got {samples!r}.")
    if count < 1:
        raise ShapeError("there is no feature to explain.")
    drawn = torch.rand(samples, count, generator=torch.Generator().manual_seed(seed)) < 0.5
    drawn[0] = True
    return drawn


def _similarity(coalitions: Tensor) -> Tensor:
    """Weights ``(K,)``: the cosine of a coalition of k of F features with all of them is the root of k / F."""
    distance = 1 - coalitions.double().mean(1).sqrt()
    return torch.exp(-(distance**2) / (2 * _WIDTH**2))


def _ridge(samples: Tensor, scores: Tensor, weights: Tensor) -> Tensor:
    """Coefficients of a weighted ridge regression with an intercept that the penalty leaves alone."""
    share = weights / weights.sum()
    inputs, values = samples - share @ samples, scores - share @ scores
    gram = inputs.T @ (weights[:, None] * inputs)
    penalty = _PENALTY * torch.eye(len(gram), dtype=gram.dtype)
    coefficients: Tensor = torch.linalg.solve(gram + penalty, inputs.T @ (weights * values))
    return coefficients
