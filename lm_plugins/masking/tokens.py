"""Activations whose positions have become tokens: the carrier of a transformer's blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from lm_plugins.masking.activation import MaskedActivation
from lm_plugins.masking.carrier import Carrier
from lm_plugins.masking.dropping import dropped, gathered, restored
from lm_plugins.masking.options import MaskingOptions
from lm_plugins.masking.places import Places

__all__ = ["MaskedTokens"]


class MaskedTokens(Carrier):
    """Values in any layout, with the place of each of them on the map that they come from.

    Most carry one `Places`. Attention scores carry two, those of their queries and those of their keys; a value is
    hidden if any of its places is. The invariant is that of maps: *values at hidden places are unspecified*.

    Args:
        values: Floating point, of any shape.
        places: At least one; their dimensions are those of the values.
    """

    is_tokens = True
    places: tuple[Places, ...]

    def __new__(cls, values: Tensor, places: tuple[Places, ...]) -> MaskedTokens:
        """A carrier of the shape that the values have with all tokens."""
        shape = values.shape if all(one.whole is None for one in places) else _whole_shape(values, places)
        self: MaskedTokens = Carrier._made(cls, values, shape, places[0].visibility.run)
        self._shape = shape
        self.values = values
        self.places = places
        return self

    @classmethod
    def of_map(cls, activation: MaskedActivation) -> MaskedTokens:
        """The tokens of a map. What is computed but not visible becomes hidden, as at the end of a block."""
        return cls(activation.values, (Places.of_map(activation.visibility, activation.dims, activation.shape),))

    # ---- for rules -------------------------------------------------------------------------------------------------

    @property
    def options(self) -> MaskingOptions:
        """The semantics."""
        return self.places[0].visibility.options

    @property
    def is_full(self) -> bool:
        """Whether nothing is hidden."""
        return all(one.is_full for one in self.places)

    def as_tokens(self) -> MaskedTokens:
        """Itself."""
        return self

    def regions(self) -> tuple[Places, ...]:
        """Its places."""
        return self.places

    def take_over(self, other: MaskedTokens) -> None:
        """Become another, as a function that works in place asks for."""
        self.values, self.places = other.values, other.places

    def is_channels(self, dim: int) -> bool:
        """Whether no places vary along a dimension."""
        return not self.varying(dim)

    def like(self, values: Tensor) -> MaskedTokens:
        """The same places with other values; itself if a function worked in place."""
        return self if values is self.values else MaskedTokens(values, self.places)

    def image_count(self) -> int:
        """Images in the batch of the map that the tokens come from."""
        return self.places[0].map_shape[0]

    def varying(self, dim: int) -> tuple[Places, ...]:
        """The places that vary along a dimension: none if it is one of channels."""
        return tuple(one for one in self.places if one.varies(dim))

    def is_hidden(self, places: tuple[Places, ...] | None = None) -> Tensor:
        """Bool that broadcasts to the values: hidden under any of `places`, by default of all."""
        chosen = self.places if places is None else places
        result = chosen[0].hidden
        for one in chosen[1:]:
            result = result | one.hidden
        return result

    def with_hidden(self, value: float, places: tuple[Places, ...] | None = None) -> Tensor:
        """The values with `value` at hidden places; themselves if nothing is hidden."""
        chosen = self.places if places is None else places
        if all(one.is_full for one in chosen):
            return self.values
        return self.values.masked_fill(self.is_hidden(chosen), value)

    def settled(self) -> MaskedTokens | MaskedActivation | Tensor:
        """The same in its simplest form: a map if places are in order, a tensor if none belongs to a position."""
        places = tuple(one for one in self.places if not one.is_constant)
        if not places:
            return self.values
        if len(places) == 1 and places[0].whole is None:
            found = places[0].as_map(self.shape)
            if found is not None:
                return MaskedActivation(self.values, *found)
            kept = dropped(places[0]) if self.options.tokens == "drop" else None
            if kept is not None:
                return MaskedTokens(gathered(self.values, kept), (kept,))
        return MaskedTokens(self.values, places)

    # ---- dropped tokens --------------------------------------------------------------------------------------------

    @property
    def is_dropped(self) -> bool:
        """Whether hidden tokens were dropped from the values."""
        return any(one.whole is not None for one in self.places)

    @property
    def shape(self) -> torch.Size:  # type: ignore[override]
        """Shape of the values with all tokens, also the dropped ones."""
        return self._shape

    def whole(self) -> MaskedTokens:
        """The same with a value for every token again; what dropped tokens hold is unspecified (here zero)."""
        values = self.values
        for one in self.places:
            values = values if one.whole is None else restored(values, one)
        return MaskedTokens(values, tuple(one.whole or one for one in self.places)) if self.is_dropped else self

    def fitted(self, plain: Tensor) -> Tensor:
        """A tensor that broadcasts to the values: of one with an entry for every token, those of the kept ones."""
        for one in self.places:
            plain = plain if one.whole is None else gathered(plain, one)
        return plain

    def ordinary(self) -> Tensor:
        """The values of all tokens as an ordinary tensor, 0 for hidden ones."""
        return self.whole().with_hidden(0.0)

    def __repr__(self) -> str:
        maps = " and ".join("x".join(str(size) for size in one.map_shape) for one in self.places)
        return f"MaskedTokens(shape={tuple(self.shape)}, of maps (NxHxW) {maps}, dtype={self.dtype})"


def _whole_shape(values: Tensor, places: tuple[Places, ...]) -> torch.Size:
    shape = list(values.shape)
    for one in places:
        if one.whole is not None:
            sizes = zip(shape, one.whole.numbers.shape, strict=True)
            shape = [full if one.varies(dim) else size for dim, (size, full) in enumerate(sizes)]
    return torch.Size(shape)
