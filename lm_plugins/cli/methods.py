"""``lm-plugins methods``: names for ``--method``."""

import click

from lm_plugins.cli.output import examples, print_table
from lm_plugins.scale.methods import METHODS

__all__ = ["methods"]


@click.command(
    epilog=examples(
        "lm-plugins methods",
    )
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def methods(as_json: bool) -> None:
    """List the methods that explain images."""
    print_table(
        [
            {
                "method": name,
                "what it does": method.description,
                "from": method.source,
                "installed": "yes" if method.is_available() else f"no: {method.install}",
            }
            for name, method in METHODS.items()
        ],
        as_json,
    )
