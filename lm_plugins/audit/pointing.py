"""Pointing games: does an attribution point at the object?"""

import torch
from torch import Tensor

from lm_plugins.audit.ranking import pixel_maps, regions

__all__ = ["energy_pointing_game", "pointing_game"]


def pointing_game(attribution: Tensor, region: Tensor) -> Tensor:
    """Whether the pixel of the highest attribution lies in the region.

    Args:
        attribution: ``(N, C, H, W)``, ``(N, H, W)`` or ``(H, W)``; channels are summed.
        region: Bool or 0/1: ``(N, 1, H, W)``, ``(N, H, W)`` or ``(H, W)``. For boxes, their union.

    Returns:
        Bool ``(N,)``. Where several pixels share the highest value, all of them have to lie inside.

    Example:
        >>> import torch
        >>> from lm_plugins.audit import pointing_game
        >>> pointing_game(torch.tensor([[0.0, 2.0], [1.0, 0.0]]), torch.tensor([[0, 1], [0, 0]]))
        tensor([True])

    References:
        Zhang et al., "Top-down neural attention by excitation backprop", IJCV 2018; without its tolerance of 15 pixels.
    """
    maps = pixel_maps(attribution)
    inside = regions(region, maps)
    highest = maps == maps.amax((1, 2), keepdim=True)
    return ~(highest & ~inside).any(2).any(1)


def energy_pointing_game(attribution: Tensor, region: Tensor) -> Tensor:
    r"""The share of an attribution that lies in the region.

    .. math::
        \text{EBPG} = \frac{\sum_\lambda E(\lambda) \, G(\lambda)}{\sum_\lambda E(\lambda)}

    of the positive part E of the attribution. Negative values, which the published measure does not provide for, count 0.

    Args:
        attribution: ``(N, C, H, W)``, ``(N, H, W)`` or ``(H, W)``; channels are summed.
        region: Bool or 0/1: ``(N, 1, H, W)``, ``(N, H, W)`` or ``(H, W)``. For boxes, their union.

    Returns:
        ``(N,)`` in [0, 1]; 0 for an attribution without positive values.

    Example:
        >>> import torch
        >>> from lm_plugins.audit import energy_pointing_game
        >>> energy_pointing_game(torch.tensor([[3.0, 1.0], [-1.0, 0.0]]), torch.tensor([[1, 0], [1, 0]]))
        tensor([0.7500])

    References:
        Wang et al., "Score-CAM", CVPR workshops 2020; protocol of SISE and Integrated Grad-CAM.
    """
    maps = pixel_maps(attribution).clamp(min=0)
    inside = torch.where(regions(region, maps), maps, 0.0).sum((1, 2))
    total = maps.sum((1, 2))
    return torch.where(total > 0, inside / total.where(total > 0, torch.ones_like(total)), 0.0)
