"""A region of a map, and its algebra: how it passes windows, cuts, pads and merges."""

from collections.abc import Sequence
from weakref import ref

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_plugins.masking.channels_last import is_everything, overwritten, sum_over
from lm_plugins.masking.geometry import Pair, Resizing, Window, adaptive, any_in, count_in, ratio, triangular
from lm_plugins.masking.memo import Memo
from lm_plugins.masking.neighbour_padding import FillPlan

__all__ = ["Mask"]


class Mask(Memo):
    """A region at one resolution. Immutable; every result is cached, so that layers of one geometry share it.

    Positions outside of `inside` come from an explicit pad: their values are constants of the model. They are neither
    in the region nor hidden: no mean counts them and neighbour padding leaves them alone.

    Args:
        positions: Bool ``(N, H, W)``, True = in the region. Nothing outside of `inside` is True.
        inside: Bool ``(H, W)``, or None if every position belongs to the image.
    """

    def __init__(self, positions: Tensor, inside: Tensor | None = None) -> None:
        super().__init__()
        self.positions = positions
        self.inside = inside
        self._within: Sequence[ref[Mask]] = ()  # regions that certainly hold this one

    def __repr__(self) -> str:
        return f"Mask(positions={tuple(self.positions.shape)}, inside={'part' if self.inside is not None else 'all'})"

    @property
    def size(self) -> Pair:
        """Height and width of the map."""
        return int(self.positions.shape[1]), int(self.positions.shape[2])

    @property
    def hidden(self) -> Tensor:
        """Bool ``(N, H, W)``: what is inside of the image but not in the region."""
        return self.once("hidden", lambda: ~self.positions if self.inside is None else ~self.positions & self.inside)

    @property
    def hidden_on_host(self) -> Tensor:
        """The same on the CPU, for those who decide by it what is called next."""
        return self.once("hidden on host", lambda: self.hidden.cpu())

    @property
    def rows(self) -> Tensor:
        """Int64: the indices of the region's positions among the ``N * H * W`` of the batch."""
        return self.once("rows", lambda: self.positions.reshape(-1).nonzero()[:, 0])

    @property
    def hidden_rows(self) -> Tensor:
        """Int64: the indices of the hidden positions among the ``N * H * W`` of the batch."""
        return self.once("hidden_rows", lambda: self.hidden.reshape(-1).nonzero()[:, 0])

    @property
    def is_full(self) -> bool:
        """Whether nothing is hidden in any image of the batch."""
        return self.once("is_full", lambda: is_everything(self.positions if self.inside is None else ~self.hidden))

    def covers(self, other: "Mask") -> bool:
        """Whether nothing that is in the other region is hidden here."""
        is_known = other is self or any(one() is self for one in other._within)
        return is_known or not bool((other.positions & self.hidden).any())

    def fill_plan(self, diagonal: float, epsilon: float, detached: bool = False, keep: bool = True) -> FillPlan:
        """The plan of neighbour padding around the region; the numbers as in `MaskingOptions`.

        Args:
            diagonal: Weight of the diagonal neighbours.
            epsilon: Added to the sum of weights.
            detached: Let no gradient through.
            keep: Remember it, for the next layer.
        """

        def make() -> FillPlan:
            return FillPlan(self.positions, self.inside, diagonal, epsilon, detached=detached)

        return self.once(("fill", diagonal, epsilon, detached), make) if keep else make()

    def overwritten(self, values: Tensor, value: float, *, in_place: bool) -> Tensor:
        """A map ``(N, C, H, W)`` with `value` where it is hidden, channels-last."""
        return overwritten(values, self.hidden_rows, value, in_place=in_place)

    def sum_of(self, values: Tensor) -> Tensor:
        """Sum a map ``(N, C, H, W)`` over the region of each image: ``(N, C)``."""
        return sum_over(values, self.positions, self.rows)

    # ---- windows -----------------------------------------------------------------------------------------------

    def any_in(self, window: Window) -> "Mask":
        """The positions in whose window something of the region lies."""
        if window.is_identity:
            return self

        def make() -> Mask:
            return Mask(any_in(self.positions, window), self._inside_after(window))

        return self.once(("any", window), make)

    def resampled(self, window: Window, coverage: float) -> "Mask":
        """The positions whose own part of the map is covered by the region to at least `coverage`, through `window`.

        The region passes a window like a signal that is resampled: by a triangular filter around the centre of the
        window, as wide as the stride. With stride 1 that is the centre itself (or the two central taps of an even
        kernel). Where the centre lies outside of the image, anything in the window suffices; so does it in an image
        that would lose its last position.
        """
        if window.keeps_grid and self.inside is None:
            return self

        def make() -> Mask:
            touched = self.any_in(window)
            inside = torch.ones_like(self.positions[:1]) if self.inside is None else self.inside[None]
            covered = triangular(self.positions.float(), window)
            possible = triangular(inside.float(), window)
            # The slack absorbs rounding of filter weights that are no powers of two.
            positions = (covered >= coverage * possible - 1e-5) & touched.positions
            is_lost = ~positions.flatten(1).any(1)  # (N,)
            return Mask(positions | (is_lost[:, None, None] & touched.positions), touched.inside)

        return self.once(("resampled", window, coverage), make)

    def covered(self, window: Window, share: float, keep_last: bool = True) -> "Mask":
        """The positions of whose window the region covers at least `share`, every position of it counting alike.

        With `keep_last`, anything in the window suffices in an image that would lose its last position.
        """
        if window.is_identity:
            return self

        def make() -> Mask:
            inside = torch.ones_like(self.positions[:1]) if self.inside is None else self.inside[None]
            possible = count_in(inside, window, torch.float32)[:, 0]
            count = count_in(self.positions, window, torch.float32)[:, 0]
            positions = (count >= share * possible - 1e-3) & (count > 0)
            if keep_last:
                is_lost = ~positions.flatten(1).any(1)  # (N,)
                positions |= is_lost[:, None, None] & (count > 0)
            return Mask(positions, self._inside_after(window))

        return self.once(("covered", window, share, keep_last), make)

    def rings_in_patches(self, window: Window, plan: FillPlan) -> int:
        """How many rings of padding complete the patches that hold something of the region; windows do not overlap."""

        def make() -> int:
            partly = self.any_in(window).positions
            for dim, size in enumerate(window.kernel, start=1):
                partly = partly.repeat_interleave(size, dim)
            needed = torch.zeros_like(self.positions)
            needed[:, : partly.shape[1], : partly.shape[2]] = partly[:, : self.size[0], : self.size[1]]
            return plan.rings_to_cover(needed if self.inside is None else needed & self.inside)

        return self.once(("rings in patches", window), make)

    def mean_correction(self, window: Window, dtype: torch.dtype) -> Tensor:
        """``(N, 1, H', W')`` of `dtype` that turns a mean with zeros at hidden positions into the mean over the region.

        The number of image positions in each window over the number of those in the region: exactly 1 where nothing is
        hidden, 0 where all of the image is.
        """

        def make() -> Tensor:
            inside = torch.ones_like(self.positions[:1]) if self.inside is None else self.inside[None]
            return ratio(count_in(inside, window, dtype), count_in(self.positions, window, dtype))

        return self.once(("mean", window, dtype), make)

    def _inside_after(self, window: Window) -> Tensor | None:
        if self.inside is None and not window.is_oversized:
            return None
        inside = torch.ones_like(self.positions[0]) if self.inside is None else self.inside
        return _none_if_all(any_in(inside[None], window)[0])

    # ---- adaptive windows ----------------------------------------------------------------------------------------

    def any_in_adaptive(self, size: Pair) -> "Mask":
        """As `any_in`, for the uneven windows of adaptive pooling to `size`."""
        if size == self.size:
            return self

        def make() -> Mask:
            inside = None if self.inside is None else _none_if_all(adaptive(self.inside[None], size, "max")[0, 0] > 0)
            return Mask(adaptive(self.positions, size, "max")[:, 0] > 0, inside)

        return self.once(("any adaptive", size), make)

    def mean_correction_adaptive(self, size: Pair, dtype: torch.dtype) -> Tensor:
        """As `mean_correction`, for the uneven windows of adaptive pooling to `size`."""

        def make() -> Tensor:
            inside = torch.ones_like(self.positions[:1]) if self.inside is None else self.inside[None]
            return ratio(adaptive(inside, size, "avg", dtype), adaptive(self.positions, size, "avg", dtype))

        return self.once(("mean adaptive", size, dtype), make)

    # ---- merges ----------------------------------------------------------------------------------------------------

    def merged(self, others: Sequence["Mask"], how: str, keep_last: bool = False) -> "Mask":
        """The region after a merge of maps: their ``"intersection"``, ``"union"`` or ``"majority"``.

        A position that is inside of the image for one map only counts as present in the others: they are constant there.
        With `keep_last`, an image that would lose its last position takes the union.
        """
        masks = (self, *others)
        if all(mask is self for mask in masks):
            return self
        if how != "majority":  # a majority counts repeated operands, the others need not
            masks = tuple(dict.fromkeys(masks))
        key = ("merged", how, keep_last, *(id(mask) for mask in masks))

        def make() -> tuple[Mask, tuple[Mask, ...]]:
            inside = _merged_inside(masks)
            present = torch.stack([~mask.hidden for mask in masks])
            if how == "intersection":
                positions = present.all(0)
            elif how == "union":
                positions = torch.stack([mask.positions for mask in masks]).any(0)
            else:
                positions = present.sum(0) * 2 > len(masks)
            if inside is not None:
                positions = positions & inside
            kept = self._with_last(positions, masks) if keep_last and how != "union" else positions
            merged = Mask(kept, inside)
            if how == "intersection" and kept is positions:
                merged._within = [ref(mask) for mask in masks]
            # Holding the other operands keeps their ids theirs; holding itself would keep everything for ever.
            return merged, tuple(mask for mask in masks if mask is not self)

        return self.once(key, make)[0]

    @staticmethod
    def _with_last(positions: Tensor, masks: "Sequence[Mask]") -> Tensor:
        """Positions of a merge, of all operands in images of which none would be left; themselves if there are none."""
        union = torch.stack([mask.positions for mask in masks]).any(0)
        is_lost = ~positions.flatten(1).any(1) & union.flatten(1).any(1)  # (N,)
        return positions | (is_lost[:, None, None] & union) if bool(is_lost.any()) else positions

    # ---- resizing ----------------------------------------------------------------------------------------------------

    def resized(self, resizing: Resizing, coverage: float | None, by_part: bool = False) -> "Mask":
        """The positions that are interpolated from the region to at least `coverage`; None: from anything of it.

        Anything also suffices in an image that would lose its last position. With `by_part`, what counts is the part of the
        map that a position stands for, not the positions that it is interpolated from.
        """

        def resize(region: Tensor) -> Tensor:
            return (resizing.of_parts if by_part else resizing)(region[:, None].to(resizing.dtype))[:, 0]

        def make() -> Mask:
            inside = torch.ones_like(self.positions[:1]) if self.inside is None else self.inside[None]
            covered, possible = resize(self.positions), resize(inside)
            touched = covered > 0
            positions = touched if coverage is None else touched & (covered >= coverage * possible - 1e-5)
            is_lost = ~positions.flatten(1).any(1)  # (N,)
            return Mask(positions | (is_lost[:, None, None] & touched), _none_if_all(possible[0] > 0))

        return self.once(("resized", resizing, coverage, by_part), make)

    def enlarged(self, factor: int) -> "Mask":
        """The region after every position became a block of `factor` x `factor`."""

        def enlarge(region: Tensor) -> Tensor:
            return region.repeat_interleave(factor, -2).repeat_interleave(factor, -1)

        return self.once(
            ("enlarged", factor),
            lambda: Mask(enlarge(self.positions), None if self.inside is None else enlarge(self.inside)),
        )

    # ---- cuts and pads -----------------------------------------------------------------------------------------------

    def cut(self, rows: slice, columns: slice) -> "Mask":
        """The region of a slice of the map."""

        def make() -> Mask:
            inside = None if self.inside is None else _none_if_all(self.inside[rows, columns])
            return Mask(self.positions[:, rows, columns], inside)

        key = ("cut", rows.start, rows.stop, rows.step, columns.start, columns.stop, columns.step)
        return self.once(key, make)

    def padded(self, padding: Sequence[int], mode: str) -> "Mask":
        """The region after `torch.nn.functional.pad` of the map with (left, right, top, bottom).

        A constant pad puts positions outside of the image; the other modes repeat what the map holds.
        """

        def pad(region: Tensor) -> Tensor:
            if mode == "constant":
                return F.pad(region, tuple(padding), value=False)
            return F.pad(region[:, None].float(), tuple(padding), mode=mode)[:, 0] > 0

        def make() -> Mask:
            inside = self.inside
            if mode == "constant" or inside is not None:
                inside = torch.ones_like(self.positions[0]) if inside is None else inside
                inside = _none_if_all(pad(inside[None])[0])
            return Mask(pad(self.positions), inside)

        return self.once(("padded", tuple(padding), mode), make)


def _none_if_all(inside: Tensor) -> Tensor | None:
    return None if bool(inside.all()) else inside


def _merged_inside(masks: Sequence[Mask]) -> Tensor | None:
    insides = [mask.inside for mask in masks]
    if any(inside is None for inside in insides):
        return None
    return _none_if_all(torch.stack([inside for inside in insides if inside is not None]).any(0))
