"""``lm-plugins audit``: which removal disturbs a model least."""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import click
import torch
from click.core import ParameterSource

from lm_plugins.cli.answers import answered, output_option, with_field
from lm_plugins.cli.config_file import config_option, config_text
from lm_plugins.cli.labels import read_labels
from lm_plugins.cli.loading_images import ImageFiles, find_images
from lm_plugins.cli.loading_models import LoadedModel
from lm_plugins.cli.object_masks import read_object_masks
from lm_plugins.cli.output import examples, note, plain, print_json, say, writable_folder
from lm_plugins.cli.parameters import (
    NUMBERS,
    REMOVAL_NAMES,
    SEED,
    Names,
    built_removals,
    calibration_option,
    loaded,
    loaded_calibration,
    model_options,
)
from lm_plugins.errors import OptionError
from lm_plugins.masking import Calibration

__all__ = ["audit"]

#: What ``--quick`` means where nothing else is said.
QUICK: dict[str, Any] = {
    "limit": 24,
    "features": ("patches",),
    "orders": ("random",),
    "fractions": (0.2, 0.4, 0.6),
    "measures": ("missingness",),
    "out": Path("audit-quick"),
}


def _measures() -> list[str]:
    from lm_plugins.audit import MEASURES

    return list(MEASURES)


_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(
    epilog=examples(
        "lm-plugins audit --images photos/ --quick",
        "lm-plugins audit --images photos/ --labels photos/labels.csv --model torchvision:resnet50 --out resnet50/",
        "lm-plugins audit --images photos/ --model timm:convnext_tiny --removals layer_masking,grey,noisy_linear",
        "lm-plugins audit --config resnet50/audit.toml",
        "lm-plugins audit --from resnet50/ --summary",
    )
)
@click.option("--images", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of images.")
@model_options
@output_option
@click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV with the columns file and class_index (or class_name); adds accuracy.",
)
@click.option(
    "--objects",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with a PNG for each image, white where the object is; for shape bias, leakage and alignment.",
)
@click.option(
    "--removals",
    type=REMOVAL_NAMES,
    default="layer_masking,grey,black,blur",
    show_default=True,
    help="See `lm-plugins removals`; all for every one.",
)
@calibration_option
@click.option(
    "--features",
    type=Names("kind of features", ("patches", "superpixels")),
    default="patches,superpixels",
    show_default=True,
    help="What is removed together.",
)
@click.option(
    "--orders",
    type=Names("order", ("random", "most_salient_first", "least_salient_first")),
    default="random,most_salient_first,least_salient_first",
    show_default=True,
    help="In which order features go.",
)
@click.option(
    "--fractions",
    type=NUMBERS,
    default="0.1,0.2,0.3,0.4,0.5,0.6",
    show_default=True,
    help="Shares of the features that are removed.",
)
@click.option(
    "--measures",
    type=Names("measure", _measures),
    default="missingness,hidden_pixels,colour_bias",
    show_default=True,
    help="Also shape_bias, shape_leakage, linearity, lime, rank_agreement.",
)
@click.option("--limit", type=click.IntRange(1), help="Draw at most this many images at random.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of everything that is drawn.")
@click.option("--batch-size", type=click.IntRange(1), help="Masked copies of an image in one forward pass.")
@click.option("--examples", type=click.IntRange(0), default=2, show_default=True, help="Photographs in the report.")
@click.option("--out", type=_FOLDER, default=Path("audit"), show_default=True, help="Folder for the results.")
@click.option("--quick", is_flag=True, help="A first answer: 24 images, random patches, three fractions.")
@click.option("--resume/--no-resume", default=True, help="Go on where an interrupted audit stopped (the default).")
@click.option(
    "--from",
    "source",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Compute every number anew from the saved table of this folder and write its report again.",
)
@click.option("--summary", is_flag=True, help="Print every mean with its confidence interval, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; progress goes to standard error.")
@config_option()
def audit(source: Path | None, summary: bool, as_json: bool, **options: Any) -> None:
    """Measure how much each removal distorts a model on your images, and recommend one.

    Writes report.html, the table of all numbers (parquet, CSV), a summary and a config file that repeats the run. Ctrl-C
    loses nothing: the same command goes on where it stopped.
    """
    if source is not None:
        result, folder, extra = _loaded_result(source), source, _read_extra(source)
    else:
        if options["images"] is None:
            raise click.UsageError("give a folder of images with --images DIR, or a finished audit with --from DIR.")
        if options["quick"]:
            options.update({name: value for name, value in QUICK.items() if _is_default(name)})
        folder = writable_folder(options["out"])
        with contextlib.redirect_stdout(sys.stderr):  # what the model prints is no result of ours
            result, extra = _run(folder, options)
    report = _write_report(result, folder, extra)
    if as_json:
        print_json(_as_json(result, folder, report, extra))
        return
    say(result.recommendation.reason)
    say(f"recommended: {result.recommendation.removal or 'none'}")
    if summary:
        say(result.summary.to_string(index=False, float_format="%.3f"))
    say(f"report: {report}")


def _is_default(name: str) -> bool:
    return click.get_current_context().get_parameter_source(name) in (ParameterSource.DEFAULT, None)


