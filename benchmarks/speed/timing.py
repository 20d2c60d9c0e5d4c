"""Paired measurements: functions take turns, so that whatever else the machine does touches all of them alike."""

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

Summary = dict[str, float]


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """Wall-clock time of one call, until the device has finished."""
    _finish(device)
    start = time.perf_counter()
    function()
    _finish(device)
    return time.perf_counter() - start


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def paired(
    functions: dict[str, Callable[[], object]],
    rounds: int,
    device: torch.device,
    warm_up: bool = True,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Measure functions in turns.

    Args:
        functions: What is measured, by name.
        rounds: How often each is called. Every round calls all of them, and begins with another one.
        device: Where they run.
        warm_up: Call each once before that, without a clock.
        advance: Called after every call.

    Returns:
        For each name the seconds of each round, in the order of the rounds.
    """
    if warm_up:
        for function in functions.values():
            function()
            advance()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    names = list(functions)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(seconds_of(functions[name], device))
            advance()
    return seconds


def summary(values: Sequence[float]) -> Summary:
    """Median and quartiles."""
    lower, median, upper = np.quantile(np.asarray(values, dtype=np.float64), [0.25, 0.5, 0.75])
    return {"median": float(median), "lower": float(lower), "upper": float(upper)}


def ratio(seconds: Sequence[float], reference: Sequence[float]) -> Summary:
    """Median and quartiles of the ratios within each round: what disturbs a round disturbs both of its sides."""
    return summary(np.asarray(seconds) / np.asarray(reference))  # type: ignore[arg-type]


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The p of the power law ``seconds ~ sizes ** p`` that fits best; 1 is linear growth."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
