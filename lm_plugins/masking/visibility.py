"""The two regions that an activation carries, and how the options move them through a network."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lm_plugins.masking.mask import Mask
from lm_plugins.masking.neighbour_padding import FillPlan
from lm_plugins.masking.options import MaskingOptions
from lm_plugins.masking.resizing import Resizing
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
        is_image: Whether these are still pixels: nothing has looked through a window yet.
    """

    visible: Mask
    computed: Mask
    options: MaskingOptions
    is_image: bool = False

    @property
    def settled(self) -> "Visibility":
        """The visible region alone, as at the end of a block."""
        return replace(self, computed=self.visible)

    @property
    def _known(self) -> Mask:
        return self.computed if self.options.computed == "any" else self.visible

    @property
    def _rule(self) -> str:
        return self.options.stem if self.is_image else self.options.visible

    def _seen_through(self, window: Window) -> Mask:
        is_patch = self.is_image and window.is_patch
        if is_patch and self.options.patches != "any":
            return self.visible.covered(window, 1.0 if self.options.patches == "all" else self.options.coverage)
        if is_patch or self._rule == "any":
            return self.visible.any_in(window)
        return self.visible.resampled(window, self.options.coverage)

    # ---- convolution -----------------------------------------------------------------------------------------------

    def padding_for(self, window: Window) -> tuple[FillPlan, int]:
        """The neighbour padding before a convolution: its plan, and as many rings as outputs that count can see."""
        plan = self._known.fill_plan(self.options.diagonal, self.options.padding_epsilon)
        if window.kernel == (1, 1):
            return plan, int(self.options.pointwise_ring)
        if window.is_patch and window.padding[0] == window.padding[2] == 0:
            return plan, self._known.rings_in_patches(window, plan)
        # A window whose centre is known sees half a kernel far; one that merely touches the region, a whole one: under
        # the any-rule, past a border of the image, and where a stride would skip the last visible position.
        by_centre = self._rule == "coverage" and self.options.computed == "visible"
        if by_centre and window.keeps_grid and self._known.inside is None:
            return plan, window.half_reach
        return plan, window.reach

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
        """The regions after an element-wise merge; unchanged if all operands are functions of one activation."""
        if all(other is self for other in others):
            return self
        return self._merged(others, self.options.addition)

    def after_concatenation(self, others: Sequence["Visibility"]) -> "Visibility":
        """The regions after a concatenation of channels."""
        return self._merged(others, self.options.concatenation)

    def _merged(self, others: Sequence["Visibility"], how: str) -> "Visibility":
        visible = self.visible.merged([other.visible for other in others], how)
        is_image = self.is_image and all(other.is_image for other in others)
        return Visibility(visible, visible, self.options, is_image)

    # ---- resizing --------------------------------------------------------------------------------------------------

    def resized(self, resizing: Resizing) -> "Visibility":
        """The regions after the map was resized."""
        coverage = None if self._rule == "any" else self.options.coverage
        visible = self.visible.resized(resizing, coverage)
        computed = self.computed.resized(resizing, None) if self.options.computed == "any" else visible
        return replace(self, visible=visible, computed=computed)

    def enlarged(self, factor: int) -> "Visibility":
        """The regions after every position became a block of `factor` x `factor`."""
        return replace(self, visible=self.visible.enlarged(factor), computed=self.computed.enlarged(factor))

    # ---- cuts and pads -----------------------------------------------------------------------------------------------

    def cut(self, rows: slice, columns: slice) -> "Visibility":
        """The regions of a slice of the map."""
        return replace(self, visible=self.visible.cut(rows, columns), computed=self.computed.cut(rows, columns))

    def padded(self, padding: Sequence[int], mode: str) -> "Visibility":
        """The regions after a pad with (left, right, top, bottom)."""
        return replace(self, visible=self.visible.padded(padding, mode), computed=self.computed.padded(padding, mode))
