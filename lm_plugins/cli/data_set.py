"""``lm-plugins explain --images``: every image of a data set."""

import contextlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from PIL import Image
from torch import Tensor, nn

from lm_plugins.cli.answers import answered
from lm_plugins.cli.loading_models import LoadedModel
from lm_plugins.cli.output import note, print_json, say
from lm_plugins.cli.parameters import loaded
from lm_plugins.cli.preprocessing import Preprocessing, pixels_of
from lm_plugins.errors import ImageFileError, MissingDependencyError, OptionError
from lm_plugins.removal import Removal

__all__ = ["data_set_options", "explain_data_set"]

Command = TypeVar("Command", bound=Callable[..., Any])


def data_set_options(command: Command) -> Command:
    """The options that are for data sets alone."""
    options = (
        click.option(
            "--images", "source", metavar="SOURCE",
            help="A data set in place of photographs: a folder, a .csv or .parquet list, a .tar of webdataset; also s3://... "
            "Results are arrays and tables, without pictures; an interrupted run goes on. In a config file: source.",
        ),
        click.option(
            "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="With --images."
        ),
        click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Of Ray."),
        click.option("--gpus", type=click.FloatRange(0), default=0.0, show_default=True, help="Of Ray, for each worker."),
        click.option(
            "--shard", type=click.IntRange(1), default=16, show_default=True,
            help="With --images: how many are explained and written together.",
        ),
        click.option("--gallery", is_flag=True, help="With --images: also write pages to look through, into gallery/."),
        click.option("--resume/--no-resume", default=True, help="With --images: go on where a run stopped (the default)."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True)
class _Prepared:
    """A picture as the model takes it, and the pixels that superpixels are made from."""

    preprocessing: Preprocessing

    def __call__(self, picture: Image.Image) -> tuple[Tensor, Tensor]:
        pixels = pixels_of(self.preprocessing.crop(picture))
        return self.preprocessing.normalised(pixels), pixels


@dataclass(frozen=True)
class _Model:
    """Makes the model of the command on a worker."""

    options: Mapping[str, Any]

    def __call__(self) -> nn.Module:
        return loaded(dict(self.options))[0].module


def explain_data_set(
    options: dict[str, Any],
    model: LoadedModel,
    removals: Mapping[str, Removal],
    preprocessing: Preprocessing,
    as_json: bool,
) -> None:
    """Explain a data set as the options say.

    Args:
        options: Of the command.
        model: As the command has loaded it.
        removals: The one removal.
        preprocessing: Of the model.
        as_json: Print JSON.

    Raises:
        OptionError: An option is for photographs only.
        MissingDependencyError: The extra ``scale`` is not installed.
    """
    if len(removals) != 1:
        raise OptionError("a data set is explained with one removal: give --removal in place of --compare.")
    try:
        from lm_plugins import scale
        from lm_plugins.scale.explaining import explain
    except ImportError as error:
        raise MissingDependencyError(f"--images needs more ({error}): pip install 'lm_plugins[scale]'.") from error
    factory = _Model(
        {name: options[name] for name in ("model", "checkpoint", "size", "mean", "std", "interpolation", "device")}
    )
    prepared = _Prepared(preprocessing)
    source = scale.images_of(options["source"])
    with contextlib.redirect_stdout(sys.stderr):  # what the model prints is no result of ours
        results = explain(
            source,
            model.module if options["engine"] == "local" else factory,
            options["out"],
            preprocess=prepared,
            removal=next(iter(removals.values())),
            output=options["output"] or _word(model.module, source, prepared),
            **{
                name: options[name]
                for name in (
                    "method", "features", "target", "of", "samples", "layer", "seed", "batch_size", "shard", "device",
                    "engine", "workers", "gpus", "resume",
                )
            },
        )  # fmt: skip
    table = results.table
    failed = {row.key: row.error for row in table[table["error"].notna()].itertuples()}
    if failed:
        note(f"{len(failed)} of {len(table)} images could not be explained; see the column error.")
    pages = None
    if options["gallery"]:
        names = None if model.classes is None else list(model.classes)
        pages = scale.write_gallery(results, source, Path(options["out"]) / "gallery", names)
    if as_json:
        print_json(
            {"images": len(table), "failed": failed, "folder": str(options["out"])}
            | ({} if pages is None else {"gallery": str(pages)})
        )
        return
    say(results.by_class().to_string())
    say(f"{len(table)} images: {options['out']}; read them with lm_plugins.scale.open_results")


def _word(model: nn.Module, source: Any, prepared: _Prepared) -> Any:
    """What the model returns, as the first image that can be read tells."""
    for index in range(len(source.keys)):
        with contextlib.suppress(ImageFileError):
            return answered(model, prepared(source.read(index)[0])[0][None], None)[1]
    raise ImageFileError(f"none of the {len(source.keys)} images can be read.")
