"""``lm-plugins removals``: names for ``--removal``."""

import inspect

import click

from lm_plugins.cli.output import examples, print_table
from lm_plugins.removal import REMOVALS

__all__ = ["REMOVAL_DESCRIPTIONS", "removals"]

#: What each one does, for people who have not read about it. One that is not here is described by its own docstring.
REMOVAL_DESCRIPTIONS = {
    "layer_masking": "hide pixels from every layer; the model computes on visible pixels only",
    "grey": "paint them in the mean colour of the data set (0 in the model's input)",
    "black": "paint them black",
    "white": "paint them white",
    "random_colour": "paint them in a random colour",
    "image_mean": "paint them in the mean colour of what is visible",
    "blur": "blur visible pixels into them",
    "inpainting_telea": "inpaint them by fast marching (Telea; OpenCV)",
    "inpainting_ns": "inpaint them by Navier-Stokes (OpenCV)",
    "noisy_linear": "impute them linearly from their neighbours, plus a little noise (ROAD)",
}


@click.command(
    epilog=examples(
        "lm-plugins removals",
    )
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def removals(as_json: bool) -> None:
    """List the ways to remove pixels that --removal and --removals know."""
    print_table([{"removal": name, "what happens to hidden pixels": _description(name)} for name in REMOVALS], as_json)


def _description(name: str) -> str:
    fallback = (inspect.getdoc(REMOVALS[name]) or "").split("\n")[0]
    return REMOVAL_DESCRIPTIONS.get(name, fallback)
