"""The two regions that an activation carries, and how the options move them through a network."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lm_plugins.masking.geometry import Pair, Resizing, Window
from lm_plugins.masking.mask import Mask
from lm_plugins.masking.neighbour_padding import FillPlan, Plan, ZeroPlan
from lm_plugins.masking.options import MaskingOptions
from lm_plugins.masking.part import cut, on_its_own
from lm_plugins.masking.run import Run
from lm_plugins.masking.transposed_window import TransposedWindow

__all__ = ["Visibility"]


class Visibility:
    """The regions of an activation. Immutable; nothing else reads how `MaskingOptions` move a region.

    Args:
        visible: The image's own region at this resolution: what merges and pooling count.
        computed: The positions whose values are good to compute with; contains `visible`. All others are hidden:
            their values are unspecified. A function makes it when somebody looks.
        run: The call of the model that this belongs to.
        is_image: Whether these are still pixels: nothing has looked through a window yet.
        halo: The number of the convolution that computed more than what is visible, if that may be left out.
        halo_width: How many rings of positions around `visible` are certainly in `computed`, as far as the map goes.
        depth: How many convolutions wider than 1x1 lie behind, on the way that has most; 0 where no option asks for it.
    """

    def __init__(
        self,
        visible: Mask,
        computed: Mask | Callable[[], Mask],
        run: Run,
        is_image: bool = False,
        halo: int | None = None,
        halo_width: int = 0,
        depth: int = 0,
    ) -> None:
        self.visible = visible
        self.run = run
        self.is_image = is_image
        self.depth = depth
        self._computed = computed
        self._halo = halo
        self._halo_width = halo_width

    @property
    def options(self) -> MaskingOptions:
        """The semantics."""
        return self.run.options

    @property
    def computed(self) -> Mask:
        """The positions that are good to compute with. Looking is noted: later runs leave out what nobody looks at.

        Raises:
            HaloLeftOutError: It was left out of this run.
        """
        self._look_at_halo()
        if not isinstance(self._computed, Mask):
            self._computed = self._computed()
        return self._computed

    def _look_at_halo(self) -> None:
        if self._halo is not None and self.run.halo is not None:
            self.run.halo.look(self._halo)

    def _leaves_out(self, halo: int | None) -> bool:
        return halo is not None and self.run.halo is not None and self.run.halo.leaves_out(halo)

    @property
    def settled(self) -> "Visibility":
        """The visible region alone, as at the end of a block."""
        return self.all_of(self.visible, self.is_image)

    @property
    def is_tight(self) -> bool:
        """Whether nothing but what is visible is computed: all other values are unspecified."""
        return self._computed is self.visible or self._leaves_out(self._halo)

    def all_of(self, visible: Mask, is_image: bool = False) -> "Visibility":
        """The regions of another map of this run, of which nothing but what is visible is computed."""
        return Visibility(visible, visible, self.run, is_image, depth=self.depth)

    @property
    def _known(self) -> Mask:
        return self.visible if self.options.computed == "visible" else self.computed

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

    def _keeps_to_visible(self, window: Window | TransposedWindow) -> bool:
        """Whether a convolution computes what is visible and no more."""
        is_beyond = self._computed is not self.visible
        return self.options.computed == "visible" or (
            self.options.computed == "next" and is_beyond and window.kernel != (1, 1)
        )

    def next_halo(self, window: Window) -> int | None:
        """The number of the halo of a convolution of the map, if it can be left out; otherwise None."""
        is_apart = self._rule == "coverage" and not self._keeps_to_visible(window) and window.kernel != (1, 1)
        # After the run, only a checkpoint computes.
        if (
            self.run.halo is None
            or self.run.is_over
            or not is_apart
            or not window.keeps_grid
            or self.visible.inside is not None
        ):
            return None
        return self.run.halo.next()

    @property
    def _padding(self) -> str:
        """What the next layer that looks through a window finds at hidden positions; see `MaskingOptions`."""
        limit = self.options.padded_layers
        return self.options.padding if limit is None or self.depth < limit else "zero"

    def padding_for(self, window: Window, halo: int | None = None) -> tuple[Plan, int]:
        """The padding before a convolution: its plan, and as many rings as outputs that count can see."""
        reach = window.reach_of_widened if self.samples(window) else window.reach
        if reach == 0 and not self.options.pointwise_ring:
            return self.neighbour_plan(self.visible), 0
        self._look_at_halo()
        if self._padding != "neighbours":
            return ZeroPlan(self._known.hidden), 1
        plan = self.neighbour_plan(self._known)
        if reach == 0:
            return plan, 1
        if window.is_patch and window.padding[0] == window.padding[2] == 0:
            return plan, self._known.rings_in_patches(window, plan)
        # A window whose centre is known sees half a kernel far; one that merely touches the region, a whole one: under
        # the any-rule, past a border of the image, and where a stride would skip the last visible position.
        if self._leaves_out(halo):
            return plan, max(0, window.half_reach - self._halo_width)
        by_centre = self._rule == "coverage" and self._keeps_to_visible(window)
        if by_centre and window.keeps_grid and self._known.inside is None:
            return plan, window.half_reach
        return plan, reach

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

    def after_convolution(self, window: Window, halo: int | None = None) -> "Visibility":
        """The regions after a convolution, whose halo has this number."""
        if window.is_identity and not self.is_image and not self.options.pointwise_ring:
            return self
        # Counted only where it matters: it would keep activations apart that are otherwise alike.
        is_counted = self.options.padded_layers is not None and window.kernel != (1, 1)
        depth = self.depth + is_counted
        window = self._part_of(window)
        visible = self._seen_through(window)
        if halo is not None:
            width = self._halo_width + (min(window.kernel) // 2 if window.dilation == (1, 1) else 0)
            return Visibility(visible, lambda: self.computed.any_in(window), self.run, False, halo, width, depth)
        if not self._keeps_to_visible(window):
            if window.is_identity:
                return Visibility(visible, self._computed, self.run, False, self._halo, self._halo_width, depth)
            return Visibility(visible, self.computed.any_in(window), self.run, depth=depth)
        if self.options.pointwise_ring and window.is_identity:
            ring = Window((3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
            return Visibility(visible, self.visible.any_in(ring), self.run, depth=depth)
        return Visibility(visible, visible, self.run, depth=depth)

    def after_transposed(self, window: TransposedWindow) -> "Visibility":
        """The regions after a transposed convolution."""
        visible = (
            window.any_in(self.visible)
            if self._rule == "any"
            else window.resampled(self.visible, self.options.coverage)
        )
        computed = visible if self._keeps_to_visible(window) else window.any_in(self.computed)
        is_counted = self.options.padded_layers is not None and window.kernel != (1, 1)
        return Visibility(visible, computed, self.run, depth=self.depth + is_counted)

    # ---- pooling: counts the visible region ------------------------------------------------------------------------

    def after_pooling(self, window: Window) -> "Visibility":
        """The regions after a pooling layer."""
        return self.all_of(self._seen_through(self._part_of(window)))

    def after_adaptive_pooling(self, size: Pair) -> "Visibility":
        """The regions after adaptive pooling to `size`."""
        return self.all_of(self.visible.any_in_adaptive(size))

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
        visible, *rest = (on_its_own(one.visible) for one in (self, *others))
        visible = visible.merged(rest, how, keep_last=self.options.sampling == "part")
        is_image = self.is_image and all(other.is_image for other in others)
        depth = max(one.depth for one in (self, *others))
        return Visibility(visible, visible, self.run, is_image, depth=depth)

    # ---- resizing --------------------------------------------------------------------------------------------------

    def resized(self, resizing: Resizing) -> "Visibility":
        """The regions after the map was resized."""
        coverage = None if self._rule == "any" else self.options.coverage
        by_part = self.resamples(resizing)
        visible = self.visible.resized(resizing, coverage, by_part)
        computed = visible if self.options.computed == "visible" else self.computed.resized(resizing, None, by_part)
        return self._both(visible, computed)

    def resamples(self, resizing: Resizing) -> bool:
        """As `samples`, for an interpolation."""
        return self.options.sampling == "part" and resizing.skips(self.visible.size)

    def enlarged(self, factor: int) -> "Visibility":
        """The regions after every position became a block of `factor` x `factor`."""
        return self._both(self.visible.enlarged(factor), self.computed.enlarged(factor))

    def _both(self, visible: Mask, computed: Mask) -> "Visibility":
        return Visibility(visible, computed, self.run, self.is_image, depth=self.depth)

    # ---- cuts and pads -----------------------------------------------------------------------------------------------

    def cut(self, rows: slice, columns: slice) -> "Visibility":
        """The regions of a slice of the map."""
        window = Window.of_cut(rows, columns, self.visible.size)
        if not self.samples(window):
            return self._both(cut(self.visible, rows, columns), cut(self.computed, rows, columns))
        window = window.widened
        visible = cut(self.visible, rows, columns, self._seen_through(window))
        if self.options.computed == "visible":
            return self._both(visible, visible)
        return self._both(visible, cut(self.computed, rows, columns, self.computed.any_in(window)))

    @property
    def on_their_own(self) -> "Visibility":
        """The same regions, no longer samples of others."""
        if on_its_own(self.visible) is self.visible:
            return self
        return self._both(on_its_own(self.visible), on_its_own(self.computed))

    def padded(self, padding: Sequence[int], mode: str) -> "Visibility":
        """The regions after a pad with (left, right, top, bottom)."""
        return self._both(self.visible.padded(padding, mode), self.computed.padded(padding, mode))
