"""What commands print, and folders that they write into."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

__all__ = ["examples", "note", "print_json", "print_table", "writable_folder"]


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
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def print_json(value: Any) -> None:
    """Print JSON to standard output, where nothing else goes with ``--json``."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def note(text: str) -> None:
    """Tell people something, on standard error: file names that are no text are printed all the same."""
    click.echo(text.encode("utf-8", "replace").decode(), err=True)


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
