"""The two regions that an activation carries, and how the options move them through a network."""

from collections.abc import Sequence
from dataclasses import dataclass

from lm_plugins.masking.mask import Mask
from lm_plugins.masking.neighbour_padding import FillPlan
from lm_plugins.masking.options import MaskingOptions
from lm_plugins.masking.window import Pair, Window

__all__ = ["Visibility"]


@dataclass(frozen=True)
class Visibility:
    """What of an activation counts. The only place that reads how `MaskingOptions` move a region.

    Args:
        visible: The image's own region at this resolution: what merges and pooling count.
        computed: The positions whose values are good to compute with; contains `visible`. All others are hidden:
            their values are unspecified.
        options: The semantics.
    """

    visible: Mask
    computed: Mask
    options: MaskingOptions

    @property
    def settled(self) -> "Visibility":
        """The visible region alone, as at the end of a block."""
        return self if self.computed is self.visible else Visibility(self.visible, self.visible, self.options)

    @property
    def _known(self) -> Mask:
        return self.computed if self.options.computed == "any" else self.visible

    def _seen_through(self, window: Window) -> Mask:
        if self.options.visible == "any":
            return self.visible.any_in(window)
        return self.visible.centre_of(window)

    # ---- convolution -----------------------------------------------------------------------------------------------

    def padding_for(self, window: Window) -> tuple[FillPlan, int]:
        """The neighbour padding before a convolution: its plan, and as many rings as outputs that count can see."""
        plan = self._known.fill_plan(self.options.diagonal, self.options.padding_epsilon)
        if window.kernel == (1, 1):
            return plan, int(self.options.pointwise_ring)
        # A window whose centre is known sees half a kernel far; one that merely touches the region, a whole one.
        touches = self.options.visible == "any" or self.options.computed == "any"
        if touches or window.is_oversized or self._known.inside is not None:
            return plan, window.reach
        return plan, max(window.half_reach, self._reach_where_lost(window))

    def _reach_where_lost(self, window: Window) -> int:
        # Where a stride skips the last visible position, `Mask.centre_of` keeps windows that touch the region.
        return 0 if window.stride == (1, 1) else window.reach

    def after_convolution(self, window: Window) -> "Visibility":
        """The regions after a convolution."""
        visible = self._seen_through(window)
        if self.options.computed == "any":
            return Visibility(visible, self.computed.any_in(window), self.options)
        if self.options.pointwise_ring and window.is_identity:
            ring = Window((3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
            return Visibility(visible, self.visible.any_in(ring), self.options)
        return Visibility(visible, visible, self.options)

    # ---- pooling: counts the visible region ------------------------------------------------------------------------

    def after_pooling(self, window: Window) -> "Visibility":
        """The regions after a pooling layer."""
        visible = self._seen_through(window)
        return Visibility(visible, visible, self.options)

    def after_adaptive_pooling(self, size: Pair) -> "Visibility":
        """The regions after adaptive pooling to `size`."""
        visible = self.visible.any_in_adaptive(size)
        return Visibility(visible, visible, self.options)

    # ---- merges: fall back to the visible region ---------------------------------------------------------------------

    def after_addition(self, others: Sequence["Visibility"]) -> "Visibility":
        """The regions after an element-wise merge."""
        visible = self.visible.merged([other.visible for other in others], self.options.addition)
        return Visibility(visible, visible, self.options)

    def after_concatenation(self, others: Sequence["Visibility"]) -> "Visibility":
        """The regions after a concatenation of channels."""
        visible = self.visible.merged([other.visible for other in others], self.options.concatenation)
        return Visibility(visible, visible, self.options)

    # ---- cuts and pads -----------------------------------------------------------------------------------------------

    def cut(self, rows: slice, columns: slice) -> "Visibility":
        """The regions of a slice of the map."""
        return Visibility(self.visible.cut(rows, columns), self.computed.cut(rows, columns), self.options)

    def padded(self, padding: Sequence[int], mode: str) -> "Visibility":
        """The regions after a pad with (left, right, top, bottom)."""
        return Visibility(self.visible.padded(padding, mode), self.computed.padded(padding, mode), self.options)
