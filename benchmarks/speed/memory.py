"""(d) The most memory that a forward pass takes beyond what was there before.

On the CPU, each forward pass is measured in a process of its own, by the high-water mark that Linux keeps of its resident
memory: it counts everything, the scratch space of convolutions too. The mark is reset before the measured pass, and the C
library is told to give every block of 64 KiB or more back at once, so that what an earlier pass has freed does not hide what
the next one takes. On a GPU, torch's own counter of allocated bytes is read.
"""

import ctypes
import gc
import multiprocessing
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import lm_plugins as lm
from benchmarks.speed.settings import Settings
from benchmarks.speed.subjects import SIDE, model_of, visible_part
from lm_plugins.errors import UnsupportedOperatorError

ROADS = ("plain", "unprepared", "prepared")
_M_MMAP_THRESHOLD = -3
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def batch_of(settings: Settings) -> int:
    """Images in the forward pass."""
    return 2 if settings.quick else 8


def cost(settings: Settings) -> float:
    """The work of this section, in images through ResNet-50; starting a process weighs as much as 20."""
    return len(ROADS) * len(settings.models) * (6 * batch_of(settings) + 20)


def count(settings: Settings) -> int:
    """The number of measurements, for the progress bar."""
    return len(ROADS) * len(settings.models)


def measure(settings: Settings, advance: Callable[[], object]) -> dict[str, Any]:
    """Measure all models; bytes for each road."""
    if settings.device.type == "cpu" and not (_STATUS.exists() and _CLEAR.exists()):
        return {"not measured": "the high-water mark of memory needs Linux", "rows": []}
    context = multiprocessing.get_context("spawn" if settings.device.type == "cuda" else "forkserver")
    context.set_forkserver_preload(["benchmarks.speed.__main__"])  # imported once, for all processes
    rows = []
    for name in settings.models:
        row: dict[str, Any] = {"model": name}
        for road in ROADS:
            with context.Pool(1) as pool:
                found = pool.apply(peak_of, (name, road, batch_of(settings), settings))
            row[road] = found
            advance()
        if isinstance(row["unprepared"], str):
            row = {"model": name, "not covered": row["unprepared"]}
        rows.append(row)
    return {"batch": batch_of(settings), "rows": rows}


@torch.inference_mode()
def peak_of(name: str, road: str, batch: int, settings: Settings) -> int | str:
    """Bytes that one forward pass takes, or why the model is not covered. For a fresh process."""
    torch.set_num_threads(settings.threads)
    if settings.device.type == "cpu":
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 16)
    model = model_of(name, settings.device, settings.seed)
    x = torch.rand(batch, 3, SIDE, SIDE).to(settings.device)
    visible = visible_part("patches", 0.5, batch, settings.device, settings.seed)
    run: Callable[[], object]
    if road == "plain":
        model = model.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
        run = lambda: model(x)  # noqa: E731
    else:
        masked = lm.LayerMasked(model)
        try:
            masked(x[:1], visible[:1])
        except UnsupportedOperatorError as error:
            return str(error).split(";")[0]
        masked = masked.prepare(x) if road == "prepared" else masked
        run = lambda: masked(x, visible)  # noqa: E731
    return sorted(peak(run, settings.device) for _ in range(3))[1]


def peak(run: Callable[[], object], device: torch.device) -> int:
    """Bytes that a second call takes at most beyond what is there before it; the first one warms up."""
    run()
    gc.collect()
    _give_back()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    _CLEAR.write_text("5")
    before = _resident("VmRSS")
    run()
    return _resident("VmHWM") - before


def _give_back() -> None:
    """Have the C library return what is free, where it can: glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _resident(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text())
    if found is None:
        raise RuntimeError(f"{_STATUS} does not give {name}")
    return 1024 * int(found.group(1))
