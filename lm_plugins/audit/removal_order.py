"""The order in which the features of an image are removed, and what is visible after each step."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from lm_plugins.errors import OptionError, ShapeError

__all__ = ["Order", "coalitions_after", "removal_order"]

#: ``"random"`` draws; the two others go by the mean saliency of each feature.
Order = Literal["random", "most_salient_first", "least_salient_first"]


def removal_order(feature_mask: Tensor, order: Order, saliency: Tensor | None = None, seed: int = 0) -> Tensor:
    """The features of one image in the order of their removal.

    Args:
        feature_mask: Integer ``(H, W)`` with ids from 0 to F - 1, as `lm_plugins.features.relabelled` makes them.
        order: ``"random"``, ``"most_salient_first"`` or ``"least_salient_first"``.
        saliency: ``(H, W)``, needed for the two orders by saliency. That of a feature is the mean over its pixels; of
            equal ones, the lower id goes first.
        seed: Of the random order.

    Returns:
        Int64 ``(F,)``: ids, the first removed first.

    Raises:
        OptionError: An unknown `order`, or there is no saliency to go by.
        ShapeError: The saliency does not fit the feature mask.

    Example:
        >>> import torch
        >>> from lm_plugins.audit import removal_order
        >>> feature_mask = torch.tensor([[0, 0, 1, 2]])
        >>> removal_order(feature_mask, "most_salient_first", saliency=torch.tensor([[0.1, 0.3, 0.5, 0.0]]))
        tensor([1, 0, 2])

    References:
        Balasubramanian and Feizi, ICCV 2023, removal of segments. Their saliency of a segment is the sum over its
        pixels; with superpixels of unequal size the sum ranks by size as well, so that we take the mean.
    """
    if order not in get_args(Order):
        raise OptionError(f"an order of removal is one of {', '.join(map(repr, get_args(Order)))}; got {order!r}.")
    count = int(feature_mask.max()) + 1
    if order == "random":
        return torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    if saliency is None:
        raise OptionError(f"the order {order!r} needs a saliency (H, W).")
    if saliency.shape != feature_mask.shape:
        raise ShapeError(
            f"the saliency has shape {tuple(saliency.shape)}, the feature mask {tuple(feature_mask.shape)}: interpolate it."
        )
    means = feature_means(saliency, feature_mask)
    return means.argsort(descending=order == "most_salient_first", stable=True)


def feature_means(values: Tensor, feature_mask: Tensor) -> Tensor:
    """The mean of values ``(H, W)`` over each feature, float64 ``(F,)`` on the CPU."""
    ids, flat = feature_mask.flatten().cpu(), values.detach().flatten().double().cpu()
    count = int(ids.max()) + 1
    totals = torch.zeros(count, dtype=torch.float64).index_add_(0, ids, flat)
    return totals / torch.bincount(ids, minlength=count).clamp(min=1)


def coalitions_after(sequence: Tensor, fractions: Sequence[float]) -> Tensor:
    """Which features are left after fractions of them were removed.

    Args:
        sequence: Int64 ``(F,)``, as `removal_order` makes it.
        fractions: Of the features that are removed, in [0, 1]; each is rounded to a number of features.

    Returns:
        Bool ``(K, F)``, True = the feature is present.

    Raises:
        OptionError: A fraction is outside of [0, 1].

    Example:
        >>> import torch
        >>> from lm_plugins.audit import coalitions_after
        >>> coalitions_after(torch.tensor([2, 0, 1, 3]), [0.25, 0.5])
        tensor([[ True,  True, False,  True],
                [False,  True, False,  True]])
    """
    if not all(0 <= fraction <= 1 for fraction in fractions):
        raise OptionError(f"removed fractions are in [0, 1], got {list(fractions)}.")
    place = torch.empty_like(sequence).scatter_(0, sequence, torch.arange(len(sequence)))
    removed = torch.tensor([round(fraction * len(sequence)) for fraction in fractions], dtype=torch.int64)
    return place[None] >= removed[:, None]
