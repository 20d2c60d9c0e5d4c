"""The halo: what convolutions compute around the visible region, left out where a model never looks at it."""

from collections.abc import Callable
from typing import Any

import torch

from lm_plugins.errors import LMPluginsError

__all__ = ["Halo", "HaloLeftOutError", "are_saves_hooked", "run_with_halo"]

_top_hooks: Callable[[bool], Any] | None = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)


def are_saves_hooked() -> bool | None:
    """Whether something other than autograd keeps what autograd saves, as checkpoints do. Torch before 2.5 does not tell."""
    return None if _top_hooks is None else _top_hooks(True) is not None


class HaloLeftOutError(LMPluginsError):
    """Something looked at a halo that this run had left out. The engine then runs the model again."""


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
        is_needed: Whether all have to be computed, since a part of the model computes after it has returned.
    """

    def __init__(self, needed: frozenset[int] | None = None) -> None:
        self._needed = needed
        self._count = 0
        self.looked_at: set[int] = set()
        self.has_missed = False
        self.is_needed = False

    def next(self) -> int | None:
        """The number of the next convolution's halo, from 1; None where it must be computed.

        A checkpoint computes convolutions again, and has to find what it found before.
        """
        self._count += 1
        return None if are_saves_hooked() else self._count

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
            raise HaloLeftOutError(
                "asked for the computed region of a kept activation, which this call had left out: ask for its visible one"
            )


def run_with_halo(compute: Callable[[Halo], Any], needed: frozenset[int] | None) -> tuple[Any, frozenset[int] | None]:
    """Run a model without the halos at which nothing looks; again, with all of them, if something did.

    Args:
        compute: Runs the model from the start, with the halos that it is handed.
        needed: What earlier runs looked at; None if there was none.

    Returns:
        What `compute` returns, and what runs have looked at until now; None if that cannot be known.
    """
    if needed is not None:
        sparing = Halo(needed)
        try:
            result = compute(sparing)
        except Exception:
            if not sparing.has_missed:
                raise
        else:
            if not (sparing.has_missed or sparing.is_needed):  # a model may have swallowed the error
                return result, needed
    halo = Halo()
    result = compute(halo)
    return result, None if halo.is_needed else frozenset(halo.looked_at) | (needed or frozenset())
