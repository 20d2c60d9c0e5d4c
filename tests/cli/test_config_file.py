import json
import os
import sys

import pytest

from lm_plugins.cli.config_file import config_text
from lm_plugins.cli.exit_codes import ExitCode

MODEL = "tests.cli.small_models:classifier"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[audit\n", "is no TOML file"),
        ("[explain]\n", "has no table"),
        ("[audit]\ncolour = 3\nimages = 'x'\n", "knows no colour; there are .*batch_size"),
        ("[audit]\nremovals = ['grey', 'gray']\n", "no removal is called 'gray'"),
        ("[audit]\nimages = 'does-not-exist'\n", "does-not-exist"),
    ],
)
def test_mistakes_in_a_config_file(lm_plugins_command, tmp_path, text, message):
    import re

    (tmp_path / "run.toml").write_text(text)
    code, _, err = lm_plugins_command("audit", "--config", tmp_path / "run.toml")
    assert code == ExitCode.USAGE
    assert re.search(message, " ".join(err.split())), err


def test_the_command_line_has_precedence(lm_plugins_command, tmp_path):
    (tmp_path / "audit.toml").write_text("[audit]\nremovals = ['gray']\n")
    code, _, err = lm_plugins_command("audit", "--config", tmp_path / "audit.toml", "--removals", "grey")
    assert code == ExitCode.USAGE
    assert "--images DIR" in err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("limit = 2.5", "limit is a whole number; got 2.5"),
        ("limit = true", "limit is a whole number; got True"),
        ("limit = []", "limit is a whole number"),
        ("seed = 1979-05-27", "seed is a whole number; got datetime.date"),
        ("batch-size = 'x'", "batch-size is a whole number"),
        ("images = 3", "images is a text in quotes; got 3"),
        ("images = 1979-05-27", "images is a text in quotes"),
        ("model = ['a', 'b']", "model is a text in quotes"),
        ("device = 3", "device is a text in quotes"),
        ("removals = 3", "removals is a text in quotes or a list of such"),
        ("removals = ['grey', 2]", "removals is a text in quotes or a list of such"),
        ("quick = 'maybe'", "quick is true or false; got 'maybe'"),
        ("quick = 1", "quick is true or false; got 1"),
        ("fractions = true", "fractions is a number or a list of numbers; got True"),
        ("fractions = [nan]", "'nan' is not a number"),
        ("mean = [0.5, 'x']", "mean is a number or a list of numbers"),
        ("mean = {a = 1}", "mean is a number or a list of numbers"),
        ("fractions = []", "fractions is a number or a list of numbers; got .."),
        ("batch-size = 1\nbatch_size = 2", "says batch_size twice"),
        ("source = '.'", "knows no source; there are .*from"),
        ("as_json = true", "knows no as_json; there are .*json"),
    ],
)
def test_values_of_another_type_are_refused(lm_plugins_command, photos, tmp_path, line, expected):
    import re

    (tmp_path / "run.toml").write_text(f"[audit]\n{line}\n")
    more = [] if line.startswith("images") else ["--images", photos]
    code, _, err = lm_plugins_command("audit", *more, "--out", tmp_path / "out", "--config", tmp_path / "run.toml")
    assert code == ExitCode.USAGE
    assert re.search(expected, " ".join(err.replace("\n", " ").split())), err
    assert not (tmp_path / "out").exists()


def test_the_names_of_the_command_line_and_a_byte_order_mark_are_taken(lm_plugins_command, photos, tmp_path):
    few = ["--features", "patches", "--orders", "random", "--fractions", "0.5", "--measures", "missingness"]
    out = tmp_path / "out"
    assert lm_plugins_command(
        "audit", "--images", photos, "--model", MODEL, "--removals", "grey", "--out", out, *few
    )[0] == ExitCode.DONE  # fmt: skip
    (tmp_path / "run.toml").write_bytes(b"\xef\xbb\xbf" + f"[audit]\nfrom = '{out}'\njson = true\n".encode())
    code, text, err = lm_plugins_command("audit", "--config", tmp_path / "run.toml")
    assert code == ExitCode.DONE, err
    assert json.loads(text)["images"] == 3


def test_photographs_of_explain_come_from_a_file_too(lm_plugins_command, photos, tmp_path):
    images = [str(photos / name) for name in ("red.png", "blue.png")]
    (tmp_path / "run.toml").write_text(
        f"[explain]\nimages = {json.dumps(images)}\nmodel = '{MODEL}'\nremoval = 'grey'\nfigures = ['png']\n"
        f"features = 'grid:16'\nout = '{tmp_path / 'out'}'\n"
    )
    code, text, err = lm_plugins_command("explain", "--config", tmp_path / "run.toml")
    assert code == ExitCode.DONE, err
    assert [line.split(":")[0] for line in text.splitlines()] == ["red.png", "blue.png", "report"]


@pytest.mark.parametrize("name", ["few\U0001f600", "q\"u\\o'te", "del\x7f", "line\nbreak", "tab\t", "\u202eabc"])
def test_every_path_that_is_text_is_read_back_as_it_was(name):
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    assert tomllib.loads(config_text("audit", {"images": name}))["audit"]["images"] == name


def test_a_path_that_is_no_text_is_named_in_a_comment():
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    text = config_text("audit", {"images": os.fsdecode(b"caf\xe9"), "limit": 3})
    assert tomllib.loads(text)["audit"] == {"limit": 3}
    assert "# images is not UTF-8, which TOML cannot hold: give --images on the command line." in text
