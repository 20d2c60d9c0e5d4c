"""Finished parts of an audit on disk: written as a whole or not at all, found again by what they depend on."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lm_plugins.audit.tables import COLUMNS, pd
from lm_plugins.errors import OptionError

__all__ = ["Parts", "Row", "written"]

#: One row of the table, without the columns that are the same for the whole part.
Row = dict[str, Any]


def written(file: Path, write: Callable[[Path], Any]) -> None:
    """Write a file as a whole or not at all.

    What is there already stays until the new file is complete on disk.

    Args:
        file: Where to.
        write: Writes to the path that it is given.
    """
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        write(partial)
        with partial.open("rb+") as handle:
            os.fsync(handle.fileno())
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


class Parts:
    """The parts of one audit in a folder.

    Args:
        folder: The folder of the audit, made if it is not there; None keeps nothing.
        settings: Everything that every part depends on, as JSON can hold it.
        resume: Whether parts that are there count.

    Raises:
        OptionError: The folder holds parts of an audit with other settings.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, Any], resume: bool = True) -> None:
        self._folder = None if folder is None else folder / "parts"
        self._resume = resume
        if folder is None or self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._claim(folder / "settings.json", json.loads(json.dumps(settings)))

    def _claim(self, file: Path, settings: dict[str, Any]) -> None:
        if self._resume and file.exists():
            before = json.loads(file.read_text(encoding="utf-8"))
            changed = [key for key in sorted({*before, *settings}) if before.get(key) != settings.get(key)]
            if changed:
                details = "; ".join(f"{key} was {before.get(key)!r}, is {settings.get(key)!r}" for key in changed)
                raise OptionError(
                    f"{file.parent} holds an audit with other settings ({details}). Take another folder, or pass "
                    "resume=False to begin anew."
                )
        elif not self._resume and self._folder is not None:
            for part in self._folder.glob("*.parquet"):
                part.unlink()
        text = json.dumps(settings, indent=1, sort_keys=True)
        written(file, lambda path: path.write_text(text, encoding="utf-8"))

    def load(self, *key: str) -> list[Row] | None:
        """The rows of a part, or None if it is not there as a whole."""
        file = self._file(key)
        if file is None or not file.exists():
            return None
        try:
            return [dict(row) for row in pd.read_parquet(file).to_dict("records")]
        except (OSError, ValueError):  # what another program left behind, or a disk that lost its end
            return None

    def save(self, rows: list[Row], *key: str) -> None:
        """Keep the rows of a part."""
        file = self._file(key)
        if file is not None:
            frame = pd.DataFrame(rows, columns=list(COLUMNS))
            written(file, lambda path: frame.to_parquet(path, index=False))

    def _file(self, key: tuple[str, ...]) -> Path | None:
        name = hashlib.sha256("\n".join(key).encode()).hexdigest()[:32]
        return None if self._folder is None else self._folder / f"{name}.parquet"
