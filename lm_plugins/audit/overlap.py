"""Overlap of an attribution with a region, at the thresholds of SISE and Integrated Grad-CAM."""

import torch
from torch import Tensor

from lm_plugins.audit.ranking import above_rank, pixel_maps, regions, top_pixels

__all__ = ["bbox", "mask_l1", "top_iou"]


def top_iou(attribution: Tensor, region: Tensor, share: float = 0.2) -> Tensor:
    r"""Intersection over union of the region with the pixels of the highest attribution.

    .. math::
        \text{IoU} = \frac{|T \cap G|}{|T \cup G|}, \qquad T = \text{top 20 \% of the pixels}

    Its mean over images is the papers' mIoU.

    Args:
        attribution: ``(N, C, H, W)``, ``(N, H, W)`` or ``(H, W)``; channels are summed.
        region: Bool or 0/1: ``(N, 1, H, W)``, ``(N, H, W)`` or ``(H, W)``. For boxes, their union.
        share: Of all pixels, in [0, 1].

    Returns:
        ``(N,)`` in [0, 1]; 0 if both are empty.

    Example:
        >>> import torch
        >>> from lm_plugins.audit import top_iou
        >>> top_iou(torch.tensor([[4.0, 3.0], [2.0, 1.0]]), torch.tensor([[1, 0], [1, 0]]), share=0.5).round(decimals=4)
        tensor([0.3333])
    """
    maps = pixel_maps(attribution)
    top, inside = top_pixels(maps, share), regions(region, maps)
    both, either = (top & inside).sum((1, 2)), (top | inside).sum((1, 2))
    return both.to(maps.dtype) / either.clamp(min=1)


def bbox(attribution: Tensor, region: Tensor) -> Tensor:
    r"""The share of the region that the pixels of the highest attribution cover, as many as the region has.

    .. math::
        \text{Bbox} = \frac{|T_N \cap G|}{N}, \qquad N = |G|, \quad T_N = \text{the } N \text{ highest pixels}

    Args:
        attribution: ``(N, C, H, W)``, ``(N, H, W)`` or ``(H, W)``; channels are summed.
        region: Bool or 0/1: ``(N, 1, H, W)``, ``(N, H, W)`` or ``(H, W)``. For boxes, their union.

    Returns:
        ``(N,)`` in [0, 1]; 0 for an empty region. Ties at the threshold are left out, as in `top_pixels`.

    Example:
        >>> import torch
        >>> from lm_plugins.audit import bbox
        >>> bbox(torch.tensor([[4.0, 3.0], [2.0, 1.0]]), torch.tensor([[1, 0], [1, 0]]))
        tensor([0.5000])

    References:
        Schulz et al., "Restricting the flow: information bottlenecks for attribution", ICLR 2020.
    """
    maps = pixel_maps(attribution)
    inside = regions(region, maps)
    size = inside.sum((1, 2))
    kept = above_rank(maps, size) & inside
    return kept.sum((1, 2)).to(maps.dtype) / size.clamp(min=1)


def mask_l1(attribution: Tensor, region: Tensor) -> Tensor:
    r"""Mean absolute difference between the region and the attribution spread over [0, 1].

    Args:
        attribution: ``(N, C, H, W)``, ``(N, H, W)`` or ``(H, W)``; channels are summed. A constant one counts as 0.
        region: Bool or 0/1: ``(N, 1, H, W)``, ``(N, H, W)`` or ``(H, W)``. For boxes, their union.

    Returns:
        ``(N,)`` in [0, 1]; lower is better.

    Example:
        >>> import torch
        >>> from lm_plugins.audit import mask_l1
        >>> mask_l1(torch.tensor([[4.0, 2.0], [0.0, 0.0]]), torch.tensor([[1, 0], [0, 0]]))
        tensor([0.1250])
    """
    maps = pixel_maps(attribution)
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    spread = torch.where(high > low, (maps - low) / (high - low).where(high > low, torch.ones_like(low)), 0.0)
    return (spread - regions(region, maps).to(maps.dtype)).abs().mean((1, 2))
