"""Sides of a map cut into blocks, as models write space-to-depth: view, permute, view.

A view ``(N, C, H, W)`` as ``(N, C, H / b, b, W / b, b)`` has the dimensions ``N C H h W w``: "h" and "w" count the rows
and columns within a block. The regions stay those of the map. Once a view merges both into the channels, the map has
become one of blocks.
"""

from lm_plugins.masking.activation import NCHW, MaskedActivation
from lm_plugins.masking.window import Window

__all__ = ["gathered"]


def gathered(input: MaskedActivation, shape: list[int], dims: tuple[str, ...]) -> MaskedActivation:
    """Turn the positions within a block into channels: a convolution whose stride is its kernel, padded like one.

    Args:
        input: An activation with "h" or "w" among its dimensions.
        shape: What it becomes, of as many values.
        dims: The dimensions of the result, with neither.

    Returns:
        The activation of that shape.
    """
    size = {letter: int(input.shape[i]) for i, letter in enumerate(input.dims)}
    block = Window.block((size.get("h", 1), size.get("w", 1)))
    values = input.values
    if not input.visibility.computed.is_full:
        whole, cut, back = input.joined()
        as_map = whole.values.flatten(1, -3)  # (N, C, H, W)
        padded = MaskedActivation(as_map, input.visibility, NCHW).padded_for(block)
        values = padded.reshape(cut).permute(back)
    return MaskedActivation(values.reshape(shape), input.visibility.after_convolution(block), dims)
