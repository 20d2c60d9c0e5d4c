"""Tokens of several maps in one sequence, such as the scales of a detector. Parted, they are those of these maps again."""

from collections.abc import Sequence
from typing import cast

import torch

from lm_plugins.masking.mask import Mask
from lm_plugins.masking.token_positions import CONSTANT, TokenPositions
from lm_plugins.masking.visibility import Visibility

__all__ = ["joined", "parted"]


class _Joined(Mask):
    """A map of one row that holds the positions of several maps, one map after the other.

    Args:
        parts: The regions of these maps.
    """

    def __init__(self, parts: Sequence[Visibility]) -> None:
        super().__init__(torch.cat([one.visible.positions.flatten(1) for one in parts], 1)[:, None])
        self.parts = tuple(parts)
        self.ends = torch.tensor([one.visible.positions[0].numel() for one in parts]).cumsum(0).tolist()


def joined(positions: Sequence[TokenPositions]) -> list[TokenPositions] | None:
    """The same positions, of one map that holds all of theirs; None if they are of different batches, or of padded maps.

    Args:
        positions: None of them dropped.
    """
    parts: dict[int, Visibility] = {}
    for one in positions:
        mask = one.visibility.visible
        for part in mask.parts if isinstance(mask, _Joined) else (one.visibility,):
            parts.setdefault(id(part.visible), part)
    first, *others = parts.values()
    if (
        any(part.visible.inside is not None for part in parts.values())
        or len({one.map_shape[0] for one in positions}) > 1
    ):
        return None

    def make() -> tuple[Visibility, tuple[Visibility, ...]]:
        return first.all_of(_Joined((first, *others))), tuple(others)

    # Holding the others keeps their ids theirs.
    whole = first.visible.once(("joined", *(id(one.visible) for one in others)), make)[0]
    return [_placed(one, whole) for one in positions]


def _placed(positions: TokenPositions, whole: Visibility) -> TokenPositions:
    mask = cast(_Joined, whole.visible)

    def make() -> TokenPositions:
        of, numbers = positions.visibility.visible, positions.numbers
        sources = of.parts if isinstance(of, _Joined) else (positions.visibility,)
        starts = [0, *(of.ends if isinstance(of, _Joined) else ())]
        size, length = of.positions[0].numel(), mask.positions[0].numel()
        image, place = numbers // size, numbers % size
        result = torch.full_like(numbers, CONSTANT)
        places = [id(one.visible) for one in mask.parts]
        for part, start in zip(sources, starts, strict=False):
            target = places.index(id(part.visible))
            end = start + part.visible.positions[0].numel()
            shift = (0, *mask.ends)[target] - start
            is_here = (place >= start) & (place < end) & (numbers != CONSTANT)
            result = torch.where(is_here, image * length + place + shift, result)
        return TokenPositions(result, whole)

    return positions.once(("placed", id(mask)), lambda: (make(), mask))[0]


def parted(positions: TokenPositions) -> TokenPositions:
    """The positions on the one map that they are of, if they are of a joined one and nothing of the others is among them."""
    mask = positions.visibility.visible
    if not isinstance(mask, _Joined) or positions.whole is not None:
        return positions

    def make() -> TokenPositions:
        numbers, length = positions.numbers, mask.positions[0].numel()
        place = numbers[numbers != CONSTANT] % length
        if not len(place):
            return positions
        low, high = int(place.min()), int(place.max())
        for part, start, end in zip(mask.parts, (0, *mask.ends), mask.ends, strict=False):
            if start <= low and high < end:
                size = end - start
                moved = numbers // length * size + numbers % length - start
                return TokenPositions(torch.where(numbers == CONSTANT, numbers, moved), part)
        return positions

    return positions.once("parted", make)
