import errno
import json
import re
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from lm_plugins.audit import deletion
from lm_plugins.captum import FeatureAblation
from lm_plugins.cli.exit_codes import ExitCode
from lm_plugins.cli.loading_images import find_images
from lm_plugins.cli.parameters import built_removals
from lm_plugins.cli.preprocessing import Preprocessing
from lm_plugins.features import grid
from lm_plugins.removal import as_removal
from lm_plugins.scale.decoding import read_image
from lm_plugins.scale.methods import METHODS
from tests.cli.small_models import Classifier

MODEL = "tests.cli.small_models:classifier"


@pytest.fixture
def explain(lm_plugins_command, photos, tmp_path):
    """Explain the red photograph with small patches."""

    def run(*more, images=None):
        images = [photos / "red.png"] if images is None else images
        return lm_plugins_command(
            "explain", *images, "--model", MODEL, "--out", tmp_path / "out", "--features", "grid:16", "--samples", "20",
            "--figures", "png", *more,
        )  # fmt: skip

    return run


def test_what_is_written_is_what_the_method_returns(explain, tmp_path, photos):
    code, out, _ = explain("--method", "featureablation", "--compare", "grey,black", "--figures", "png,svg", "--json")
    assert code == ExitCode.DONE
    answer = json.loads(out)
    assert {one.name for one in (tmp_path / "out").iterdir()} == {
        "001_red.npz", "001_red.png", "001_red.svg", "explanations.json", "report.html",
    }  # fmt: skip
    (record,) = answer["images"]
    assert (record["image"], record["target"]) == ("red.png", "red")
    x = find_images([photos / "red.png"], Preprocessing(32, 32, (0.5,) * 3, (0.25,) * 3))[0][None]
    model = Classifier().eval()
    expected = FeatureAblation(model, "grey", lambda logits: logits.softmax(1)).attribute(
        x, feature_mask=grid((32, 32), 16)[None, None], target=0
    )
    with np.load(tmp_path / "out" / "001_red.npz") as arrays:
        assert torch.equal(torch.from_numpy(arrays["attribution_grey"]), expected[0, 0])
        assert arrays["attribution_black"].shape == (32, 32)
        assert arrays["pixels"].shape == (3, 32, 32)
        assert np.array_equal(arrays["feature_mask"], grid((32, 32), 16))
    left = record["explanations"][0]["left"]
    assert left["0"] == pytest.approx(model(x).softmax(1)[0, 0].detach().item())
    assert list(left) == [f"{step / 10:g}" for step in range(11)]


@pytest.mark.parametrize("method", ["occlusion", "featureablation", "kernelshap", "lime", "partition"])
def test_every_method_finds_the_half_that_matters(explain, tmp_path, method):
    array = np.full((32, 32, 3), 127, np.uint8)
    array[:, 16:] = (255, 0, 0)
    Image.fromarray(array).save(tmp_path / "right.png")
    code, _, err = explain("--method", method, "--removal", "grey", images=[tmp_path / "right.png"])
    assert code == ExitCode.DONE, err
    with np.load(tmp_path / "out" / "001_right.npz") as arrays:
        attribution = arrays["attribution_grey"]
    assert attribution[:, 16:].mean() > abs(attribution[:, :16].mean()) + 0.01


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("occlusion", "captum", "captum"), ("lime", "lime", "lime"), ("partition", "shap", "shap")],
)
def test_a_method_that_is_not_installed_says_what_to_install(explain, monkeypatch, name, package, extra):
    for module in [one for one in sys.modules if one.split(".")[:2] == ["lm_plugins", extra]]:
        monkeypatch.delitem(sys.modules, module)
    for module in [one for one in sys.modules if one.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, module, None)  # as if it could not be found
    monkeypatch.setitem(sys.modules, package, None)
    assert not METHODS[name].is_available()
    code, _, err = explain("--method", name)
    assert code == ExitCode.MISSING_PACKAGE
    assert f"pip install 'lm_plugins[{extra}]'" in err


@pytest.mark.parametrize("name", ["rise", "sise", "adasise", "integrated-gradcam"])
def test_methods_of_our_own(explain, tmp_path, name):
    more = [] if name == "rise" else ["--layer", "0"]
    code, _, err = explain("--method", name, "--removal", "grey", *more)
    assert code == ExitCode.DONE, err
    with np.load(tmp_path / "out" / "001_red.npz") as arrays:
        assert arrays["attribution_grey"].shape == (32, 32)
        assert np.isfinite(arrays["attribution_grey"]).all()


def test_a_target_and_what_the_model_says_instead(explain, tmp_path):
    code, out, _ = explain("--target", "2", "--of", "output", "--removal", "grey")
    assert code == ExitCode.DONE
    assert out.startswith("red.png: blue (")
    report = (tmp_path / "out" / "report.html").read_text()
    assert "the model says red" in report


