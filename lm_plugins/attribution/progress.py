"""A progress bar, or nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lm_plugins.errors import MissingDependencyError

__all__ = ["progress"]


@contextmanager
def progress(total: int, name: str, show: bool) -> Iterator[Callable[[int], object]]:
    """A tqdm bar for the block.

    Args:
        total: How much there is to do.
        name: What it says.
        show: Whether there is a bar at all.

    Yields:
        A function of how much more is done.

    Raises:
        MissingDependencyError: tqdm is not installed.
    """
    if not show:
        yield lambda count: None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise MissingDependencyError("a progress bar needs tqdm: pip install tqdm.") from error
    with tqdm(total=total, desc=name) as bar:
        yield bar.update
