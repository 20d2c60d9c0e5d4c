"""The commands that list, the exit codes, and the help."""

import json
import subprocess
import sys

import click
import pytest
import torch

from lm_plugins.cli import program as program_module
from lm_plugins.cli.exit_codes import ExitCode
from lm_plugins.cli.program import program, run
from lm_plugins.cli.removals import REMOVAL_DESCRIPTIONS
from lm_plugins.removal import REMOVALS
from lm_plugins.scale.methods import METHODS


def test_models(lm_plugins_command):
    code, out, _ = lm_plugins_command("models", "--source", "torchvision", "--contains", "resnet18")
    assert (code, out.split()) == (ExitCode.DONE, ["torchvision:resnet18", "torchvision"])
    _, out, _ = lm_plugins_command("models", "--source", "packaged", "--json")
    assert {"model": "efficientnet-lite0", "source": "packaged"} in json.loads(out)


def test_methods(lm_plugins_command):
    code, out, _ = lm_plugins_command("methods", "--json")
    assert code == ExitCode.DONE
    assert [row["method"] for row in json.loads(out)] == list(METHODS)
    assert {row["method"]: row["installed"] for row in json.loads(out)}["lime"] == "yes"


def test_removals_are_all_described(lm_plugins_command):
    code, out, _ = lm_plugins_command("removals")
    assert code == ExitCode.DONE
    assert [line.split()[0] for line in out.splitlines()] == list(REMOVALS)
    assert set(REMOVAL_DESCRIPTIONS) == set(REMOVALS)


def test_coverage_of_a_covered_model(lm_plugins_command):
    code, out, _ = lm_plugins_command("coverage", "tests.cli.small_models:classifier")
    assert code == ExitCode.DONE
    assert "torch.nn.functional.conv2d, called in '0 (Conv2d)'" in out
    _, out, _ = lm_plugins_command("coverage", "tests.cli.small_models:classifier", "--json")
    assert json.loads(out)["covered"] is True


def test_coverage_of_a_model_with_something_missing(lm_plugins_command):
    code, out, _ = lm_plugins_command("coverage", "--model", "tests.cli.small_models:uncovered")
    assert code == ExitCode.NOT_COVERED == 1
    assert "Missing in this model:\n  torch.erfinv, called in '(the model) (Uncovered)'" in out


def test_a_skeleton_registers_rules_and_says_that_they_are_to_be_edited(lm_plugins_command):
    import lm_plugins as lm
    from tests.cli.small_models import Uncovered

    code, out, _ = lm_plugins_command("coverage", "tests.cli.small_models:uncovered", "--skeleton")
    assert code == ExitCode.NOT_COVERED
    assert "# Called in (the model) (Uncovered)." in out
    compile(out, "rules.py", "exec")
    x, visible = torch.zeros(1, 3, 32, 32), torch.eye(32) == 1

    def remove():
        lm.unregister_rule(torch.erfinv, torch.Tensor.erfinv, torch.Tensor.erfinv_, torch.special.erfinv)

    exec(out, {})
    try:
        with pytest.raises(NotImplementedError, match=r"edit the rule of torch\.erfinv"):
            lm.LayerMasked(Uncovered().eval())(x, visible)
        remove()
        raises = 'raise NotImplementedError("edit the rule of torch.erfinv")'
        exec(out.replace(raises, "return input.like(torch.erfinv(input.values))"), {})
        assert lm.LayerMasked(Uncovered().eval())(x, visible).shape == (1, 3)
    finally:
        remove()


def test_a_skeleton_extends_rules_that_do_not_cover_a_call():
    from lm_plugins.cli.rule_skeleton import rule_skeleton
    from lm_plugins.masking.coverage import Coverage
    from lm_plugins.masking.registry import register_rule, registered_functions

    names = ("torch.flatten", "torch.Tensor.flatten")
    found = Coverage(missing={name: ["layer (Layer)"] for name in names}, reasons=dict.fromkeys(names, "of a\nreason"))
    before = registered_functions()
    module = {}
    try:
        exec(rule_skeleton(found), module)
        assert module["flatten_before"] is before[torch.flatten]
        assert module["flatten_2_before"] is before[torch.Tensor.flatten]
        assert registered_functions()[torch.flatten] is module["flatten"]
    finally:
        for function in (torch.flatten, torch.Tensor.flatten):
            register_rule(function, overwrite=True)(before[function])


@pytest.mark.parametrize("name", [None, *program.commands])
def test_every_command_has_help_with_examples(lm_plugins_command, name):
    code, out, _ = lm_plugins_command(*([name] if name else []), "--help")
    assert code == ExitCode.DONE
    assert "Example" in out
    assert f"\n    lm-plugins {name or 'audit'}" in out
    assert "\\b" not in out


def test_every_exit_code_is_in_the_help(lm_plugins_command):
    _, out, _ = lm_plugins_command("--help")
    for code in ExitCode:
        assert f"{code.value:<4} {code.meaning}"[:60] in out


def test_unknown_commands_and_options(lm_plugins_command):
    code, _, err = lm_plugins_command("audti")
    assert (code, "No such command 'audti'" in err) == (ExitCode.USAGE, True)
    code, _, err = lm_plugins_command("removals", "--colour")
    assert (code, "No such option" in err) == (ExitCode.USAGE, True)


def test_something_unexpected_has_a_code_of_its_own(monkeypatch, capsys):
    @click.command()
    def broken():
        raise ZeroDivisionError("never")

    monkeypatch.setitem(program_module.program.commands, "broken", broken)
    assert run(["broken"]) == ExitCode.FAILED
    assert "ZeroDivisionError: never" in capsys.readouterr().err


def test_without_click_it_says_what_to_install():
    code = "import sys; sys.modules['click'] = None\nfrom lm_plugins.cli import main\nmain()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "pip install 'lm_plugins[cli]'" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_error():
    command = f"set -o pipefail; {sys.executable} -m lm_plugins.cli models --source torchvision | head -1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("torchvision:")


def test_it_runs_as_a_module():
    result = subprocess.run(
        [sys.executable, "-m", "lm_plugins.cli", "--version"], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout.split()[0]) == (0, "lm-plugins,")
