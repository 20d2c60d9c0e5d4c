"""Options from a TOML file, and the file that repeats a run."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from lm_plugins.cli.parameters import NUMBERS, Names
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
        content = _toml().loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise click.BadParameter(f"{file.name} is no TOML file in UTF-8: {error}") from error
    command = context.info_name or ""
    table = content.get(command)
    if not isinstance(table, dict):
        raise click.BadParameter(f"{file.name} has no table [{command}].")
    known: dict[str, click.Parameter] = {}
    for one in context.command.params:
        if one.name not in ("config", "help"):
            # `explain` calls two things images: its photographs, and the option for a data set, which is `source` here.
            shown = _shown_name(one)
            known[str(one.name) if shown in known else shown] = one
    given: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known:
            raise click.BadParameter(f"{file.name}: [{command}] knows no {key}; there are {', '.join(sorted(known))}.")
        option = known[name]
        if option.name in given:
            raise click.BadParameter(f"{file.name}: [{command}] says {name} twice.")
        given[str(option.name)] = _checked(option, value, f"{file.name}: [{command}] {key}")
    context.default_map = given


def _shown_name(option: click.Parameter) -> str:
    """The name that the command line shows: ``from``, not that of the variable behind it."""
    return option.opts[0].lstrip("-").replace("-", "_")


def _checked(option: click.Parameter, value: Any, where: str) -> Any:
    """A value as the command line spells it, if it is of the option's type: 2.5 is no number of images."""
    listed = value if isinstance(value, list) else [value]
    if getattr(option, "is_flag", False):
        expected, fits = "true or false", isinstance(value, bool)
    elif isinstance(option.type, click.types.IntParamType):
        expected, fits = "a whole number", type(value) is int
    elif isinstance(option.type, click.types.FloatParamType):
        expected, fits = "a number", type(value) in (int, float)
    elif option.type is NUMBERS:
        expected, fits = "a number or a list of numbers", all(type(one) in (int, float) for one in listed)
    elif isinstance(option.type, Names) or option.nargs == -1:
        expected, fits = "a text in quotes or a list of such", all(isinstance(one, str) for one in listed)
    else:
        expected, fits = "a text in quotes", isinstance(value, str)
    if not fits or listed == []:
        raise click.BadParameter(f"{where} is {expected}; got {value!r}.")
    if option.nargs == -1:
        return listed
    return ",".join(str(one) for one in value) if isinstance(value, list) else value


def _toml() -> Any:
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib
    try:
        import tomli  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise MissingDependencyError("--config needs tomli on Python 3.10: pip install 'lm_plugins[cli]'.") from error
    return tomli


def config_text(command: str, options: Mapping[str, Any]) -> str:
    """A TOML file that repeats a run.

    Args:
        command: Its name.
        options: Name and value; None is left out. A path that is not UTF-8 cannot be in a TOML file: a comment says so.

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
        try:
            # A JSON string, number, bool or list of them is TOML, too, but for the one control character that JSON allows.
            text = json.dumps(plain, ensure_ascii=False).replace("\x7f", "\\u007f")
            text.encode()
        except UnicodeEncodeError:
            lines.append(f"# {name} is not UTF-8, which TOML cannot hold: give --{name} on the command line.")
        else:
            lines.append(f"{name} = {text}")
    return "\n".join(lines) + "\n"