def _run(folder: Path, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The result, and what the report shows besides it."""
    from lm_plugins.atomic_write import written
    from lm_plugins.audit import run_audit
    from lm_plugins.report import example_photographs

    if options["resume"]:
        _check_settings(folder / "settings.json")
    model, preprocessing = loaded(options)
    module, output = with_field(model.module, options["output"])
    calibration = loaded_calibration(options, module)
    removals = built_removals(options["removals"], preprocessing, calibration)
    images = find_images([options["images"]], preprocessing, options["limit"], options["seed"])
    if calibration is not None:
        images = _not_fitted_on(images, calibration)
    if images.skipped:
        note(images.report())
    labels = None
    answers, word = answered(module, images[0][None], output)
    if options["labels"] is not None:
        labels = read_labels(options["labels"], images.names, model.classes, answers.shape[1])
    result = run_audit(
        module,
        images,
        labels,
        removals,
        **{name: options[name] for name in ("features", "orders", "fractions", "measures", "seed")},
        batch_size=options["batch_size"],
        output=word,
        out=folder,
        resume=options["resume"],
        names=images.names,
        regions=None if options["objects"] is None else read_object_masks(options["objects"], images),
        provenance=_provenance(options, model, images),
    )
    # Only now: an audit that was refused changes nothing in a folder that is another's.
    settings = config_text("audit", {name: value for name, value in options.items() if name not in ("resume", "quick")})
    written(folder / "audit.toml", lambda path: path.write_text(settings, encoding="utf-8"))
    for name, reason in result.left_out.items():
        note(f"{name} was left out: {reason}")
    shown = range(min(options["examples"], len(images)))
    examples = example_photographs(
        module,
        [images[i] for i in shown],
        [images.names[i] for i in shown],
        {name: one for name, one in removals.items() if name not in result.left_out},
        sorted(fraction for fraction in options["fractions"] if fraction > 0),
        preprocessing.pixels,
        model.class_name,
        seed=options["seed"],
        output=word,
    )
    extra = {"examples": [one.as_dict() for one in examples], "skipped": images.skipped}
    written(folder / "examples.json", lambda path: path.write_text(json.dumps(extra), encoding="utf-8"))
    return result, extra


def _not_fitted_on(images: ImageFiles, calibration: Calibration) -> ImageFiles:
    """The images that a calibration has not seen: what was fitted on an image is not to be judged by it."""
    kept = images.without(calibration.settings.get("files", []))
    if not len(kept):
        raise OptionError(
            f"the calibration was fitted on all {len(images)} images of the audit. Audit others, or fit it on a part of them."
        )
    if len(kept) < len(images):
        note(f"left out {len(images) - len(kept)} images that the calibration was fitted on")
    return kept


def _provenance(options: dict[str, Any], model: LoadedModel, images: ImageFiles) -> dict[str, Any]:
    """What else decides about the numbers; names of folders, not where they are on this machine."""
    given = {name: value for name, value in options.items() if name not in ("out", "resume", "examples") and value}
    shown = {name: value.name if isinstance(value, Path) else value for name, value in given.items()}
    words = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {_on_command_line(value)}")
        for name, value in shown.items()
    ]
    preprocessing = images.preprocessing
    return {
        "command": plain(" ".join(["lm-plugins audit", *words])),
        "model_name": model.name,
        "checkpoint_sha256": model.checkpoint or "none",
        "preprocessing": {
            "resize": preprocessing.resize,
            "size": preprocessing.size,
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "interpolation": preprocessing.interpolation,
        },
        "image_folder": plain(options["images"].resolve().name),
        "images_sha256": images.digest(),
        "images_skipped": len(images.skipped),
        "device": options["device"],
        "torch_threads": torch.get_num_threads(),
    }


def _on_command_line(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def _check_settings(file: Path) -> None:
    """Refuse the folder of an audit whose settings are damaged: nobody could tell what its parts were made with."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise OptionError(
            f"{file} is damaged, so that it cannot be told what its audit was run with. Take another folder, or pass "
            "--no-resume to begin anew."
        )


def _loaded_result(folder: Path) -> Any:
    """A saved audit of which every number can be computed."""
    from lm_plugins.audit import AuditResult

    try:
        result = AuditResult.load(folder)
        _ = result.summary, result.recommendation, result.left_out
        has_gaps = bool(result.table.drop(columns="fraction").isna().to_numpy().any())
    except OptionError:
        raise
    except Exception as error:  # tables and JSON of other types than were written: nearly anything
        raise OptionError(
            f"the audit in {folder} is damaged ({type(error).__name__}: {error}). Run it again with --no-resume."
        ) from error
    if has_gaps:
        raise OptionError(f"the table of the audit in {folder} has gaps: it is damaged. Run it again with --no-resume.")
    return result


def _read_extra(folder: Path) -> dict[str, Any]:
    """What the report shows besides the result."""
    from lm_plugins.report import Example

    file = folder / "examples.json"
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        _ = [Example.from_dict(one) for one in content["examples"]], content["skipped"].items()
    except FileNotFoundError:
        return {"examples": [], "skipped": {}}
    except Exception as error:  # JSON of another shape than was written
        raise OptionError(
            f"{file} is damaged ({type(error).__name__}: {error}); delete it, or run the audit again."
        ) from error
    return content


def _write_report(result: Any, folder: Path, extra: dict[str, Any]) -> Path:
    from lm_plugins.atomic_write import written
    from lm_plugins.report import Example, audit_report

    page = audit_report(
        result,
        [Example.from_dict(one) for one in extra["examples"]],
        extra["skipped"],
        result.left_out,
        "lm-plugins audit --from DIR --summary",
    )
    written(folder / "report.html", lambda path: path.write_text(page, encoding="utf-8", errors="replace"))
    return folder / "report.html"


def _as_json(result: Any, folder: Path, report: Path, extra: dict[str, Any]) -> dict[str, Any]:
    summary = result.summary.astype(object).where(result.summary.notna(), None)
    return {
        "recommendation": result.recommendation.as_dict(),
        "left_out": result.left_out,
        "skipped": extra["skipped"],
        "images": int(result.table["image"].nunique()),
        "folder": str(folder),
        "report": str(report),
        "summary": summary.to_dict("records"),
    }
