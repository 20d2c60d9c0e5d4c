"""Whether two removals rank things alike: features of an image, or methods of explanation."""

import torch
from torch import Tensor

from lm_plugins.errors import ShapeError

__all__ = ["rank_agreement"]


def rank_agreement(first: Tensor, second: Tensor) -> Tensor:
    r"""Spearman's rank correlation.

    .. math::
        \rho = \text{corr}(\text{rank}(a), \text{rank}(b))

    with equal values sharing the mean of their ranks. Given attributions of features under two removals, it says whether
    the choice of the removal changes the explanation. Given the scores of several explanation methods under two removals
    (ROAD's use: areas under deletion curves, one for each method), whether it changes which method wins.

    Args:
        first: ``(..., F)``, at least two values each.
        second: Of the same shape.

    Returns:
        ``(...,)`` in [-1, 1], float64. 1 where both are constant, 0 where one is.

    Raises:
        ShapeError: They do not fit, or there are fewer than two values.

    Example:
        >>> import torch
        >>> from lm_plugins.audit import rank_agreement
        >>> rank_agreement(torch.tensor([0.1, 0.2, 0.9]), torch.tensor([1.0, 3.0, 2.0]))
        tensor(0.5000, dtype=torch.float64)

    References:
        Rong et al., "A consistent and efficient evaluation strategy for attribution methods" (ROAD), ICML 2022.
    """
    if first.shape != second.shape or not first.ndim or first.shape[-1] < 2:
        raise ShapeError(
            f"expected two tensors (..., F) of one shape with F at least 2, got {tuple(first.shape)} and "
            f"{tuple(second.shape)}."
        )
    a, b = (_ranks(one.detach().cpu()) for one in (first, second))
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    sizes = a.norm(dim=-1) * b.norm(dim=-1)
    both_constant = (a == 0).all(-1) & (b == 0).all(-1)
    correlation = (a * b).sum(-1) / sizes.where(sizes > 0, torch.ones_like(sizes))
    return torch.where(both_constant, torch.ones_like(correlation), correlation).clamp(-1, 1)


def _ranks(values: Tensor) -> Tensor:
    """Ranks from 0, equal values sharing their mean: how many are smaller, and half of the others that are equal."""
    smaller = (values[..., None] > values[..., None, :]).sum(-1)
    equal = (values[..., None] == values[..., None, :]).sum(-1)
    return smaller.double() + (equal.double() - 1) / 2
