"""One call of a model: what all of its activations share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import Any, Protocol
from weakref import ref

import torch
from torch import Tensor
from torch.futures import Future

from lm_plugins.masking.halo import Halo
from lm_plugins.masking.options import MaskingOptions

__all__ = ["Observer", "Pending", "Run", "observing"]

#: Sees every call of a torch function on an activation, together with the next step, and returns its result.
Observer = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any], Callable[[], Any]], Any]

# The run in which this thread, or task, is.
_current: ContextVar["Run | None"] = ContextVar("lm_plugins_run", default=None)
_numbers = count()

# Read once, when a run starts: threads and hooks within it see the same.
_observer: ContextVar[Observer | None] = ContextVar("lm_plugins_observer", default=None)


class Pending(Protocol):
    """An activation whose values are made as late as possible."""

    def make(self) -> None:
        """Make them now."""


class Run:
    """One call of a model. Every activation in it holds it.

    Args:
        options: The semantics.
        halo: What convolutions compute beyond the visible region; None computes all of it.
        observer: Sees every call of a rule; by default the one of the `observing` block around.
        calibrated: Corrects the output of a layer that mixes channels, given its weight.

    Attributes:
        is_over: Whether the model has returned, and the futures in its output are done. From then on its
            activations read like ordinary tensors.
        is_recorded: Whether autograd may have saved activations: a model may switch it off and on.
    """

    def __init__(
        self,
        options: MaskingOptions,
        halo: Halo | None = None,
        observer: Observer | None = None,
        calibrated: Callable[[Any, Tensor], Any] = lambda result, weight: result,
    ) -> None:
        self.options = options
        self.halo = halo
        self.observer = _observer.get() if observer is None else observer
        self.calibrated = calibrated
        self.is_over = False
        self.is_recorded = torch.is_grad_enabled()
        self._pending: ref[Pending] | None = None
        self._number = next(_numbers)
        self._has_returned = False
        self._awaited: list[Future[Any]] = []

    @contextmanager
    def open(self) -> Iterator[None]:
        """The block in which the model runs."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)
            self._has_returned = True
            self._note_done()

    def await_(self, future: Future[Any]) -> None:
        """Stay open until a future is there: a thread may still compute. What it will look at cannot be known."""
        self._awaited.append(future)
        if self.halo is not None:
            self.halo.is_needed = True
        future.add_done_callback(lambda _: self._note_done())

    def _note_done(self) -> None:
        if self._has_returned and all(future.done() for future in self._awaited):
            self.is_over = True

    @property
    def is_within_later(self) -> bool:
        """Whether this thread is in a run that began after this one."""
        current = _current.get()
        return current is not None and current._number > self._number

    def defer(self, activation: Pending) -> None:
        """Let the values of an activation wait. A rule that is called on another one may write into what they are made of."""
        self._pending = ref(activation)

    def make_pending(self, first: Any) -> None:
        """Make the values that wait, unless a rule is about to be called on that very activation."""
        if self._pending is not None:
            waiting = self._pending()
            if waiting is None or first is not waiting:
                self._pending = None
                if waiting is not None:
                    waiting.make()


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Let `observer` see, and possibly change, every call of a rule in the runs that start within the block."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)
