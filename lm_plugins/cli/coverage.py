"""``lm-plugins coverage MODEL``: whether a model can be layer-masked, and what is missing if not."""

from typing import Any

import click
import torch

import lm_plugins
from lm_plugins.cli.exit_codes import ExitCode
from lm_plugins.cli.output import examples, print_json
from lm_plugins.cli.parameters import loaded, model_options
from lm_plugins.cli.rule_skeleton import rule_skeleton

__all__ = ["coverage"]


@click.command(
    epilog=examples(
        "lm-plugins coverage torchvision:convnext_tiny",
        "lm-plugins coverage my_package.models:small_net --size 64",
        "lm-plugins coverage timm:coat_lite_tiny --skeleton > my_rules.py",
    )
)
@click.argument("model_name", metavar="MODEL", required=False)
@model_options
@click.option("--skeleton", is_flag=True, help="Print rules for what is missing, ready to edit.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def coverage(model_name: str | None, skeleton: bool, as_json: bool, **options: Any) -> int:
    """List the torch functions that a model calls, and those that have no masking rule.

    The architecture suffices: no weights are fetched. Exit code 1 if something is missing.
    """
    if model_name is not None:
        options["model"] = model_name
    model, preprocessing = loaded(options, pretrained=False)
    x = torch.zeros(1, len(preprocessing.mean), preprocessing.size, preprocessing.size, device=options["device"])
    found = lm_plugins.coverage(model.module, x)
    if as_json:
        print_json(
            {
                "model": model.name,
                "covered": bool(found),
                "supported": found.supported,
                "missing": found.missing,
                "reasons": found.reasons,
                "stopped": found.stopped,
            }
        )
    elif skeleton:
        click.echo(rule_skeleton(found) if found.missing else "# Nothing is missing: no rule is needed.")
    else:
        click.echo(str(found))
    return ExitCode.DONE if found else ExitCode.NOT_COVERED
