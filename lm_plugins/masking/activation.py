"""An activation of which a part is hidden: the carrier that travels through an unmodified model."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.carrier import Carrier
from lm_plugins.masking.margins import Margin
from lm_plugins.masking.mask import Mask
from lm_plugins.masking.neighbour_padding import fill
from lm_plugins.masking.visibility import Visibility
from lm_plugins.masking.window import Window

if TYPE_CHECKING:
    from lm_plugins.masking.tokens import MaskedTokens

__all__ = ["NCHW", "MaskedActivation"]

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

    def __init__(self, values: Tensor, visibility: Visibility, dims: tuple[str, ...] = NCHW) -> None:
        self.values = values
        self.visibility = visibility
        self.dims = dims

    # ---- for rules -------------------------------------------------------------------------------------------------

    def as_tokens(self) -> "MaskedTokens":
        """The same values with their positions as tokens, for layouts that are no map."""
        from lm_plugins.masking.tokens import MaskedTokens  # tokens turn into maps, and maps into tokens

        if "B" in self.dims:
            raise UnsupportedOperatorError(
                f"{self!r} has the batch folded into the channels, which no function may mix"
            )
        return MaskedTokens.of_map(self)

    def like(self, values: Tensor) -> "MaskedActivation":
        """The same regions and dimensions with other values; itself if a function worked in place."""
        return self if values is self.values else MaskedActivation(values, self.visibility, self.dims)

    def dim_of(self, letter: str) -> int:
        """The index of the batch dimension or of a spatial one."""
        return self.dims.index(letter)

    def spread(self, region: Tensor) -> Tensor:
        """Reshape an ``(N, H, W)`` or ``(N, 1, H, W)`` tensor so that it broadcasts to the values."""
        if "B" in self.dims:
            channels = self.shape[self.dims.index("B")] // region.shape[0]
            region = region.repeat_interleave(channels, 0)
        sizes = iter((region.shape[0], region.shape[-2], region.shape[-1]))
        return region.reshape([next(sizes) if letter in "NBHW" else 1 for letter in self.dims])

    def is_hidden(self, region: Mask | None = None) -> Tensor:
        """Bool that broadcasts to the values: hidden under `region`, by default under the computed one."""
        return self.spread((region or self.visibility.computed).hidden)

    def with_hidden(self, value: float, region: Mask | None = None) -> Tensor:
        """The values with `value` at the positions hidden under `region`; themselves if nothing is hidden."""
        computed = self.visibility.computed
        region = region or computed
        if region.is_full:
            return self.values
        if self.dims != NCHW:
            return self.values.masked_fill(self.is_hidden(region), value)
        # Without autograd, hidden positions are ours to write; what is computed but not visible is not.
        is_unspecified = region is computed or (region is self.visibility.visible and self.visibility.owns_margin)
        in_place = is_unspecified and not torch.is_grad_enabled()
        return region.filled(self.values, value, in_place=in_place)

    def visible_sum(self) -> Tensor:
        """Sum of the values, ``(N, C, H, W)``, over the visible positions of each image: ``(N, C)``."""
        return self.visibility.visible.sum_of(self.values)

    def padded_for(self, window: Window, margin: Margin | None = None) -> Tensor:
        """The values, ``(N, C, H, W)``, after neighbour padding for a convolution with `window`, and this margin."""
        plan, rings = self.visibility.padding_for(window, margin)
        if rings == 0:
            return self.values
        # Autograd may have saved the values for another branch; without it, hidden positions are ours to write.
        return fill(self.values, plan, rings, in_place=not torch.is_grad_enabled())

    def completed_to(self, region: Mask) -> Tensor:
        """The values with every position of `region` defined: what is missing is padded from neighbours, or zero.

        Zero stands for whatever padding cannot reach (an image of which nothing is visible), and for everything that
        is missing under ``MaskingOptions.missing="zero"``.
        """
        computed, visible = self.visibility.computed, self.visibility.visible
        if region is computed or visible.covers(region) or computed.covers(region):
            return self.values
        values, known = self.values, computed.positions
        if self.visibility.options.missing == "neighbours" and self.dims == NCHW:
            plan = self.visibility.neighbour_plan(computed)
            count = plan.rings_to_cover(region.positions)
            values, known = fill(values, plan, count, in_place=False), plan.known_after(count)
        return values.masked_fill(self.spread(region.positions & ~known), 0.0)

    def __repr__(self) -> str:
        shape = ", ".join(f"{letter}={size}" for letter, size in zip(self.dims, self.shape, strict=True))
        return f"MaskedActivation({shape}, dtype={self.dtype})"
