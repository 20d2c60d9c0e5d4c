"""Where the images of a data set are: folders, lists, archives and data sets, local or behind any fsspec address."""

import hashlib
import io
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Protocol

import fsspec
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from lm_plugins.errors import ImageFileError, InputTypeError, LMPluginsError
from lm_plugins.scale.decoding import SUFFIXES, decoded

__all__ = ["ImageSource", "content_digest", "images_of", "read"]


class ImageSource(Protocol):
    """Images in an order that never changes. It can be pickled, so that a worker reads what it explains."""

    @property
    def keys(self) -> Sequence[str]:
        """The name of each image, unique."""
        ...

    def read(self, index: int) -> tuple[Any, str | None]:
        """An image and its label, if it has one.

        Args:
            index: Its place.

        Returns:
            A picture of Pillow's, or what the data set gives; and the label as a text.

        Raises:
            ImageFileError: It cannot be read.
        """
        ...


def read(source: ImageSource, index: int) -> tuple[Any, str | None]:
    """What `ImageSource.read` gives, of whatever code a source is made.

    Raises:
        ImageFileError: It cannot be read.
    """
    try:
        return source.read(index)
    except (LMPluginsError, MemoryError):
        raise
    except Exception as error:
        raise ImageFileError(f"{source.keys[index]}: {type(error).__name__}: {error}") from error


def content_digest(image: Any) -> str:
    """The content of what a source gave, in 16 letters; empty if it is neither a picture nor a tensor."""
    if isinstance(image, Image.Image):
        said, content = f"{image.mode} {image.size}", image.tobytes()
    elif isinstance(image, Tensor):
        flat = image.detach().cpu().contiguous().flatten()
        said, content = f"{image.dtype} {tuple(image.shape)}", flat.view(torch.uint8).numpy().tobytes()
    else:
        return ""
    return hashlib.sha256(said.encode() + content).hexdigest()[:16]


def images_of(source: Any) -> ImageSource:
    """The images that something names.

    Args:
        source: A folder, also one with a folder a class, whose names are labels then; a ``.csv`` or ``.parquet`` file with a
            column ``file`` (paths beside the list) or ``image`` (bytes, or Hugging Face's ``{"bytes": ...}``), and perhaps
            ``label``; a ``.tar`` of webdataset; any of these as an address that fsspec knows, such as ``s3://bucket/photos``;
            a torch Dataset or DataLoader, or a Hugging Face Dataset; or an `ImageSource`.

    Returns:
        The source.

    Raises:
        ImageFileError: There is no such place, or no image in it.
        InputTypeError: It is none of these.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from lm_plugins.scale import images_of
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "cat").mkdir()
        >>> Image.new("RGB", (8, 8)).save(folder / "cat" / "1.png")
        >>> source = images_of(folder)
        >>> list(source.keys), source.read(0)[1]
        (['cat/1.png'], 'cat')
    """
    found: ImageSource
    if hasattr(source, "read") and hasattr(source, "keys"):
        found = source
    elif isinstance(source, DataLoader):
        found = _DataSet(source.dataset)
    elif hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, str):
        found = _DataSet(source)
    else:
        found = _of_address(source)
    if not len(found.keys):
        raise ImageFileError(f"there is no image in {source}: looked for {', '.join(SUFFIXES)}.")
    return found


def _of_address(source: Any) -> ImageSource:
    try:
        system, path = fsspec.core.url_to_fs(str(source))
        is_folder, exists = system.isdir(path), system.exists(path)
    except (ValueError, ImportError, OSError) as error:
        raise ImageFileError(f"{source} cannot be opened: {error}") from error
    if not exists:
        raise ImageFileError(f"there is no {source}.")
    suffix = PurePosixPath(path).suffix.lower()
    if is_folder:
        return _Folder(str(source))
    if suffix in (".csv", ".parquet"):
        return _Table(str(source))
    if suffix == ".tar":
        return _Tar(str(source))
    raise InputTypeError(
        f"{source} is no folder, .csv, .parquet or .tar; a single photograph is explained by `lm-plugins explain`."
    )


