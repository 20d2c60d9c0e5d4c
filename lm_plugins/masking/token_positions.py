"""Which position of a map every value belongs to, whatever layout the values have taken."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.memo import Memo
from lm_plugins.masking.part import numbers_of, taken
from lm_plugins.masking.visibility import Visibility

__all__ = ["CONSTANT", "TokenPositions"]

#: The number of a value that belongs to no position: a class token, a register, padding. It is never hidden.
CONSTANT = -1


class TokenPositions(Memo):
    """The position of every value, by its number on a map; or `CONSTANT`. Immutable.

    A layout operation on the values (a view, a permutation, a roll, a window partition) is done to the positions as well.
    So no rule ever has to guess what a dimension has come to mean, and values whose positions are in order again are a map
    again.

    Args:
        numbers: int64, as many dimensions as the values; of size 1 along dimensions in which positions do not vary. Position
            ``(n, h, w)`` has the number ``(n * H + h) * W + w``. They are on the host, wherever the values are: every layout
            looks at them, and would have to wait for a device.
        visibility: The regions of the map; the visible one counts.
        whole: If hidden tokens were dropped from the values: the positions as if they had not been. Otherwise None.
    """

    def __init__(self, numbers: Tensor, visibility: Visibility, whole: "TokenPositions | None" = None) -> None:
        super().__init__()
        self.numbers = numbers
        self.visibility = visibility
        self.whole = whole

    @classmethod
    def of_map(cls, visibility: Visibility, dims: Sequence[str], shape: Sequence[int]) -> "TokenPositions":
        """The positions of a map of `shape` whose dimensions mean `dims`; "h" and "w" are sides of blocks within it."""
        if set(dims) - set("NCHhWw"):
            raise UnsupportedOperatorError(f"a map with dimensions {tuple(dims)} has no tokens")
        mask = visibility.visible

        def make() -> "TokenPositions":
            origin, numbers = numbers_of(mask)
            order = [letter for letter in "NHhWw" if letter in dims]
            numbers = numbers.reshape([shape[dims.index(letter)] for letter in order])
            numbers = numbers.permute([order.index(letter) for letter in dims if letter in order])
            numbers = numbers.reshape([1 if letter == "C" else shape[dim] for dim, letter in enumerate(dims)])
            return cls(compact(numbers), visibility.all_of(origin, visibility.is_image))

        sizes = tuple(size for size, letter in zip(shape, dims, strict=True) if letter != "C")
        return mask.once(("positions", tuple(dims), sizes, visibility.is_image, visibility.depth), make)

    # ---- what is hidden --------------------------------------------------------------------------------------------

    @property
    def hidden(self) -> Tensor:
        """Bool of the shape of `numbers`, where the values are."""
        return self.once("hidden", lambda: self.hidden_on_host.to(self.device))

    @property
    def hidden_on_host(self) -> Tensor:
        """The same on the CPU."""

        def make() -> Tensor:
            region = self.visibility.visible.hidden_on_host.flatten()
            return torch.cat([region, region.new_tensor([False])])[self.numbers]  # a constant is the last

        return self.once("hidden on host", make)

    @property
    def device(self) -> torch.device:
        """Where the values are."""
        return self.visibility.visible.positions.device

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """Batch, height and width of the map."""
        n, h, w = self.visibility.visible.positions.shape
        return n, h, w

    @property
    def is_full(self) -> bool:
        """Whether nothing is hidden."""
        return self.once("is_full", lambda: not bool(self.hidden_on_host.any()))

    @property
    def is_constant(self) -> bool:
        """Whether no value belongs to a position of a map."""
        return self.once("is_constant", lambda: bool((self.numbers == CONSTANT).all()))

    def varies(self, dim: int) -> bool:
        """Whether positions differ along a dimension: whether it is one of tokens, not of channels."""
        return self.numbers.shape[dim] > 1

    def matches(self, other: "TokenPositions") -> bool:
        """Whether both give every value the same position, with the same positions hidden."""
        if self is other:
            return True
        if self.numbers.shape != other.numbers.shape or not torch.equal(self.numbers, other.numbers):
            return False
        mine, theirs = self.visibility.visible, other.visibility.visible
        return mine is theirs or (mine.size == theirs.size and torch.equal(self.hidden_on_host, other.hidden_on_host))

    def kept_of(self, whole: "TokenPositions") -> "TokenPositions":
        """The same positions, as those that stay of `whole`, from which hidden tokens were dropped."""
        # Holding the whole keeps its id its own.
        key = ("kept of", id(whole))
        made: TokenPositions = self.once(key, lambda: (TokenPositions(self.numbers, self.visibility, whole), whole))[0]
        return made

    # ---- layout ----------------------------------------------------------------------------------------------------

    def laid_out(self, key: Hashable | None, shape: Sequence[int], operation: Callable[[Tensor], Any]) -> Any:
        """The positions after a layout operation on values of `shape`; a tuple if the operation returns several.

        Args:
            key: Names the operation, so that it is done once for layers of one geometry; None: do not remember it.
            shape: The shape of the values, to which the numbers are expanded first.
            operation: Takes and returns tensors.
        """

        def make() -> Any:
            result = operation(self.numbers.expand(*shape))
            if isinstance(result, Tensor):
                return TokenPositions(compact(result), self.visibility)
            return tuple(TokenPositions(compact(one), self.visibility) for one in result)

        return self.once(None if key is None else (key, tuple(shape)), make)

    def aligned(self, letters: str, target: str) -> "TokenPositions":
        """The positions with their dimensions, named by `letters`, in the order of `target`; missing ones do not vary."""
        if letters == target:
            return self

        def make() -> "TokenPositions":
            kept = [letter for letter in letters if letter in target]
            numbers = self.numbers
            for dim in reversed(range(len(letters))):
                if letters[dim] not in target:
                    numbers = numbers.select(dim, 0)
            numbers = numbers.permute([kept.index(letter) for letter in target if letter in kept])
            for dim, letter in enumerate(target):
                if letter not in kept:
                    numbers = numbers.unsqueeze(dim)
            whole = None if self.whole is None else self.whole.aligned(letters, target)
            return TokenPositions(numbers, self.visibility, whole)

        return self.once(("aligned", letters, target), make)

    def as_map(self, shape: Sequence[int]) -> tuple[Visibility, tuple[str, ...]] | None:
        """The regions and the meaning of the dimensions of values of `shape`, if they are a map; otherwise None.

        Either the map that the positions are of, whole and in order, or a new one: windows of it that became images, or the
        images repeated. Its last two dimensions, or those before the channels, are its sides.
        """
        return self.once(("map", tuple(shape)), lambda: self._whole_map(shape) or self._new_map(shape))

    def as_images(self, shape: Sequence[int]) -> tuple[Visibility, tuple[str, ...]] | None:
        """As `as_map`, of values whose first dimension counts images, which may be copies of one."""
        return self.once(("images", tuple(shape)), lambda: self._new_map(shape))

    def _whole_map(self, shape: Sequence[int]) -> tuple[Visibility, tuple[str, ...]] | None:
        n, h, w = self.map_shape
        if self.numbers.numel() != n * h * w or len(shape) < 3 or bool(self.numbers.flatten().diff().ne(1).any()):
            return None
        varying = [dim for dim in range(len(shape)) if self.varies(dim)]
        # Sides of one, and batches of one, may stand at any dimension of size one around the others.
        dims, chosen = ["C"] * len(shape), iter(range(len(shape)))
        for letter, size in (("N", n), ("H", h), ("W", w)):
            for dim in chosen:
                if shape[dim] == size and (size == 1 or dim in varying):
                    dims[dim] = letter
                    break
                if dim in varying:
                    return None
            else:
                return None
        return self.visibility, tuple(dims)

    def _new_map(self, shape: Sequence[int]) -> tuple[Visibility, tuple[str, ...]] | None:
        if len(shape) != 4 or int(self.numbers.min()) < 0 or self.visibility.visible.inside is not None:
            return None
        for dims in (("N", "C", "H", "W"), ("N", "H", "W", "C")):
            if self.varies(dims.index("C")) or not all(self.varies(dims.index(side)) for side in "HW"):
                continue
            numbers = self.numbers.squeeze(dims.index("C"))
            numbers = numbers.expand(shape[0], -1, -1)  # of one image, all copies have the same positions
            if _is_grid(numbers, self.map_shape):
                mask = taken(self.visibility.visible, numbers)
                return self.visibility.all_of(mask), dims
        return None


def _is_grid(numbers: Tensor, map_shape: tuple[int, int, int]) -> bool:
    """Whether every image of ``(N', H', W')`` is made of rows and columns of a map, or of its columns and rows."""
    _, h, w = map_shape
    image, row, column = numbers // (h * w), numbers // w % h, numbers % w
    if not all(size > 1 for size in numbers.shape[1:]) or bool((image != image[:, :1, :1]).any()):
        return False
    upright = bool((row == row[:, :, :1]).all()) and bool((column == column[:, :1]).all())
    return upright or (bool((row == row[:, :1]).all()) and bool((column == column[:, :, :1]).all()))


def compact(numbers: Tensor) -> Tensor:
    """Narrow numbers to size 1 along every dimension in which they do not vary."""
    for dim in range(numbers.ndim):
        if numbers.shape[dim] > 1 and numbers.stride(dim) == 0:
            numbers = numbers.narrow(dim, 0, 1)
    for dim in range(numbers.ndim):
        if numbers.shape[dim] < 2:
            continue
        first, last = numbers.narrow(dim, 0, 1), numbers.narrow(dim, numbers.shape[dim] - 1, 1)
        # The ends differ nearly wherever anything does, and are quick to compare.
        if torch.equal(first, last) and bool((numbers == first).all()):
            numbers = first
    return numbers
