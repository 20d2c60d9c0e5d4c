"""A progress bar, or nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lm_plugins.errors import MissingDependencyError

__all__ = ["Progress", "progress"]


class Progress:
    """What is told how much is done.

    Args:
        bar: A tqdm bar; None shows nothing.
    """

    def __init__(self, bar: Any = None) -> None:
        self._bar = bar

    def __call__(self, count: int = 1) -> None:
        """So much more is done."""
        if self._bar is not None:
            self._bar.update(count)

    def skip(self, count: int = 1) -> None:
        """So much was done before, and says nothing about how fast the rest will be."""
        if self._bar is not None and not self._bar.disable:
            self._bar.initial += count
            self._bar.n += count
            self._bar.last_print_n += count


@contextmanager
def progress(total: int, name: str, show: bool) -> Iterator[Progress]:
    """A tqdm bar for the block.

    Args:
        total: How much there is to do.
        name: What it says.
        show: Whether there is a bar at all.

    Yields:
        What is told how much is done: call it with a number.

    Raises:
        MissingDependencyError: tqdm is not installed, and a bar is to be shown.

    Example:
        >>> from lm_plugins.progress import progress
        >>> with progress(3, "masks", show=False) as done:
        ...     done(3)
    """
    if not show:
        yield Progress()
        return
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise MissingDependencyError("a progress bar needs tqdm: pip install tqdm.") from error
    with tqdm(total=total, desc=name) as bar:
        yield Progress(bar)
