"""(a) One forward pass: layer masking against the plain model."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import lm_plugins as lm
from benchmarks.speed.settings import Settings
from benchmarks.speed.subjects import MODELS, images, model_of, visible_part
from benchmarks.speed.timing import paired, ratio, summary
from lm_plugins.errors import UnsupportedOperatorError

GOAL_MODEL, GOAL_BATCH = "ResNet-50", 16
LARGEST_BATCH_OF_GPU = 128
FRACTIONS = (0.1, 0.5, 0.9)
KINDS = ("patches", "superpixels")
PLAIN = ("plain, default", "plain, channels-last", "plain, prepared")
MASKED = ("unprepared", "prepared")

Case = tuple[str, float]
Row = dict[str, Any]


def cases(name: str, settings: Settings) -> dict[int, list[Case]]:
    """For each batch size, kinds of features and visible fractions.

    One thing at a time changes from half of the patches in batches of 8, unless everything is asked for.
    """
    if settings.quick:
        return {2: [("patches", 0.5)]}
    everything = [(kind, fraction) for kind in KINDS for fraction in FRACTIONS]
    goal = {GOAL_BATCH: [("patches", 0.5)]} if name == GOAL_MODEL else {}
    if settings.full:
        return {1: everything, 8: everything, 32: everything} | goal
    one_at_a_time = [("patches", fraction) for fraction in FRACTIONS] + [("superpixels", 0.5)]
    largest = MODELS[name].largest_batch if settings.device.type == "cpu" else LARGEST_BATCH_OF_GPU
    return {1: [("patches", 0.5)], largest: [("patches", 0.5)]} | goal | {8: one_at_a_time}


def rounds_for(batch: int, settings: Settings) -> int:
    """Small batches are quick, and more easily disturbed."""
    return settings.rounds * (3 if batch < 4 and not settings.quick else 2 if batch == GOAL_BATCH else 1)


def calls(name: str, settings: Settings) -> dict[int, int]:
    """How many forward passes are made with each batch size, those that warm up included."""
    roads = len(PLAIN) + len(MASKED)
    return {
        batch: roads + rounds_for(batch, settings) * (roads + len(MASKED) * (len(chosen) - 1))
        for batch, chosen in cases(name, settings).items()
    }


def cost(settings: Settings) -> float:
    """The work of this section, in images through ResNet-50."""
    return sum(
        MODELS[name].cost * batch * count for name in settings.models for batch, count in calls(name, settings).items()
    )


@torch.inference_mode()
def measure(settings: Settings, advance: Callable[..., object]) -> list[Row]:
    """Measure all models; a row for each model, batch size, kind of feature and visible fraction."""
    rows: list[Row] = []
    for name in settings.models:
        model = model_of(name, settings.device, settings.seed)
        found = compared(model, name, cases(name, settings), settings, advance)
        if "not covered" in found[0]:
            advance(sum(calls(name, settings).values()))
        rows += found
    return rows


def compared(
    model: nn.Module, name: str, chosen: dict[int, list[Case]], settings: Settings, advance: Callable[..., object]
) -> list[Row]:
    """Measure one model; see `measure`. A model that layer masking does not cover gets one row that says why."""
    plain_last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    first = next(iter(chosen))
    try:
        masked = {
            "unprepared": lm.LayerMasked(model),
            "prepared": lm.LayerMasked(model).prepare(images(1, settings.device)),
        }
        for forward in masked.values():
            forward(images(first, settings.device), _visible(("patches", 0.5), first, settings))
    except UnsupportedOperatorError as error:
        return [{"model": name, "not covered": str(error).split(";")[0]}]
    rows: list[Row] = []
    for batch, some in chosen.items():
        x = images(batch, settings.device)
        x_last = x.contiguous(memory_format=torch.channels_last)
        functions: dict[str, Callable[[], object]] = {
            "plain, default": lambda x=x: model(x),
            "plain, channels-last": lambda x=x_last: plain_last(x),
            "plain, prepared": lambda x=x_last: masked["prepared"].model(x),
        }
        for case in some:
            visible = _visible(case, batch, settings)
            for road, forward in masked.items():
                functions[f"{road}, {case}"] = lambda run=forward, x=x, visible=visible: run(x, visible)
        for warm_up in list(functions.values())[: len(PLAIN) + len(MASKED)]:
            warm_up()
            advance()
        rounds = rounds_for(batch, settings)
        seconds = paired(functions, rounds, settings.device, warm_up=False, advance=advance)
        for case in some:
            row: Row = {"model": name, "batch": batch, "features": case[0], "visible": case[1]}
            row["seconds"] = {one: summary(seconds[one]) for one in PLAIN}
            row["seconds"] |= {road: summary(seconds[f"{road}, {case}"]) for road in MASKED}
            for road in MASKED:
                row[road] = {one: ratio(seconds[f"{road}, {case}"], seconds[one]) for one in PLAIN}
            rows.append(row)
    return rows


def _visible(case: Case, batch: int, settings: Settings) -> Tensor:
    kind, fraction = case
    return visible_part(kind, fraction, batch, settings.device, settings.seed)
