"""Files that are written as a whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path
from threading import get_ident
from typing import Any

__all__ = ["written"]


def written(file: Path, write: Callable[[Path], Any]) -> None:
    """Write a file as a whole or not at all.

    What is there already stays until the new file is complete on disk.

    Args:
        file: Where to.
        write: Writes to the path that it is given.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from lm_plugins.atomic_write import written
        >>> file = Path(tempfile.mkdtemp()) / "note.txt"
        >>> written(file, lambda path: path.write_text("whole"))
        >>> file.read_text(), len(list(file.parent.iterdir()))
        ('whole', 1)
    """
    partial = file.with_name(f".{file.name}.{os.getpid()}-{get_ident()}.partial")
    try:
        write(partial)
        with partial.open("rb+") as handle:
            os.fsync(handle.fileno())
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
