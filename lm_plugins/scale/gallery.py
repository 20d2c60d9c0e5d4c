"""A data set's explanations as pages to look through: classes first, then image after image; nothing comes from outside."""

from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lm_plugins.errors import ImageFileError, OptionError
from lm_plugins.progress import progress
from lm_plugins.scale.results import DataSetResults
from lm_plugins.scale.sources import images_of, read

__all__ = ["write_gallery"]

_SIDE = 128
#: What raises the answer, and what lowers it.
_RED, _BLUE = np.array([0.70, 0.09, 0.17], np.float32), np.array([0.13, 0.40, 0.67], np.float32)


def write_gallery(
    results: DataSetResults,
    images: Any,
    out: str | Path,
    names: list[str] | None = None,
    per_page: int = 100,
    *,
    show_progress: bool = True,
) -> Path:
    """Write pages with each image beside its attribution, red where it raises the answer and blue where it lowers it.

    Args:
        results: Of `explain`.
        images: The images that were explained, as `images_of` takes them; pictures.
        out: Folder for ``index.html``, further pages, and thumbnails in files of their own, so that a page stays small.
        names: Of the classes; None for numbers.
        per_page: Images on a page.
        show_progress: Whether there is a bar.

    Returns:
        ``index.html``.

    Raises:
        OptionError: There are other images than those that were explained, or `per_page` is below 1.
        ImageFileError: There are no images.
    """
    source, out = images_of(images), Path(out)
    if per_page < 1:
        raise OptionError(f"per_page is above 0, got {per_page!r}.")
    if len(source.keys) != results.manifest["images"]:
        raise OptionError(f"{results.manifest['images']} images were explained, and these are {len(source.keys)}.")
    pages_of = jinja2.Environment(loader=jinja2.PackageLoader("lm_plugins.scale"), autoescape=True)
    template = pages_of.get_template("gallery.html.j2")
    (out / "thumbnails").mkdir(parents=True, exist_ok=True)
    table = results.table
    done = table[table["error"].isna()]
    pages = [f"page_{i + 1:04d}.html" for i in range(-(-len(done) // per_page))]
    title = f"{results.manifest['method']}, {len(table)} images"

    def named(target: int) -> str:
        return names[target] if names is not None and target < len(names) else f"class {target}"

    with progress(len(done), "gallery", show_progress) as shown:
        for number, page in enumerate(pages):
            entries = []
            for row in done.iloc[number * per_page : (number + 1) * per_page].itertuples():
                file = f"thumbnails/{row.index:07d}.jpg"
                _thumbnail(source, int(row.index), results.attribution(int(row.index))).save(out / file, quality=80)
                entries.append(
                    {"file": file, "key": row.key, "says": named(int(row.target)), "probability": row.probability}
                )
                shown()
            (out / page).write_text(
                template.render(title=title, pages=pages, this=page, images=entries), encoding="utf-8"
            )
    classes = [
        {
            "name": named(int(row.Index)),
            "images": row.images,
            "probability": row.probability,
            "concentration": row.concentration,
        }
        for row in results.by_class().itertuples()
    ]
    failed = [(row.key, row.error) for row in table[table["error"].notna()].itertuples()]
    about = "The most concentrated evidence first: how few pixels hold half of the absolute attribution."
    index = out / "index.html"
    index.write_text(
        template.render(title=title, pages=pages, this="index.html", classes=classes, failed=failed, about=about),
        encoding="utf-8",
    )
    return index


def _thumbnail(source: Any, index: int, attribution: Tensor) -> Image.Image:
    """The picture, and beside it the attribution over its grey values."""
    picture = read(source, index)[0]
    if not isinstance(picture, Image.Image):
        raise ImageFileError(f"image {index} is no picture, but {type(picture).__name__}: a gallery shows pictures.")
    picture = picture.convert("RGB").resize((_SIDE, _SIDE))
    limit = float(attribution.abs().max()) or 1.0
    sized = (
        torch.nn.functional.interpolate(attribution[None, None], (_SIDE, _SIDE), mode="nearest")[0, 0].numpy() / limit
    )
    grey = np.asarray(picture.convert("L"), np.float32)[..., None] / 255 * 0.4 + 0.5
    strength = np.abs(sized)[..., None]
    colour = np.where(sized[..., None] > 0, _RED, _BLUE)
    overlay = Image.fromarray(np.uint8(255 * (grey * (1 - strength) + colour * strength)))
    both = Image.new("RGB", (2 * _SIDE, _SIDE))
    both.paste(picture, (0, 0))
    both.paste(overlay, (_SIDE, 0))
    return both
