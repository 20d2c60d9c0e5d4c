"""A data set's explanations: those of each image alone, whoever makes them and however often it is interrupted."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from lm_plugins import scale
from lm_plugins.errors import (
    ExplanationWarning,
    ImageFileError,
    InputTypeError,
    MissingDependencyError,
    ModelLoadingError,
    OptionError,
    TrainingModeError,
    UnsupportedOperatorError,
)
from lm_plugins.removal import as_removal
from lm_plugins.scale.methods import METHODS, Question
from lm_plugins.scale.task import Task
from tests.scale.data_sets import folder_of, picture, preprocess, small_model

ROOT = Path(__file__).parents[2]
FEATURES = {"occlusion": "grid:8", "rise": "grid:8", "partition": "grid:6"}


def explain(images, out, **options):
    given = {
        "preprocess": preprocess,
        "features": "grid:6",
        "samples": 40,
        "shard": 3,
        "show_progress": False,
    } | options
    return scale.explain(images, given.pop("model", small_model()), out, **given)


def bytes_of(out):
    """Every number of the results of a folder."""
    results = scale.open_results(out)
    maps = [
        results.attribution(int(i)).numpy().tobytes() for i in results.table.loc[results.table["error"].isna(), "index"]
    ]
    return results.table.to_json(), maps


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("photographs"))


@pytest.mark.parametrize("removal", ["layer_masking", "grey"])
@pytest.mark.parametrize("method", [*METHODS])
def test_each_image_as_it_is_explained_alone(method, removal, photographs, tmp_path):
    features = FEATURES.get(method, "grid:6")
    results = explain(photographs, tmp_path, method=method, removal=removal, features=features, batch_size=7)
    model, source = small_model(), scale.images_of(photographs)
    task = Task(source, model, preprocess, method, removal, features, samples=40)
    for i, key in enumerate(source.keys):
        x, pixels = task.prepared(source.read(i)[0])
        target = int(model(x[None]).argmax())
        assert results.table.loc[i, "target"] == target
        question = Question(
            model, x[None], target, as_removal(removal), task.chosen_features(), task.chosen_features()(pixels), samples=40,
            seed=task.seed_of(key),
        )  # fmt: skip
        alone = METHODS[method](question).float()
        # Batches differ, and with them the rounding of probabilities.
        torch.testing.assert_close(results.attribution(i), alone, rtol=1e-4, atol=1e-6)
    assert results.table["label"].tolist() == [key.split("/")[0] for key in source.keys]
    assert results.table["error"].isna().all()


@pytest.mark.parametrize("method", ["kernelshap", "occlusion"])
def test_batches_and_shards_change_rounding_only(method, photographs, tmp_path):
    maps = []
    for batch_size, shard in ((1, 1), (8, 3), (64, 7)):
        out = tmp_path / f"{batch_size}"
        results = explain(photographs, out, method=method, batch_size=batch_size, shard=shard)
        maps.append(torch.stack([results.attribution(i) for i in range(7)]))
    for other in maps[1:]:
        torch.testing.assert_close(other, maps[0], rtol=1e-4, atol=1e-6)


def test_runs_repeat_bit_for_bit(photographs, tmp_path):
    explain(photographs, tmp_path / "a")
    explain(photographs, tmp_path / "b")
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_an_interrupted_run_goes_on(photographs, tmp_path, monkeypatch):
    explain(photographs, tmp_path / "whole")
    from lm_plugins.scale.store import Store

    written, made = [], Store.write_shard

    def fails(self, number, *given):
        if len(written) == 1:
            raise OSError(28, "No space left on device")
        written.append(number)
        made(self, number, *given)

    monkeypatch.setattr(Store, "write_shard", fails)
    with pytest.raises(OSError, match="No space"):
        explain(photographs, tmp_path / "parts")
    assert len(scale.open_results(tmp_path / "parts")) == 3
    monkeypatch.setattr(Store, "write_shard", made)
    explain(photographs, tmp_path / "parts")
    assert bytes_of(tmp_path / "parts") == bytes_of(tmp_path / "whole")


def test_a_full_disk_leaves_no_half_shard(photographs, tmp_path, monkeypatch):
    import pandas as pd

    def full(self, path, *args, **options):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(OSError, match="No space"):
        explain(photographs, tmp_path)
    assert list((tmp_path / "shards").iterdir()) == []


PROGRAM = """
import sys
from tests.scale.test_explaining import explain
if __name__ == "__main__":
    explain(sys.argv[1], sys.argv[2], shard=1, samples=400)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on(photographs, tmp_path):
    explain(photographs, tmp_path / "whole", shard=1, samples=400)
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        textwrap.dedent(PROGRAM),
        str(photographs),
        str(tmp_path / "killed"),
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
    )
    done = tmp_path / "killed" / "shards" / "000002" / "done.json"
    while not done.is_file() and process.poll() is None:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    explain(photographs, tmp_path / "killed", shard=1, samples=400)
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")
    assert not list((tmp_path / "killed" / "shards").glob(".*"))


