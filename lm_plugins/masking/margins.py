"""Margins: what convolutions compute around the visible region, left out where a model never looks at it."""

from collections.abc import Callable
from typing import Any

from lm_plugins.masking.mask import Mask

__all__ = ["Margin", "MarginLeftOutError", "Margins", "MarginsOfRun"]


class MarginLeftOutError(Exception):
    """Something looked at a margin that this run had left out. Never leaves the engine, which runs the model again."""


class Margins:
    """Which convolutions of a model have a margin that something looks at. Learned from runs, one of each model.

    A convolution computes every position in whose window something known lies, also beyond the visible region. Within a
    block, the next convolution may look at this margin; pooling and merges look at the visible region only. The margin
    needs a whole kernel of neighbour padding, the visible region half of one. So the first run computes all margins and
    watches who looks at them; later ones leave out those at which nobody does. What is visible stays the same.

    A run that looks at something else than the first one did, as a model with branches may, is noticed and made again with
    all margins.
    """

    def __init__(self) -> None:
        self._looked_at: set[int] = set()
        self._is_learned = False

    def run(self, compute: Callable[["MarginsOfRun"], Any]) -> Any:
        """Run a model, once or twice.

        Args:
            compute: Runs it from the start, with the margins that it is handed.

        Returns:
            What `compute` returns.
        """
        if self._is_learned:
            sparing = MarginsOfRun(self._looked_at, spare=True)
            try:
                result = compute(sparing)
            except Exception:
                if not sparing.has_missed:
                    raise
            else:
                if not sparing.has_missed:  # a model may have swallowed the error
                    return result
        result = compute(MarginsOfRun(self._looked_at, spare=False))
        self._is_learned = True
        return result


class MarginsOfRun:
    """The margins of one run of a model, numbered in the order of its convolutions.

    Args:
        looked_at: The numbers of those at which something looks; added to.
        spare: Leave out the others.
    """

    def __init__(self, looked_at: set[int], spare: bool) -> None:
        self._looked_at = looked_at
        self._spare = spare
        self._count = 0
        self.has_missed = False

    def next(self) -> "Margin":
        """The margin of the next convolution."""
        self._count += 1
        return Margin(self, self._count, self._spare and self._count not in self._looked_at)

    def look_at(self, margin: "Margin") -> None:
        """Note that something looks at a margin.

        Raises:
            MarginLeftOutError: It was left out.
        """
        self._looked_at.add(margin.number)
        if margin.is_left_out:
            self.has_missed = True
            raise MarginLeftOutError


class Margin:
    """The margin of one convolution.

    Args:
        run: The run that it belongs to.
        number: Of the convolution in it.
        is_left_out: Whether it is not computed.
    """

    def __init__(self, run: MarginsOfRun, number: int, is_left_out: bool) -> None:
        self._run = run
        self.number = number
        self.is_left_out = is_left_out

    def around(self, make: Callable[[], Mask]) -> Mask:
        """The computed region, margin included; anything that looks at it is noticed. It is made only then."""
        return _Watched(make, self)

    def look(self) -> None:
        """Note that something looks at it.

        Raises:
            MarginLeftOutError: It was left out.
        """
        self._run.look_at(self)


class _Watched(Mask):
    """A region that is made, and reports it, as soon as anything of it is read."""

    def __init__(self, make: Callable[[], Mask], margin: Margin) -> None:
        # Nothing that a region has is set here, so that reading any of it ends in __getattr__.
        self._make = make
        self._margin = margin

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self._margin.look()
        vars(self).update(vars(self._make()))
        return getattr(self, name)
