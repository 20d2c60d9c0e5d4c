"""(e) How cost grows with the size of images, the batch, and the number of samples."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch

import lm_plugins as lm
from benchmarks.speed.explainers import Explained, Trivial
from benchmarks.speed.settings import Settings
from benchmarks.speed.subjects import SIDE, images, model_of, visible_part
from benchmarks.speed.timing import exponent, paired, summary

MODEL = "EfficientNet-Lite0"
ROADS = ("plain", "unprepared", "prepared")
EXPLAINERS = ("KernelShap", "Lime", "lime_image")


def _points(settings: Settings) -> tuple[list[int], list[int], list[int]]:
    """Sides of images, batch sizes, numbers of samples."""
    if settings.quick:
        return [112, 224], [1, 4], [50, 100]
    return [112, 160, 224, 320, 448], [1, 2, 4, 8, 16, 32], [250, 500, 1000, 2000]


def _rounds(settings: Settings) -> int:
    return 2 if settings.quick else 3


def cost(settings: Settings) -> float:
    """The work of this section, in images through ResNet-50."""
    sides, batches, samples = _points(settings)
    pictures = sum((side / SIDE) ** 2 for side in sides) * 4 + sum(batches)
    return (_rounds(settings) + 1) * (0.35 * len(ROADS) * pictures + 0.01 * len(EXPLAINERS) * sum(samples))


def count(settings: Settings) -> int:
    """The number of calls, for the progress bar."""
    sides, batches, samples = _points(settings)
    calls = len(ROADS) * (len(sides) + len(batches)) + len(EXPLAINERS) * len(samples)
    return calls * (_rounds(settings) + 1)


def measure(settings: Settings, advance: Callable[[], object]) -> dict[str, Any]:
    """Measure growth; seconds for each size, and the exponent of the power law that fits best."""
    sides, batches, samples = _points(settings)
    model = model_of(MODEL, settings.device, settings.seed)
    plain = copy.deepcopy(model).to(memory_format=torch.channels_last)
    masked = lm.LayerMasked(model)
    prepared = masked.prepare(images(1, settings.device))

    def forwards(batch: int, side: int) -> dict[str, Callable[[], object]]:
        x = images(batch, settings.device, side)
        x_last = x.contiguous(memory_format=torch.channels_last)
        visible = visible_part("patches", 0.5, batch, settings.device, settings.seed, side)
        return {
            "plain": lambda: plain(x_last),
            "unprepared": lambda: masked(x, visible),
            "prepared": lambda: prepared(x, visible),
        }

    def explainers(count: int) -> dict[str, Callable[[], object]]:
        model = Trivial().eval().to(settings.device)
        trivial = Explained(model, dict.fromkeys(EXPLAINERS, count), settings)
        return {name: lambda name=name: trivial.run(name, "ours") for name in EXPLAINERS}

    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # upstream's own
        return {
            "model": MODEL,
            "pixels": _grown([side**2 for side in sides], [forwards(4, side) for side in sides], settings, advance),
            "batch": _grown(batches, [forwards(batch, SIDE) for batch in batches], settings, advance),
            "samples": _grown(samples, [explainers(count) for count in samples], settings, advance),
        }


def _grown(
    sizes: list[int],
    functions: list[dict[str, Callable[[], object]]],
    settings: Settings,
    advance: Callable[[], object],
) -> dict[str, Any]:
    seconds = [paired(some, _rounds(settings), settings.device, advance=advance) for some in functions]
    curves = {name: [summary(one[name]) for one in seconds] for name in seconds[0]}
    # Fixed costs hide growth at the small end: the exponent is that of the larger half.
    half = (len(sizes) - 1) // 2
    return {
        "sizes": sizes,
        "seconds": curves,
        "exponent": {
            name: exponent(sizes[half:], [one["median"] for one in curve[half:]]) for name, curve in curves.items()
        },
    }
