"""Which models of other libraries can be layer-masked, and are the numbers right?

Small models with random weights (`benchmarks/library_models.py`) of every library that is installed; others are named and
left out. Each of them runs, is refused, or is wrong: it answers, and breaks a law.

    python benchmarks/libraries.py --out libraries.json
    python benchmarks/libraries.py --filter monai
"""

import argparse
import copy
import importlib.util
import json
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from coverage import masks, settle
from library_models import LIBRARIES
from torch import Tensor, nn
from tqdm import tqdm

import lm_plugins as lm
from lm_plugins.errors import LMPluginsError
from lm_plugins.masking import observing, run_masked
from lm_plugins.testing import overwrite_hidden

TOLERANCE = 1e-7  # of the largest output, in float64; 1e-4 of a model that runs in float32 only
SIDES = (64, 56, 96, 128, 224, 256)


@dataclass
class Row:
    """What became of one model."""

    library: str
    model: str
    outcome: str = (
        "left out"  # "runs", "refused", "crashes", "wrong", or "left out": it could not be built or run plainly
    )
    reason: str = ""
    change: float | None = None  # what the masks changed
    seconds: float = 0.0


def outputs(output: Any) -> list[Tensor]:
    """Every floating-point tensor in what a model returns."""
    if isinstance(output, Tensor):
        return [output.detach()] if output.is_floating_point() else []
    if isinstance(output, dict):
        output = list(output.values())
    elif is_dataclass(output):
        output = [getattr(output, one.name) for one in fields(output)]
    return [tensor for one in output for tensor in outputs(one)] if isinstance(output, (list, tuple)) else []


def deviation(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference, relative to the largest value of each output."""
    if [one.shape for one in found] != [one.shape for one in expected]:
        return torch.inf
    pairs = zip(found, expected, strict=True)
    return max(float(((a - b).abs().max() / b.abs().max().clamp(min=1e-12)).nan_to_num(torch.inf)) for a, b in pairs)


def prepared(build: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor]:
    """The model with random weights of which none is without effect, and images that it takes."""
    torch.manual_seed(0)
    model = build().eval()
    images = getattr(torch, "rand" if hasattr(model, "prepare") else "randn")
    own = getattr(model, "in_size", None)  # of pytorchcv
    for side in SIDES if own is None else (own[0],):
        x = images(3, 3, side, side)
        try:
            model(x)
        except (AssertionError, RuntimeError, ValueError) as error:
            last = error
        else:
            break
    else:
        raise last
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() == max(parameter.shape, default=1):  # scales and shifts, many of them 0 or 1e-6
                parameter.add_(0.1 * torch.randn_like(parameter))
    settle(model, x)
    return model, x


@torch.no_grad()
def check(row: Row, build: Callable[[], nn.Module]) -> None:
    """Fill in what became of a model."""
    try:
        model, x = prepared(build)
    except Exception as error:
        row.reason = f"{type(error).__name__}: {error}"
        return
    if deviation(outputs(model(x.flip(0))), outputs(model(x))) <= TOLERANCE:
        torch.manual_seed(0)
        for parameter in model.parameters():  # weights so small that biases are all that is seen
            if parameter.ndim > 1:
                nn.init.kaiming_normal_(parameter)
        settle(model, x)
    if deviation(outputs(model(x.flip(0))), outputs(model(x))) <= TOLERANCE:
        row.reason = "it gives the same for all images"
        return
    visible = masks(x.shape[-1])
    try:
        lm.LayerMasked(model)(x, visible)
        broken = _broken_law(row, *_precise(model, x), visible)
        row.outcome, row.reason = ("wrong", broken) if broken else ("runs", "")
    except LMPluginsError as error:
        row.outcome, row.reason = "refused", f"{type(error).__name__}: {error}"
    except Exception as error:
        row.outcome, row.reason = "crashes", f"{type(error).__name__}: {error}"


def _precise(model: nn.Module, x: Tensor) -> tuple[nn.Module, Tensor]:
    """The model in float64, where it runs in it at all."""
    copied = copy.deepcopy(model).double()
    try:
        copied(x.double())
    except RuntimeError:  # its code asks for float32
        return model, x
    return copied, x.double()


def _broken_law(row: Row, model: nn.Module, x: Tensor, visible: Tensor) -> str:
    def run(x: Tensor, visible: Tensor) -> list[Tensor]:
        return outputs(run_masked(model, x, visible, lm.MaskingOptions()))

    plain, masked = outputs(model(x)), run(x, visible)
    with observing(overwrite_hidden()):
        overwritten = run(x, visible)
    alone = zip(*(run(x[i : i + 1], visible[i : i + 1]) for i in range(len(x))), strict=True)
    laws = {
        "all visible is the plain model": (run(x, torch.ones_like(visible)), plain),
        "hidden pixels do not matter": (run(torch.where(visible[:, None], x, 1e30), visible), masked),
        "hidden values do not matter": (overwritten, masked),
        "a batch is its images": ([torch.cat(parts) for parts in alone], masked),
    }
    found = {name: deviation(*pair) for name, pair in laws.items()}
    row.change = deviation(masked, plain)
    tolerance = TOLERANCE if x.dtype == torch.float64 else 1e-4
    found["masks have an effect"] = 0.0 if row.change > tolerance else torch.inf
    return "; ".join(f"{name}: off by {off:.2g}" for name, off in found.items() if off > tolerance)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="JSON to write, one row a model")
    parser.add_argument("--filter", default="", help="only what holds this text in LIBRARY/MODEL")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for library, (package, cases) in LIBRARIES.items():
        if importlib.util.find_spec(package) is None:
            print(f"{library}: {package} is not installed; left out")
            continue
        chosen = [case for case in cases() if arguments.filter.lower() in f"{library}/{case[0]}".lower()]
        for model, build in tqdm(chosen, desc=library):
            row = Row(library, model)
            start = time.perf_counter()
            check(row, build)
            row.seconds = round(time.perf_counter() - start, 1)
            rows.append(row)
            if row.outcome != "runs":
                tqdm.write(f"{row.outcome:8} {library}/{model}: {row.reason[:300]}")
            if arguments.out:
                arguments.out.write_text(json.dumps([asdict(one) for one in rows], indent=1))
        counts = Counter(row.outcome for row in rows if row.library == library)
        print(f"{library}: {', '.join(f'{count} {name}' for name, count in counts.most_common())}")


if __name__ == "__main__":
    main()
