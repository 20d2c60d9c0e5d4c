"""Neighbour padding: hidden positions near the known region take the mean of their known neighbours, ring by ring."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_plugins.masking.channels_last import as_map, as_rows, has_bags

__all__ = ["FillPlan", "Filling", "Plan", "Ring", "ZeroPlan", "Zeros", "fill"]

# The four direct neighbours, then the four diagonal ones.
_NEIGHBOURS = ((-1, 0), (0, -1), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))


class Filling(Protocol):
    """Values for some of the hidden positions."""

    def fill(self, values: Tensor, *, in_place: bool) -> Tensor:
        """A map ``(N, C, H, W)`` with these positions filled."""


class Plan(Protocol):
    """What stands at hidden positions, ring by ring."""

    def rings(self, count: int) -> Sequence[Filling]:
        """The first `count` rings around the region."""


@dataclass(frozen=True)
class Ring:
    """The positions at one distance from the known region. Each becomes the weighted mean of its known neighbours.

    Positions are indices into the rows of an ``(N * H * W, C)`` view. `sources` are the known neighbours of each target, with
    `weights` that sum to one (a little less with an epsilon); where a target has fewer than others, one of them stands in
    the remaining places, with weight 0.
    """

    targets: Tensor  # (P,) int64
    sources: Tensor  # (P, S) int64, S <= 8
    weights: Tensor  # (P, S) float32
    detached: bool = False  # no gradient passes to the sources

    def fill(self, values: Tensor, *, in_place: bool) -> Tensor:
        """See `Filling`; channels-last, all other positions as they were."""
        rows = as_rows(values)
        means = self._means(rows.detach() if self.detached else rows)
        rows = rows.index_copy_(0, self.targets, means) if in_place else rows.index_copy(0, self.targets, means)
        return as_map(rows, values.shape)

    def _means(self, rows: Tensor) -> Tensor:
        if rows.is_complex():
            return torch.complex(self._means(rows.real.contiguous()), self._means(rows.imag.contiguous()))
        weights = self.weights.to(rows.dtype)
        if has_bags(rows) and (self.detached or not torch.is_grad_enabled()):
            return F.embedding_bag(self.sources, rows, mode="sum", per_sample_weights=weights)
        # The gradient of embedding_bag has none of its own; this sum can be differentiated any number of times.
        terms = zip(self.sources.unbind(1), weights.unbind(1), strict=True)
        return torch.stack([rows.index_select(0, source) * weight[:, None] for source, weight in terms]).sum(0)


class FillPlan:
    """Which positions neighbour padding fills from which, for one region. Rings are planned once, when first needed.

    Args:
        known: Bool ``(N, H, W)``: positions whose values are used.
        fillable: Bool ``(H, W)``, or None for all: positions that may be filled (not the zeros of an explicit pad).
        diagonal: Weight of the four diagonal neighbours relative to the four direct ones.
        epsilon: Added to the sum of weights by which a mean divides.
        detached: Let no gradient pass from filled positions to those that they are filled from.
    """

    def __init__(
        self,
        known: Tensor,
        fillable: Tensor | None,
        diagonal: float,
        epsilon: float = 0.0,
        detached: bool = False,
    ) -> None:
        self._detached = detached
        self._diagonal = diagonal
        self._epsilon = epsilon
        self._known = [known]  # before each ring
        self._fillable = fillable
        self._rings: list[Ring] = []
        self._is_complete = False

    def rings(self, count: int) -> list[Ring]:
        """The first `count` rings around the region; fewer where nothing is left to fill."""
        while len(self._rings) < count and not self._is_complete:
            known = self._known[-1]
            pattern = _pattern(known)
            new = (pattern > 0) & ~known if self._fillable is None else (pattern > 0) & ~known & self._fillable
            ring = self._ring(pattern, new)
            if ring is None:
                self._is_complete = True
            else:
                self._rings.append(ring)
                self._known.append(known | new)
        return self._rings[:count]

    def known_after(self, count: int) -> Tensor:
        """Bool ``(N, H, W)``: what is known once `count` rings are filled."""
        return self._known[len(self.rings(count))]

    def rings_to_cover(self, region: Tensor) -> int:
        """How many rings define every position of `region`, bool ``(N, H, W)``, that padding can reach at all."""
        count = 0
        while bool((region & ~self.known_after(count)).any()):
            if torch.equal(self.known_after(count), self.known_after(count + 1)):
                break
            count += 1
        return count

    def _ring(self, pattern: Tensor, new: Tensor) -> Ring | None:
        targets = new.reshape(-1).nonzero()[:, 0]
        if not len(targets):
            return None
        patterns = _patterns(self._diagonal, self._epsilon, new.device)
        of_target = pattern.reshape(-1).index_select(0, targets).int()
        width = int(patterns.count.index_select(0, of_target).max())
        steps = patterns.steps[:, :width, 0] * new.shape[2] + patterns.steps[:, :width, 1]
        sources = targets[:, None] + F.embedding(of_target, steps)
        return Ring(targets, sources, F.embedding(of_target, patterns.weights[:, :width]), self._detached)


@dataclass(frozen=True)
class Zeros:
    """All hidden positions at once, as zeros: what stands there without neighbour padding."""

    hidden: Tensor  # (N, H, W) bool

    def fill(self, values: Tensor, *, in_place: bool) -> Tensor:
        """See `Filling`; never in place, since another layer may take some of these positions as known."""
        return values.masked_fill(self.hidden[:, None], 0.0)


@dataclass(frozen=True)
class ZeroPlan:
    """The plan of a convolution without neighbour padding, of which one ring is everything."""

    hidden: Tensor  # (N, H, W) bool

    def rings(self, count: int) -> Sequence[Filling]:
        """See `Plan`."""
        return [Zeros(self.hidden)][:count]


def _pattern(known: Tensor) -> Tensor:
    """Uint8 ``(N, H, W)``: which of the eight neighbours are known; bit i stands for ``_NEIGHBOURS[i]``."""
    _, h, w = known.shape
    padded = F.pad(known, (1, 1, 1, 1)).view(torch.uint8)  # (N, H + 2, W + 2)
    pattern = torch.zeros_like(known, dtype=torch.uint8)
    for bit, (i, j) in enumerate(_NEIGHBOURS):
        pattern.add_(padded[:, 1 + i : 1 + i + h, 1 + j : 1 + j + w], alpha=1 << bit)
    return pattern


class _Patterns:
    """What to make of each of the 256 patterns."""

    def __init__(self, diagonal: float, epsilon: float, device: torch.device) -> None:
        known = torch.arange(256)[:, None] >> torch.arange(8) & 1  # (256, 8)
        order = known.argsort(dim=1, descending=True, stable=True)  # those known first
        weights = torch.tensor([1.0] * 4 + [diagonal] * 4) * known
        total = (weights.sum(1) + epsilon).clamp(min=torch.finfo(weights.dtype).tiny)
        self.count = known.sum(1).to(device)  # (256,)
        self.weights = (weights / total[:, None]).gather(1, order).to(device)  # (256, 8)
        order = torch.where(known.gather(1, order) > 0, order, order[:, :1])
        self.steps = torch.tensor(_NEIGHBOURS)[order].to(device)  # (256, 8, 2): down, right


_known_patterns: dict[tuple[float, float, torch.device], _Patterns] = {}


def _patterns(diagonal: float, epsilon: float, device: torch.device) -> _Patterns:
    key = (diagonal, epsilon, device)
    if key not in _known_patterns:
        with torch.inference_mode(False):  # what inference makes, autograd may not use later
            made = _Patterns(diagonal, epsilon, device)
        if type(made.count) is not Tensor:  # made while somebody only pretends to compute
            return made
        _known_patterns[key] = made
    return _known_patterns[key]


def fill(values: Tensor, plan: Plan, count: int, *, in_place: bool) -> Tensor:
    r"""Fill `count` rings around the known region of a map.

    Every position of ring :math:`r` becomes the weighted mean of those of its eight neighbours that are known or lie
    in an earlier ring. Positions further out are left as they are.

    Args:
        values: ``(N, C, H, W)``, floating point.
        plan: The plan of the region.
        count: Number of rings.
        in_place: Write into `values` where its memory format allows it. Not for values that autograd has saved.

    Returns:
        ``(N, C, H, W)``, in channels-last format; `values` itself if there was nothing to fill.

    References:
        Balasubramanian and Feizi, ICCV 2023, "neighbor padding". Theirs weights all eight neighbours alike, divides
        by their number plus 1e-5 and lets no gradient through the filled positions. All three are options; by default,
        ours is the exact mean and differentiable any number of times.
    """
    for ring in plan.rings(count):
        values = ring.fill(values, in_place=in_place)
    return values
