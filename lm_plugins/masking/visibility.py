"""The two regions that an activation carries, and how the options move them through a network."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lm_plugins.masking.margins import Margin, MarginsOfRun
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
        margins: The margins of this run of the model; None computes all.
        margin: That of the convolution that computed more than what is visible, if it may be left out.
        margin_width: How many rings of positions around `visible` are certainly in `computed`, as far as the map goes.
    """

    visible: Mask
    computed: Mask
    options: MaskingOptions
    is_image: bool = False
    margins: MarginsOfRun | None = None
    margin: Margin | None = None
    margin_width: int = 0

    @property
    def settled(self) -> "Visibility":
        """The visible region alone, as at the end of a block."""
        return self._all_of(self.visible, self.is_image)

    @property
    def owns_margin(self) -> bool:
        """Whether nothing but what is visible is computed: all other values are unspecified."""
        return self.computed is self.visible or (self.margin is not None and self.margin.is_left_out)

    def _all_of(self, visible: Mask, is_image: bool = False) -> "Visibility":
        return Visibility(visible, visible, self.options, is_image, self.margins)

    @property
    def _known(self) -> Mask:
        return self.computed if self.options.computed == "any" else self.visible

    @property
    def _rule(self) -> str:
        return self.options.stem if self.is_image else self.options.visible

    def samples(self, window: Window) -> bool:
        """Whether a window looks at samples that stand for the whole part of the map around them."""
        return self.options.sampling == "part" and window.skips

    def _part_of(self, window: Window) -> Window:
        return window.widened if self.samples(window) else window

    def _seen_through(self, window: Window) -> Mask:
        is_patch = self.is_image and window.is_patch
        if is_patch and self.options.patches != "any":
            share = 1.0 if self.options.patches == "all" else self.options.coverage
            return self.visible.covered(window, share, share < 1 or self.options.sampling == "part")
        if is_patch or self._rule == "any":
            return self.visible.any_in(window)
        return self.visible.resampled(window, self.options.coverage)

    # ---- convolution -----------------------------------------------------------------------------------------------

    def margin_of(self, window: Window) -> Margin | None:
        """The margin of a convolution of the map, if it can be left out; otherwise None."""
        is_apart = self._rule == "coverage" and self.options.computed == "any" and window.kernel != (1, 1)
        if self.margins is None or not is_apart or not window.keeps_grid or self.visible.inside is not None:
            return None
        return self.margins.next()

    def padding_for(self, window: Window, margin: Margin | None = None) -> tuple[FillPlan, int]:
        """The neighbour padding before a convolution: its plan, and as many rings as outputs that count can see."""
        reach = window.reach_of_widened if self.samples(window) else window.reach
        if reach == 0 and not self.options.pointwise_ring:
            return self._plan_around(self.visible), 0
        if self.margin is not None:
            self.margin.look()
        plan = self._plan_around(self._known)
        if reach == 0:
            return plan, 1
        if window.is_patch and window.padding[0] == window.padding[2] == 0:
            return plan, self._known.rings_in_patches(window, plan)
        # A window whose centre is known sees half a kernel far; one that merely touches the region, a whole one: under
        # the any-rule, past a border of the image, and where a stride would skip the last visible position.
        if margin is not None and margin.is_left_out:
            return plan, max(0, window.half_reach - self.margin_width)
        by_centre = self._rule == "coverage" and self.options.computed == "visible"
        if by_centre and window.keeps_grid and self._known.inside is None:
            return plan, window.half_reach
        return plan, reach

    def _plan_around(self, region: Mask) -> FillPlan:
        # One convolution looks at pixels, and their plan is the largest of all: it need not be kept.
        return region.fill_plan(self.options.diagonal, self.options.padding_epsilon, keep=not self.is_image)

    def after_convolution(self, window: Window, margin: Margin | None = None) -> "Visibility":
        """The regions after a convolution."""
        if window.is_identity and not self.is_image and not self.options.pointwise_ring:
            return self
        window = self._part_of(window)
        visible = self._seen_through(window)
        if margin is not None:
            width = self.margin_width + (min(window.kernel) // 2 if window.dilation == (1, 1) else 0)
            computed = margin.around(lambda: self.computed.any_in(window))
            return Visibility(visible, computed, self.options, False, self.margins, margin, width)
        if self.options.computed == "any":
            if window.is_identity:
                return replace(self, visible=visible, is_image=False)
            return replace(self._all_of(visible), computed=self.computed.any_in(window))
        if self.options.pointwise_ring and window.is_identity:
            ring = Window((3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
            return replace(self._all_of(visible), computed=self.visible.any_in(ring))
        return self._all_of(visible)

    # ---- pooling: counts the visible region ------------------------------------------------------------------------

    def after_pooling(self, window: Window) -> "Visibility":
        """The regions after a pooling layer."""
        return self._all_of(self._seen_through(self._part_of(window)))

    def after_adaptive_pooling(self, size: Pair) -> "Visibility":
        """The regions after adaptive pooling to `size`."""
        return self._all_of(self.visible.any_in_adaptive(size))

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
        visible, *rest = (one.visible.on_its_own for one in (self, *others))
        visible = visible.merged(rest, how, keep_last=self.options.sampling == "part")
        is_image = self.is_image and all(other.is_image for other in others)
        return self._all_of(visible, is_image)

    # ---- resizing --------------------------------------------------------------------------------------------------

    def resized(self, resizing: Resizing) -> "Visibility":
        """The regions after the map was resized."""
        coverage = None if self._rule == "any" else self.options.coverage
        by_part = self.resamples(resizing)
        visible = self.visible.resized(resizing, coverage, by_part)
        computed = self.computed.resized(resizing, None, by_part) if self.options.computed == "any" else visible
        return self._both(visible, computed)

    def resamples(self, resizing: Resizing) -> bool:
        """As `samples`, for an interpolation."""
        return self.options.sampling == "part" and resizing.skips(self.visible.size)

    def enlarged(self, factor: int) -> "Visibility":
        """The regions after every position became a block of `factor` x `factor`."""
        return self._both(self.visible.enlarged(factor), self.computed.enlarged(factor))

    def _both(self, visible: Mask, computed: Mask) -> "Visibility":
        return replace(self._all_of(visible, self.is_image), computed=computed)

    # ---- cuts and pads -----------------------------------------------------------------------------------------------

    def cut(self, rows: slice, columns: slice) -> "Visibility":
        """The regions of a slice of the map."""
        window = Window.of_cut(rows, columns, self.visible.size)
        if not self.samples(window):
            return self._both(self.visible.cut(rows, columns), self.computed.cut(rows, columns))
        window = window.widened
        visible = self.visible.cut(rows, columns, self._seen_through(window))
        if self.options.computed == "visible":
            return self._both(visible, visible)
        return self._both(visible, self.computed.cut(rows, columns, self.computed.any_in(window)))

    @property
    def on_their_own(self) -> "Visibility":
        """The same regions, no longer samples of others."""
        return replace(self, visible=self.visible.on_its_own, computed=self.computed.on_its_own)

    def padded(self, padding: Sequence[int], mode: str) -> "Visibility":
        """The regions after a pad with (left, right, top, bottom)."""
        return self._both(self.visible.padded(padding, mode), self.computed.padded(padding, mode))
