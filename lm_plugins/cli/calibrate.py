"""``lm-plugins calibrate``: fit layer masking to a model, for ``--calibration``."""

import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import click

import lm_plugins
from lm_plugins.cli.loading_images import find_images
from lm_plugins.cli.output import examples, note, print_json, say
from lm_plugins.cli.parameters import SEED, loaded, model_options
from lm_plugins.masking import Calibration

__all__ = ["calibrate"]


@click.command(
    epilog=examples(
        "lm-plugins calibrate --images photos/ --out lite0.safetensors",
        "lm-plugins explain photo.jpg --calibration lite0.safetensors --compare layer_masking,grey",
    )
)
@click.option(
    "--images", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of images."
)
@model_options
@click.option(
    "--limit", type=click.IntRange(1), default=100, show_default=True, help="Draw at most this many at random."
)
@click.option("--masks", type=click.IntRange(1), default=4, show_default=True, help="Random masks for each image.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of everything that is drawn.")
@click.option("--batch-size", type=click.IntRange(1), default=10, show_default=True, help="Images in one forward pass.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("calibration.safetensors"),
    show_default=True,
    help="The file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; progress goes to standard error.")
def calibrate(images: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Fit layer masking to a model with unlabelled images, so that more of the model survives removal.

    About 100 varied images suffice. The file serves `explain` and `audit` as --calibration, for this very model.
    """
    model, preprocessing = loaded(options)
    found = find_images([images], preprocessing, options["limit"], options["seed"])
    if found.skipped:
        note(found.report())
    with contextlib.redirect_stdout(sys.stderr):  # what the model prints is no result of ours
        masked = lm_plugins.calibrate(
            model.module,
            (x.to(options["device"]) for x in found),
            **{name: options[name] for name in ("masks", "batch_size", "seed")},
            show_progress=True,
        )
    calibration = cast(Calibration, masked.calibration)
    # An audit leaves these out: what was fitted on them is not to be judged by them.
    calibration = replace(calibration, settings={**calibration.settings, "files": found.digests()})
    out.parent.mkdir(parents=True, exist_ok=True)
    calibration.save(out)
    layers = sum(one is not None for one in calibration.corrections)
    if as_json:
        print_json(
            {"model": model.name, "images": len(found), "layers": layers, "skipped": found.skipped, "file": str(out)}
        )
        return
    say(f"{layers} layers fitted on {len(found)} images: {out}")
