"""``lm-plugins train``, and the config files that come with it."""

import json
from importlib.resources import files

import click
import pytest
import torch

from lm_plugins.cli.exit_codes import ExitCode
from lm_plugins.cli.program import program
from lm_plugins.training.recipe import Recipe
from tests.training.test_recipes import pytestmark  # noqa: F401  Lightning's remarks about small runs

CONFIGS = sorted((one for one in files("lm_plugins.training").joinpath("configs").iterdir()), key=lambda one: one.name)
TOY = "tests.training.toy_data"
SMALL = (
    "--data", f"{TOY}:squares", "--classes", 3, "--model", f"{TOY}:small_network", "--layer", 3, "--size", 16,
    "--epochs", 1, "--batch-size", 16, "--mean", "0.5", "--accelerator", "cpu", "--validation", 0.2,
)  # fmt: skip


@pytest.mark.parametrize("method", ["edda", "exconb"])
def test_train(lm_plugins_command, tmp_path, method):
    code, out, err = lm_plugins_command("train", "--method", method, *SMALL, "--out", tmp_path, "--json")
    assert code == 0, err
    printed = json.loads(out)
    assert 0 <= printed["validation_accuracy"] <= 1
    assert torch.load(printed["model"], weights_only=True)
    assert json.loads((tmp_path / "recipe.json").read_text())["mean"] == [0.5] * 3


def test_an_interrupted_run_of_other_options_is_kept(lm_plugins_command, tmp_path):
    assert lm_plugins_command("train", "--method", "ce", *SMALL, "--out", tmp_path)[0] == 0
    before = (tmp_path / "model.pt").read_bytes()
    code, _, err = lm_plugins_command("train", "--method", "ce", *SMALL, "--seed", 1, "--out", tmp_path)
    assert code == ExitCode.USAGE
    assert "--seed 0, not 1" in err
    assert (tmp_path / "model.pt").read_bytes() == before


@pytest.mark.parametrize("config", CONFIGS, ids=lambda one: one.name)
def test_configs(config, monkeypatch, lm_plugins_command, tmp_path):
    asked = {}

    def train(recipe, out, **options):
        asked[str(out)] = recipe
        raise click.ClickException("far enough")

    monkeypatch.setattr("lm_plugins.training.recipe.train", train)
    monkeypatch.chdir(tmp_path)
    _, _, err = lm_plugins_command("train", "--config", config)
    assert "far enough" in err
    (recipe,) = asked.values()
    assert isinstance(recipe, Recipe)
    assert config.name.startswith(recipe.method)


def test_the_published_config():
    """The numbers of the authors' command, and a layer that their network has."""
    import timm

    (config,) = (one for one in CONFIGS if one.name == "exconb_cifar100.toml")
    said = config.read_text()
    for line in ("epochs = 200", "batch_size = 256", "learning_rate = 0.5", "temperature = 0.1", "start = 49"):
        assert line in said
    with torch.device("meta"):
        assert "layer2.3.conv3" in dict(timm.create_model("resnet50").named_modules())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--method", "other"), "'other' is not one of"),
        (("--threshold", "1"), "threshold"),
        (("--removal", "gray"), "gray"),
        (("--data", "/nowhere"), "no folder"),
        (("--layer", "missing"), "no layer 'missing'"),
        (("--classes", "2"), "labels are 0 .. 1"),
    ],
)
def test_mistakes(lm_plugins_command, tmp_path, arguments, words):
    code, _, err = lm_plugins_command("train", "--method", "edda", *SMALL, "--out", tmp_path / "new", *arguments)
    assert code not in (0, ExitCode.FAILED), err
    assert words in " ".join(err.split())


def test_the_command_is_the_recipe():
    """Every option of a recipe is an option of the command, with the same default."""
    given = ["--method", "ce", "--data", "squares", "--classes", "3"]
    with program.commands["train"].make_context("train", given) as context:
        said = dict(context.params)
    for name in ("accelerator", "devices", "logger", "resume", "out", "as_json"):
        said.pop(name)
    assert Recipe(**said) == Recipe("ce", "squares", 3)
