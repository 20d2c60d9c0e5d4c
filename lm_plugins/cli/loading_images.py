"""Images from files: those that cannot be read are skipped, counted and listed."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageOps
from torch import Tensor

from lm_plugins.cli.preprocessing import Preprocessing
from lm_plugins.errors import ImageFileError

__all__ = ["SUFFIXES", "ImageFiles", "find_images", "read_image"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def read_image(file: Path) -> Image.Image:
    """Read one image, the right way up.

    Args:
        file: In any format that Pillow reads.

    Returns:
        The decoded image.

    Raises:
        ImageFileError: It is missing, no image, truncated, or so large that it may be an attack.
    """
    try:
        with Image.open(file) as image:
            image.load()
            upright: Image.Image = ImageOps.exif_transpose(image)
            return upright
    # Pillow raises SyntaxError for broken PNG files and ValueError for broken TIFF files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "no image" if "cannot identify" in str(error) else str(error).split("\n")[0]
        raise ImageFileError(f"{file.name}: {reason}") from error


@dataclass(frozen=True)
class ImageFiles(Sequence[Tensor]):
    """Image files as the tensors of a model, read when they are needed.

    Args:
        files: All of them readable.
        names: One for each, unique.
        preprocessing: From image to tensor ``(C, H, W)``.
        skipped: Name of each file that cannot be read, and why.
    """

    files: tuple[Path, ...]
    names: tuple[str, ...]
    preprocessing: Preprocessing
    skipped: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        return self.preprocessing(read_image(self.files[index]))

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))

    def picture(self, index: int) -> Image.Image:
        """The part of an image that the model sees, before normalisation."""
        return self.preprocessing.crop(read_image(self.files[index]))

    def digest(self) -> str:
        """SHA-256 of the names and contents of all files."""
        total = hashlib.sha256()
        for name, file in zip(self.names, self.files, strict=True):
            total.update(name.encode(errors="surrogateescape") + b"\0")
            total.update(hashlib.sha256(file.read_bytes()).digest())
        return total.hexdigest()

    def report(self) -> str:
        """What was skipped, for people; empty if nothing was."""
        if not self.skipped:
            return ""
        lines = [f"  {name}: {reason}" for name, reason in self.skipped.items()]
        return "\n".join([f"skipped {len(lines)} of {len(lines) + len(self)} images:", *lines])


def find_images(
    sources: Sequence[Path], preprocessing: Preprocessing, limit: int | None = None, seed: int = 0
) -> ImageFiles:
    """Find images in folders and files, and leave out what cannot be read.

    Args:
        sources: Files, and folders whose images are looked for, also in folders inside of them.
        preprocessing: From image to tensor.
        limit: The most images; more are drawn from at random.
        seed: Of that draw.

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
    chosen, skipped = _readable(found, limit, seed)
    if not chosen:
        lines = [f"  {name}: {reason}" for name, reason in skipped.items()]
        raise ImageFileError("\n".join([f"none of the {len(found)} images can be read:", *lines]))
    return ImageFiles(tuple(chosen), _unique([found[file] for file in chosen]), preprocessing, skipped)


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
            skipped[found[file]] = str(error).removeprefix(f"{file.name}: ")
    rank = {file: place for place, file in enumerate(found)}
    return sorted(chosen, key=rank.__getitem__), skipped


def _unique(names: list[str]) -> tuple[str, ...]:
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(result)
