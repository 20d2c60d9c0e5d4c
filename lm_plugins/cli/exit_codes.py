"""What the exit code of ``lm-plugins`` says."""

from enum import IntEnum

__all__ = ["ExitCode", "is_out_of_memory"]


class ExitCode(IntEnum):
    """Exit codes; each with what it means."""

    DONE = 0, "done"
    NOT_COVERED = 1, "the model calls functions that have no masking rule; the audit goes on with other removals"
    USAGE = 2, "an argument, option or config file is wrong"
    INPUT = 3, "no image could be read, labels do not fit, or a model or checkpoint cannot be loaded"
    OUTPUT = 4, "a result could not be written: folder not writable, disk full"
    MISSING_PACKAGE = 5, "an optional package is not installed; the message names the extra"
    MEMORY = 6, "the memory does not suffice"
    FAILED = 70, "something that lm-plugins did not expect went wrong; it comes with a traceback"
    INTERRUPTED = 130, "stopped with Ctrl-C; the same command goes on where it stopped"
    TERMINATED = 143, "stopped by another program (SIGTERM, or a terminal that was closed); likewise"

    meaning: str

    def __new__(cls, value: int, meaning: str) -> "ExitCode":
        """A number that knows its meaning."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice: on a CPU, torch has no type of its own for that."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and any(words in str(error).lower() for words in ("out of memory", "allocate memory"))
    )
