"""Maps brought to [0, 1]."""

import torch
from torch import Tensor

__all__ = ["is_constant", "min_max"]

#: Up-sampling a constant map rounds; differences of this many units in the last place are no signal.
_ROUNDING = 16


def is_constant(maps: Tensor) -> Tensor:
    """Which maps hold one value only, up to rounding.

    Args:
        maps: ``(..., H, W)``, floating point.

    Returns:
        Bool ``(...)``.

    Example:
        >>> import torch
        >>> from lm_plugins.attribution.normalization import is_constant
        >>> is_constant(torch.tensor([[[2.0, 2.0]], [[0.0, 1.0]]]))
        tensor([ True, False])
    """
    low, high = maps.amin((-2, -1)), maps.amax((-2, -1))
    largest = torch.maximum(low.abs(), high.abs())
    return high - low <= _ROUNDING * torch.finfo(maps.dtype).eps * largest


def min_max(maps: Tensor) -> Tensor:
    """Spread every map over [0, 1]; a constant map becomes 0.

    No epsilon in the denominator, which would shrink maps of small values.

    Args:
        maps: ``(..., H, W)``, floating point.

    Returns:
        The same shape.

    Example:
        >>> import torch
        >>> from lm_plugins.attribution.normalization import min_max
        >>> min_max(torch.tensor([[1.0, 3.0, 2.0]])), min_max(torch.tensor([[5.0, 5.0]]))
        (tensor([[0.0000, 1.0000, 0.5000]]), tensor([[0., 0.]]))
    """
    low = maps.amin((-2, -1), keepdim=True)
    span = maps.amax((-2, -1), keepdim=True) - low
    flat = is_constant(maps)[..., None, None]
    return torch.where(flat, 0.0, (maps - low) / span.where(~flat, torch.ones_like(span)))