def test_the_same_seed_gives_the_same_maps_and_leaves_the_random_state_alone(explain, tmp_path):
    maps = []
    for _ in range(2):
        before = torch.get_rng_state()
        torch.rand(3)
        explain("--method", "kernelshap", "--removal", "grey")
        torch.set_rng_state(before)
        with np.load(tmp_path / "out" / "001_red.npz") as arrays:
            maps.append(arrays["attribution_grey"])
    assert np.array_equal(*maps)


def test_odd_names_become_plain_file_names_and_escaped_text(explain, tmp_path):
    name = "<b>bold</b> & co.png".replace("/", "_")
    Image.new("RGB", (32, 32), "red").save(tmp_path / name)
    (tmp_path / "bad <i>.png").write_text("no image")
    code, _, err = explain("--removal", "grey", images=[tmp_path / name, tmp_path / "bad <i>.png"])
    assert code == ExitCode.DONE
    assert "skipped 1 of 2 images:\n  bad <i>.png: no image" in err
    assert (tmp_path / "out" / "001_b_bold_b_co.npz").exists()
    report = (tmp_path / "out" / "report.html").read_text()
    assert "<b>" not in report
    assert "<i>" not in report
    assert "&lt;b&gt;bold" in report


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--method", "magic"], "no method is called 'magic'; there are occlusion, featureablation"),
        (["--removal", "gray"], "no removal is called 'gray'.* Did you mean grey"),
        (["--compare", "grey,grau"], "no removal is called 'grau'"),
        (["--target", "7"], "target is 7, the model has 3 outputs: choose 0 to 2"),
        (["--features", "hexagons:3"], "neither grid:N"),
        (["--features", "grid:0"], "neither grid:N"),
        (["--features", "slic:40"], "occlusion slides a square window: give --features grid:N, not slic:40"),
        (["--figures", "bmp"], "no format is called 'bmp'"),
        (["--model", "tests.cli.small_models:spatial"], r"returns a tensor \(N, classes\)"),
        (["--model", "tests.cli.small_models:Undefined"], "the model returns NaN"),
        (["--features", "grid:\u00b2"], "neither grid:N"),
        (["--features", "grid:99999999999999999999"], "neither grid:N"),
        (["--mean", "nan"], "'nan' is not a number"),
        (["--mean", "1_0"], "'1_0' is not a number"),
        (["--std", "inf,1,1"], "'inf,1,1' is not a number"),
        (["--device", "meta"], "device 'meta' cannot be used"),
        (["--device", ""], "device '' cannot be used"),
        (["--seed", "-1"], "-1 is not in the range"),
        (["--method", "lime", "--samples", "5"], "--samples 5 draws fewer coalitions than.* features .4.*--samples 6"),
        (["--method", "kernelshap", "--samples", "1"], "--samples 1 draws fewer coalitions"),
        (["--seed", str(10**30)], "is not in the range"),
    ],
)
def test_wrong_options(explain, arguments, text):
    import re

    code, _, err = explain(*arguments)
    assert code == ExitCode.USAGE
    assert re.search(text, " ".join(err.split())), err


def test_a_model_that_is_not_covered(explain):
    code, _, err = explain("--model", "tests.cli.small_models:uncovered")
    assert code == ExitCode.NOT_COVERED
    assert "torch.erfinv, called in" in err
    assert "(Uncovered)" in err
    assert "choose another removal" in err
    assert explain("--model", "tests.cli.small_models:uncovered", "--removal", "grey")[0] == ExitCode.DONE


def test_photographs_are_needed(explain, tmp_path):
    code, _, err = explain(images=[])
    assert (code, "give one or more photographs" in err) == (ExitCode.USAGE, True)
    (tmp_path / "text.png").write_text("no image")
    code, _, err = explain(images=[tmp_path / "text.png"])
    assert (code, "none of the 1 images can be read" in err) == (ExitCode.INPUT, True)


def test_a_full_disk_leaves_no_half_figure(explain, tmp_path, monkeypatch):
    def full(self, path, **settings):
        path.write_bytes(b"half a picture")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    code, _, err = explain("--removal", "grey")
    assert code == ExitCode.OUTPUT
    assert "No space left on device" in err
    assert {one.name for one in (tmp_path / "out").iterdir()} == {"001_red.npz"}


