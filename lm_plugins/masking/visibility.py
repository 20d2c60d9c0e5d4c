"""The two regions that an activation carries, and how the options move them through a network."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lm_plugins.masking.margins import Margin, MarginsOfRun
from lm_plugins.masking.mask import Mask
from lm_plugins.masking.neighbour_padding import FillPlan, Plan, ZeroPlan
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
        depth: How many convolutions wider than 1x1 lie behind, on the way that has most; 0 where no option asks for it.
    """

    visible: Mask
    computed: Mask
    options: MaskingOptions
    is_image: bool = False
    margins: MarginsOfRun | None = None
    margin: Margin | None = None
    margin_width: int = 0
    depth: int = 0

    @property
    def settled(self) -> "Visibility":
        """The visible region alone, as at the end of a block."""
        return self._all_of(self.visible, self.is_image)

    @property
    def owns_margin(self) -> bool:
        """Whether nothing but what is visible is computed: all other values are unspecified."""
        return self.computed is self.visible or (self.margin is not None and self.margin.is_left_out)

    def _all_of(self, visible: Mask, is_image: bool = False) -> "Visibility":
        return Visibility(visible, visible, self.options, is_image, self.margins, depth=self.depth)

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

    def margin_of(self, window: Window) -> Margin | None:
        """The margin of a convolution of the map, if it can be left out; otherwise None."""
        is_apart = self._rule == "coverage" and self.options.computed == "any" and window.kernel != (1, 1)
        if self.margins is None or not is_apart or not window.keeps_grid or self.visible.inside is not None:
            return None
        return self.margins.next()

    @property
    def _padding(self) -> str:
        """What the next layer that looks through a window finds at hidden positions; see `MaskingOptions`."""
        limit = self.options.padded_layers
        return self.options.padding if limit is None or self.depth < limit else "zero"

    def padding_for(self, window: Window, margin: Margin | None = None) -> tuple[Plan, int]:
        """The padding before a convolution: its plan, and as many rings as outputs that count can see."""
        if window.kernel == (1, 1) and not self.options.pointwise_ring:
            return self.neighbour_plan(self.visible), 0
        if self.margin is not None:
            self.margin.look()
        if self._padding != "neighbours":
            return ZeroPlan(self._known.hidden), 1
        plan = self.neighbour_plan(self._known)
        if window.kernel == (1, 1):
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
        return plan, window.reach

    def neighbour_plan(self, region: Mask) -> FillPlan:
        """The plan of neighbour padding around a region."""
        options, detached = self.options, self.options.padding_gradient == "detached"
        # One convolution looks at pixels, and their plan is the largest of all: it need not be kept.
        return region.fill_plan(options.diagonal, options.padding_epsilon, detached, keep=not self.is_image)

    def rescaling_for(self, window: Window, dtype: torch.dtype) -> Tensor | None:
        """What a partial convolution multiplies its sums by, ``(N, 1, H', W')``; None where it has nothing to do."""
        if self._padding != "partial" or window.kernel == (1, 1) or self._known.is_full:
            return None
        return self._known.mean_correction(window, dtype)

    def after_convolution(self, window: Window, margin: Margin | None = None) -> "Visibility":
        """The regions after a convolution."""
        if window.is_identity and not self.is_image and not self.options.pointwise_ring:
            return self
        return self._deeper(window)._after_convolution(window, margin)

    def _deeper(self, window: Window) -> "Visibility":
        # Counted only where it matters: it would keep activations apart that are otherwise alike.
        is_counted = self.options.padded_layers is not None and window.kernel != (1, 1)
        return replace(self, depth=self.depth + 1) if is_counted else self

    def _after_convolution(self, window: Window, margin: Margin | None) -> "Visibility":
        visible = self._seen_through(window)
        if margin is not None:
            width = self.margin_width + (min(window.kernel) // 2 if window.dilation == (1, 1) else 0)
            computed = margin.around(lambda: self.computed.any_in(window))
            return Visibility(visible, computed, self.options, False, self.margins, margin, width, self.depth)
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
        return self._all_of(self._seen_through(window))

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
        visible = self.visible.merged([other.visible for other in others], how)
        is_image = self.is_image and all(other.is_image for other in others)
        merged = self._all_of(visible, is_image)
        return replace(merged, depth=max(one.depth for one in (self, *others)))

    # ---- resizing --------------------------------------------------------------------------------------------------

    def resized(self, resizing: Resizing) -> "Visibility":
        """The regions after the map was resized."""
        coverage = None if self._rule == "any" else self.options.coverage
        visible = self.visible.resized(resizing, coverage)
        computed = self.computed.resized(resizing, None) if self.options.computed == "any" else visible
        return self._both(visible, computed)

    def enlarged(self, factor: int) -> "Visibility":
        """The regions after every position became a block of `factor` x `factor`."""
        return self._both(self.visible.enlarged(factor), self.computed.enlarged(factor))

    def _both(self, visible: Mask, computed: Mask) -> "Visibility":
        return replace(self._all_of(visible, self.is_image), computed=computed)

    # ---- cuts and pads -----------------------------------------------------------------------------------------------

    def cut(self, rows: slice, columns: slice) -> "Visibility":
        """The regions of a slice of the map."""
        return self._both(self.visible.cut(rows, columns), self.computed.cut(rows, columns))

    def padded(self, padding: Sequence[int], mode: str) -> "Visibility":
        """The regions after a pad with (left, right, top, bottom)."""
        return self._both(self.visible.padded(padding, mode), self.computed.padded(padding, mode))
