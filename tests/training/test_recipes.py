"""Recipes on Lightning: they train, they repeat themselves, and a run that was killed ends like one that was not."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from lm_plugins.errors import InputTypeError, LayerError, ModelLoadingError, OptionError
from lm_plugins.training import GradCam
from lm_plugins.training.evaluation import evaluate
from lm_plugins.training.image_data import ImageData, datasets_of
from lm_plugins.training.networks import ContrastiveNetwork, classifier
from lm_plugins.training.recipe import Recipe, train
from tests.training.toy_data import Squares, squares

ROOT = Path(__file__).parents[2]
RECIPE = Recipe(
    "ce", "tests.training.toy_data:squares", 3, model="tests.training.toy_data:small_network", layer="3", size=16, epochs=2,
    batch_size=16, learning_rate=0.05, warm_up=0, validation=0.2, smallest_crop=0.6, colour_jitter=False,
)  # fmt: skip
# What Lightning says about itself and about runs this small.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:DeprecationWarning"),
]


def run(recipe, out, **options):
    return train(recipe, out, show_progress=False, accelerator="cpu", **options)


def weights(out):
    return torch.load(out / "model.pt", weights_only=True)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("method", ["ce", "edda", "supcon", "excon", "exconb", "exsimclr"])
def test_methods(method, tmp_path):
    recipe = replace(RECIPE, method=method, max_background=4)
    first = run(recipe, tmp_path / "first")
    assert 0 <= first.validation_accuracy <= 1
    assert not first.model.training
    logged = (tmp_path / "first" / "log" / "version_0" / "metrics.csv").read_text()
    assert "validation_accuracy" in logged
    run(recipe, tmp_path / "second")
    assert same(weights(tmp_path / "first"), weights(tmp_path / "second"))
    run(replace(recipe, seed=1), tmp_path / "third")
    assert not same(weights(tmp_path / "first"), weights(tmp_path / "third"))


def test_it_learns(tmp_path):
    trained = run(
        replace(RECIPE, method="edda", epochs=12, learning_rate=0.2),
        tmp_path,
        datasets=(Squares(300, 0), Squares(20, 1)),
    )
    assert trained.validation_accuracy > 0.8


@pytest.mark.parametrize("method", ["edda", "exconb"])
def test_layer_masking_trains_with_running_statistics(method, tmp_path):
    start = run(replace(RECIPE, method=method, epochs=1), tmp_path / "start")
    recipe = replace(
        RECIPE, method=method, epochs=1, removal="layer_masking", initial=str(tmp_path / "start" / "model.pt")
    )
    tuned = run(recipe, tmp_path / "tuned")
    before, after = start.model.state_dict(), tuned.model.state_dict()
    statistics = [key for key in before if "running" in key]
    assert statistics
    assert all(torch.equal(before[key], after[key]) for key in statistics)
    assert not all(torch.equal(before[key], after[key]) for key in before)


def test_refresh_goes_on(tmp_path):
    recipe = replace(RECIPE, method="edda", refresh=3, epochs=4)
    run(recipe, tmp_path / "whole")
    with pytest.raises(StoppedError):  # in the fourth epoch: regions are kept for three, of three batches
        run(recipe, tmp_path / "parts", explainer=Stopping(4))
    assert (tmp_path / "parts" / "last.ckpt").is_file()
    run(recipe, tmp_path / "parts")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


class StoppedError(RuntimeError):
    pass


class Stopping:
    """An explainer that ends a run after so many calls."""

    def __init__(self, calls):
        self.calls = calls

    def __call__(self, model, x, labels):
        self.calls -= 1
        if self.calls < 0:
            raise StoppedError
        return GradCam("3")(model, x, labels)


PROGRAM = """
import sys
from dataclasses import replace
from tests.training.test_recipes import RECIPE, run
if __name__ == "__main__":
    run(replace(RECIPE, method=sys.argv[1], epochs=6), sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["edda", "exconb"])