def test_each_photograph_is_read_once_and_runs_one_plain_pass(explain, photos, monkeypatch):
    reads, batches = [], []
    monkeypatch.setattr(
        "lm_plugins.cli.loading_images.read_image", lambda file: reads.append(file.name) or read_image(file)
    )
    forward = Classifier.forward
    monkeypatch.setattr(Classifier, "forward", lambda self, x: batches.append(len(x)) or forward(self, x))
    more = ("--method", "featureablation", "--removal", "grey", "--batch-size", "64")
    code, _, err = explain(*more, images=[photos / "red.png", photos / "blue.png"])
    assert code == ExitCode.DONE, err
    assert reads == ["red.png", "blue.png"]
    # The plain pass; Captum's own of the whole image and its four patches; eleven steps of deletion.
    assert batches == 2 * [1, 1, 4, 11]


def test_what_is_left_is_the_deletion_curve_of_the_audit(explain, tmp_path, photos):
    _, out, _ = explain("--method", "featureablation", "--removal", "grey", "--json")
    (record,) = json.loads(out)["images"]
    with np.load(tmp_path / "out" / "001_red.npz") as arrays:
        attribution, pixels = (torch.from_numpy(arrays[name]) for name in ("attribution_grey", "pixels"))
    x = (pixels - 0.5)[None] / 0.25
    curve = deletion(as_removal("grey")(Classifier().eval()), x, attribution[None], 0, steps=10, output="logits")
    assert list(record["explanations"][0]["left"].values()) == pytest.approx(curve.scores[0].tolist())


def test_the_pixels_are_those_of_the_picture_and_the_model_is_left_alone(explain, tmp_path, photos, monkeypatch):
    made = []
    monkeypatch.setattr("tests.cli.small_models.classifier", lambda: made.append(Classifier()) or made[-1])
    explain("--removal", "black", "--method", "featureablation", "--mean", "0.1,0.2,0.3")
    picture = Preprocessing(32, 32).crop(read_image(photos / "red.png"))
    with np.load(tmp_path / "out" / "001_red.npz") as arrays:
        assert np.array_equal(arrays["pixels"], np.asarray(picture, np.float32).transpose(2, 0, 1) / 255)
    assert "pretrained_cfg" not in vars(made[0])


def test_black_is_black_in_the_normalisation_that_was_asked_for():
    preprocessing = Preprocessing(32, 32, (0.5,) * 3, (0.25,) * 3)
    built = built_removals(("black", "white", "grey"), preprocessing)
    colours = [built[name].colour(torch.nn.Identity()).value for name in ("black", "white")]
    assert colours == [(-2.0,) * 3, (2.0,) * 3]
    assert built["grey"] == as_removal("grey")


def test_the_page_shows_so_many_photographs_and_says_how_many_more(explain, tmp_path, photos, monkeypatch):
    monkeypatch.setattr("lm_plugins.cli.explain.SHOWN", 1)
    code, out, _ = explain("--removal", "grey", "--json", images=[photos])
    assert code == ExitCode.DONE
    assert len(json.loads(out)["images"]) == 3
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<article") == 1
    assert "2 more were explained and are not in this page" in " ".join(page.split())


def test_a_model_that_fails_leaves_or_talks(explain):
    code, _, err = explain("--model", "tests.cli.small_models:Failing")
    assert (code, "with ZeroDivisionError: no image is good enough" in err) == (ExitCode.INPUT, True)
    code, _, err = explain("--model", "tests.cli.small_models:Leaving")
    assert (code, "left the program with sys.exit(0)" in err) == (ExitCode.INPUT, True)
    code, out, err = explain("--model", "tests.cli.small_models:Talkative", "--removal", "grey", "--json")
    assert (code, "hello" in err) == (ExitCode.DONE, True)
    assert len(json.loads(out)["images"]) == 1


def test_memory_that_does_not_suffice_is_said(explain, monkeypatch):
    def full(*more, **settings):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr("lm_plugins.cli.explain.explained_image", full)
    code, _, err = explain("--removal", "grey")
    assert (code, "the memory does not suffice" in err) == (ExitCode.MEMORY, True)


# ---- what the model returns ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "word"),
    [("ends_in_softmax", "probabilities"), ("ends_in_sigmoid", "probabilities"), ("classifier", "logits")],
)
def test_probabilities_are_refused_until_they_are_named(explain, name, word):
    model = f"tests.cli.small_models:{name}"
    code, _, err = explain("--model", model)
    assert (code == ExitCode.USAGE) == (word == "probabilities")
    assert ("--output probabilities" in err) == (word == "probabilities")
    code, out, _ = explain("--model", model, "--output", word, "--json")
    assert code == ExitCode.DONE
    (record,) = json.loads(out)["images"]
    assert record["explanations"][0]["left"]["0"] == pytest.approx(record["probability"], abs=1e-6)


