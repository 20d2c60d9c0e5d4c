"""Being stopped from outside, so that nothing half-written stays behind."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Terminated", "termination_raised"]


class Terminated(BaseException):
    """Another program asked this one to stop. No `Exception`, so that nobody catches it by accident."""


@contextmanager
def termination_raised() -> Iterator[None]:
    """Raise `Terminated` where SIGTERM or SIGHUP comes, as Ctrl-C raises KeyboardInterrupt.

    A signal that the shell has switched off, as `nohup` does, stays off. Outside of the main thread this does nothing.
    """
    names = ("SIGTERM", "SIGHUP")
    known = [getattr(signal, name) for name in names if hasattr(signal, name)]
    is_main = threading.current_thread() is threading.main_thread()
    before = {one: signal.getsignal(one) for one in known} if is_main else {}
    taken = [one for one, handler in before.items() if handler is signal.SIG_DFL]
    try:
        for one in taken:
            signal.signal(one, _raise)
        yield
    finally:
        for one in taken:
            signal.signal(one, signal.SIG_DFL)


def _raise(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # once is enough: what is being cleaned up shall not be disturbed
    raise Terminated(signal.Signals(number).name)