def test_a_changed_run_is_refused_and_named(photographs, tmp_path):
    explain(photographs, tmp_path)
    with pytest.raises(OptionError, match="samples=40, not 50"):
        explain(photographs, tmp_path, samples=50)
    other = small_model()
    with torch.no_grad():
        other[0].weight += 1
    with pytest.raises(OptionError, match="model="):
        explain(photographs, tmp_path, model=other)
    before = bytes_of(tmp_path)
    explain(photographs, tmp_path)
    assert bytes_of(tmp_path) == before
    explain(photographs, tmp_path, samples=50, resume=False)
    assert scale.open_results(tmp_path).manifest["samples"] == 50


def test_two_runs_into_one_folder(photographs, tmp_path):
    from lm_plugins.scale.store import Store

    with Store(tmp_path).locked(), pytest.raises(OptionError, match="another run is writing"):
        explain(photographs, tmp_path)
    explain(photographs, tmp_path)


def test_bad_images_are_rows(tmp_path):
    folder = folder_of(tmp_path / "photographs", 4)
    (folder / "class0" / "000.png").write_bytes(b"no image")
    (folder / "a.txt").write_text("not looked at")
    results = explain(folder, tmp_path / "out", shard=2)
    assert results.table["error"].notna().tolist() == [True, False, False, False]
    assert "no image" in results.table.loc[0, "error"]
    assert len(list(results.to_captum())) == 3
    with pytest.raises(OptionError, match="could not be explained: ImageFileError"):
        results.attribution(0)


def test_images_with_nan_are_rows(tmp_path):
    data = [torch.randn(3, 24, 24), torch.full((3, 24, 24), torch.nan), torch.randn(3, 24, 24)]
    results = explain(data, tmp_path, preprocess=None)
    assert results.table["error"].notna().tolist() == [False, True, False]
    assert "NonFiniteError" in results.table.loc[1, "error"]


def test_images_of_several_sizes(tmp_path):
    data = [torch.randn(3, 24, 24), torch.randn(3, 30, 18), torch.randn(3, 24, 24)]
    results = explain(data, tmp_path, preprocess=None)
    assert [tuple(results.attribution(i).shape) for i in range(3)] == [(24, 24), (30, 18), (24, 24)]
    alone = explain(data[1:2], tmp_path / "alone", preprocess=None)
    assert alone.manifest["images"] == 1


def test_everything_unreadable(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no")
    with pytest.raises(ImageFileError, match="none of the 1 images"):
        explain(folder, tmp_path / "out")


class Unknown(nn.Module):
    def forward(self, x):
        return torch.fft.fft2(x).abs().mean((2, 3))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"method": "other"}, OptionError, "kernelshap"),
        ({"samples": 0}, OptionError, "samples"),
        ({"batch_size": 0}, OptionError, "batch_size"),
        ({"shard": 0}, OptionError, "shard"),
        ({"features": "grid"}, OptionError, "grid:N"),
        ({"removal": "gray"}, OptionError, "no removal"),
        ({"target": 7}, OptionError, "7"),
        ({"samples": 3}, OptionError, "samples=3 draws fewer"),
        ({"engine": "spark"}, OptionError, "local, ray"),
        ({"workers": 0}, OptionError, "workers"),
        ({"gpus": 1.5}, OptionError, "gpus"),
        ({"preprocess": None}, InputTypeError, "preprocess"),
        ({"model": "nowhere:factory"}, ModelLoadingError, "package"),
        ({"model": lambda: 3}, InputTypeError, "int"),
        ({"model": small_model().train()}, TrainingModeError, "evaluation mode"),
        ({"model": Unknown().eval()}, UnsupportedOperatorError, "fft"),
    ],
)
def test_mistakes(options, error, words, photographs, tmp_path):
    with pytest.raises(error, match=words):
        explain(photographs, tmp_path, **options)
    assert not list(tmp_path.glob("shards/*/done.json"))


def test_results(photographs, tmp_path):
    results = explain(photographs, tmp_path)
    assert len(results) == 7
    assert "7 of 7 images, kernelshap" in repr(results)
    first = results.attribution(0)
    assert first.shape == (24, 24)
    assert results.values(0).shape == (16,)
    torch.testing.assert_close(first[0, 0], results.values(0)[0])
    captum = list(results.to_captum())
    assert captum[0].shape == (1, 1, 24, 24)
    classes = results.by_class()
    assert classes["images"].sum() == 7
    target = int(results.table.loc[0, "target"])
    same = [results.attribution(i) for i in results.table.index[results.table["target"] == target]]
    torch.testing.assert_close(results.mean_map(target), torch.stack(same).mean(0))
    spread = results.concentration()
    assert ((spread > 0) & (spread <= 1)).all()
    with pytest.raises(OptionError, match=r"0 \.\. 6"):
        results.attribution(7)
    with pytest.raises(OptionError, match="0 images have the target"):
        results.mean_map(99)


