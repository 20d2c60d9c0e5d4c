"""Alignment: whether an attribution of features points at the object."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_plugins.audit.removal_order import feature_means
from lm_plugins.errors import OptionError, ShapeError

__all__ = ["alignment", "top_features", "top_jaccard"]


def alignment(attribution: Tensor, feature_mask: Tensor, region: Tensor) -> float:
    r"""The cosine between an attribution of features and the object.

    .. math::
        \cos(s, g), \qquad g_i = \sum_{\lambda \in \text{feature } i} \bigl(m(\lambda) - \bar m\bigr)

    with m the object as 0 and 1, and its mean over the image taken off.

    Args:
        attribution: One number for each feature, ``(F,)``.
        feature_mask: Integer ``(H, W)`` with ids from 0 to F - 1.
        region: The object, bool or 0/1 ``(H, W)``.

    Returns:
        From -1 to 1; higher is better. 0 if the attribution is 0 everywhere, or the object is nothing or everything.

    Raises:
        ShapeError: They do not fit.

    Example:
        >>> import torch
        >>> from lm_plugins.audit import alignment
        >>> round(alignment(torch.tensor([1.0, 0.0]), torch.tensor([[0, 1]]), torch.tensor([[1, 0]])), 4)
        0.7071

    References:
        Balasubramanian and Feizi, ICCV 2023, quantitative evaluation of LIME.
    """
    _check(attribution, feature_mask, region)
    inside = region.double().cpu()
    sizes = torch.bincount(feature_mask.flatten().cpu())
    weights = feature_means(inside - inside.mean(), feature_mask) * sizes
    return float(F.cosine_similarity(attribution.double().cpu(), weights, dim=0).clamp(-1, 1))


def top_jaccard(attribution: Tensor, feature_mask: Tensor, region: Tensor, top: int = 20) -> float:
    r"""Jaccard index of the top features, as pixels, with the object.

    .. math::
        J = \frac{|T \cap G|}{|T \cup G|}

    Args:
        attribution: One number for each feature, ``(F,)``.
        feature_mask: Integer ``(H, W)`` with ids from 0 to F - 1.
        region: The object, bool or 0/1 ``(H, W)``.
        top: How many features; at most half of them are taken.

    Returns:
        From 0 to 1; higher is better.

    Raises:
        ShapeError: They do not fit.
        OptionError: `top` is below 1.

    Example:
        >>> import torch
        >>> from lm_plugins.audit import top_jaccard
        >>> top_jaccard(torch.tensor([1.0, 0.0]), torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 1, 0, 0]]), top=1)
        0.5

    References:
        Balasubramanian and Feizi, ICCV 2023: the top 20 segments.
    """
    _check(attribution, feature_mask, region)
    chosen = torch.isin(feature_mask.cpu(), top_features(attribution, top))
    inside = region.cpu() == 1
    return float((chosen & inside).sum() / (chosen | inside).sum().clamp(min=1))


def top_features(attribution: Tensor, top: int = 20) -> Tensor:
    """The ids of the features of the highest attribution, of equal ones the lower ids.

    Args:
        attribution: ``(F,)``.
        top: How many; at most half of the features, at least one.

    Returns:
        Int64 ``(K,)``.

    Raises:
        OptionError: `top` is below 1.
    """
    if top < 1:
        raise OptionError(f"top is at least 1, got {top!r}.")
    return attribution.cpu().argsort(descending=True, stable=True)[: max(1, min(top, len(attribution) // 2))]


def _check(attribution: Tensor, feature_mask: Tensor, region: Tensor) -> None:
    if feature_mask.ndim != 2 or region.shape != feature_mask.shape:
        raise ShapeError(
            f"expected a feature mask and a region (H, W), got {tuple(feature_mask.shape)} and {tuple(region.shape)}."
        )
    count = int(feature_mask.max()) + 1
    if attribution.shape != (count,):
        raise ShapeError(f"there are {count} features, the attribution has shape {tuple(attribution.shape)}.")
