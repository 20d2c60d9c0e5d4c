"""``lm-plugins explain``: heat maps of photographs, with one removal or several side by side."""

import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from lm_plugins.cli.answers import output_option, with_field
from lm_plugins.cli.config_file import config_option
from lm_plugins.cli.data_set import data_set_options, explain_data_set
from lm_plugins.cli.explaining import explained_image, write_arrays, write_figures
from lm_plugins.cli.loading_images import find_images
from lm_plugins.cli.output import examples, note, print_json, say, writable_folder
from lm_plugins.cli.parameters import (
    FEATURES,
    REMOVAL_NAMES,
    SEED,
    Names,
    built_removals,
    calibration_option,
    loaded,
    loaded_calibration,
    model_options,
)
from lm_plugins.errors import ImageFileError, MissingDependencyError, OptionError
from lm_plugins.progress import progress
from lm_plugins.scale.methods import METHODS

__all__ = ["explain"]

#: The most photographs in the report; files are written for all of them.
SHOWN = 100


@click.command(
    epilog=examples(
        "lm-plugins explain photo.jpg",
        "lm-plugins explain photo.jpg --compare layer_masking,grey,blur --features grid:32",
        "lm-plugins explain photos/ --method lime --features slic:60 --samples 1000",
        "lm-plugins explain photo.jpg --model torchvision:resnet50 --method kernelshap --target 281",
        "lm-plugins explain --images photos/ --method kernelshap --engine ray --workers 4 --out results/",
    )
)
@click.argument("images", metavar="IMAGE...", nargs=-1, type=click.Path(exists=True, path_type=Path))
@model_options
@click.option("--method", default="occlusion", show_default=True, help="See `lm-plugins methods`.")
@click.option("--removal", default="layer_masking", show_default=True, help="See `lm-plugins removals`.")
@click.option("--compare", type=REMOVAL_NAMES, help="Several removals side by side, in place of --removal.")
@calibration_option
@click.option("--target", type=click.IntRange(0), help="The class to explain; by default the one that the model says.")
@click.option("--features", type=FEATURES, help="What is removed together; each method has its own default.")
@output_option
@click.option(
    "--of",
    type=click.Choice(["probability", "output"]),
    default="probability",
    show_default=True,
    help="What of the class is explained: its probability, or what the model returns before it.",
)
@click.option("--samples", type=click.IntRange(1), default=500, show_default=True, help="For methods that draw.")
@click.option("--layer", help="For methods that look at layers; several with commas. By default their own choice.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of everything that is drawn.")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Images in one forward pass.")
@click.option(
    "--figures",
    type=Names("format", ("png", "svg", "pdf")),
    default="png,svg",
    show_default=True,
    help="Formats of the figures.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("explanations"),
    show_default=True,
    help="Folder for the results.",
)
@data_set_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON; progress goes to standard error.")
@config_option()
def explain(images: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Explain what a model says about photographs (files, or folders of them).

    Writes report.html (of the first 100), explanations.json, and for each photograph its arrays (npz) and a figure (PNG,
    SVG).
    """
    if bool(images) == bool(options["source"]):
        raise click.UsageError(
            "give one or more photographs, or folders of them; or a data set with --images, not both."
        )
    method, removals = _checked(options)
    folder = writable_folder(options["out"])
    model, preprocessing = loaded(options)
    asked = options["output"]
    module, options["output"] = with_field(model.module, asked)
    model = replace(model, module=module)
    calibration = loaded_calibration(options, model.module)
    if calibration is not None:
        # Without a comparison, it takes the place of the default.
        removals = removals if options["compare"] or removals != ("layer_masking",) else ()
    built = built_removals(removals, preprocessing, calibration)
    if options["source"]:
        explain_data_set(options, model, built, preprocessing, as_json)
        return
    found = find_images(images, preprocessing, check=False)
    explained: list[Any] = []
    records: list[dict[str, Any]] = []
    # What the model prints is no result of ours.
    with contextlib.redirect_stdout(sys.stderr), progress(len(found), options["method"], show=True) as done:
        for index in range(len(found)):
            try:
                picture = found.picture(index)
            except ImageFileError as error:
                found.skip(index, error)
                done()
                continue
            one, feature_mask = explained_image(
                model, preprocessing, found.names[index], picture, method, built, options
            )
            # The page holds its pictures, and memory is limited.
            explained += [one] if len(explained) < SHOWN else []
            files = write_arrays(folder, index, one, feature_mask) + write_figures(
                folder, index, one, options["figures"]
            )
            records.append(_record(one, files))
            done()
    found.check_any(len(records))
    if found.skipped:
        note(found.report())
    if asked is not None and asked.startswith("field:"):
        options["output"] = f"{asked.partition(',')[0]},{options['output']}"
    report = _write_report(folder, explained, records, found.skipped, model, options)
    if as_json:
        print_json({"images": records, "skipped": found.skipped, "folder": str(folder), "report": str(report)})
        return
    for record in records:
        say(f"{record['image']}: {record['target']} ({record['says']})")
    say(f"report: {report}")


def _checked(options: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """The method and the removals; a wrong name is said before anything is computed."""
    name = options["method"]
    if name not in METHODS:
        raise OptionError(f"no method is called {name!r}; there are {', '.join(METHODS)}.")
    method = METHODS[name]
    if not method.is_available():
        raise MissingDependencyError(f"--method {name} needs {method.source}: {method.install}.")
    removals = options["compare"] or REMOVAL_NAMES.convert(options["removal"], None, None)
    if not method.uses_removal and options["compare"]:
        raise OptionError(f"{name} removes nothing, so that there is nothing to compare; leave out --compare.")
    return method, removals


def _record(one: Any, files: list[Path]) -> dict[str, Any]:
    return {
        "image": one.name,
        "target": one.target,
        **({"probability": one.probability} if one.is_probability else {"value": one.probability}),
        "says": one.says,
        "predicted": one.predicted,
        "files": [file.name for file in files],
        "explanations": [
            {
                "removal": each.removal,
                "seconds": round(each.seconds, 3),
                "largest": float(each.attribution.max()),
                "smallest": float(each.attribution.min()),
                "left": {f"{fraction:g}": probability for fraction, probability in each.left.items()},
            }
            for each in one.explanations
        ],
    }


def _write_report(
    folder: Path, explained: list[Any], records: list[Any], skipped: dict[str, str], model: Any, options: dict[str, Any]
) -> Path:
    import json

    import torch

    import lm_plugins
    from lm_plugins.atomic_write import written
    from lm_plugins.report import explanation_report

    method = options["method"]
    provenance = {
        "lm_plugins": lm_plugins.__version__,
        "torch": torch.__version__,
        "model": model.name,
        "checkpoint_sha256": model.checkpoint or "none",
        "method": method,
        "features": options["features"] or METHODS[method].features,
        **{
            name: options[name]
            for name in ("output", "of", "samples", "layer", "seed", "size", "mean", "std")
            if options[name] is not None
        },
    }
    content = {"images": records, "skipped": skipped, "provenance": provenance}
    text = json.dumps(content, indent=1, ensure_ascii=False, default=str)
    page = explanation_report(
        explained, method, METHODS[method].description, provenance, skipped, len(records) - len(explained)
    )
    for name, what in (("explanations.json", text), ("report.html", page)):
        written(folder / name, lambda path, what=what: path.write_text(what, encoding="utf-8", errors="replace"))  # type: ignore[misc]
    return folder / "report.html"
