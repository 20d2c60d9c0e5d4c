"""Tokens that are not computed at all: hidden ones left out of the sequence, and put back where a map is needed.

Models never notice: a carrier of which tokens were dropped still reports the shape of the full sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from lm_plugins.masking.places import CONSTANT, Places

__all__ = ["Sequence", "dropped", "gathered", "restored", "sequence_of"]


@dataclass(frozen=True)
class Sequence:
    """All tokens of every image in order, constants such as class tokens first.

    Args:
        dim: The dimension of tokens.
        prefix: The number of constants.
    """

    dim: int
    prefix: int


def sequence_of(places: Places) -> Sequence | None:
    """How tokens form a sequence; None if they do not, or not in order, or not all of them are there."""

    def find() -> Sequence | None:
        _, h, w = places.map_shape
        numbers = places.numbers
        for dim in range(numbers.ndim):
            prefix = numbers.shape[dim] - h * w
            if prefix < 0 or not places.varies(dim):
                continue
            constants, positions = numbers.narrow(dim, 0, prefix), numbers.narrow(dim, prefix, h * w)
            steps = torch.arange(h * w, device=numbers.device).reshape(
                [-1 if i == dim else 1 for i in range(numbers.ndim)]
            )
            if bool((constants == CONSTANT).all()) and bool((positions % (h * w) == steps).all()):
                is_one_image = (positions // (h * w) == positions.narrow(dim, 0, 1) // (h * w)).all()
                if bool(is_one_image) and bool((positions >= 0).all()):
                    return Sequence(dim, prefix)
        return None

    return places.derived("sequence", find)


def dropped(places: Places) -> Places | None:
    """The places of the tokens that stay: in every image, as many as the image with most visible ones has.

    Where an image has fewer, hidden ones stay, which no attention uses as keys. None if the values are no flattened map
    in order, or nothing would be gained.
    """
    return places.derived("dropped", lambda: _dropped(places))


def _dropped(places: Places) -> Places | None:
    n, h, w = places.map_shape
    sequence = sequence_of(places)
    if sequence is None or sequence.prefix or places.numbers.numel() != n * h * w or h * w <= 2:
        return None
    hidden = places.hidden.movedim(sequence.dim, -1).reshape(n, h * w)
    count = max(int((~hidden).sum(1).max()), 2)  # along a single one, places would not vary
    if count == h * w:
        return None
    index = hidden.to(torch.uint8).argsort(dim=1, stable=True)[:, :count].sort(1).values  # (N, count)
    shape = [1 if i == sequence.dim else size for i, size in enumerate(places.numbers.shape)]
    index = index.reshape(*shape, count).movedim(-1, sequence.dim).squeeze(sequence.dim + 1)
    return Places(places.numbers.gather(sequence.dim, index), places.visibility, whole=places)


def as_dropped(places: Places, like: Places) -> Places | None:
    """Of a sequence of all tokens, the places of its constants and of those that stay in another; None if it is none."""
    sequence, other = sequence_of(places), sequence_of(cast(Places, like.whole))
    if sequence is None or other is None:
        return None

    def make() -> Places:
        constants = places.numbers.narrow(sequence.dim, 0, sequence.prefix)
        kept = like.numbers.narrow(other.dim, other.prefix, like.numbers.shape[other.dim] - other.prefix)
        n = places.map_shape[0]
        # Of every image, the positions that stay, where the sequence has its dimension for tokens.
        index = kept.movedim(other.dim, -1).reshape(n, -1) % (places.map_shape[1] * places.map_shape[2])
        spatial = places.numbers.narrow(
            sequence.dim, sequence.prefix, places.numbers.shape[sequence.dim] - sequence.prefix
        )
        shape = [1 if i == sequence.dim else size for i, size in enumerate(spatial.shape)]
        index = index.reshape(*shape, -1).movedim(-1, sequence.dim).squeeze(sequence.dim + 1)
        return Places(
            torch.cat(
                [
                    constants.expand(*_but(index.shape, sequence.dim, sequence.prefix)),
                    spatial.gather(sequence.dim, index),
                ],
                sequence.dim,
            ),
            places.visibility,
            whole=places,
        )

    if places.numbers.numel() // places.numbers.shape[sequence.dim] != places.map_shape[0]:
        return None  # windows, or copies of images
    return places.derived(("as dropped", id(like)), lambda: (make(), like))[0]


def _but(shape: torch.Size, dim: int, size: int) -> list[int]:
    return [size if i == dim else other for i, other in enumerate(shape)]


def gathered(values: Tensor, places: Places) -> Tensor:
    """Of values with an entry for every token, those of the tokens that stay. Without such entries, as they are."""
    sequence, numbers = cast(Sequence, sequence_of(cast(Places, places.whole))), places.numbers
    values = values[(None,) * (numbers.ndim - values.ndim)]
    if values.shape[sequence.dim] == 1:
        return values
    index = _index(places, sequence)
    shape = [
        index.shape[i] if i == sequence.dim else max(sizes)
        for i, sizes in enumerate(zip(values.shape, index.shape, strict=True))
    ]
    source = [values.shape[i] if i == sequence.dim else size for i, size in enumerate(shape)]
    return values.expand(source).gather(sequence.dim, index.expand(shape))


def restored(values: Tensor, places: Places) -> Tensor:
    """Of values of the tokens that stay, some with an entry for every token: zero for the dropped ones."""
    whole = cast(Places, places.whole)
    sequence = cast(Sequence, sequence_of(whole))  # only sequences are dropped from
    shape = list(values.shape)
    shape[sequence.dim] = whole.numbers.shape[sequence.dim]
    index = _index(places, sequence).expand(values.shape)
    return values.new_zeros(shape).scatter(sequence.dim, index, values)


def _index(places: Places, sequence: Sequence) -> Tensor:
    """Where the tokens that stay stood, int64 of the shape of ``places.numbers``."""

    def make() -> Tensor:
        numbers = places.numbers
        _, h, w = places.map_shape
        steps = torch.arange(numbers.shape[sequence.dim], device=numbers.device)
        steps = steps.reshape([-1 if i == sequence.dim else 1 for i in range(numbers.ndim)])
        return torch.where(numbers == CONSTANT, steps, numbers % (h * w) + sequence.prefix)

    return places.derived("index", make)
