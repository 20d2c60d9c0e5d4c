"""``lm-plugins explain --images``: a data set."""

import json

import pytest

from lm_plugins import scale
from lm_plugins.cli.exit_codes import ExitCode
from tests.cli.conftest import MODEL

SMALL = ("--model", MODEL, "--features", "grid:8", "--samples", 60)


def test_a_folder(lm_plugins_command, photos, tmp_path):
    code, out, err = lm_plugins_command(
        "explain", "--images", photos, *SMALL, "--method", "kernelshap", "--out", tmp_path / "out", "--json"
    )
    assert code == 0, err
    assert json.loads(out) == {"images": 3, "failed": {}, "folder": str(tmp_path / "out")}
    results = scale.open_results(tmp_path / "out")
    code, out, _ = lm_plugins_command(
        "explain", photos / "red.png", *SMALL, "--method", "occlusion", "--out", tmp_path / "one", "--json"
    )
    target = json.loads(out)["images"][0]["target"]
    row = results.table[results.table["key"] == "red.png"].iloc[0]
    assert target == ("red", "green", "blue")[row.target]
    # Goes on, and prints a table.
    code, out, _ = lm_plugins_command(
        "explain", "--images", photos, *SMALL, "--method", "kernelshap", "--out", tmp_path / "out"
    )
    assert code == 0
    assert "concentration" in out
    assert "3 images" in out


def test_bad_images(lm_plugins_command, photos, tmp_path):
    (photos / "bad.png").write_bytes(b"no")
    code, out, err = lm_plugins_command("explain", "--images", photos, *SMALL, "--out", tmp_path / "out", "--json")
    assert code == 0
    assert list(json.loads(out)["failed"]) == ["bad.png"]
    assert "1 of 4 images" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("photo.png", "--images", "photos"), ExitCode.USAGE, "not both"),
        ((), ExitCode.USAGE, "not both"),
        (("--images", "nowhere"), ExitCode.INPUT, "there is no nowhere"),
        (("--images", "photos", "--compare", "grey,blur"), ExitCode.USAGE, "one removal"),
        (("--images", "photos", "--samples", "3", "--method", "kernelshap"), ExitCode.USAGE, "--samples 3 draws fewer"),
    ],
)
def test_mistakes(lm_plugins_command, photos, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.png").write_bytes((photos / "red.png").read_bytes())
    found, _, err = lm_plugins_command(
        "explain", "--model", MODEL, "--features", "grid:8", "--out", tmp_path / "o", *arguments
    )
    assert words in " ".join(err.split()), err
    assert found == code


def test_a_gallery(lm_plugins_command, photos, tmp_path):
    code, out, err = lm_plugins_command(
        "explain",
        "--images",
        photos,
        *SMALL,
        "--method",
        "featureablation",
        "--gallery",
        "--out",
        tmp_path / "out",
        "--json",
    )
    assert code == 0, err
    assert "red" in (tmp_path / "out" / "gallery" / "index.html").read_text()
    assert json.loads(out)["gallery"].endswith("index.html")


def test_a_config_file(lm_plugins_command, photos, tmp_path):
    (tmp_path / "run.toml").write_text(f"[explain]\nsource = '{photos}'\nshard = 2\nmethod = 'featureablation'\n")
    code, _, err = lm_plugins_command(
        "explain", "--config", tmp_path / "run.toml", *SMALL[:4], "--out", tmp_path / "out"
    )
    assert code == 0, err
    assert scale.open_results(tmp_path / "out").manifest["shard"] == 2
