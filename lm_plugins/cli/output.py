"""What commands print, and folders that they write into."""

import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

__all__ = [
    "as_options",
    "examples",
    "note",
    "plain",
    "print_json",
    "print_table",
    "say",
    "warnings_noted",
    "writable_folder",
]

#: What a terminal would obey instead of print, and what is no character at all: bytes of file names that are not UTF-8.
_UNPRINTABLE = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")


def plain(text: str) -> str:
    r"""A text that can be printed and stored anywhere.

    Args:
        text: May hold escape codes, and bytes that are not UTF-8 as `os.fsdecode` keeps them.

    Returns:
        The same with backslashes in their place; line breaks and tabs stay.

    Example:
        >>> import os
        >>> from lm_plugins.cli.output import plain
        >>> print(plain(os.fsdecode(b"caf\xe9 \x1b[31m")))
        caf\xe9 \x1b[31m
    """
    return _UNPRINTABLE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    code = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


#: Arguments of Python, as messages of the library name them, and what the command line has in their place.
_OPTIONS = {
    r"resume=False(, or --no-resume)?": "--no-resume",
    r"\boutput='(\w+)' \(--output \1\)": r"--output \1",
    r"\b(output|target|removal|seed|size|mean|std|method|samples|features)='?([\w.:]+)'?": r"--\1 \2",
    r"\bbatch_size=(\d+)": r"--batch-size \1",
    r"\bn_(?:samples|masks)=(\d+)": r"--samples \1",
    r"\blayers?=": "--layer ",
}


def as_options(message: str) -> str:
    """A message of the library in words of the command line.

    Args:
        message: May name arguments of Python.

    Returns:
        The same with options in their place.

    Example:
        >>> from lm_plugins.cli.output import as_options
        >>> as_options("Take another folder, or pass resume=False to begin anew.")
        'Take another folder, or pass --no-resume to begin anew.'
    """
    for argument, option in _OPTIONS.items():
        message = re.sub(argument, option, message)
    return message


def examples(*lines: str) -> str:
    """Examples for the end of a help text; click leaves the breaks of such a paragraph alone."""
    return "\n".join(["\b", "Examples:" if len(lines) > 1 else "Example:", *(f"  {line}" for line in lines)])


def print_table(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print rows as aligned columns, or as a JSON list of objects."""
    if as_json:
        print_json(list(rows))
        return
    if not rows:
        return
    names = list(rows[0])
    texts = [[str(row[name]) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in texts) for i in range(len(names))]
    for line in texts:
        say("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def print_json(value: Any) -> None:
    """Print JSON to standard output, where nothing else goes with ``--json``."""
    # In ASCII: whatever the terminal's encoding, and a path that is not UTF-8 is read back as it was.
    click.echo(json.dumps(value, indent=2, default=str))


def say(text: str) -> None:
    """Print a result to standard output, without anything that a terminal would obey."""
    click.echo(plain(text))


def note(text: str) -> None:
    """Tell people something, on standard error."""
    click.echo(plain(text), err=True)


@contextmanager
def warnings_noted() -> Iterator[None]:
    """Within the block, a warning of Python is a note, in words of the command line; the same text comes once."""
    told: set[str] = set()

    def show(message: Warning | str, *where: Any, **more: Any) -> None:
        text = as_options(str(message))
        if text not in told:
            told.add(text)
            note(f"note: {text}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def writable_folder(folder: Path) -> Path:
    """Make a folder for results, before anything is computed.

    Args:
        folder: May exist.

    Returns:
        The folder.

    Raises:
        OSError: It cannot be made or written into.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"the output folder {folder} cannot be written to ({error.strerror})") from error
    return folder
