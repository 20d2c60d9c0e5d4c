"""Pictures inside of a page."""

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lm_plugins.errors import MissingDependencyError

try:
    from PIL import Image
except ImportError as error:
    raise MissingDependencyError("reports need Pillow: pip install 'lm_plugins[cli]'.") from error

__all__ = ["heat_map", "photograph", "ranks_picture"]

#: What raises the output and what lowers it: red and blue that colour-blind people tell apart.
_RAISES, _LOWERS = (178, 24, 43), (33, 102, 172)


def photograph(pixels: Tensor, side: int | None = None) -> str:
    """A photograph as a data URI.

    Args:
        pixels: ``(C, H, W)`` on [0, 1], 1 or 3 channels.
        side: Shrink it so that the longer side is at most this.

    Returns:
        ``data:image/webp;base64,...``.
    """
    array = (pixels.clamp(0, 1) * 255).round().byte().movedim(0, -1).cpu().numpy()
    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    if side is not None and max(image.size) > side:
        scale = side / max(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    return _data_uri(image, "webp", quality=72, method=6)


def heat_map(attribution: Tensor, limit: float) -> str:
    """An attribution as a data URI: red raises the output, blue lowers it, transparent is 0.

    Args:
        attribution: ``(H, W)``.
        limit: The absolute value that is opaque; above 0.

    Returns:
        ``data:image/png;base64,...``.
    """
    values = np.clip(attribution.double().numpy() / limit, -1, 1)
    colours = np.where((values > 0)[..., None], _RAISES, _LOWERS)
    # The square root lets weak values be seen, as the eye judges shades by their ratio.
    opacity = np.round(np.sqrt(np.abs(values)) * 31) * 255 / 31
    return _png(np.concatenate([colours, opacity[..., None]], -1))


def ranks_picture(ranks: Tensor) -> str:
    """Per cent of pixels that are removed before each pixel, as a data URI; the page reads them for its slider.

    Args:
        ranks: ``(H, W)`` on [0, 1], 0 = removed first.

    Returns:
        ``data:image/png;base64,...``, grey, with values 0 to 100.
    """
    return _png((ranks * 100).floor().numpy())


def _png(array: NDArray[Any]) -> str:
    return _data_uri(Image.fromarray(array.astype(np.uint8)), "png", optimize=True)


def _data_uri(image: Image.Image, kind: str, **settings: Any) -> str:
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
