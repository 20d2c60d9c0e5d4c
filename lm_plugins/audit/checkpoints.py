"""Finished parts of an audit on disk: written as a whole or not at all, found again by what they depend on."""

import hashlib
import json
from collections.abc import Mapping
from difflib import ndiff
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from lm_plugins.atomic_write import written
from lm_plugins.audit.model_answers import ModelAnswers, changed_answers
from lm_plugins.audit.tables import COLUMNS, RESULT, damage, pd
from lm_plugins.errors import OptionError

__all__ = ["Checkpoints", "Row"]

#: One row of the table.
Row = dict[str, Any]

_ANEW = "Take another folder, or begin anew (resume=False, or --no-resume)."


class Checkpoints:
    """The finished parts of one audit in a folder, which is this process's own until the ``with`` block ends.

    Args:
        folder: The folder of the audit, made if it is not there; None keeps nothing.
        settings: Everything that every part depends on, as JSON can hold it.
        resume: Whether parts that are there count.

    Raises:
        OptionError: Another audit is writing to the folder; it holds parts of an audit with other settings, or what it holds
            cannot be read; or a file stands for a folder there, or a folder for a file.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, Any], resume: bool = True) -> None:
        self._folder, self._parts = folder, None if folder is None else folder / "parts"
        self._lock = None if folder is None else _locked(folder)
        try:
            self._open(settings, resume)
        except BaseException:
            self._release()
            raise

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _open(self, settings: Mapping[str, Any], resume: bool) -> None:
        folder = self._folder
        if folder is None or self._parts is None:
            return
        _made(self._parts)
        results = [folder / name for name in RESULT]
        files = [*results, self._settings, self._answers, *self._parts.glob("*.parquet")]
        for file in files:
            if file.is_dir():
                raise OptionError(f"{file} is a folder where an audit needs a file. Take another folder, or remove it.")
        # The result as well: of an audit that is stopped, nobody shall read that of the one before.
        for file in () if resume else files:
            file.unlink(missing_ok=True)
        self._claim(folder, json.loads(json.dumps(settings)))

    @property
    def _settings(self) -> Path:
        return Path(self._folder or "") / "settings.json"

    @property
    def _answers(self) -> Path:
        return Path(self._folder or "") / "answers.npz"

    def _claim(self, folder: Path, settings: dict[str, Any]) -> None:
        if self._settings.exists():
            try:
                before = json.loads(self._settings.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise OptionError(f"{self._settings} cannot be read: {error}. {_ANEW}") from error
            if not isinstance(before, dict):
                raise OptionError(f"{self._settings} cannot be read: it holds no settings. {_ANEW}")
            changed = [key for key in sorted({*before, *settings}) if before.get(key) != settings.get(key)]
            if changed:
                details = "; ".join(_change(key, before.get(key), settings.get(key)) for key in changed)
                raise OptionError(f"{folder} holds an audit with other settings ({details}). {_ANEW}")
        text = json.dumps(settings, indent=1, sort_keys=True)
        written(self._settings, lambda path: path.write_text(text, encoding="utf-8"))

    def answers(self) -> ModelAnswers | None:
        """What the audited model answered when the parts were made; None if there are no parts.

        Raises:
            OptionError: There are parts, and the answers are missing or damaged.
        """
        if self._parts is None:
            return None
        if not self._answers.exists():
            if next(self._parts.glob("*.parquet"), None) is None:
                return None
            raise OptionError(f"{self._folder} does not say what its model answered ({self._answers.name}). {_ANEW}")
        return ModelAnswers.load(self._answers)

    def confirm(self, kept: ModelAnswers | None, now: ModelAnswers) -> None:
        """Go on only if what is audited answers as it did, and keep what it answers.

        Args:
            kept: As `answers` gave them.
            now: To the same image.

        Raises:
            OptionError: Something answers otherwise; the message says what, and what else is other.
        """
        if self._folder is None:
            return
        reason = "" if kept is None else changed_answers(kept, now)
        if reason:
            raise OptionError(
                f"the numbers in {self._folder} are of something that answered otherwise: {reason} {_ANEW}"
            )
        both = now if kept is None else kept.with_more(now)
        written(self._answers, both.save)

    def load(self, *key: str) -> list[Row] | None:
        """The rows of a part, or None if it is not there as a whole."""
        file = self._file(key)
        if file is None or not file.exists():
            return None
        try:
            frame = pd.read_parquet(file)
        except (OSError, ValueError):  # what another program left behind, or a disk that lost its end
            return None
        # Measured again rather than believed: whoever damaged it has not touched the others.
        is_whole = frame.attrs.get("rows") == len(frame) and not damage(frame) and not frame["value"].isna().any()
        return [dict(row) for row in frame.to_dict("records")] if is_whole else None

    def save(self, rows: list[Row], *key: str) -> None:
        """Keep the rows of a part."""
        file = self._file(key)
        if file is not None:
            frame = pd.DataFrame(rows, columns=list(COLUMNS))
            frame.attrs["rows"] = len(frame)  # parquet keeps it; some measures have no number for some images
            written(file, lambda path: frame.to_parquet(path, index=False))

    def _file(self, key: tuple[str, ...]) -> Path | None:
        name = hashlib.sha256("\n".join(key).encode()).hexdigest()[:32]
        return None if self._parts is None else self._parts / f"{name}.parquet"


def _made(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"{folder} is a file where an audit needs a folder. Take another folder, or remove it.")
    folder.mkdir(parents=True, exist_ok=True)


def _locked(folder: Path) -> FileLock:
    """The folder's lock, held; the system lets go of it when a process ends, however it ends."""
    _made(folder)
    lock = FileLock(folder / ".lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OptionError(
            f"another audit is writing to {folder}: wait until it has ended, stop it, or take another folder."
        ) from error
    return lock


def _change(key: str, before: Any, now: Any) -> str:
    """What became of a setting: all of it, or of long texts the first lines that differ."""
    if not (isinstance(before, str) and isinstance(now, str) and "\n" in before + now):
        return f"{key} was {before!r}, is {now!r}"
    lines = [one.strip() for one in ndiff(before.splitlines(), now.splitlines()) if one[0] in "+-"]
    shown = ", ".join(f"{'no longer' if one[0] == '-' else 'now'} {one[1:].strip()!r}" for one in lines[:4])
    return f"{key}: {shown}{', ...' if len(lines) > 4 else ''}"
