"""Neighbour padding: hidden positions near the known region take the mean of their known neighbours, ring by ring."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_plugins.masking.positions import as_map, as_rows

__all__ = ["FillPlan", "Ring", "fill"]

# The four direct neighbours, then the four diagonal ones.
_NEIGHBOURS = ((-1, 0), (0, -1), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))


@dataclass(frozen=True)
class Ring:
    """The positions at one distance from the known region, and the neighbours that each is the mean of.

    Positions are indices into the rows of an ``(N * H * W, C)`` view. ``sources[offsets[i]:offsets[i + 1]]`` are the
    known neighbours of ``targets[i]``, with ``weights`` that sum to one (a little less with an epsilon).
    """

    targets: Tensor  # (P,) int64
    sources: Tensor  # (S,) int64
    offsets: Tensor  # (P,) int64
    weights: Tensor  # (S,) float32


class FillPlan:
    """Which positions neighbour padding fills from which, for one region. Rings are planned once, when first needed.

    Args:
        known: Bool ``(N, H, W)``: positions whose values are used.
        fillable: Bool ``(H, W)``, or None for all: positions that may be filled (not the zeros of an explicit pad).
        diagonal: Weight of the four diagonal neighbours relative to the four direct ones.
        epsilon: Added to the sum of weights by which a mean divides.
    """

    def __init__(self, known: Tensor, fillable: Tensor | None, diagonal: float, epsilon: float = 0.0) -> None:
        self._known = [known]  # before each ring
        self._fillable = fillable
        self._diagonal = diagonal
        self._epsilon = epsilon
        self._rings: list[Ring] = []
        self._complete = False

    def rings(self, count: int) -> list[Ring]:
        """The first `count` rings around the region; fewer where nothing is left to fill."""
        while len(self._rings) < count and not self._complete:
            ring, known = _plan_ring(self._known[-1], self._fillable, self._diagonal, self._epsilon)
            if ring is None:
                self._complete = True
            else:
                self._rings.append(ring)
                self._known.append(known)
        return self._rings[:count]

    def known_after(self, count: int) -> Tensor:
        """Bool ``(N, H, W)``: what is known once `count` rings are filled."""
        return self._known[len(self.rings(count))]

    def rings_to_cover(self, region: Tensor) -> int:
        """How many rings define every position of `region`, bool ``(N, H, W)``, that padding can reach at all."""
        count = 0
        while bool((region & ~self.known_after(count)).any()) and len(self.rings(count + 1)) > count:
            count += 1
        return count


def _plan_ring(known: Tensor, fillable: Tensor | None, diagonal: float, epsilon: float) -> tuple[Ring | None, Tensor]:
    _, h, w = known.shape
    padded = F.pad(known, (1, 1, 1, 1))  # (N, H + 2, W + 2)
    rows = padded[:, :-2] | padded[:, 1:-1] | padded[:, 2:]
    near = rows[:, :, :-2] | rows[:, :, 1:-1] | rows[:, :, 2:]
    new = near & ~known if fillable is None else near & ~known & fillable
    targets = new.reshape(-1).nonzero()[:, 0]
    if not len(targets):
        return None, known
    # The same positions in the padded map, which has two more columns a row and two more rows an image.
    row = targets // w
    corner = targets + 2 * row + (row // h) * (2 * (w + 2)) + (w + 3)
    steps = torch.tensor([i * (w + 2) + j for i, j in _NEIGHBOURS], device=known.device)
    is_source = padded.reshape(-1)[corner[:, None] + steps]  # (P, 8)
    flat_steps = torch.tensor([i * w + j for i, j in _NEIGHBOURS], device=known.device)
    weights = torch.tensor([1.0] * 4 + [diagonal] * 4, device=known.device) * is_source
    weights = weights / (weights.sum(1, keepdim=True) + epsilon)
    counts = is_source.sum(1)
    kept = is_source.reshape(-1).nonzero()[:, 0]
    ring = Ring(
        targets=targets,
        sources=(targets[:, None] + flat_steps).reshape(-1)[kept],
        offsets=counts.cumsum(0) - counts,
        weights=weights.reshape(-1)[kept],
    )
    return ring, known | new


def fill(values: Tensor, plan: FillPlan, count: int, *, in_place: bool) -> Tensor:
    r"""Fill `count` rings around the known region of a map.

    Every position of ring :math:`r` becomes the weighted mean of those of its eight neighbours that are known or lie
    in an earlier ring. Positions further out are left as they are.

    Args:
        values: ``(N, C, H, W)``, floating point.
        plan: The plan of the region.
        count: Number of rings.
        in_place: Write into `values` where its memory format allows it. Not for values that autograd has saved.

    Returns:
        ``(N, C, H, W)`` in channels-last format; `values` itself if there was nothing to fill.

    References:
        Balasubramanian and Feizi, ICCV 2023, "neighbor padding". Theirs weights all eight neighbours alike, divides
        by their number plus 1e-5 (both are options) and lets no gradient through the filled positions; ours is the
        exact mean, and differentiable.
    """
    rings = plan.rings(count)
    if not rings:
        return values
    rows = as_rows(values)
    for ring in rings:
        means = F.embedding_bag(
            ring.sources, rows, ring.offsets, mode="sum", per_sample_weights=ring.weights.to(rows.dtype)
        )
        rows = rows.index_copy_(0, ring.targets, means) if in_place else rows.index_copy(0, ring.targets, means)
    return as_map(rows, values.shape)
