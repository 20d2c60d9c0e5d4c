"""``lm-plugins train``: train a classifier with explanations, or without, by a recipe."""

import contextlib
import sys
from pathlib import Path
from typing import Any

import click

from lm_plugins.cli.config_file import config_option
from lm_plugins.cli.output import examples, print_json, say
from lm_plugins.cli.parameters import NUMBERS, REMOVAL_NAMES, SEED

__all__ = ["train"]

_METHODS = ("ce", "edda", "supcon", "excon", "exconb", "exsimclr")


@click.command(
    epilog=examples(
        "lm-plugins train --method edda --data photos/ --classes 10 --epochs 20 --out edda/",
        "lm-plugins train --config excon.toml",
    )
)
@click.option("--method", type=click.Choice(_METHODS), required=True, help="ce is training without explanations.")
@click.option(
    "--data",
    required=True,
    metavar="DATA",
    help="A folder with train and test, each with a folder a class; torchvision:CIFAR100@FOLDER; or package.module:factory.",
)
@click.option("--classes", type=click.IntRange(1), required=True, help="How many there are.")
@click.option(
    "--model", default="small_resnet", show_default=True, help="small_resnet, timm:NAME or package.module:factory."
)
@click.option("--small-stem", is_flag=True, help="Of timm's ResNets, for images of 32 or 64 pixels.")
@click.option("--layer", default="layer3", show_default=True, help="Whose Grad-CAM explains images.")
@click.option("--size", type=click.IntRange(1), default=32, show_default=True, help="Height and width of the images.")
@click.option(
    "--mean", type=NUMBERS, default="0.485,0.456,0.406", show_default=True, help="Of the normalisation, on [0, 1]."
)
@click.option("--std", type=NUMBERS, default="0.229,0.224,0.225", show_default=True, help="Of the normalisation.")
@click.option("--epochs", type=click.IntRange(1), default=20, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=128, show_default=True)
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), default=0.1, show_default=True)
@click.option("--warm-up", type=click.IntRange(0), default=1, show_default=True, help="Epochs of rising learning rate.")
@click.option("--weight-decay", type=click.FloatRange(0), default=1e-4, show_default=True)
@click.option(
    "--validation",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.1,
    show_default=True,
    help="Share of the training images that is held out.",
)
@click.option(
    "--colour-jitter/--no-colour-jitter",
    default=None,
    help="Change colours of views. By default contrastive methods do.",
)
@click.option(
    "--smallest-crop",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.2,
    show_default=True,
    help="Smallest share of an image that a view shows.",
)
@click.option(
    "--removal",
    type=click.Choice(REMOVAL_NAMES.known),
    default="grey",
    show_default=True,
    help="How regions are hidden.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.5,
    show_default=True,
    help="Of the salient region.",
)
@click.option("--start", type=click.IntRange(0), default=0, show_default=True, help="Epochs before explanations begin.")
@click.option("--refresh", type=click.IntRange(1), help="edda: explain an image anew after so many epochs.")
@click.option(
    "--probability", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="edda: of an image's views."
)
@click.option(
    "--low-confidence",
    type=click.Choice(["background", "negative", "uniform", "none"]),
    default="background",
    show_default=True,
    help="edda: target of an image without its salient region.",
)
@click.option("--only-supported", is_flag=True, help="edda: keep the views that the model supports.")
@click.option("--max-background", type=click.IntRange(0), help="exconb: images of background in a batch, at most.")
@click.option(
    "--temperature",
    type=click.FloatRange(0, min_open=True),
    default=0.1,
    show_default=True,
    help="Of the contrastive loss.",
)
@click.option("--initial", type=click.Path(exists=True, dir_okay=False), help="A model.pt to start from.")
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True, help="Processes that decode images.")
@click.option(
    "--precision", type=click.Choice(["32-true", "16-mixed", "bf16-mixed"]), default="32-true", show_default=True
)
@click.option("--accelerator", default="auto", show_default=True, help="As Lightning names it: cpu, gpu, mps.")
@click.option("--devices", default="auto", show_default=True, help="How many of them.")
@click.option("--logger", type=click.Choice(["csv", "tensorboard"]), default="csv", show_default=True)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of everything that is drawn.")
@click.option("--resume/--no-resume", default=True, help="Go on where an interrupted run stopped (the default).")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("trained"),
    show_default=True,
    help="Folder for checkpoints, logs and model.pt.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; progress goes to standard error.")
@config_option()
def train(out: Path, as_json: bool, **options: Any) -> None:
    """Train a classifier with explanations (EDDA, ExCon, ExConB), or without.

    An interrupted run goes on after its last whole epoch, to the same result.
    """  # fmt: skip
    # Lightning takes seconds to import, and no other command needs it.
    from lm_plugins.training import recipe

    given = {name: options.pop(name) for name in ("accelerator", "devices", "logger", "resume")}
    devices = given["devices"]
    given["devices"] = int(devices) if devices.isdecimal() else devices
    asked = recipe.Recipe(**{name: _three(name, value) for name, value in options.items()})
    with contextlib.redirect_stdout(sys.stderr):  # what data sets and models print is no result of ours
        run = recipe.train(asked, out, **given)
    if as_json:
        print_json({"validation_accuracy": run.validation_accuracy, "model": str(out / "model.pt")})
        return
    say(f"validation accuracy {run.validation_accuracy:.3f}; the model: {out / 'model.pt'}")


def _three(name: str, value: Any) -> Any:
    """A value for each channel, where one number was given."""
    return value * 3 if name in ("mean", "std") and len(value) == 1 else value