@pytest.mark.parametrize("method", [name for name in METHODS if "sise" not in name and "cam" not in name])
def test_a_single_logit_is_two_classes_with_every_method(explain, tmp_path, method):
    arguments = ["--model", "tests.cli.small_models:single_logit", "--output", "single logit", "--method", method]
    arguments += ["--removal", "grey"]
    maps = []
    for target in ("0", "1"):
        code, out, err = explain(*arguments, "--target", target, "--json")
        assert code == ExitCode.DONE, err
        (record,) = json.loads(out)["images"]
        assert 0 < record["probability"] < 1
        with np.load(tmp_path / "out" / "001_red.npz") as arrays:
            maps.append(arrays["attribution_grey"])
    assert np.abs(maps[1]).max() > 1e-4
    if method in ("occlusion", "featureablation", "kernelshap", "lime"):
        np.testing.assert_allclose(maps[0], -maps[1], atol=1e-4)


@pytest.mark.parametrize("output", ["field:scores", "field:scores,logits"])
def test_a_field_of_what_the_model_returns(explain, tmp_path, output):
    arguments = ["--removal", "grey", "--target", "1"]
    maps = []
    for model, more in (("classifier", []), ("in_dictionary", ["--output", output])):
        code, _, err = explain("--model", f"tests.cli.small_models:{model}", *more, *arguments)
        assert code == ExitCode.DONE, err
        with np.load(tmp_path / "out" / "001_red.npz") as arrays:
            maps.append(arrays["attribution_grey"])
    np.testing.assert_array_equal(*maps)
    assert (
        json.loads((tmp_path / "out" / "explanations.json").read_text())["provenance"]["output"]
        == "field:scores,logits"
    )


@pytest.mark.parametrize(
    ("model", "output"),
    [("dense", "field:out,segmentation"), ("detector", "detection"), ("detector", "detection-sigmoid")],
)
@pytest.mark.parametrize("method", ["occlusion", "rise"])
def test_segmentations_and_detections_are_explained(explain, tmp_path, model, output, method):
    arguments = ["--model", f"tests.cli.small_models:{model}", "--output", output, "--method", method]
    code, _, err = explain(*arguments, "--removal", "grey")
    assert code == ExitCode.DONE, err
    (record,) = json.loads((tmp_path / "out" / "explanations.json").read_text())["images"]
    assert record["value"] == pytest.approx(record["explanations"][0]["left"]["0"], abs=1e-4)
    with np.load(tmp_path / "out" / "001_red.npz") as arrays:
        assert np.abs(arrays["attribution_grey"]).max() > 0


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("segmentation", "got dict; name the field"),
        ("field:scores,segmentation", "a segmentation is (N, classes, H, W)"),
        ("detection", "detections are the output of a detector"),
        ("field:score", "without a field 'score'; it has 'aux', 'scores'"),
        ("field:", "is not one of logits"),
        ("field:scores,odds", "field:NAME,WORD"),
        ("logits", "--output field:logits"),
    ],
)
def test_fields_that_are_not_there_are_named(explain, output, text):
    code, _, err = explain("--model", "tests.cli.small_models:in_dictionary", "--output", output, "--removal", "grey")
    assert code != ExitCode.DONE
    assert text in " ".join(err.split())


def test_a_regression_has_no_percent(explain, tmp_path):
    code, out, _ = explain(
        "--model", "tests.cli.small_models:single_logit", "--output", "regression", "--removal", "grey"
    )
    assert code == ExitCode.DONE
    assert "%" not in out
    (record,) = json.loads((tmp_path / "out" / "explanations.json").read_text())["images"]
    assert record["value"] == pytest.approx(record["explanations"][0]["left"]["0"], abs=1e-5)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "raises the output" in page
    assert record["target"] == "output 0"
    assert "class" not in re.sub(r"<script.*?</script>|<style.*?</style>|<[^>]*>", "", page, flags=re.DOTALL)


@pytest.mark.filterwarnings("default::UserWarning")
def test_warnings_are_notes_and_come_once(explain, photos):
    code, _, err = explain("--model", "tests.cli.small_models:warns", "--removal", "grey", images=[photos])
    assert code == ExitCode.DONE
    assert err.count("note: mind the gap (--output logits)") == 1
    assert "UserWarning" not in err
    assert ".py" not in err


@pytest.mark.filterwarnings("default::lm_plugins.errors.ExplanationWarning")
@pytest.mark.parametrize("method", ["lime", "kernelshap", "featureablation"])
def test_one_superpixel_is_said_and_no_traceback(explain, method):
    code, _, err = explain("--features", "slic:1", "--method", method, "--removal", "grey")
    assert code == (ExitCode.USAGE if method == "kernelshap" else ExitCode.DONE)
    assert "Traceback" not in err
