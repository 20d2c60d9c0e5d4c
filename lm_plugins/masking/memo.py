"""Results that are made once: layers of one geometry share them."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

__all__ = ["Memo"]

T = TypeVar("T")


class Memo:
    """An immutable object that remembers what was made from it, and is freed together with that."""

    def __init__(self) -> None:
        self._results: dict[Hashable, Any] = {}

    def once(self, key: Hashable | None, make: Callable[[], T]) -> T:
        """The result of `make`, called the first time only; with None for a key, every time."""
        if key is None:
            return make()
        if key not in self._results:
            self._results[key] = make()
        result: T = self._results[key]
        return result
