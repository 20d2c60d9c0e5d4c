"""A table of labels for a folder of images."""

import csv
from collections import Counter
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
        LabelFileError: The table cannot be read, a row has too many cells or too few, an image has no row or several, or
            a class is none of the model's or the name of several.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            header = reader.fieldnames or []
            lines = [(str(reader.line_num), row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelFileError(f"{file.name} cannot be read as a CSV table in UTF-8: {error}.") from error
    columns = [name for name in _CLASS_COLUMNS if name in header]
    column = columns[0] if columns else None
    if "file" not in header or column is None:
        raise LabelFileError(
            f"{file.name} needs a column 'file' and one of {', '.join(_CLASS_COLUMNS)}; it has {', '.join(header) or 'none'}."
        )
    twice = [name for name, times in Counter(header).items() if times > 1]
    if twice:
        raise LabelFileError(f"{file.name} has more than one column {twice[0]!r}.")
    # Cells beyond the header come under None, cells that are missing as None.
    ragged = [line for line, row in lines if None in row or None in row.values()]
    if ragged:
        raise LabelFileError(
            f"{file.name} has rows with more or fewer cells than its header ({len(header)}): line {_first(ragged)}."
        )
    given = {str(row["file"]): str(row[column]).strip() for _, row in lines}
    repeated = [name for name, times in Counter(str(row["file"]) for _, row in lines).items() if times > 1]
    if repeated:
        raise LabelFileError(f"{file.name} has more than one row for {_first(repeated)}.")
    missing = [name for name in names if name not in given]
    if missing:
        example = f" (in the table: {', '.join(list(given)[:3])}, ...)" if len(missing) == len(names) else ""
        raise LabelFileError(
            f"{len(missing)} of {len(names)} images have no row in {file.name}: {_first(missing)}.{example}"
        )
    numbers: dict[str, list[int]] = {}
    for number, name in enumerate(classes or ()):
        numbers.setdefault(name, []).append(number)
    found = {name: _classes(given[name], numbers) for name in names}
    cells = {str(row["file"]): row for _, row in lines}
    for other in columns[1:]:
        said = {name: _classes(str(cells[name][other]).strip(), numbers) for name in names}
        against = [name for name in names if said[name] != [-1] and not set(said[name]) & set(found[name])]
        if against:
            raise LabelFileError(f"{file.name}: {column} and {other} are different classes for {_first(against)}.")
    unclear = [f"{name} ({given[name]!r} is any of {found[name]})" for name in names if len(found[name]) > 1]
    if unclear:
        raise LabelFileError(
            f"{len(unclear)} labels in {file.name} are names of several classes: {_first(unclear)}. Give class_index."
        )
    labels = {name: found[name][0] for name in names}
    wrong = [f"{name} ({given[name]!r})" for name, label in labels.items() if not 0 <= label < count]
    if wrong:
        raise LabelFileError(
            f"{len(wrong)} labels in {file.name} are no class of the model, which has {count} (0 to {count - 1}): "
            f"{_first(wrong)}."
        )
    return [labels[name] for name in names]


def _classes(text: str, numbers: dict[str, list[int]]) -> list[int]:
    """The classes that a cell may mean; [-1] for none."""
    if text.isascii() and text.isdecimal():  # Python's own numbers would take 0_4
        return [int(text)]
    return numbers.get(text) or numbers.get(text.replace("_", " ")) or [-1]


def _first(texts: list[str]) -> str:
    return ", ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")
