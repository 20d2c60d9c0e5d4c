"""Patch merging: the positions of a patch that lie in one dimension with the channels, as in hierarchical transformers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.activation import MaskedActivation
from lm_plugins.masking.carrier import Carrier
from lm_plugins.masking.geometry import Window
from lm_plugins.masking.neighbour_padding import fill
from lm_plugins.masking.token_positions import TokenPositions
from lm_plugins.masking.tokens import MaskedTokens

__all__ = ["merged_patches", "with_channels"]


def with_channels(name: str, input: Carrier, dims: Sequence[int]) -> Carrier:
    """Make sure that dimensions hold channels only: whole patches in them are merged into one position each.

    Args:
        name: The torch function that acts on channels, for errors.
        input: A map or tokens.
        dims: The dimensions that are to hold channels.

    Raises:
        UnsupportedOperatorError: They hold positions.
    """
    if not isinstance(input, Carrier):
        raise UnsupportedOperatorError(f"{name} with weights of which a part is hidden has no masked meaning")
    if all(input.is_channels(dim) for dim in dims):
        return input
    if len(dims) > 1 or not isinstance(input, MaskedTokens):
        raise UnsupportedOperatorError(
            f"{name} acts on the dimensions {tuple(dims)} of {input!r}, which hold positions: it would mix hidden and "
            "visible ones"
        )
    return merged_patches(input, dims[0]).as_tokens()


def merged_patches(input: MaskedTokens, dim: int) -> MaskedTokens | MaskedActivation:
    """Merge patches: all positions that lie along a dimension, beside the channels, become one position.

    This is what a convolution with that patch as kernel and stride does: hidden positions are padded from their neighbours,
    and the region passes the window as `MaskingOptions` say.

    Args:
        input: Tokens, all positions of a map among them.
        dim: The dimension that holds channels and, for now, positions.

    Returns:
        The same values, one position for every patch.

    Raises:
        UnsupportedOperatorError: What lies along `dim` are no patches of one size.
    """
    refusal = UnsupportedOperatorError(
        f"the dimension {dim % input.ndim} of {input!r} mixes positions that are no patch of the map, hidden and visible "
        "ones; that has no masked meaning"
    )
    if len(input.positions) != 1:
        raise refusal
    input = input.whole()
    positions = input.positions[0]
    merged = positions.once(("patches", dim % input.ndim), lambda: _merged(positions, dim))
    if merged is None:
        raise refusal
    new, window = merged
    values = input.values
    plan, rings = positions.visibility.padding_for(window)
    if rings:
        order = positions.once(("order", tuple(input.shape)), lambda: _order(positions, input.shape))
        if values.numel() % positions.visibility.visible.positions.numel():
            raise refusal
        n, h, w = positions.map_shape
        as_map = values.flatten()[order].reshape(n, h, w, -1).permute(0, 3, 1, 2)
        filled = fill(as_map, plan, rings, in_place=False).permute(0, 2, 3, 1).flatten()
        values = torch.empty_like(filled).scatter(0, order, filled).reshape(input.shape)
    return MaskedTokens(values, (new,)).simplified()  # type: ignore[return-value]


def _order(positions: TokenPositions, shape: Sequence[int]) -> Tensor:
    """The indices that bring values of `shape` into the order of the map, channels last; where the values are."""
    return positions.numbers.expand(*shape).flatten().argsort(stable=True).to(positions.device)


def _merged(positions: TokenPositions, dim: int) -> tuple[TokenPositions, Window] | None:
    n, h, w = positions.map_shape
    numbers = positions.numbers.movedim(dim, -1)
    counts = (
        numbers.flatten().bincount(minlength=positions.visibility.visible.positions.numel())
        if numbers.min() >= 0
        else None
    )
    if counts is None or bool((counts != counts[0]).any()):
        return None
    one = numbers.reshape(-1, numbers.shape[-1])[0]
    kernel = tuple(int(side.max() - side.min()) + 1 for side in (one // w % h, one % w))
    # Positions alone, without channels beside them, are a sequence, not a patch.
    if h % kernel[0] or w % kernel[1] or len(one) == kernel[0] * kernel[1]:
        return None
    of_position = torch.arange(n * (h // kernel[0]) * (w // kernel[1]))
    of_position = of_position.reshape(n, h // kernel[0], w // kernel[1])
    of_position = of_position.repeat_interleave(kernel[0], 1).repeat_interleave(kernel[1], 2)
    patch = of_position.flatten()[numbers]
    is_whole = patch[..., 0].numel() == len(torch.unique(patch[..., 0])) and bool((patch == patch[..., :1]).all())
    if not is_whole:
        return None
    window = Window((kernel[0], kernel[1]), (kernel[0], kernel[1]), (0, 0, 0, 0), (1, 1))
    after = positions.visibility.after_convolution(window).settled
    return TokenPositions(patch[..., :1].movedim(-1, dim), after), window