@dataclass
class _Folder:
    """Files below a folder, sorted; the name of the folder that holds one is its label."""

    address: str
    keys: list[str] = field(init=False)

    def __post_init__(self) -> None:
        system, path = fsspec.core.url_to_fs(self.address)
        found = [PurePosixPath(one).relative_to(path.rstrip("/") or "/") for one in system.find(path)]
        self.keys = sorted(one.as_posix() for one in found if one.suffix.lower() in SUFFIXES)

    def read(self, index: int) -> tuple[Any, str | None]:
        key = self.keys[index]
        parent = PurePosixPath(key).parent.name
        return _opened(f"{self.address.rstrip('/')}/{key}", key), parent or None


@dataclass
class _Table:
    """Rows of a table: paths beside it, or the bytes themselves."""

    address: str
    keys: list[str] = field(init=False)

    def __post_init__(self) -> None:
        try:
            self._rows = (pd.read_csv if self.address.lower().endswith(".csv") else pd.read_parquet)(self.address)
        except Exception as error:  # of whatever engine reads it
            raise ImageFileError(f"{self.address} cannot be read: {error}") from error
        self._column = next((one for one in ("file", "image") if one in self._rows), None)
        if self._column is None:
            raise ImageFileError(
                f"{self.address} has no column file or image; it has {', '.join(map(str, self._rows))}."
            )
        names = [str(one) if isinstance(one, str) else f"row {i}" for i, one in enumerate(self._rows[self._column])]
        often = Counter(names)
        self.keys = [name if often[name] == 1 else f"{name} (row {i})" for i, name in enumerate(names)]

    def read(self, index: int) -> tuple[Any, str | None]:
        row = self._rows.iloc[index]
        value, label = row[self._column], row.get("label")
        said = None if label is None or pd.isna(label) else str(label)
        value = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(value, (bytes, bytearray)):
            return decoded(io.BytesIO(value), self.keys[index]), said
        if not isinstance(value, str):
            raise ImageFileError(f"{self.keys[index]}: neither a path nor bytes, but {type(value).__name__}")
        beside = self.address.rpartition("/")[0]
        is_whole = "://" in value or value.startswith("/")
        return _opened(value if is_whole or not beside else f"{beside}/{value}", self.keys[index]), said


@dataclass
class _Tar:
    """Members of an archive of webdataset: ``NAME.jpg`` with ``NAME.cls`` beside it."""

    address: str
    keys: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self._where: dict[str, tuple[int, int]] = {}
        try:
            with fsspec.open(self.address) as file, tarfile.open(fileobj=file) as archive:
                for member in archive:
                    if member.isfile():
                        self._where[member.name] = (member.offset_data, member.size)
        except (tarfile.TarError, OSError) as error:
            raise ImageFileError(f"{self.address} is no archive that can be read: {error}") from error
        self.keys = sorted(one for one in self._where if PurePosixPath(one).suffix.lower() in SUFFIXES)

    def _content(self, name: str) -> bytes:
        start, size = self._where[name]
        with fsspec.open(self.address) as file:
            file.seek(start)
            content: bytes = file.read(size)
        return content

    def read(self, index: int) -> tuple[Any, str | None]:
        key = self.keys[index]
        label = PurePosixPath(key).with_suffix(".cls").as_posix()
        said = self._content(label).decode(errors="replace").strip() if label in self._where else None
        return decoded(io.BytesIO(self._content(key)), key), said


@dataclass
class _DataSet:
    """A torch or Hugging Face data set: images, pairs (image, label), or dictionaries with ``image`` and ``label``."""

    data: Any
    keys: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.keys = [str(i) for i in range(len(self.data))]

    def read(self, index: int) -> tuple[Any, str | None]:
        sample = self.data[index]
        if isinstance(sample, dict):
            if "image" not in sample:
                raise ImageFileError(f"image {index}: a sample with {', '.join(map(str, sample))}, and without image")
            image, label = sample["image"], sample.get("label")
        elif isinstance(sample, (tuple, list)) and len(sample) >= 2:
            image, label = sample[:2]
        else:
            image, label = sample, None
        return image, None if label is None else str(getattr(label, "item", lambda: label)())


def _opened(address: str, name: str) -> Any:
    try:
        with fsspec.open(address) as file:
            content = file.read()
    except (OSError, ValueError) as error:
        raise ImageFileError(f"{name}: {type(error).__name__}: {error}") from error
    return decoded(io.BytesIO(content), name)
