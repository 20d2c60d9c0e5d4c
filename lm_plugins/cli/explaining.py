"""One photograph explained, and its files."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from lm_plugins.audit import deletion
from lm_plugins.checks import check_target
from lm_plugins.checks.explanations import warn_of_zeros
from lm_plugins.cli.answers import answered, of_image
from lm_plugins.cli.loading_models import LoadedModel
from lm_plugins.cli.preprocessing import Preprocessing, pixels_of
from lm_plugins.removal import Removal
from lm_plugins.report import ExplainedImage, Explanation
from lm_plugins.scale.methods import Method, Question

__all__ = ["explained_image", "ranks_of", "write_arrays", "write_figures"]

#: In how many steps the most important pixels are removed.
_STEPS = 10


def explained_image(
    model: LoadedModel,
    preprocessing: Preprocessing,
    name: str,
    picture: Image.Image,
    method: Method,
    removals: Mapping[str, Removal],
    options: dict[str, Any],
) -> tuple[ExplainedImage, Tensor]:
    """Explain one photograph with every removal.

    Args:
        model: What is explained.
        preprocessing: Of its images.
        name: Of the photograph.
        picture: The part of it that the model sees.
        method: How.
        removals: By name.
        options: Of the command: target, features, output, of, samples, layer, seed, batch_size, device. Where nobody said
            what the model returns, the first image tells, for all that follow.

    Returns:
        The explanations, and the feature mask ``(H, W)``.

    Raises:
        OptionError: The model has no such target, or the method does not fit the options.
        LMPluginsError: Whatever the method raises.
    """
    pixels = pixels_of(picture)
    x = preprocessing.normalised(pixels)[None].to(options["device"])
    module, word = of_image(model.module, x, options["output"])
    is_of_image = module is not model.module
    model = replace(model, module=module)
    answers, word = answered(module, x, word)
    options = {**options, "output": word} if is_of_image else options
    options["output"] = word
    probabilities = answers[0]
    predicted = int(probabilities.argmax())
    target = predicted if options["target"] is None else options["target"]
    check_target(target, (len(probabilities),))
    features = options["features"] or method.features
    feature_mask = features(pixels).to(x.device)
    explanations = []
    for chosen, removal in removals.items():
        start = time.perf_counter()
        question = Question(
            model.module, x, target, removal, features, feature_mask,
            **{one: options[one] for one in ("output", "of", "samples", "seed", "layer", "batch_size")},
        )  # fmt: skip
        attribution = method(question).float()
        if not method.says_zero:
            warn_of_zeros(
                (attribution[None],),
                options["method"],
                "Nothing speaks for the class, or the model says the same whatever is hidden.",
            )
        seconds = time.perf_counter() - start
        steps = min(_STEPS, attribution.numel())
        # What comes out of `probabilities` is taken as it is.
        curve = deletion(
            removal(model.module), x, attribution[None], target, steps, (question.probabilities, "regression"),
            options["batch_size"],
        ).scores[0]  # fmt: skip
        left = {step / steps: score for step, score in enumerate(curve.tolist())}
        explanations.append(Explanation(chosen, attribution, ranks_of(attribution), left, seconds))
    is_probability = options["output"] != "regression"
    names = [model.class_name(one) if is_probability else f"output {one}" for one in (target, predicted)]
    one = ExplainedImage(
        name, pixels, names[0], float(probabilities[target]), names[1], explanations, is_probability=is_probability
    )
    return one, feature_mask.cpu()


def ranks_of(attribution: Tensor) -> Tensor:
    """The share of pixels that come before each pixel when the most important go first.

    Args:
        attribution: ``(H, W)``.

    Returns:
        ``(H, W)`` on [0, 1); pixels of equal attribution in reading order.

    Example:
        >>> import torch
        >>> from lm_plugins.cli.explaining import ranks_of
        >>> ranks_of(torch.tensor([[0.1, 0.9], [0.5, 0.5]]))
        tensor([[0.7500, 0.0000],
                [0.2500, 0.5000]], dtype=torch.float64)
    """
    order = attribution.flatten().argsort(descending=True, stable=True)
    return (order.argsort().double() / order.numel()).reshape(attribution.shape)


def write_arrays(folder: Path, index: int, one: ExplainedImage, feature_mask: Tensor) -> list[Path]:
    """Write ``NN_name.npz``: ``pixels``, ``feature_mask``, and ``attribution_REMOVAL`` for each removal."""
    arrays = {f"attribution_{each.removal}": each.attribution.numpy() for each in one.explanations}

    def write(path: Path) -> None:
        with path.open("wb") as stream:  # NumPy adds a suffix to names, not to streams
            np.savez_compressed(
                stream, allow_pickle=False, pixels=one.pixels.numpy(), feature_mask=feature_mask.numpy(), **arrays
            )

    return [_written(folder / f"{_plain_name(index, one.name)}.npz", write)]


def write_figures(folder: Path, index: int, one: ExplainedImage, formats: Sequence[str]) -> list[Path]:
    """Write ``NN_name.png`` and the like: the photograph, and its explanations on one scale."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    from lm_plugins.plots import attribution_overlay

    count = len(one.explanations) + 1
    figure = Figure(figsize=(3.2 * count, 3.6), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    pixels = one.pixels.movedim(0, -1).numpy()
    axes[0].imshow(pixels.squeeze(), cmap="gray", vmin=0, vmax=1)
    axes[0].set_title(f"{one.target}\n{one.says}", fontsize=10)
    axes[0].axis("off")
    for axis, each in zip(axes[1:], one.explanations, strict=True):
        attribution_overlay(one.pixels, each.attribution, ax=axis, limit=one.limit)
        axis.set_title(each.removal.replace("_", " "), fontsize=10)
    scale = ScalarMappable(Normalize(-one.limit, one.limit), "RdBu_r")
    figure.colorbar(
        scale, ax=list(axes), shrink=0.7, label=f"lowers the {'class' if one.is_probability else 'output'} | raises it"
    )
    return [
        _written(
            folder / f"{_plain_name(index, one.name)}.{kind}",
            lambda path, kind=kind: figure.savefig(path, format=kind, dpi=150, bbox_inches="tight"),  # type: ignore[misc]
        )
        for kind in formats
    ]


def _written(file: Path, write: Callable[[Path], Any]) -> Path:
    from lm_plugins.atomic_write import written

    written(file, write)
    return file


def _plain_name(index: int, name: str) -> str:
    """A file name that every file system takes, whatever the image is called."""
    plain = re.sub(r"[^A-Za-z0-9-]+", "_", Path(name).stem).strip("_")[:60]
    return f"{index + 1:03d}_{plain or 'image'}"
