"""(b) Ours against layer masking as it was first published, on ResNet-50."""

import copy
from collections.abc import Callable
from typing import Any

import torch

import lm_plugins as lm
from benchmarks.speed.published_style import PublishedStyle
from benchmarks.speed.settings import Settings
from benchmarks.speed.subjects import images, model_of, visible_part
from benchmarks.speed.timing import paired, ratio, summary

MODEL = "ResNet-50"
ROADS = 7


def cost(settings: Settings) -> float:
    """The work of this section, in images through ResNet-50."""
    batch, rounds = _size(settings)
    return 11 * batch * (rounds + 1)


def _size(settings: Settings) -> tuple[int, int]:
    return (2, 2) if settings.quick else (16, max(3, settings.rounds))


def count(settings: Settings) -> int:
    """The number of calls, for the progress bar."""
    return ROADS * (_size(settings)[1] + 1)


@torch.inference_mode()
def measure(settings: Settings, advance: Callable[[], object]) -> dict[str, Any]:
    """Measure a batch of which half of the patches are visible."""
    batch, rounds = _size(settings)
    model = model_of(MODEL, settings.device, settings.seed)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    x = images(batch, settings.device)
    x_last = x.contiguous(memory_format=torch.channels_last)
    visible = visible_part("patches", 0.5, batch, settings.device, settings.seed)
    same = lm.LayerMasked(model, lm.published("resnet50"))
    prepared, ours = same.prepare(x), lm.LayerMasked(model).prepare(x)
    reference, reference_last = PublishedStyle(model), PublishedStyle(last)
    functions: dict[str, Callable[[], object]] = {
        "published style, default layout": lambda: reference(x, visible),
        "published style, channels-last": lambda: reference_last(x_last, visible),
        "plain, default layout": lambda: model(x),
        "plain, channels-last": lambda: last(x_last),
        "ours, published options": lambda: same(x, visible),
        "ours, published options, prepared": lambda: prepared(x, visible),
        "ours, default options, prepared": lambda: ours(x, visible),
    }
    expected = reference(x, visible)
    difference = (prepared(x, visible) - expected).abs().max() / expected.abs().max()
    seconds = paired(functions, rounds, settings.device, advance=advance)
    slow = seconds["published style, default layout"]
    return {
        "model": MODEL,
        "batch": batch,
        "difference": float(difference),
        "rows": [
            {"road": name, "seconds": summary(one), "times faster": ratio(slow, one)} for name, one in seconds.items()
        ],
    }
