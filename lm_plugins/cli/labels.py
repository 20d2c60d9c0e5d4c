"""A table of labels for a folder of images."""

import csv
from collections.abc import Sequence
from pathlib import Path

from lm_plugins.errors import LabelFileError

__all__ = ["read_labels"]

_CLASS_COLUMNS = ("class_index", "label", "class", "class_name")


def read_labels(file: Path, names: Sequence[str], classes: Sequence[str] | None, count: int) -> list[int]:
    """Read the class of each image.

    Args:
        file: CSV with a header: ``file`` and one of ``class_index``, ``label``, ``class`` (numbers, or names that the
            model knows) and ``class_name``. Rows of other images are left alone.
        names: Of the images.
        classes: The names of the model's classes, where they are known.
        count: Of classes.

    Returns:
        One number for each image.

    Raises:
        LabelFileError: The table cannot be read, an image has no row, or a class is none of the model's.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            header = reader.fieldnames or []
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelFileError(f"{file.name} cannot be read as a CSV table in UTF-8: {error}.") from error
    column = next((name for name in _CLASS_COLUMNS if name in header), None)
    if "file" not in header or column is None:
        raise LabelFileError(
            f"{file.name} needs a column 'file' and one of {', '.join(_CLASS_COLUMNS)}; it has {', '.join(header) or 'none'}."
        )
    given = {str(row["file"]): str(row[column] or "").strip() for row in rows}
    missing = [name for name in names if name not in given]
    if missing:
        example = f" (in the table: {', '.join(list(given)[:3])}, ...)" if len(missing) == len(names) else ""
        raise LabelFileError(
            f"{len(missing)} of {len(names)} images have no row in {file.name}: {_first(missing)}.{example}"
        )
    numbers = {name: number for number, name in reversed(list(enumerate(classes or ())))}
    labels = {name: _class(given[name], numbers) for name in names}
    wrong = [f"{name} ({given[name]!r})" for name, label in labels.items() if not 0 <= label < count]
    if wrong:
        raise LabelFileError(
            f"{len(wrong)} labels in {file.name} are no class of the model, which has {count} (0 to {count - 1}): "
            f"{_first(wrong)}."
        )
    return [labels[name] for name in names]


def _class(text: str, numbers: dict[str, int]) -> int:
    try:
        return int(text)
    except ValueError:
        return numbers.get(text, numbers.get(text.replace("_", " "), -1))


def _first(texts: list[str]) -> str:
    return ", ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")
