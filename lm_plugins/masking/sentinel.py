"""The sentinel: hidden pixels said by their value, for code that can only change pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_plugins.errors import MaskValueError

__all__ = ["MASKED", "share_of_grey", "unpainted"]

#: A pixel whose channels all equal it is hidden. Exact in float16, bfloat16 and float32, small enough to leave distances
#: between images meaningful, and outside of the range of normalised images.
MASKED = -7.71875

# Of the pixels beside hidden ones, this share has to look like blends before anybody is accused.
_BLENDED_SHARE = 0.25
# Of all pixels, this share has to look like a painted region that was changed afterwards.
_CHANGED_SHARE = 0.01
# How near the sentinel rounded values are, and how far below the others it lies, in their range, if an image from 0 to 1 was
# painted and then normalised.
_NEAR, _FAR = 0.01, 7.0

# Black in the usual normalisations is -2.2 to -1; an image whose brightest value is below this was moved there.
_BEGIN = -3.0

# How far noise carries the mean of a pixel's channels from the sentinel. Normalised images lie above that.
_SCATTER = 4.0

_REMEDY = (
    "The sentinel has to reach the model as it is: paint behind every resize, normalisation and conversion, or pass the mask "
    "itself, LayerMasked(model)(x, visible)."
)


def unpainted(x: Tensor) -> Tensor:
    """Which pixels are visible, if hidden ones are painted with `MASKED`.

    Args:
        x: Images ``(N, C, H, W)``, floating point.

    Returns:
        Bool ``(N, H, W)``.

    Raises:
        MaskValueError: A pixel equals `MASKED` in only some of its channels; or the images look as if they had been resized
            or normalised, or as if noise had been added, after they were painted. What hides less than a hundredth of an
            image, or has a range that reaches below `MASKED`, cannot be told from an image, nor what was scaled by a little.
    """
    is_sentinel = x == torch.tensor(MASKED, dtype=x.dtype, device=x.device)  # (N, C, H, W)
    hidden = is_sentinel.all(1)  # (N, H, W)
    partly = is_sentinel.any(1) & ~hidden
    if bool(partly.any()):
        image, row, column = (int(one) for one in partly.nonzero()[0])
        raise MaskValueError(
            f"{int(partly.sum())} pixels equal lm_plugins.MASKED in only some of their channels (the first: image {image}, "
            f"row {row}, column {column}). A pixel is visible or hidden as a whole: use windows and feature masks that "
            f"span all {x.shape[1]} channels, such as sliding_window_shapes=({x.shape[1]}, height, width)."
        )
    # What was done to one image of a batch was done to all; the one that shows and hides about as much tells most, and where
    # none hides anything, the darkest.
    count = hidden.flatten(1).sum(1)
    telling = torch.minimum(count, hidden[0].numel() - count)
    one = int(telling.argmax() if bool(count.any()) else x.detach().flatten(1).amax(1).argmin())
    _check_unchanged(x[one : one + 1].detach(), hidden[one : one + 1])
    return ~hidden


def share_of_grey(x: Tensor) -> float:
    """How much of an image looks painted over in the data set's mean colour, which explainers do when no baseline is given.

    Args:
        x: Images ``(N, C, H, W)``.

    Returns:
        The largest share of pixels that are exactly 0 in all channels, of the images with values on both sides of 0.
    """
    is_grey = (x == 0).all(1).flatten(1).float().mean(1)
    has_both = (x.flatten(1).amin(1) < 0) & (x.flatten(1).amax(1) > 0)
    return float(torch.where(has_both, is_grey, 0.0).max())


def _check_unchanged(x: Tensor, hidden: Tensor) -> None:
    """Refuse images that were changed after they were painted."""
    almost = ((x - MASKED).abs() <= -_NEAR * MASKED).all(1) & ~hidden
    _refuse(almost, _CHANGED_SHARE, "almost equal lm_plugins.MASKED: rounded, or computed with")
    if bool(hidden.any()):
        beside = (F.max_pool2d(hidden[:, None].float(), 3, 1, 1)[:, 0] > 0) & ~hidden
        away = F.max_pool2d(hidden[:, None].float(), 5, 1, 2)[:, 0] == 0  # blends may be two pixels wide
        darkest = torch.where(away[:, None], x, torch.inf).flatten(1).amin(1)[:, None, None]  # (N, 1, 1)
        # Few pixels say little of how dark an image is.
        sizes = away.flatten(1).sum(1), beside.flatten(1).sum(1)
        is_known = (sizes[0] >= 16) & (4 * sizes[0] >= sizes[1])
        blended = beside & (x.amax(1) < darkest) & (darkest > MASKED) & is_known[:, None, None]
        count = sizes[1] * _BLENDED_SHARE / hidden[0].numel()
        _refuse(
            blended,
            count,
            "lie beside hidden ones, and between lm_plugins.MASKED and everything else: blends of the two, as a resize or a "
            "blur makes them",
        )
    else:
        _refuse(_far_below(x), _CHANGED_SHARE, "have one colour far below everything else: as if normalised")
        _refuse(
            _below(x),
            1.0,
            "lie between lm_plugins.MASKED and every image: blends of the two, as explainers make them that interpolate",
        )
        _refuse(_around(x), _CHANGED_SHARE, "lie around lm_plugins.MASKED, far below all others: as if noise was added")


def _refuse(pixels: Tensor, least: float | Tensor, what: str) -> None:
    share = pixels.flatten(1).float().mean(1)
    guilty = (share > 0) & (share >= least)
    if bool(guilty.any()):
        raise MaskValueError(
            f"{float(share.max()):.1%} of the pixels of an image {what}, after they were painted. {_REMEDY}"
        )


def _around(x: Tensor) -> Tensor:
    """Bool ``(N, H, W)``: the pixels that scatter around `MASKED`, in images of which all others are far above them."""
    mean = x.mean(1)
    near = (mean - MASKED).abs() < _SCATTER
    count = near.flatten(1).sum(1).clamp(min=1)
    centre = torch.where(near, mean - MASKED, 0.0).flatten(1).sum(1) / count
    is_apart = ((mean > MASKED + _SCATTER) | near).flatten(1).all(1)
    return near & (is_apart & (centre.abs() < _SCATTER / 16))[:, None, None]


def _below(x: Tensor) -> Tensor:
    """Bool ``(N, H, W)``: all pixels of images that lie as a whole between `MASKED` and where images begin."""
    low, high = x.flatten(1).amin(1), x.flatten(1).amax(1)
    is_blend = (low > MASKED) & (high < _BEGIN) & (high > low)
    return is_blend[:, None, None].expand(-1, *x.shape[2:])


def _far_below(x: Tensor) -> Tensor:
    """Bool ``(N, H, W)``: the pixels of one colour that lie below all others by several times the range of those."""
    lowest = x.flatten(2).amin(2)[:, :, None, None]  # (N, C, 1, 1)
    same = (x == lowest).all(1)
    others = torch.where(same[:, None], torch.nan, x).flatten(1)
    low, high = others.nan_to_num(torch.inf).amin(1), others.nan_to_num(-torch.inf).amax(1)
    is_far = (lowest.flatten(1).amax(1) < low - _FAR * (high - low)) & (low < high)
    return same & is_far[:, None, None]
