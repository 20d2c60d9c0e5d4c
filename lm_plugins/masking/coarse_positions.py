"""Positions of parts of a map: of the blocks, rows or columns that some statistic was taken over."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lm_plugins.masking.geometry import Pair
from lm_plugins.masking.mask import Mask
from lm_plugins.masking.token_positions import CONSTANT, TokenPositions, compact

__all__ = ["coarser", "grouped", "is_coarser", "within", "without_coarser"]


def coarser(positions: TokenPositions, dims: Sequence[int], keepdim: bool) -> TokenPositions | None:
    """What positions remain once those along `dims` are pooled: the blocks of equal size that cut the map into a smaller one.

    A block is visible if anything in it is, as after adaptive pooling.

    Args:
        positions: None of them dropped.
        dims: Increasing. The positions vary along at least one of them.
        keepdim: Whether the dimensions stay, with one entry.

    Returns:
        The positions on the map of blocks; None if what is pooled together is no block.
    """

    def make() -> TokenPositions | None:
        _, h, w = positions.map_shape
        kept = [dim for dim in range(positions.numbers.ndim) if dim not in dims]
        shape = [size for dim, size in enumerate(positions.numbers.shape) if keepdim or dim not in dims]
        groups = positions.numbers.permute(*kept, *dims).reshape(*(positions.numbers.shape[i] for i in kept), -1)
        first = groups.reshape(-1, groups.shape[-1])[0]
        height, width = (int(side.max() - side.min()) + 1 for side in (first // w % h, first % w))
        if bool((groups == CONSTANT).any()) or h % height or w % width or len(first) != height * width:
            return None
        size = (h // height, w // width)
        block = _blocks(groups, positions.map_shape, size)
        is_block = bool((block == block[..., :1]).all()) and bool((groups.sort(-1).values.diff(dim=-1) > 0).all())
        if not is_block:
            return None
        numbers = block[..., 0].reshape(
            [1 if dim in dims else shape[dim] for dim in range(len(shape))] if keepdim else shape
        )
        return TokenPositions(compact(numbers), positions.visibility.after_adaptive_pooling(size))

    return positions.once(("coarser", tuple(dims), keepdim), make)


def grouped(positions: TokenPositions, dims: Sequence[int]) -> TokenPositions | None:
    """What positions remain where those along `dims` are pooled and are no blocks: one for each group, in a map of one row.

    A group is visible if anything in it is.

    Returns:
        The positions; None if a group holds several images, or images have different numbers of groups.
    """

    def make() -> TokenPositions | None:
        kept = [dim for dim in range(positions.numbers.ndim) if dim not in dims]
        shape = [positions.numbers.shape[dim] for dim in kept]
        groups = positions.numbers.permute(*kept, *dims).reshape(torch.Size(shape).numel(), -1)
        hidden = positions.hidden_on_host.permute(*kept, *dims).reshape(groups.shape).all(1)
        n, h, w = positions.map_shape
        image = groups // (h * w)
        if bool((groups == CONSTANT).any()) or bool((image != image[:, :1]).any()):
            return None
        counts = image[:, 0].bincount(minlength=n)
        if bool((counts != counts[0]).any()):
            return None
        order = groups.min(1).values.argsort(stable=True)  # the same groups have the same numbers in any layout
        numbers = torch.empty_like(order).scatter(0, order, torch.arange(len(order)))
        visible = torch.empty_like(hidden).scatter(0, numbers, ~hidden).reshape(n, 1, -1)
        region = Mask(visible.to(positions.device))
        return TokenPositions(compact(numbers.reshape(shape)), positions.visibility.all_of(region))

    return positions.once(("grouped", tuple(dims)), make)


def _blocks(numbers: Tensor, map_shape: tuple[int, int, int], size: Pair) -> Tensor:
    """The number of the block of each position, of a map cut into ``size[0] x size[1]`` of them."""
    _, h, w = map_shape
    image, row, column = numbers // (h * w), numbers // w % h, numbers % w
    result: Tensor = (image * size[0] + row // (h // size[0])) * size[1] + column // (w // size[1])
    return result


def is_coarser(one: TokenPositions, other: TokenPositions) -> bool:
    """Whether the first are those of the blocks in which the second lie, value for value."""
    (n, h, w), (images, height, width) = one.map_shape, other.map_shape
    if one.whole is not None or n != images or (h, w) == (height, width):
        return False
    if height % h or width % w or one.numbers.ndim != other.numbers.ndim:
        return False
    if bool((one.numbers == CONSTANT).any()) or bool((other.numbers == CONSTANT).any()):
        return False
    expected = _blocks(other.numbers, other.map_shape, (h, w))
    fits = all(size in (1, have) for size, have in zip(one.numbers.shape, expected.shape, strict=True))
    return fits and bool((one.numbers == expected).all())


def without_coarser(positions: Sequence[TokenPositions]) -> tuple[TokenPositions, ...] | None:
    """Positions, each narrowed to the blocks among them in which it lies, which then say nothing more.

    Returns:
        Those that are left; None if nothing visible would be in an image.
    """
    left = list(positions)
    for blocks in positions:
        finer = [i for i, one in enumerate(left) if one is not blocks and is_coarser(blocks, one)]
        if not finer:
            continue
        narrowed = within(left[finer[0]], blocks)
        if narrowed is None:
            return None
        left[finer[0]] = narrowed
        left = [one for one in left if one is not blocks]
    return tuple(left)


def within(positions: TokenPositions, blocks: TokenPositions) -> TokenPositions | None:
    """The positions, with only those visible whose block is; themselves where that is all, None where nothing would be left.

    Args:
        positions: Each in the block that `blocks` name.
        blocks: As `is_coarser` wants them.
    """
    mask, region = positions.visibility.visible, blocks.visibility.visible

    def make() -> tuple[Mask | None, Mask]:
        (height, width), (h, w) = mask.size, region.size
        of_blocks = region.positions.repeat_interleave(height // h, 1).repeat_interleave(width // w, 2)
        both = mask.positions & of_blocks
        if torch.equal(both, mask.positions):
            return mask, region
        is_lost = ~both.flatten(1).any(1) & mask.positions.flatten(1).any(1)
        return None if bool(is_lost.any()) else Mask(both, mask.inside), region

    narrowed = mask.once(("within", id(region)), make)[0]  # holding the region keeps its id its own
    if narrowed is mask or narrowed is None:
        return positions if narrowed is mask else None
    visibility = positions.visibility.all_of(narrowed)
    whole = None if positions.whole is None else TokenPositions(positions.whole.numbers, visibility)
    return TokenPositions(positions.numbers, visibility, whole)
