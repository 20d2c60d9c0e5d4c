"""Colour bias: how much an answer depends on the colour that hidden pixels happen to be painted in."""

import torch
from torch import Tensor

from lm_plugins.errors import ShapeError
from lm_plugins.removal import Colour, PixelColour, RandomColour, Removal

__all__ = ["colour_bias", "is_paint", "painted"]

#: In the normalised space of the model's input, about the range of photographs: grey, dark, light, and three hues.
COLOURS = (
    (0.0, 0.0, 0.0), (-2.0, -2.0, -2.0), (2.0, 2.0, 2.0), (2.0, -1.0, -1.0), (-1.0, 2.0, -1.0), (-1.0, -1.0, 2.0),
)  # fmt: skip


def colour_bias(probabilities: Tensor) -> float:
    r"""The spread of answers over fill colours.

    .. math::
        \frac{2}{K (K - 1)} \sum_{j < k} \tfrac12 \sum_c |p_j(c) - p_k(c)|

    the mean total variation distance between the answers for two colours.

    Args:
        probabilities: For each of K colours, ``(K, classes)``.

    Returns:
        From 0 (the colour does not matter) to 1.

    Raises:
        ShapeError: There are fewer than two colours.

    Example:
        >>> import torch
        >>> from lm_plugins.audit import colour_bias
        >>> colour_bias(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
        0.5

    References:
        Balasubramanian and Feizi, ICCV 2023, show the effect on class entropy; the number is ours.
    """
    if probabilities.ndim != 2 or len(probabilities) < 2:
        raise ShapeError(
            f"expected probabilities (K, classes) for at least 2 colours, got {tuple(probabilities.shape)}."
        )
    first, second = torch.triu_indices(len(probabilities), len(probabilities), offset=1)
    distances = (probabilities[first] - probabilities[second]).double().abs().sum(1) / 2
    return float(distances.mean())


def is_paint(removal: Removal) -> bool:
    """Whether a removal paints hidden pixels in a colour that somebody chose, and could have chosen otherwise."""
    return isinstance(removal, (Colour, PixelColour, RandomColour))


def painted(x: Tensor, visible: Tensor) -> Tensor:
    """An image with its hidden pixels in each of six colours.

    Under a removal by paint these are the images that the model would see with that paint. Any other removal is given
    them with the same pixels hidden, which must not matter to it: its bias is 0 if it removes.

    Args:
        x: One image ``(1, C, H, W)``; other than three channels get the colours' channels in turn.
        visible: Bool ``(H, W)``.

    Returns:
        ``(6, C, H, W)``.
    """
    channels = x.shape[1]
    colours = [Colour(tuple(colour[i % 3] for i in range(channels))) for colour in COLOURS]
    return torch.cat([colour.replaced(x, visible[None]) for colour in colours])
