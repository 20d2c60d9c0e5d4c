"""The halo: what convolutions compute around the visible region, left out where a model never looks at it."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

__all__ = ["Halo", "HaloLeftOutError", "run_with_halo"]


class HaloLeftOutError(Exception):
    """Something looked at a halo that this run had left out. Never leaves the engine, which runs the model again."""


class Halo:
    """The halos of one run of a model, numbered in the order of its convolutions.

    A convolution computes every position in whose window something known lies, also beyond the visible region. Within a
    block, the next convolution may look at this halo; pooling and merges look at the visible region only. The halo needs
    a whole kernel of neighbour padding, the visible region half of one. So a first run computes all halos and notes
    which are looked at; later ones leave out the others. What is visible stays the same.

    Args:
        needed: The numbers of those that an earlier run of this model looked at; None computes all.

    Attributes:
        looked_at: The numbers of those at which something has looked in this run.
        has_missed: Whether something looked at one that was left out.
    """

    def __init__(self, needed: frozenset[int] | None = None) -> None:
        self._needed = needed
        self._numbers: dict[int, int] = {}
        self._count = 0
        self.looked_at: set[int] = set()
        self.has_missed = False

    def next(self, weight: Tensor) -> int:
        """The number of the next convolution's halo, from 1, for one with this weight."""
        self._count += 1
        self._numbers[id(weight)] = self._count
        return self._count

    def again(self, weight: Tensor) -> int | None:
        """The number that a convolution had which a checkpoint computes again."""
        return self._numbers.get(id(weight))

    def leaves_out(self, number: int) -> bool:
        """Whether a halo is not computed."""
        return self._needed is not None and number not in self._needed

    def look(self, number: int) -> None:
        """Note that something looks at a halo.

        Raises:
            HaloLeftOutError: It was left out.
        """
        self.looked_at.add(number)
        if self.leaves_out(number):
            self.has_missed = True
            raise HaloLeftOutError


def run_with_halo(compute: Callable[[Halo], Any], needed: frozenset[int] | None) -> tuple[Any, frozenset[int]]:
    """Run a model without the halos at which nothing looks; again, with all of them, if something did.

    Args:
        compute: Runs the model from the start, with the halos that it is handed.
        needed: What earlier runs looked at; None if there was none.

    Returns:
        What `compute` returns, and what runs have looked at until now.
    """
    if needed is not None:
        sparing = Halo(needed)
        try:
            result = compute(sparing)
        except Exception:
            if not sparing.has_missed:
                raise
        else:
            if not sparing.has_missed:  # a model may have swallowed the error
                return result, needed
    halo = Halo()
    result = compute(halo)
    return result, frozenset(halo.looked_at) | (needed or frozenset())