def test_a_killed_run_ends_like_one_that_was_not(method, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(replace(RECIPE, method=method, epochs=6), whole)
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(PROGRAM), method, str(killed)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    last = killed / "last.ckpt"
    while not last.is_file() and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "model.pt").exists()
    run(replace(RECIPE, method=method, epochs=6), killed)
    assert same(weights(whole), weights(killed))


def test_another_recipe_is_refused(tmp_path):
    run(replace(RECIPE, epochs=1), tmp_path)
    with pytest.raises(OptionError, match=r"learning_rate=0\.05, not 0\.1"):
        run(replace(RECIPE, epochs=1, learning_rate=0.1), tmp_path)
    run(replace(RECIPE, epochs=1, learning_rate=0.1), tmp_path, resume=False)
    assert json.loads((tmp_path / "recipe.json").read_text())["learning_rate"] == 0.1


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = run(replace(RECIPE, epochs=1), tmp_path)
    again = run(replace(RECIPE, epochs=1), tmp_path)
    assert same(first.model.state_dict(), again.model.state_dict())


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"method": "other"}, OptionError, "ce, edda"),
        ({"epochs": 0}, OptionError, "epochs"),
        ({"learning_rate": 0.0}, OptionError, "learning_rate"),
        ({"data": "/nowhere"}, OptionError, "no folder"),
        ({"data": "torchvision:Nothing"}, OptionError, "cannot be read"),
        ({"data": "torchvision:CIFAR10@/nowhere"}, OptionError, "cannot be read"),
        ({"data": "tests.training.toy_data:Squares"}, TypeError, "count"),
        ({"data": "builtins:list"}, InputTypeError, "list"),
        ({"model": "nothing"}, ModelLoadingError, "small_resnet"),
        ({"model": "timm:nothing"}, ModelLoadingError, "timm has no model"),
        ({"model": "torch.nn:ReLU6", "method": "supcon"}, ModelLoadingError, "linear layer"),
        ({"model": "builtins:str"}, ModelLoadingError, "not a torch module"),
        ({"layer": "missing", "method": "edda"}, LayerError, "missing"),
        ({"initial": "/nowhere.pt"}, OptionError, "nowhere"),
        ({"validation": 1.0}, OptionError, "validation"),
        ({"validation": 0.001}, OptionError, "cannot be split"),
        ({"classes": 2}, OptionError, r"0 \.\. 1"),
    ],
)
def test_bad_recipes(changed, error, words, tmp_path):
    with pytest.raises(error, match=words):
        run(replace(RECIPE, **changed), tmp_path)
    assert not (tmp_path / "model.pt").exists()


def test_data_that_is_no_pair(tmp_path):
    class Triples(Squares):
        def __getitem__(self, index):
            return *super().__getitem__(index), 3

    with pytest.raises(InputTypeError, match="pairs"):
        run(RECIPE, tmp_path, datasets=(Triples(40, 0), Squares(4, 1)))


def test_views_depend_on_seed_epoch_and_image_alone():
    data = ImageData(*squares(), 3, 16, (0.5,) * 3, (0.5,) * 3, batch_size=16, seed=3)
    loaders = [data.train_dataloader(), data.train_dataloader()]
    loaders[1].sampler.set_epoch(1)
    (first, other) = (list(loader) for loader in loaders)
    again = list(
        ImageData(*squares(), 3, 16, (0.5,) * 3, (0.5,) * 3, batch_size=8, workers=1, seed=3).train_dataloader()
    )
    by_index = {int(i): view for batch in again for i, view in zip(batch["index"], batch["view"], strict=True)}
    for batch in first:
        for i, view in zip(batch["index"], batch["view"], strict=True):
            assert torch.equal(by_index[int(i)], view)
    assert [batch["index"].tolist() for batch in first] != [batch["index"].tolist() for batch in other]
    assert not torch.equal(first[0]["view"], first[0]["other"])