def test_maps_have_no_values(photographs, tmp_path):
    results = explain(photographs, tmp_path, method="occlusion")
    with pytest.raises(OptionError, match="a map"):
        results.values(0)


def test_nothing_there(tmp_path):
    with pytest.raises(OptionError, match="holds no results"):
        scale.open_results(tmp_path)
    with pytest.raises(AttributeError, match="nothing"):
        scale.nothing  # noqa: B018


def test_other_file_systems(photographs):
    results = explain(photographs, "memory://results/run", method="occlusion")
    assert results.attribution(6).shape == (24, 24)
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.rm("/results/run/shards/000001/done.json")
    assert len(scale.open_results("memory://results/run")) == 4
    explain(photographs, "memory://results/run", method="occlusion")
    assert len(scale.open_results("memory://results/run")) == 7
    memory.rm("/results", recursive=True)


def test_ray_is_named(monkeypatch, photographs, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"lm_plugins\[scale\]"):
        explain(photographs, tmp_path, engine="ray")


def test_memory_that_does_not_suffice(photographs, tmp_path, monkeypatch):
    from lm_plugins.removal import Colour

    made = Colour.__call__

    def limited(self, model):
        forward = made(self, model)

        def run(x, visible, *further):
            if len(x) > 5:
                raise torch.OutOfMemoryError("not enough memory")
            return forward(x, visible, *further)

        return run

    explain(photographs, tmp_path / "whole", removal="grey")
    monkeypatch.setattr(Colour, "__call__", limited)
    with pytest.warns(RuntimeWarning, match="going on with"):
        explain(photographs, tmp_path / "halved", removal="grey")
    whole, halved = (scale.open_results(tmp_path / one).attribution(3) for one in ("whole", "halved"))
    torch.testing.assert_close(whole, halved, rtol=1e-4, atol=1e-6)


def test_the_manifest_says_everything(photographs, tmp_path):
    explain(photographs, tmp_path)
    said = json.loads((tmp_path / "manifest.json").read_text())
    assert said["method"] == "kernelshap"
    assert said["versions"]["torch"] == torch.__version__
    assert said["seed"] == 0


def test_pictures_without_a_folder(tmp_path):
    results = explain([(picture(i), i) for i in range(3)], tmp_path)
    assert results.table["label"].tolist() == ["0", "1", "2"]
    assert results.values(0).isfinite().all()


def test_changed_images_are_explained_anew(tmp_path):
    folder = folder_of(tmp_path / "photographs", 4)
    explain(folder, tmp_path / "out", shard=2)
    before = bytes_of(tmp_path / "out")[1]
    picture(99).save(folder / "class1" / "001.png")
    with pytest.warns(ExplanationWarning, match=r"class1/001\.png"):
        results = explain(folder, tmp_path / "out", shard=2)
    after = bytes_of(tmp_path / "out")[1]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, True, False, True]
    assert results.table["error"].isna().all()
    explain(folder, tmp_path / "out", shard=2)


def test_an_image_that_was_mended(tmp_path):
    folder = folder_of(tmp_path / "photographs", 2)
    (folder / "class0" / "000.png").write_bytes(b"no image")
    assert explain(folder, tmp_path / "out").table["error"].notna().sum() == 1
    picture(0).save(folder / "class0" / "000.png")
    with pytest.warns(ExplanationWarning, match="have changed"):
        assert explain(folder, tmp_path / "out").table["error"].isna().all()


def test_code_that_fails_for_some_images(tmp_path):
    def fails(image):
        if image.size[0] == 36:
            raise ValueError("too wide")
        return preprocess(image)

    data = [picture(0), picture(1).resize((30, 30)), 3]
    results = explain(data, tmp_path, preprocess=fails)
    assert results.table["error"].notna().tolist() == [True, False, True]
    assert "too wide" in results.table.loc[0, "error"]


def test_a_model_that_fails_for_some_sizes(tmp_path):
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3 * 8 * 8, 2)

        def forward(self, x):
            return self.fc(nn.functional.avg_pool2d(x, 3).flatten(1))

    data = [torch.randn(3, 24, 24), torch.randn(3, 27, 24)]
    results = explain(data, tmp_path, preprocess=None, model=Fixed().eval(), removal="grey")
    assert results.table["error"].notna().tolist() == [False, True]
    assert "the model fails on an image of shape" in results.table.loc[1, "error"]
