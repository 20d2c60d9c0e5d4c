"""Image files as pictures of 8 bits, whatever depth, transparency or orientation they were saved with."""

import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lm_plugins.errors import ImageFileError

__all__ = ["MAX_ASPECT", "MAX_PIXELS", "SUFFIXES", "decoded", "eight_bits", "read_image"]

#: How the names of images end.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")

#: The most pixels of a file. Decoding takes up to 16 bytes for each of them.
MAX_PIXELS = 89_478_485

#: The longest side may be this many times the shortest: the model sees the square in the middle.
MAX_ASPECT = 20

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF
_WHITE_IS_ZERO = 0


def read_image(file: Path, background: int = 255) -> Image.Image:
    """Read one image, the right way up.

    Args:
        file: In any format that Pillow reads.
        background: Grey level that shows through transparent pixels, 0 to 255.

    Returns:
        The decoded image, of mode ``"L"`` or ``"RGB"``; see `eight_bits`.

    Raises:
        ImageFileError: It is missing, no image, truncated, too large, too narrow, or of values that nobody can tell black
            and white of.
    """
    if not file.is_file():
        reason = "no such file" if not file.exists() else "a folder, pipe or device, no file"
        raise ImageFileError(f"{file.name}: {reason}")
    return decoded(file, file.name, background)


def decoded(file: Path | BinaryIO, name: str, background: int = 255) -> Image.Image:
    """Read one image from a stream, or from a file that is there; otherwise as `read_image`.

    Args:
        file: Its bytes.
        name: Of the image, for messages.
        background: Grey level that shows through transparent pixels, 0 to 255.

    Returns:
        The decoded image, of mode ``"L"`` or ``"RGB"``.

    Raises:
        ImageFileError: It is no image, truncated, too large, too narrow, or of values whose black and white are unknown.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `_check_shape` refuses earlier
            with Image.open(file) as image:
                _check_shape(*image.size)
                image.load()
                white = _white_of(image)
                ImageOps.exif_transpose(image, in_place=True)
                return eight_bits(image, background, white)
    except ImageFileError as error:
        raise ImageFileError(f"{name}: {error}") from error
    except Exception as error:  # decoders of damaged files raise anything: SyntaxError, struct.error, KeyError, ...
        reason = "no image" if isinstance(error, UnidentifiedImageError) else str(error).split("\n")[0]
        raise ImageFileError(f"{name}: {reason or type(error).__name__}") from error


def eight_bits(image: Image.Image, background: int = 255, white: float | None = None) -> Image.Image:
    """Bring an image of any mode to 8 bits a channel.

    Deep grey images are scaled by their depth: 0 is black, and the largest number of that many bits (or 1.0 of floating
    point) is white. What is transparent shows the background, so that colours hidden under it play no part.

    Args:
        image: Of any mode.
        background: Grey level behind what is transparent, 0 to 255.
        white: The value that is white in a deep image; None takes 65535 for integers and 1.0 for floating point.

    Returns:
        The image as ``"L"`` if it is grey, else as ``"RGB"``.

    Raises:
        ImageFileError: A value is outside of black and white.

    Example:
        >>> from PIL import Image
        >>> from lm_plugins.scale.decoding import eight_bits
        >>> eight_bits(Image.new("I;16", (1, 1), 32896)).getpixel((0, 0))
        128
        >>> eight_bits(Image.new("RGBA", (1, 1), (255, 0, 0, 0))).getpixel((0, 0))
        (255, 255, 255)
    """
    if image.mode == "F" or image.mode.startswith("I"):
        return _scaled(image, background, white or (1.0 if image.mode == "F" else 65535.0))
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (background,) * 3 + (255,)), picture).convert("RGB")
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _check_shape(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageFileError(
            f"{width} x {height} pixels, more than {MAX_PIXELS // 10**6} million: make it smaller, or it fills the memory"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageFileError(
            f"{width} x {height} pixels, more than {MAX_ASPECT} times as long as wide: the model sees the square in the "
            "middle, which is next to nothing of it; cut out what it shall see"
        )


def _white_of(image: Image.Image) -> float | None:
    """The value of white in a file of whole numbers of more than 8 bits."""
    if not image.mode.startswith("I"):
        return None
    tags: Any = getattr(image, "tag_v2", None)
    bits = 16 if tags is None and image.format in ("PNG", "PPM") else 32
    bits = int(tags[_BITS_PER_SAMPLE][0]) if tags is not None and _BITS_PER_SAMPLE in tags else bits
    if bits > 16:
        raise ImageFileError(
            f"whole numbers of {bits} bits, of which nobody knows which one is white; save it with 8 or 16 bits"
        )
    return float(2**bits - 1)


def _scaled(image: Image.Image, background: int, white: float) -> Image.Image:
    values = np.asarray(image).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= white):
        raise ImageFileError(
            f"values from {low:g} to {high:g} where black is 0 and white is {white:g}; scale it, or save it with 8 bits"
        )
    if (getattr(image, "tag_v2", None) or {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = white - values
    grey = (values * np.float32(255 / white)).round().astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = background
    return Image.fromarray(grey)
