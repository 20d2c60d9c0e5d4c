"""The batch folded into the channels, as conditional convolutions do: each image has weights of its own.

A view ``(N, C, H, W)`` as ``(1, N * C, H, W)`` has the dimensions ``C B H W``, where "B" counts the channels of the first
image, then those of the second, and so on. A convolution with as many groups for every image keeps them apart.
"""

from collections.abc import Sequence

from lm_plugins.masking.activation import NCHW, MaskedActivation

__all__ = ["FOLDED", "folded", "unfolded"]

#: The dimensions of a map whose batch is folded into its channels.
FOLDED = ("C", "B", "H", "W")


def folded(input: MaskedActivation, shape: Sequence[int]) -> MaskedActivation | None:
    """The activation with its batch folded into its channels, if that is what a view as `shape` does."""
    if input.dims != NCHW or input.shape[0] == 1:  # one image needs no folding
        return None
    n, c, *sides = input.shape
    return (
        MaskedActivation(input.values.reshape(shape), input.visibility, FOLDED) if shape == [1, n * c, *sides] else None
    )


def unfolded(input: MaskedActivation, shape: Sequence[int]) -> MaskedActivation | None:
    """The activation with its batch as the first dimension again, if that is what a view as `shape` does."""
    n = input.visibility.visible.positions.shape[0]
    is_folded = input.dims in (FOLDED, ("B", "C", "H", "W")) or (n == 1 and input.dims == ("C", "N", "H", "W"))
    if not is_folded or 1 not in input.shape[:2] or list(shape) != [n, input.shape[:2].numel() // n, *input.shape[2:]]:
        return None
    return MaskedActivation(input.values.reshape(shape), input.visibility, NCHW)
