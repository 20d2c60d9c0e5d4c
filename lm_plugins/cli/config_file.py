"""Options from a TOML file, and the file that repeats a run."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from lm_plugins.errors import MissingDependencyError

__all__ = ["config_option", "config_text"]

Command = TypeVar("Command", bound=Callable[..., Any])


def config_option() -> Callable[[Command], Command]:
    """The option ``--config FILE``: the table of the file that is named like the command gives its defaults."""
    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_read,
        help="TOML file with options in a table named like the command; the command line has precedence.",
    )


def _read(context: click.Context, _: click.Parameter, file: Path | None) -> None:
    if file is None:
        return
    try:
        content = _toml().loads(file.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{file.name} is no TOML file: {error}") from error
    command = context.info_name or ""
    table = content.get(command)
    if not isinstance(table, dict):
        raise click.BadParameter(f"{file.name} has no table [{command}].")
    known = {one.name for one in context.command.params if one.name not in ("config", "help")}
    given = {key.replace("-", "_"): value for key, value in table.items()}
    unknown = [key for key in given if key not in known]
    if unknown:
        names = ", ".join(sorted(name for name in known if name))
        raise click.BadParameter(f"{file.name}: [{command}] knows no {', '.join(unknown)}; there are {names}.")
    context.default_map = {key: _as_text(value) for key, value in given.items()}


def _toml() -> Any:
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib
    try:
        import tomli  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise MissingDependencyError("--config needs tomli on Python 3.10: pip install 'lm_plugins[cli]'.") from error
    return tomli


def _as_text(value: Any) -> Any:
    """A list as the command line spells it; other values as they are."""
    return ",".join(str(one) for one in value) if isinstance(value, list) else value


def config_text(command: str, options: Mapping[str, Any]) -> str:
    """A TOML file that repeats a run.

    Args:
        command: Its name.
        options: Name and value; None is left out.

    Returns:
        The text of the file.

    Example:
        >>> from lm_plugins.cli.config_file import config_text
        >>> print(config_text("audit", {"model": "efficientnet-lite0", "limit": 8, "labels": None}))
        [audit]
        model = "efficientnet-lite0"
        limit = 8
        <BLANKLINE>
    """
    lines = [f"[{command}]"]
    for name, value in options.items():
        if value is None:
            continue
        plain = list(value) if isinstance(value, tuple) else value
        plain = plain if isinstance(plain, (bool, int, float, list)) else str(plain)
        lines.append(f"{name} = {json.dumps(plain)}")  # a JSON string, number, bool or list of them is TOML, too
    return "\n".join(lines) + "\n"
