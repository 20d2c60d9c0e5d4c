"""Activations whose positions have become tokens: the carrier of a transformer's blocks.

Hidden tokens need not be computed at all: they are left out of the sequence, and put back where a map is needed. Models
never notice: a carrier of which tokens were dropped still reports the shape of the full sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from lm_plugins.masking.activation import MaskedActivation
from lm_plugins.masking.carrier import Carrier
from lm_plugins.masking.joined_positions import parted
from lm_plugins.masking.options import MaskingOptions
from lm_plugins.masking.token_positions import CONSTANT, TokenPositions

__all__ = [
    "MaskedTokens",
    "Sequence",
    "as_dropped",
    "dropped",
    "gathered",
    "positions_without",
    "restored",
    "sequence_of",
]


class MaskedTokens(Carrier):
    """Values in any layout, with the position of each of them on the map that they come from.

    Most carry one `TokenPositions`. Attention scores carry two, those of their queries and those of their keys; a value is
    hidden if any of its positions is. The invariant is that of maps: *values at hidden positions are unspecified*.

    Args:
        values: Floating point, of any shape.
        positions: At least one; their dimensions are those of the values.
    """

    is_tokens = True
    positions: tuple[TokenPositions, ...]
    _shape: torch.Size

    def __new__(cls, values: Tensor, positions: tuple[TokenPositions, ...]) -> MaskedTokens:
        """A carrier of the shape that the values have with all tokens."""
        shape = values.shape if all(one.whole is None for one in positions) else _whole_shape(values, positions)
        self: MaskedTokens = Carrier._of_shape(shape, cls, values, positions[0].visibility.run)
        self._shape = shape
        self.values = values
        self.positions = positions
        return self

    @classmethod
    def of_map(cls, activation: MaskedActivation) -> MaskedTokens:
        """The tokens of a map. What is computed but not visible becomes hidden, as at the end of a block."""
        return cls(
            activation.values, (TokenPositions.of_map(activation.visibility, activation.dims, activation.shape),)
        )

    # ---- for rules -------------------------------------------------------------------------------------------------

    @property
    def options(self) -> MaskingOptions:
        """The semantics."""
        return self.positions[0].visibility.options

    @property
    def is_full(self) -> bool:
        """Whether nothing is hidden."""
        return all(one.is_full for one in self.positions)

    def as_tokens(self) -> MaskedTokens:
        """Return itself."""
        return self

    def regions(self) -> tuple[TokenPositions, ...]:
        """Its positions."""
        return self.positions

    def take_over(self, other: MaskedTokens) -> None:
        """Take the values and positions of another, which a function that works in place has made of it."""
        self.values, self.positions = other.values, other.positions

    def is_channels(self, dim: int) -> bool:
        """Whether no positions vary along a dimension."""
        return not self.varying(dim)

    def like(self, values: Tensor) -> MaskedTokens:
        """The same positions with other values; itself if a function worked in place."""
        return self if values is self.values else MaskedTokens(values, self.positions)

    def twin(self) -> MaskedTokens:
        """Another carrier of the same values."""
        return MaskedTokens(self.values, self.positions)

    def image_count(self) -> int:
        """Images in the batch of the map that the tokens come from."""
        return self.positions[0].map_shape[0]

    def varying(self, dim: int) -> tuple[TokenPositions, ...]:
        """The positions that vary along a dimension: none if it is one of channels."""
        return tuple(one for one in self.positions if one.varies(dim))

    def is_hidden(self, positions: tuple[TokenPositions, ...] | None = None) -> Tensor:
        """Bool that broadcasts to the values: hidden under any of `positions`, by default of all."""
        chosen = self.positions if positions is None else positions
        result = chosen[0].hidden
        for one in chosen[1:]:
            result = result | one.hidden
        return result

    def with_hidden(self, value: float, positions: tuple[TokenPositions, ...] | None = None) -> Tensor:
        """The values with `value` at hidden positions; themselves if nothing is hidden."""
        chosen = self.positions if positions is None else positions
        if all(one.is_full for one in chosen):
            return self.values
        return self.values.masked_fill(self.is_hidden(chosen), value)

    def simplified(self) -> MaskedTokens | MaskedActivation | Tensor:
        """The same in its simplest form: a map if positions are in order, a tensor if none belongs to a position."""
        positions = tuple(one for one in self.positions if not one.is_constant)
        if not positions:
            return self.values
        separate = tuple(parted(one) for one in positions)
        if any(one is not before for one, before in zip(separate, positions, strict=True)):
            return MaskedTokens(self.values, separate).simplified()
        if len(positions) == 1 and positions[0].whole is None:
            found = positions[0].as_map(self.shape)
            if found is not None:
                return MaskedActivation(self.values, *found)
            kept = dropped(positions[0]) if self.options.tokens == "drop" else None
            if kept is not None:
                return MaskedTokens(gathered(self.values, kept), (kept,))
        return MaskedTokens(self.values, positions)

    # ---- dropped tokens --------------------------------------------------------------------------------------------

    @property
    def is_dropped(self) -> bool:
        """Whether hidden tokens were dropped from the values."""
        return any(one.whole is not None for one in self.positions)

    @property
    def shape(self) -> torch.Size:  # type: ignore[override]
        """Shape of the values with all tokens, also the dropped ones."""
        return self._shape

    def whole(self) -> MaskedTokens:
        """The same with a value for every token again; what dropped tokens hold is unspecified (here zero)."""
        values = self.values
        for one in self.positions:
            values = values if one.whole is None else restored(values, one)
        return MaskedTokens(values, tuple(one.whole or one for one in self.positions)) if self.is_dropped else self

    def fitted(self, plain: Tensor) -> Tensor:
        """Make a tensor broadcast to the values: where it has an entry for every token, those of the kept ones are taken."""
        for one in self.positions:
            plain = plain if one.whole is None else gathered(plain, one)
        return plain

    def ordinary(self) -> Tensor:
        """The values of all tokens as an ordinary tensor, 0 for hidden ones."""
        return self.whole().with_hidden(0.0)

    def __repr__(self) -> str:  # type: ignore[override]
        maps = " and ".join("x".join(str(size) for size in one.map_shape) for one in self.positions)
        return f"MaskedTokens(shape={tuple(self.shape)}, of maps (NxHxW) {maps}, dtype={self.dtype})"


def _whole_shape(values: Tensor, positions: tuple[TokenPositions, ...]) -> torch.Size:
    shape = list(values.shape)
    for one in positions:
        if one.whole is not None:
            sizes = zip(shape, one.whole.numbers.shape, strict=True)
            shape = [full if one.varies(dim) else size for dim, (size, full) in enumerate(sizes)]
    return torch.Size(shape)


# ---- dropped tokens --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sequence:
    """All tokens of every image in order, constants such as class tokens first.

    Args:
        dim: The dimension of tokens.
        prefix: The number of constants.
    """

    dim: int
    prefix: int


def sequence_of(positions: TokenPositions) -> Sequence | None:
    """How tokens form a sequence; None if they do not, or not in order, or not all of them are there."""

    def find() -> Sequence | None:
        _, h, w = positions.map_shape
        numbers = positions.numbers
        for dim in range(numbers.ndim):
            prefix = numbers.shape[dim] - h * w
            if prefix < 0 or not positions.varies(dim):
                continue
            constants, spatial = numbers.narrow(dim, 0, prefix), numbers.narrow(dim, prefix, h * w)
            steps = torch.arange(h * w).reshape([-1 if i == dim else 1 for i in range(numbers.ndim)])
            if bool((constants == CONSTANT).all()) and bool((spatial % (h * w) == steps).all()):
                is_one_image = (spatial // (h * w) == spatial.narrow(dim, 0, 1) // (h * w)).all()
                if bool(is_one_image) and bool((spatial >= 0).all()):
                    return Sequence(dim, prefix)
        return None

    return positions.once("sequence", find)


def dropped(positions: TokenPositions) -> TokenPositions | None:
    """The positions of the tokens that stay: in every image, as many as the image with most visible ones has.

    Where an image has fewer, hidden ones stay, which no attention uses as keys. None if the values are no flattened map
    in order, or nothing would be gained.
    """
    return positions.once("dropped", lambda: _dropped(positions))


def _dropped(positions: TokenPositions) -> TokenPositions | None:
    n, h, w = positions.map_shape
    sequence = sequence_of(positions)
    if sequence is None or sequence.prefix or positions.numbers.numel() != n * h * w or h * w <= 2:
        return None
    hidden = positions.hidden_on_host.movedim(sequence.dim, -1).reshape(n, h * w)
    count = max(int((~hidden).sum(1).max()), 2)  # along a single one, positions would not vary
    if count == h * w:
        return None
    index = hidden.to(torch.uint8).argsort(dim=1, stable=True)[:, :count].sort(1).values  # (N, count)
    shape = [1 if i == sequence.dim else size for i, size in enumerate(positions.numbers.shape)]
    index = index.reshape(*shape, count).movedim(-1, sequence.dim).squeeze(sequence.dim + 1)
    return TokenPositions(positions.numbers.gather(sequence.dim, index), positions.visibility, whole=positions)


def positions_without(positions: TokenPositions, dims: list[int], keepdim: bool) -> TokenPositions:
    """The positions of values that were reduced over `dims`, along which positions do not vary."""
    if keepdim:
        return positions

    def make() -> TokenPositions:
        kept = [size for dim, size in enumerate(positions.numbers.shape) if dim not in dims]
        whole = None if positions.whole is None else positions_without(positions.whole, dims, keepdim)
        return TokenPositions(positions.numbers.reshape(kept), positions.visibility, whole)

    return positions.once(("without", tuple(dims)), make)


def as_dropped(positions: TokenPositions, like: TokenPositions) -> TokenPositions | None:
    """Drop from a sequence what was dropped from another: constants and the same tokens stay. None if one is no sequence."""
    sequence, other = sequence_of(positions), sequence_of(cast(TokenPositions, like.whole))
    if sequence is None or other is None:
        return None

    def make() -> TokenPositions:
        constants = positions.numbers.narrow(sequence.dim, 0, sequence.prefix)
        kept = like.numbers.narrow(other.dim, other.prefix, like.numbers.shape[other.dim] - other.prefix)
        n = positions.map_shape[0]
        # Of every image, the positions that stay, where the sequence has its dimension for tokens.
        index = kept.movedim(other.dim, -1).reshape(n, -1) % (positions.map_shape[1] * positions.map_shape[2])
        spatial = positions.numbers.narrow(
            sequence.dim, sequence.prefix, positions.numbers.shape[sequence.dim] - sequence.prefix
        )
        shape = [1 if i == sequence.dim else size for i, size in enumerate(spatial.shape)]
        index = index.reshape(*shape, -1).movedim(-1, sequence.dim).squeeze(sequence.dim + 1)
        return TokenPositions(
            torch.cat(
                [
                    constants.expand(*_but(index.shape, sequence.dim, sequence.prefix)),
                    spatial.gather(sequence.dim, index),
                ],
                sequence.dim,
            ),
            positions.visibility,
            whole=positions,
        )

    if positions.numbers.numel() // positions.numbers.shape[sequence.dim] != positions.map_shape[0]:
        return None  # windows, or copies of images
    return positions.once(("as dropped", id(like)), lambda: (make(), like))[0]


def _but(shape: torch.Size, dim: int, size: int) -> list[int]:
    return [size if i == dim else other for i, other in enumerate(shape)]


def gathered(values: Tensor, positions: TokenPositions) -> Tensor:
    """Keep the entries of the tokens that stay. Values without an entry for every token are returned as they are."""
    sequence, numbers = cast(Sequence, sequence_of(cast(TokenPositions, positions.whole))), positions.numbers
    values = values[(None,) * (numbers.ndim - values.ndim)]
    if values.shape[sequence.dim] == 1:
        return values
    index = _index(positions, sequence)
    shape = [
        index.shape[i] if i == sequence.dim else max(sizes)
        for i, sizes in enumerate(zip(values.shape, index.shape, strict=True))
    ]
    source = [values.shape[i] if i == sequence.dim else size for i, size in enumerate(shape)]
    return values.expand(source).gather(sequence.dim, index.expand(shape))


def restored(values: Tensor, positions: TokenPositions) -> Tensor:
    """Put the values of the tokens that stay back among all tokens; the dropped ones become zero."""
    whole = cast(TokenPositions, positions.whole)
    sequence = cast(Sequence, sequence_of(whole))  # only sequences are dropped from
    shape = list(values.shape)
    shape[sequence.dim] = whole.numbers.shape[sequence.dim]
    index = _index(positions, sequence).expand(values.shape)
    return values.new_zeros(shape).scatter(sequence.dim, index, values)


def _index(positions: TokenPositions, sequence: Sequence) -> Tensor:
    """The index that each token that stays has among all, int64 of the shape of `numbers`, where values are."""

    def make() -> Tensor:
        numbers = positions.numbers
        _, h, w = positions.map_shape
        steps = torch.arange(numbers.shape[sequence.dim])
        steps = steps.reshape([-1 if i == sequence.dim else 1 for i in range(numbers.ndim)])
        return torch.where(numbers == CONSTANT, steps, numbers % (h * w) + sequence.prefix).to(positions.device)

    return positions.once("index", make)
