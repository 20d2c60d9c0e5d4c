"""Tokens that are not computed at all: hidden ones left out of the sequence, and put back where a map is needed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.places import CONSTANT, Places, compact

__all__ = ["dropped", "gathered", "leaves_sequence", "restored"]


@dataclass(frozen=True)
class Kept:
    """The tokens that stay.

    Args:
        places: Their places.
        index: int64, of the shape of ``places.numbers``: where along `dim` they stood.
        dim: The dimension of tokens.
    """

    places: Places
    index: Tensor
    dim: int

    def select(self, values: Tensor) -> Tensor:
        """The values of the tokens that stay."""
        return _gather(values, self.dim, self.index)


def dropped(places: Places) -> Kept | None:
    """Which tokens of a flattened map stay: in every image, as many as the image with most visible ones has.

    Where an image has fewer, hidden ones stay, which no attention uses as keys. None if the values are no flattened map
    in order, or nothing would be gained.
    """
    return places.derived("dropped", lambda: _dropped(places))


def _dropped(places: Places) -> Kept | None:
    n, h, w = places.map_shape
    dims = [dim for dim in range(places.numbers.ndim) if places.varies(dim)]
    is_flat = [places.numbers.shape[dim] for dim in dims] == [size for size in (n, h * w) if size > 1]
    if not is_flat or h * w <= 2 or places.numbers.flatten().diff().ne(1).any():
        return None
    visible = ~places.hidden.reshape(n, h * w)
    count = max(int(visible.sum(1).max()), 2)  # along a single one, places would not vary
    if count >= h * w:
        return None
    dim = dims[-1]
    index = visible.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count].sort(1).values  # (N, K)
    shape = [count if i == dim else size for i, size in enumerate(places.numbers.shape)]
    index = index.reshape(shape)
    return Kept(Places(places.numbers.gather(dim, index), places.visibility, is_dropped=True), index, dim)


def _gather(values: Tensor, dim: int, index: Tensor) -> Tensor:
    shape = [index.shape[dim] if i == dim else max(values.shape[i], index.shape[i]) for i in range(values.ndim)]
    source = list(shape)
    source[dim] = values.shape[dim]
    return values.expand(source).gather(dim, index.expand(shape))


@dataclass(frozen=True)
class _Sequence:
    """Where dropped tokens stood: the dimension of tokens, its full length, and their index along it."""

    dim: int
    length: int
    index: Tensor


def _sequence(places: Places) -> _Sequence:
    found = places.derived("sequence", lambda: _find_sequence(places))
    if found is None:
        raise UnsupportedOperatorError(
            "tokens were dropped, and the model has since put them into a layout in which the missing ones cannot be told; "
            'use MaskingOptions(tokens="mask")'
        )
    return found


def _find_sequence(places: Places) -> _Sequence | None:
    numbers = places.numbers
    _, h, w = places.map_shape
    image = torch.where(numbers == CONSTANT, -1, numbers // (h * w))
    for dim in range(numbers.ndim):
        is_of_one_image = (image == image.amax(dim, keepdim=True)) | (numbers == CONSTANT)
        if not places.varies(dim) or not bool(is_of_one_image.all()):
            continue
        is_prefix = (numbers == CONSTANT).movedim(dim, -1).reshape(-1, numbers.shape[dim])
        count = int(is_prefix[0].sum())
        if not bool((is_prefix == (torch.arange(numbers.shape[dim], device=numbers.device) < count)).all()):
            return None
        steps = torch.arange(numbers.shape[dim], device=numbers.device)
        steps = steps.reshape([-1 if i == dim else 1 for i in range(numbers.ndim)])
        return _Sequence(dim, count + h * w, torch.where(numbers == CONSTANT, steps, numbers % (h * w) + count))
    return None


def leaves_sequence(places: Places, numbers: Tensor) -> bool:
    """Whether places are still one sequence of kept tokens per image, or several behind each other, as `numbers`."""
    if not places.is_dropped or places.derived("sequence", lambda: _find_sequence(places)) is None:
        return True
    count = places.numbers.shape[_sequence(places).dim]
    sizes = [size for size in numbers.shape if size > 1]
    return (count in sizes and len(sizes) <= 2) or (len(sizes) == 1 and sizes[0] % count == 0)


def gathered(plain: Tensor, places: Places, ndim: int) -> Tensor:
    """Of a tensor with an entry for every token, those of the kept ones; another tensor as it is."""
    first = ndim - plain.ndim
    sizes = [plain.shape[dim - first] if dim >= first else 1 for dim in range(ndim)]
    if all(size in (1, places.numbers.shape[dim]) for dim, size in enumerate(sizes) if places.varies(dim)):
        return plain
    sequence = _sequence(places)
    if sizes[sequence.dim] != sequence.length:
        return plain
    return _gather(plain.reshape(sizes), sequence.dim, sequence.index)


def restored(values: Tensor, places: Places) -> tuple[Tensor, Places]:
    """Values and places with an entry for every token again, zero for the dropped ones."""
    sequence = _sequence(places)

    def make() -> Places:
        n, h, w = places.map_shape
        shape = [sequence.length if i == sequence.dim else size for i, size in enumerate(places.numbers.shape)]
        # The image of each row of tokens, and from it the number of every position.
        image = (places.numbers // (h * w)).amax(sequence.dim, keepdim=True)
        steps = torch.arange(sequence.length, device=values.device) - (sequence.length - h * w)
        steps = steps.reshape([-1 if i == sequence.dim else 1 for i in range(places.numbers.ndim)])
        numbers = torch.where(steps < 0, CONSTANT, image * h * w + steps)
        return Places(compact(numbers.expand(shape)), places.visibility)

    shape = list(values.shape)
    shape[sequence.dim] = sequence.length
    index_shape = list(values.shape)
    whole = values.new_zeros(shape).scatter(sequence.dim, sequence.index.expand(index_shape), values)
    return whole, places.derived("restored", make)
