"""The commands in the README, the docs and the help exist, with every option that they are shown with."""

import re
import shlex
from pathlib import Path

import click
import pytest

from lm_plugins.cli.program import program

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands():
    for page in PAGES:
        blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
        for line in "\n".join(blocks).splitlines():
            if line.startswith("lm-plugins "):
                yield page.name, line
    for name, command in program.commands.items():
        for line in (command.epilog or "").splitlines():
            if line.strip().startswith("lm-plugins "):
                yield name, line.strip()


@pytest.mark.parametrize(("place", "line"), list(commands()))
def test_a_command_parses(place, line):
    _, name, *arguments = shlex.split(line.split("#")[0].split(">")[0])
    command = program.commands[name]
    with click.Context(command, info_name=name) as context:
        values, rest, _ = command.make_parser(context).parse_args(arguments)
    assert rest == []
    assert any(value for value in values.values()) or not arguments


def test_every_command_is_shown_somewhere():
    assert {line.split()[1] for _, line in commands()} == set(program.commands)
    assert "cli.md" in {place for place, _ in commands()}
