"""Pixels in the order of an attribution: what measures of explanations start from."""

import torch
from torch import Tensor

from lm_plugins.errors import InputTypeError, NonFiniteError, OptionError, ShapeError

__all__ = ["pixel_maps", "regions", "top_pixels"]


def pixel_maps(attribution: Tensor) -> Tensor:
    """An attribution as one number for each pixel.

    Args:
        attribution: ``(N, C, H, W)``, summed over channels; ``(N, H, W)`` or ``(H, W)``. Finite.

    Returns:
        ``(N, H, W)``, floating point.

    Raises:
        InputTypeError: It is no tensor.
        ShapeError: It has other dimensions.
        NonFiniteError: It holds NaN or infinity.

    Example:
        >>> import torch
        >>> from lm_plugins.audit.ranking import pixel_maps
        >>> pixel_maps(torch.ones(2, 3, 4, 5)).shape
        torch.Size([2, 4, 5])
    """
    if not isinstance(attribution, Tensor):
        raise InputTypeError(f"an attribution is a torch.Tensor, got {type(attribution).__name__}.")
    maps = attribution.detach()
    maps = maps if maps.is_floating_point() else maps.float()
    maps = maps.sum(1) if maps.ndim == 4 else maps[None] if maps.ndim == 2 else maps
    if maps.ndim != 3 or 0 in maps.shape:
        raise ShapeError(f"an attribution is (N, C, H, W), (N, H, W) or (H, W), got shape {tuple(attribution.shape)}.")
    if not bool(maps.isfinite().all()):
        raise NonFiniteError("the attribution holds NaN or infinity, so that its pixels have no order.")
    return maps


def regions(region: Tensor, maps: Tensor) -> Tensor:
    """A ground-truth region for maps.

    Args:
        region: Bool or 0/1: ``(N, 1, H, W)``, ``(N, H, W)`` or ``(H, W)``.
        maps: ``(N, H, W)``.

    Returns:
        Bool ``(N, H, W)``, on the device of the maps.

    Raises:
        InputTypeError: It is no tensor, or holds something other than 0 and 1.
        ShapeError: It does not fit the maps.
    """
    if not isinstance(region, Tensor):
        raise InputTypeError(f"a region is a torch.Tensor of bool, got {type(region).__name__}.")
    flat = region[:, 0] if region.ndim == 4 and region.shape[1] == 1 else region
    flat = flat[None] if flat.ndim == 2 else flat
    if flat.ndim != 3 or flat.shape[0] not in (1, len(maps)) or flat.shape[1:] != maps.shape[1:]:
        raise ShapeError(
            f"the region has shape {tuple(region.shape)}, the attribution {tuple(maps.shape)}: expected "
            f"{tuple(maps.shape)} or {tuple(maps.shape[1:])}."
        )
    if not bool(((flat == 0) | (flat == 1)).all()):
        raise InputTypeError("a region holds 0 (outside) and 1 (inside) only.")
    return (flat == 1).to(maps.device).expand_as(maps)


def top_pixels(attribution: Tensor, share: float = 0.15) -> Tensor:
    r"""The pixels of the highest attribution.

    Those above the value at place :math:`\lfloor \text{share} \cdot n \rfloor` (from 0) of the n values in descending
    order. Pixels that equal this value are not among them: with ties there may be fewer, and none of a constant map.

    Args:
        attribution: See `pixel_maps`.
        share: Of all pixels, in [0, 1].

    Returns:
        Bool ``(N, H, W)``.

    Raises:
        OptionError: `share` is outside of [0, 1].

    Example:
        >>> import torch
        >>> from lm_plugins.audit import top_pixels
        >>> top_pixels(torch.tensor([[4.0, 1.0], [3.0, 2.0]]), share=0.5)
        tensor([[[ True, False],
                 [ True, False]]])
    """
    if not 0 <= share <= 1:
        raise OptionError(f"share is in [0, 1], got {share!r}.")
    maps = pixel_maps(attribution)
    # Rounding shall not lose a pixel: 0.29 * 100 is a little below 29.
    count = int(share * maps[0].numel() + 1e-9)
    return above_rank(maps, torch.full((len(maps),), count, device=maps.device))


def above_rank(maps: Tensor, counts: Tensor) -> Tensor:
    """Bool ``(N, H, W)``: above the value at a place, from 0 and descending, that each of the N maps has its own of."""
    values = maps.flatten(1).sort(1, descending=True).values
    limits = values.gather(1, counts.clamp(max=values.shape[1] - 1)[:, None].long())
    everything = (counts >= values.shape[1])[:, None, None]
    return (maps > limits[:, :, None]) | everything
