"""An activation of which a part is hidden: the carrier that travels through an unmodified model."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.carrier import Carrier
from lm_plugins.masking.geometry import Pair, Window
from lm_plugins.masking.mask import Mask
from lm_plugins.masking.neighbour_padding import fill
from lm_plugins.masking.token_positions import TokenPositions
from lm_plugins.masking.visibility import Visibility

__all__ = ["NCHW", "MaskedActivation", "PaddedActivation"]

#: The meaning of each dimension: batch, channels, height, width. Everything that is no position is a "C".
NCHW = ("N", "C", "H", "W")


class MaskedActivation(Carrier):
    """An activation, what of it is visible, and which of its dimensions are spatial.

    The invariant: values at hidden positions (not in ``visibility.computed``) are unspecified.

    Args:
        values: The activation, a floating-point tensor whose dimensions mean `dims`.
        visibility: The regions it carries.
        dims: One letter a dimension: ``"N"``, ``"H"``, ``"W"`` (in this order, once each) and any number of ``"C"``.
            Where a view has folded the batch into the channels, ``"B"`` stands in place of ``"N"``.
    """

    visibility: Visibility
    dims: tuple[str, ...]

    def __new__(cls, values: Tensor, visibility: Visibility, dims: tuple[str, ...] = NCHW) -> "MaskedActivation":
        """A carrier of the shape of `values`."""
        self: MaskedActivation = Carrier._of_shape(values.shape, cls, values, visibility.run)
        self.values = values
        self.visibility = visibility
        self.dims = dims
        return self

    @property
    def shape(self) -> torch.Size:  # type: ignore[override]
        """Shape of the values."""
        return self.values.shape

    # ---- for rules -------------------------------------------------------------------------------------------------

    def as_tokens(self) -> Carrier:
        """The same values with their positions as tokens, for layouts that are no map."""
        if "B" in self.dims:
            raise UnsupportedOperatorError(
                f"{self!r} has the batch folded into the channels, which no function may mix"
            )
        tokens: Carrier = Carrier.tokens.of_map(self)
        return tokens

    def like(self, values: Tensor) -> "MaskedActivation":
        """The same regions and dimensions with other values; itself if a function worked in place."""
        return self if values is self.values else MaskedActivation(values, self.visibility, self.dims)

    def twin(self) -> "MaskedActivation":
        """Another carrier of the same values."""
        return MaskedActivation(self.values, self.visibility, self.dims)

    @property
    def is_channels_first(self) -> bool:
        """Whether dimensions are in the order in which convolutions leave them."""
        return self.dims[-2:] == ("H", "W")

    def simplified(self) -> "MaskedActivation":
        """Return itself: a map is simple."""
        return self

    def regions(self) -> Visibility:
        """Its visibility."""
        return self.visibility

    def take_over(self, other: "MaskedActivation") -> None:
        """Take the values and regions of another, which a function that works in place has made of it."""
        self.values, self.visibility, self.dims = other.values, other.visibility, other.dims

    def take_back(self, tokens: Any) -> None:
        """Become what a function that works in place has made of ``as_tokens()``.

        Raises:
            UnsupportedOperatorError: It has moved positions, or changed which of them are hidden.
        """
        settled = self.visibility.settled
        if tokens.positions != (TokenPositions.of_map(settled, self.dims, self.shape),):
            raise UnsupportedOperatorError(f"a function that works in place would move positions of {self!r}")
        self.values = tokens.values
        if not self.visibility.is_tight:
            self.visibility = settled

    def dim_of(self, letter: str) -> int:
        """The index of the batch dimension or of a spatial one."""
        return self.dims.index(letter)

    def is_channels(self, dim: int) -> bool:
        """Whether a dimension holds no positions, and no images."""
        return self.dims[dim] == "C"

    def broadcast(self, region: Tensor) -> Tensor:
        """Reshape an ``(N, H, W)`` or ``(N, 1, H, W)`` tensor so that it broadcasts to the values."""
        if "B" in self.dims:
            channels = self.shape[self.dims.index("B")] // region.shape[0]
            region = region.repeat_interleave(channels, 0)
        sizes = iter((region.shape[0], region.shape[-2], region.shape[-1]))
        return region.reshape([next(sizes) if letter in "NBHW" else 1 for letter in self.dims])

    def is_hidden(self, region: Mask | None = None) -> Tensor:
        """Bool that broadcasts to the values: hidden under `region`, by default under the computed one."""
        return self.broadcast((region or self.visibility.computed).hidden)

    def with_hidden(self, value: float, region: Mask | None = None) -> Tensor:
        """The values with `value` at the positions hidden under `region`; themselves if nothing is hidden.

        By default, under the computed one.
        """
        # What is computed but not visible is not ours to write.
        is_unspecified = region is None or (region is self.visibility.visible and self.visibility.is_tight)
        region = region or self.visibility.computed
        if region.is_full:
            return self.values
        if self.dims != NCHW:
            return self.values.masked_fill(self.is_hidden(region), value)
        return region.overwritten(self.values, value, in_place=is_unspecified and self.owns_hidden)

    def visible_sum(self) -> Tensor:
        """Sum of the values, ``(N, C, H, W)``, over the visible positions of each image: ``(N, C)``."""
        return self.visibility.visible.sum_of(self.values)

    def padded_for(self, window: Window, halo: int | None = None) -> Tensor:
        """The values, ``(N, C, H, W)``, after neighbour padding for a convolution with `window`, and a halo if it has one."""
        plan, rings = self.visibility.padding_for(window, halo)
        if rings == 0:
            return self.values
        return fill(self.values, plan, rings, in_place=self.owns_hidden)

    def completed_to(self, region: Mask) -> Tensor:
        """The values with every position of `region` defined: what is missing is padded from neighbours, or zero.

        Zero stands for whatever padding cannot reach (an image of which nothing is visible), and for everything that
        is missing under ``MaskingOptions.missing="zero"``.
        """
        if self.visibility.visible.covers(region):
            return self.values
        computed = self.visibility.computed
        if computed.covers(region):
            return self.values
        if not self.values.is_floating_point():
            raise UnsupportedOperatorError(
                f"{self!r} holds no numbers that neighbours could pad, where another activation is visible and it is not"
            )
        values, known = self.values, computed.positions
        if self.visibility.options.missing == "neighbours" and self.dims == NCHW:
            plan = self.visibility.neighbour_plan(computed)
            count = plan.rings_to_cover(region.positions)
            values, known = fill(values, plan, count, in_place=False), plan.known_after(count)
        return values.masked_fill(self.broadcast(region.positions & ~known), 0.0)

    def ordinary(self) -> Tensor:
        """The values as an ordinary tensor, 0 where they are not visible."""
        visible = self.visibility.visible
        return self.values if visible.is_full else self.values.masked_fill(self.broadcast(visible.hidden), 0.0)

    def __repr__(self) -> str:  # type: ignore[override]
        shape = ", ".join(f"{letter}={size}" for letter, size in zip(self.dims, self.shape, strict=True))
        return f"MaskedActivation({shape}, dtype={self.dtype})"


class PaddedActivation(MaskedActivation):
    """A map padded with zeros as soon as anybody reads it, or anything else is called.

    Models with TensorFlow's "same" padding pad right before every convolution. A convolution that pads by itself gives the
    same, and spares a copy of the map.

    Args:
        unpadded: The map, ``(N, C, H, W)``.
        padding: Zeros at the left, right, top and bottom; none negative.
    """

    _padded: tuple[Tensor, Visibility]
    _shape: torch.Size
    _unpadded: MaskedActivation
    _padding: tuple[int, int, int, int]

    def __new__(cls, unpadded: MaskedActivation, padding: tuple[int, int, int, int]) -> "PaddedActivation":
        """A carrier of the padded shape."""
        n, c, h, w = unpadded.shape
        left, right, top, bottom = padding
        shape = torch.Size((n, c, h + top + bottom, w + left + right))
        self: PaddedActivation = Carrier._of_shape(shape, cls, unpadded.values, unpadded.run)
        self.dims = NCHW
        self._shape = shape
        self._unpadded = unpadded
        self._padding = padding
        self.run.defer(self)
        return self

    @property
    def shape(self) -> torch.Size:  # type: ignore[override]
        """Shape of the values, without making them."""
        return self._shape

    @property
    def _asked(self) -> Tensor:
        return self._unpadded.values

    @property  # type: ignore[override]
    def values(self) -> Tensor:
        """The padded values."""
        self.make()
        return self._padded[0]

    @values.setter
    def values(self, values: Tensor) -> None:
        self._padded = values, self.visibility

    @property
    def visibility(self) -> Visibility:
        """The regions of the padded map."""
        self.make()
        return self._padded[1]

    @visibility.setter
    def visibility(self, visibility: Visibility) -> None:
        self._padded = self.values, visibility

    def make(self) -> None:
        """Write the zeros."""
        if not self._is_made:
            visibility = self._unpadded.visibility.padded(self._padding, "constant")
            self._padded = F.pad(self._unpadded.values, self._padding), visibility

    @property
    def _is_made(self) -> bool:
        return "_padded" in vars(self)

    def left_to(self, padding: Any) -> tuple[MaskedActivation, Pair] | None:
        """The map without its zeros, and how far a convolution that pads by `padding` must pad it; None if it cannot."""
        left, right, top, bottom = self._padding
        if self._is_made or isinstance(padding, str) or left != right or top != bottom:
            return None
        down, across = (padding, padding) if isinstance(padding, int) else (padding[0], padding[-1])
        return self._unpadded, (top + down, left + across)
