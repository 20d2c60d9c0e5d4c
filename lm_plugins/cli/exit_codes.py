"""What the exit code of ``lm-plugins`` says."""

from enum import IntEnum

__all__ = ["ExitCode"]


class ExitCode(IntEnum):
    """Exit codes; each with what it means."""

    DONE = 0, "done"
    NOT_COVERED = 1, "the model calls functions that have no masking rule; the audit goes on with other removals"
    USAGE = 2, "an argument, option or config file is wrong"
    INPUT = 3, "no image could be read, labels do not fit, or a model or checkpoint cannot be loaded"
    OUTPUT = 4, "a result could not be written: folder not writable, disk full"
    MISSING_PACKAGE = 5, "an optional package is not installed; the message names the extra"
    FAILED = 70, "something that lm-plugins did not expect went wrong; it comes with a traceback"
    INTERRUPTED = 130, "stopped with Ctrl-C; the same command goes on where it stopped"

    meaning: str

    def __new__(cls, value: int, meaning: str) -> "ExitCode":
        """A number that knows its meaning."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member
