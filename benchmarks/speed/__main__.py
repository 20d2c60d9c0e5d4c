"""Measure how fast layer masking is, write tables, JSON and a figure, and say which goals were reached.

    python -m benchmarks.speed --threads 2 --out speed

Sections: a forward passes, b published-style filling, c explainers, d memory, e growth.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.speed import explainers, forward, growth, memory, reference
from benchmarks.speed.figure import draw
from benchmarks.speed.forward import calls
from benchmarks.speed.goals import goals
from benchmarks.speed.machine import keep_freed_memory, machine, versions
from benchmarks.speed.settings import Settings
from benchmarks.speed.subjects import MODELS, images, model_of
from benchmarks.speed.tables import document
from benchmarks.speed.timing import seconds_of

SECTIONS = {"a": "forward", "b": "reference", "c": "explainers", "d": "memory", "e": "growth"}
MODULES = {"forward": forward, "reference": reference, "explainers": explainers, "memory": memory, "growth": growth}
QUICK_MODELS = ("ResNet-50", "EfficientNet-Lite0", "ViT-B/16")
ROUNDS = range(3, 10)


def seconds_per_image(settings: Settings) -> float:
    """A plain forward pass of ResNet-50, for the estimate."""
    model = model_of("ResNet-50", settings.device, settings.seed).to(memory_format=torch.channels_last)
    x = images(4, settings.device).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        model(x)
        return min(seconds_of(lambda: model(x), settings.device) for _ in range(2)) / len(x)


def estimate(chosen: list[str], settings: Settings, per_image: float) -> float:
    """How long the sections will take, in seconds, roughly."""
    return per_image * sum(MODULES[name].cost(settings) for name in chosen)


def fitted(chosen: list[str], settings: Settings, per_image: float, minutes: float) -> Settings:
    """Take as many rounds as fit into the time, but not fewer than a median needs."""
    if settings.quick:
        return replace(settings, rounds=2)
    options = [replace(settings, rounds=rounds) for rounds in ROUNDS]
    fits = [one for one in options if estimate(chosen, one, per_image) <= 60 * minutes]
    return fits[-1] if fits else options[0]


def counted(name: str, settings: Settings) -> int:
    """The number of calls of a section, for its progress bar."""
    if name == "forward":
        return sum(sum(calls(one, settings).values()) for one in settings.models)
    return int(MODULES[name].count(settings))


def run(chosen: list[str], settings: Settings) -> dict[str, Any]:
    """Run the sections, one after the other."""
    found = {}
    for name in chosen:
        with tqdm(total=counted(name, settings), desc=f"{name:10}") as progress:
            found[name] = MODULES[name].measure(settings, progress.update)
    return found


def write(record: dict[str, Any], out: Path, docs: Path | None) -> None:
    """Write tables, JSON and figure; into the documentation too, if told to."""
    out.mkdir(parents=True, exist_ok=True)
    text = document(record)
    (out / "speed.json").write_text(json.dumps(record, indent=1) + "\n")
    (out / "speed.md").write_text(text)
    draw(record["sections"], out / "speed.png")
    if docs is not None:
        figure = "\n![Forward passes, explainers, memory and growth](figures/performance.png)\n"
        (docs / "performance_tables.md").write_text(text + figure)
        draw(record["sections"], docs / "figures" / "performance.png")
    print(text)
    print(f"written: {out / 'speed'}.json, .md, .png")


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, measure, and write what was found."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: as torch does")
    parser.add_argument("--only", default="a,b,c,d,e", help="sections, such as a,c")
    parser.add_argument("--models", help=f"for sections a and d, some of: {', '.join(MODELS)}")
    parser.add_argument("--minutes", type=float, default=12, help="about how long; decides the number of rounds")
    parser.add_argument("--rounds", type=int, help="number of rounds, whatever the time")
    parser.add_argument("--quick", action="store_true", help="a small part, to see that everything works")
    parser.add_argument("--full", action="store_true", help="all combinations for all models: takes an hour or more")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--default-allocator", action="store_true", help="let the C library return freed memory, or not"
    )
    parser.add_argument("--out", type=Path, default=Path("speed"))
    parser.add_argument("--docs", type=Path, help="also write tables and figure into this folder of documentation")
    parser.add_argument("--tables", type=Path, metavar="JSON", help="measure nothing: write those of an earlier run")
    options = parser.parse_args(arguments)
    if options.tables:
        write(json.loads(options.tables.read_text()), options.out, options.docs)
        return

    unknown = set(options.only.split(",")) - set(SECTIONS)
    if unknown:
        parser.error(f"--only takes {', '.join(SECTIONS)}; got {', '.join(sorted(unknown))}")
    chosen = [SECTIONS[letter] for letter in SECTIONS if letter in options.only.split(",")]
    models = tuple(options.models.split(",")) if options.models else QUICK_MODELS if options.quick else tuple(MODELS)
    if not set(models) <= set(MODELS):
        parser.error(f"--models takes some of {', '.join(MODELS)}; got {', '.join(sorted(set(models) - set(MODELS)))}")
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("this torch finds no GPU; use --device cpu")

    torch.set_num_threads(options.threads)
    settings = Settings(device, options.threads, models, quick=options.quick, full=options.full, seed=options.seed)
    where = machine(settings) | {"keeps freed memory": not options.default_allocator and keep_freed_memory()}
    start = time.perf_counter()
    per_image = seconds_per_image(settings)
    settings = fitted(chosen, settings, per_image, options.minutes)
    settings = replace(settings, rounds=options.rounds) if options.rounds else settings
    minutes = estimate(chosen, settings, per_image) / 60
    print(f"{1000 * per_image:.0f} ms an image with ResNet-50; {settings.rounds} rounds, about {minutes:.0f} minutes")
    sections = run(chosen, settings)
    record = {
        "command": " ".join(["python -m benchmarks.speed", *(sys.argv[1:] if arguments is None else arguments)]),
        "date": date.today().isoformat(),
        "minutes": (time.perf_counter() - start) / 60,
        "estimated minutes": minutes,
        "machine": where,
        "versions": versions(),
        "settings": asdict(settings) | {"device": str(device)},
        "sections": sections,
        "goals": goals(sections),
    }
    write(record, options.out, options.docs)


if __name__ == "__main__":
    main()
