"""Images from files: those that cannot be read are skipped, counted and listed."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image
from torch import Tensor

from lm_plugins.cli.output import plain
from lm_plugins.cli.preprocessing import Preprocessing, pixels_of
from lm_plugins.errors import ImageFileError
from lm_plugins.scale.decoding import SUFFIXES, read_image

__all__ = ["ImageFiles", "find_images"]


@dataclass(frozen=True)
class ImageFiles(Sequence[Tensor]):
    """Image files as the tensors of a model, read when they are needed.

    Args:
        files: Of images.
        names: One for each, unique; what cannot be printed is written with backslashes.
        preprocessing: From image to tensor ``(C, H, W)``.
        skipped: Name of each file that cannot be read, and why; more may be added while files are read.
    """

    files: tuple[Path, ...]
    names: tuple[str, ...]
    preprocessing: Preprocessing
    skipped: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        return self.preprocessing.normalised(pixels_of(self.picture(index)))

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))

    def picture(self, index: int) -> Image.Image:
        """The part of an image that the model sees, before normalisation.

        Raises:
            ImageFileError: The file cannot be read.
        """
        return self.preprocessing.crop(read_image(self.files[index]))

    def digest(self) -> str:
        """SHA-256 of the names and contents of all files."""
        total = hashlib.sha256()
        for name, file in zip(self.names, self.files, strict=True):
            total.update(name.encode(errors="surrogateescape") + b"\0")
            total.update(hashlib.sha256(file.read_bytes()).digest())
        return total.hexdigest()

    def digests(self) -> list[str]:
        """SHA-256 of the content of each file, in 16 letters."""
        return [hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in self.files]

    def without(self, digests: Sequence[str]) -> "ImageFiles":
        """The images whose `digests` are not among these."""
        kept = [i for i, one in enumerate(self.digests()) if one not in set(digests)]
        return replace(self, files=tuple(self.files[i] for i in kept), names=tuple(self.names[i] for i in kept))

    def skip(self, index: int, error: ImageFileError) -> None:
        """Note that an image cannot be read."""
        self.skipped[self.names[index]] = _reason(self.files[index], error)

    def report(self) -> str:
        """What was skipped, for people; empty if nothing was."""
        if not self.skipped:
            return ""
        count = len({*self.names, *self.skipped})
        return f"skipped {len(self.skipped)} of {count} images:\n{self._reasons()}"

    def check_any(self, read: int) -> None:
        """Refuse where nothing is left.

        Args:
            read: How many images could be read.

        Raises:
            ImageFileError: None.
        """
        if not read:
            raise ImageFileError(f"none of the {len(self.skipped)} images can be read:\n{self._reasons()}")

    def _reasons(self) -> str:
        return "\n".join(f"  {name}: {reason}" for name, reason in self.skipped.items())


def find_images(
    sources: Sequence[Path],
    preprocessing: Preprocessing,
    limit: int | None = None,
    seed: int = 0,
    check: bool = True,
) -> ImageFiles:
    """Find images in folders and files.

    Args:
        sources: Files, and folders whose images are looked for, also in folders inside of them.
        preprocessing: From image to tensor.
        limit: The most images; more are drawn from at random.
        seed: Of that draw.
        check: Read every image once, and leave out what cannot be read.

    Returns:
        The images, sorted by name within a folder.

    Raises:
        ImageFileError: There is no image, or none can be read.
    """
    found: dict[Path, str] = {}
    for source in sources:
        if source.is_dir():
            inside = sorted(one for one in source.rglob("*") if one.suffix.lower() in SUFFIXES and one.is_file())
            found.update({file: file.relative_to(source).as_posix() for file in inside})
        else:
            found[source] = source.name
    if not found:
        folders = ", ".join(str(source) for source in sources)
        raise ImageFileError(f"no images in {folders}: looked for files that end in {', '.join(SUFFIXES)}.")
    chosen, skipped = _readable(found, limit, seed) if check else (list(found), {})
    images = ImageFiles(tuple(chosen), _unique([found[file] for file in chosen]), preprocessing, skipped)
    images.check_any(len(chosen))
    return images


def _readable(found: dict[Path, str], limit: int | None, seed: int) -> tuple[list[Path], dict[str, str]]:
    import random

    order = list(found)
    if limit is not None and len(order) > limit:
        random.Random(seed).shuffle(order)
    chosen: list[Path] = []
    skipped: dict[str, str] = {}
    for file in order:
        if len(chosen) == (limit or len(order)):
            break
        try:
            read_image(file)
            chosen.append(file)
        except ImageFileError as error:
            skipped[_printed(found[file])] = _reason(file, error)
    rank = {file: place for place, file in enumerate(found)}
    return sorted(chosen, key=rank.__getitem__), skipped


def _reason(file: Path, error: ImageFileError) -> str:
    return plain(str(error).removeprefix(f"{file.name}: "))


def _printed(name: str) -> str:
    return plain(name.replace("\n", "\\n"))


def _unique(names: list[str]) -> tuple[str, ...]:
    """Names that can be printed, with a number behind those that came before."""
    seen: dict[str, int] = {}
    result: list[str] = []
    for name in map(_printed, names):
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(result)
