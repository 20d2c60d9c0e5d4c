"""``lm-plugins calibrate``, and ``--calibration`` of the other commands."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import lm_plugins as lm
from tests.cli.conftest import MODEL


@pytest.fixture
def others(tmp_path):
    folder = tmp_path / "others"
    folder.mkdir()
    random = np.random.default_rng(1)
    for i in range(21):
        array = random.integers(0, 90, (32, 40, 3), np.uint8)
        array[..., i % 3] += 120
        Image.fromarray(array).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def calibration(lm_plugins_command, others, tmp_path):
    file = tmp_path / "new" / "c.safetensors"
    code, out, _ = lm_plugins_command("calibrate", "--model", MODEL, "--images", others, "--out", file)
    assert code == 0
    assert "1 layers fitted on 21 images" in out
    return file


def test_the_file_belongs_to_the_model(calibration):
    from tests.cli.small_models import classifier

    read = lm.Calibration.load(calibration)
    assert read.images.count == len(read.settings["files"]) == 21
    assert lm.LayerMasked(classifier(), calibration=read).calibration is read


@pytest.mark.filterwarnings("default::lm_plugins.errors.CalibrationWarning")
def test_json_and_limit(lm_plugins_command, others, tmp_path):
    file = tmp_path / "c.safetensors"
    code, out, err = lm_plugins_command(
        "calibrate", "--model", MODEL, "--images", others, "--limit", "5", "--out", file, "--json"
    )
    assert code == 0, err
    assert json.loads(out) == {"model": MODEL, "images": 5, "layers": 1, "skipped": {}, "file": str(file)}
    assert "rests on 5 images" in err


def test_explain_takes_it_in_place_of_the_default(lm_plugins_command, calibration, photos, tmp_path):
    def removals(*arguments):
        code, out, err = lm_plugins_command(
            "explain", photos / "red.png", "--model", MODEL, "--features", "grid:8", "--out", tmp_path / "e", "--json",
            "--figures", "png", "--calibration", calibration, *arguments,
        )  # fmt: skip
        assert code == 0, err
        return [one["removal"] for one in json.loads(out)["images"][0]["explanations"]]

    assert removals() == ["layer_masking_calibrated"]
    assert removals("--compare", "layer_masking,grey") == ["layer_masking", "grey", "layer_masking_calibrated"]
    assert removals("--removal", "grey") == ["grey", "layer_masking_calibrated"]


def test_an_audit_leaves_out_what_it_was_fitted_on(lm_plugins_command, calibration, photos, others, tmp_path):
    for one in list(others.iterdir())[:4]:
        (photos / f"copy_{one.name}").write_bytes(one.read_bytes())
    audit = ("audit", "--model", MODEL, "--quick", "--calibration", calibration, "--out", tmp_path / "a")
    code, _, err = lm_plugins_command(*audit, "--images", photos)
    assert code == 0, err
    assert "left out 4 images that the calibration was fitted on" in err
    table = pd.read_parquet(tmp_path / "a" / "table.parquet")
    assert set(table["image"]) == {"red.png", "green.jpg", "blue.png"}
    assert "layer_masking_calibrated" in set(table["removal"])
    code, _, err = lm_plugins_command(*audit, "--images", others, "--no-resume")
    assert code == 2
    assert "fitted on all 21 images" in err


def test_another_model_and_other_files_are_refused(lm_plugins_command, calibration, photos, tmp_path):
    other = "efficientnet-lite0"
    code, _, err = lm_plugins_command(
        "explain", photos, "--model", other, "--calibration", calibration, "--out", tmp_path / "e"
    )
    assert code == 2
    assert "belongs to another model" in err
    calibration.write_text("nothing")
    code, _, err = lm_plugins_command(
        "explain", photos, "--model", MODEL, "--calibration", calibration, "--out", tmp_path / "e"
    )
    assert code == 2
    assert "holds no calibration" in err
