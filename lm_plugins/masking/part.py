"""Regions whose positions were taken from another: rows or columns left out, windows that became images, images repeated.

Tokens need to know where they come from: a merge of tokens is one of the same positions only.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lm_plugins.masking.geometry import Pair, Window
from lm_plugins.masking.mask import Mask

__all__ = ["Part", "are_cuts_of_same", "cut", "numbers_of", "on_its_own", "taken"]


class Part(Mask):
    """A region that was taken from another one, and can be put back.

    Args:
        positions: As of `Mask`.
        inside: As of `Mask`.
        whole: The region that its positions were taken from.
        numbers: Int64 ``(N, H, W)``, on the host: which of its positions these are.
        alone: The same region as one of its own, if it is not just what was taken: samples may stand for more.
    """

    def __init__(
        self, positions: Tensor, inside: Tensor | None, whole: Mask, numbers: Tensor, alone: Mask | None = None
    ) -> None:
        super().__init__(positions, inside)
        self.whole = whole
        self.numbers = numbers
        self.alone = alone

    # What passes the images of a batch passes copies of them alike; both have to stay the same images.

    def any_in(self, window: Window) -> Mask:
        """See `Mask.any_in`."""
        if window.is_identity:
            return self
        return self._as_copies(("any", window), lambda mask: mask.any_in(window)) or super().any_in(window)

    def resampled(self, window: Window, coverage: float) -> Mask:
        """See `Mask.resampled`."""
        if window.keeps_grid and self.inside is None:
            return self
        key = ("resampled", window, coverage)
        return self._as_copies(key, lambda mask: mask.resampled(window, coverage)) or super().resampled(
            window, coverage
        )

    def padded(self, padding: Sequence[int], mode: str) -> Mask:
        """See `Mask.padded`."""
        key = ("padded", tuple(padding), mode)
        return self._as_copies(key, lambda mask: mask.padded(padding, mode)) or super().padded(padding, mode)

    def cut(self, rows: slice, columns: slice) -> Mask:
        """See `Mask.cut`."""
        key = ("cut", rows.start, rows.stop, rows.step, columns.start, columns.stop, columns.step)
        return self._as_copies(key, lambda mask: mask.cut(rows, columns)) or super().cut(rows, columns)

    def any_in_adaptive(self, size: Pair) -> Mask:
        """See `Mask.any_in_adaptive`."""
        if size == self.size:
            return self
        key = ("any adaptive", size)
        return self._as_copies(key, lambda mask: mask.any_in_adaptive(size)) or super().any_in_adaptive(size)

    def _as_copies(self, key: object, operation: Callable[[Mask], Mask]) -> Mask | None:
        image = self._copied
        if image is None:
            return None

        def make() -> Mask:
            result = operation(self.whole)
            return taken(result, numbers_of(result)[1][image])

        return self.once(("of copies", key), make)

    @property
    def _copied(self) -> Tensor | None:
        """Which images of the whole these are, int64 ``(N,)``; None if they are no whole images."""

        def find() -> Tensor | None:
            image = self.numbers[:, 0, 0] // (self.whole.size[0] * self.whole.size[1])
            is_copy = self.whole.size == self.size and torch.equal(numbers_of(self.whole)[1][image], self.numbers)
            return image if is_copy else None

        return self.once("copied", find)


def numbers_of(mask: Mask) -> tuple[Mask, Tensor]:
    """The region that numbers the positions of one, itself or what it was taken from, and their numbers ``(N, H, W)``.

    Numbers stay on the host, wherever the activations are: they decide what is called next.
    """
    if isinstance(mask, Part):
        return mask.whole, mask.numbers

    def make() -> Tensor:
        return torch.arange(mask.positions.numel()).view(mask.positions.shape)

    return mask, mask.once("numbers", make)


def taken(mask: Mask, numbers: Tensor) -> Mask:
    """The region of a map made of the positions with these numbers, int64 ``(N', H', W')``. The same for the same.

    Of a map with an inside, whole images only.
    """
    earlier: list[Part] = mask.once("taken", list)
    for one in earlier:
        if torch.equal(one.numbers, numbers):
            return one
    index = numbers.to(mask.positions.device)
    inside = None if mask.inside is None else mask.inside.flatten()[index[0] % mask.inside.numel()]
    earlier.append(Part(mask.positions.flatten()[index], inside, mask, numbers))
    return earlier[-1]


def cut(mask: Mask, rows: slice, columns: slice, region: Mask | None = None) -> Mask:
    """The region of a slice of the map. Of one in steps it is `region`, if given; it is a part of the map all the same."""
    if (rows.step or 1, columns.step or 1) == (1, 1):
        return mask.cut(rows, columns)
    key = ("part", rows.start, rows.stop, rows.step, columns.start, columns.stop, columns.step, id(region))

    def make() -> Part:
        whole, numbers = numbers_of(mask)
        # While the part is held, so is the region, and its id is its own.
        of = mask.cut(rows, columns) if region is None else region
        return Part(of.positions, of.inside, whole, numbers[:, rows, columns], region)

    return mask.once(key, make)


def on_its_own(mask: Mask) -> Mask:
    """The region that samples of another stand for, no longer a part of that; any other region is itself."""
    return mask if not isinstance(mask, Part) or mask.alone is None else mask.alone


def are_cuts_of_same(one: Mask, other: Mask) -> bool:
    """Whether both hold different positions of one region."""
    return isinstance(one, Part) and isinstance(other, Part) and one.whole is other.whole and one is not other
