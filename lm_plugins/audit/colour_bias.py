"""Colour bias: how much an answer depends on the colour that hidden pixels happen to be painted in."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lm_plugins.errors import ShapeError
from lm_plugins.removal import Colour, Forward, PixelColour, RandomColour, Removal

__all__ = ["colour_bias", "with_colours"]

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


def with_colours(removal: Removal) -> list[Removal]:
    """The same way to remove in several colours.

    Args:
        removal: A removal by paint gives itself in other colours. Any other is given images whose hidden pixels were
            painted before, which must not matter to it: its bias is 0 by construction.

    Returns:
        A removal for each of six colours.
    """
    is_paint = isinstance(removal, (Colour, PixelColour, RandomColour))
    return [_Painted(Colour() if is_paint else removal, colour, is_paint) for colour in COLOURS]


@dataclass(frozen=True)
class _Painted:
    removal: Removal
    colour: tuple[float, float, float]
    is_paint: bool

    def __call__(self, model: nn.Module) -> Forward:
        forward = self.removal(model)

        def painted(x: Tensor, visible: Tensor) -> object:
            channels = x.shape[1]
            # Other than three channels get the colour's channels in turn.
            colour = Colour(tuple(self.colour[i % 3] for i in range(channels)))
            values = colour.replaced(x, visible.expand(len(x), *x.shape[2:]))
            return model(values) if self.is_paint else forward(values, visible)

        return painted