def test_validation_and_test_are_kept_apart():
    data = ImageData(*squares(), 3, 16, (0.5,) * 3, (0.5,) * 3, batch_size=16, validation=0.25)
    trained, held_out = (
        {int(i) for batch in loader for i in batch["index"]}
        for loader in (data.train_dataloader(), data.val_dataloader())
    )
    assert len(trained) == 32  # 45, in whole batches
    assert len(held_out) == 15
    assert not trained & held_out
    assert sum(len(batch["label"]) for batch in data.test_dataloader()) == 20


def test_folders(tmp_path):
    from torchvision.transforms.functional import to_pil_image

    for part, data in zip(("train", "test"), squares(), strict=True):
        for i in range(6):
            image, label = data[i]
            folder = tmp_path / part / str(i % 3)
            folder.mkdir(parents=True, exist_ok=True)
            to_pil_image(image).save(folder / f"{i}.png")
            assert label in range(3)
    train_set, test_set = datasets_of(str(tmp_path))
    assert (len(train_set), len(test_set)) == (6, 6)
    (tmp_path / "test" / "3").mkdir()
    with pytest.raises(Exception, match="3"):
        datasets_of(str(tmp_path))
    with pytest.raises(OptionError, match="train and test"):
        datasets_of(str(tmp_path / "train"))


def test_networks():
    model = classifier("small_resnet", 7)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    assert classifier("timm:resnet18", 5, small_stem=True)(torch.rand(2, 3, 16, 16)).shape == (2, 5)
    with pytest.raises(ModelLoadingError, match="small_stem"):
        classifier("timm:mobilenetv3_small_050", 5, small_stem=True)
    network = ContrastiveNetwork(model.eval(), size=16).eval()
    x = torch.rand(2, 3, 32, 32)
    features = network.encoder(x)
    assert features.shape == (2, 128)
    torch.testing.assert_close(network(x), network.classifier(features))
    torch.testing.assert_close(network.projected(features).norm(dim=1), torch.ones(2))


def test_evaluate(tmp_path):
    trained = run(replace(RECIPE, method="edda", epochs=1), tmp_path)
    (batch,) = trained.data.test_dataloader()[:1] if isinstance(trained.data.test_dataloader(), list) else _one(trained)
    x, labels = batch["whole"], batch["label"]
    found = evaluate(
        trained.model, x, labels, 3, GradCam("3"), RECIPE.mean, RECIPE.std, explained_images=5, batch_size=6
    )
    with torch.no_grad():
        accuracy = (trained.model(x)[:, :3].argmax(1) == labels).float()
    assert torch.equal(found["accuracy"], accuracy)
    assert found["drop"].shape == found["increase"].shape == (16,)
    assert found["infidelity"].shape == found["sensitivity"].shape == (5,)
    assert found["fgsm_accuracy"].mean() <= accuracy.mean()
    assert found["pgd_accuracy"].mean() <= accuracy.mean()
    assert all(0 <= float(found[name]) <= 1 for name in ("ece", "fgsm_ece", "corrupted_ece"))
    again = evaluate(
        trained.model, x, labels, 3, GradCam("3"), RECIPE.mean, RECIPE.std, explained_images=5, batch_size=6
    )
    assert all(torch.equal(found[name], again[name]) for name in found)


def _one(trained):
    return [next(iter(trained.data.test_dataloader()))]


def test_expected_calibration_error_of_a_known_model():
    class Sure(nn.Module):
        def forward(self, x):
            return (
                50.0 * torch.nn.functional.one_hot(torch.zeros(len(x), dtype=torch.int64), 2)
                + 0 * x.mean((1, 2, 3))[:, None]
            )

    x, labels = torch.rand(4, 3, 4, 4), torch.tensor([0, 0, 0, 1])
    explainer = lambda model, x, labels: x[:, 0]  # noqa: E731
    found = evaluate(Sure().eval(), x, labels, 2, explainer, (0.0,) * 3, (1.0,) * 3, explained_images=1)
    assert float(found["ece"]) == pytest.approx(0.25)
    assert float(found["accuracy"].mean()) == 0.75
