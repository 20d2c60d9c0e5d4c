import os
import pickle
import sys

import pytest
import torch

from lm_plugins.cli.loading_models import load_model
from lm_plugins.cli.preprocessing import Preprocessing
from lm_plugins.errors import InputTypeError, ModelLoadingError, OptionError
from tests.cli.small_models import Classifier

MODEL = "tests.cli.small_models:classifier"


class Malicious:
    """What runs code when a pickle is read."""

    def __reduce__(self):
        return os.mkdir, ("pwned",)


def test_a_factory_gives_model_classes_and_preprocessing():
    loaded = load_model(MODEL)
    assert isinstance(loaded.module, Classifier)
    assert not loaded.module.training
    assert (loaded.class_name(1), loaded.class_name(7)) == ("green", "class 7")
    assert loaded.preprocessing == Preprocessing(32, 32, (0.5,) * 3, (0.25,) * 3)


def test_a_factory_in_the_current_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "my_nets_for_test.py").write_text("import torch\n\ndef net():\n    return torch.nn.Identity()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [one for one in __import__("sys").path if one])
    assert isinstance(load_model("my_nets_for_test:net").module, torch.nn.Identity)
    assert sys.path[-1] == str(tmp_path)  # last: it stands in for no package that is installed


def test_a_module_that_leaves_or_cannot_be_read_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "leaves_for_test.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "syntax_for_test.py").write_text("def f(:\n")
    for name, error in (("leaves_for_test", "SystemExit"), ("syntax_for_test", "SyntaxError")):
        with pytest.raises(ModelLoadingError, match=f"failed with {error}"):
            load_model(f"{name}:net")


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_checkpoint_is_loaded_and_its_digest_kept(tmp_path, wrapped):
    state = {name: value + 1 for name, value in Classifier().state_dict().items()}
    content = {"state_dict": {f"module.{name}": value for name, value in state.items()}} if wrapped else state
    torch.save(content, tmp_path / "weights.pt")
    loaded = load_model(MODEL, tmp_path / "weights.pt")
    assert torch.equal(loaded.module[0].weight, state["0.weight"])
    assert len(loaded.checkpoint) == 64


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_malicious_checkpoint_is_refused_and_runs_nothing(tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "weights.pt"
    if how == "torch":
        torch.save({"weight": Malicious()}, file)
    else:
        file.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(ModelLoadingError, match=r"weights\.pt is refused"):
        load_model(MODEL, file)
    assert not (tmp_path / "pwned").exists()


def test_checkpoints_that_do_not_fit(tmp_path):
    torch.save({"0.weight": torch.zeros(2, 2)}, tmp_path / "shape.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({0: torch.zeros(1)}, tmp_path / "numbers.pt")
    torch.save({"0.weight": torch.zeros(1), 3: torch.zeros(1)}, tmp_path / "mixed.pt")
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.pt").touch()
    with pytest.raises(ModelLoadingError, match=r"(?s)does not fit the model.*size mismatch"):
        load_model(MODEL, tmp_path / "shape.pt")
    for name in ("list.pt", "numbers.pt", "mixed.pt"):
        with pytest.raises(ModelLoadingError, match="holds no state dict"):
            load_model(MODEL, tmp_path / name)
    for name in ("text.pt", "empty.pt"):
        with pytest.raises(ModelLoadingError, match=r"is refused|cannot be read"):
            load_model(MODEL, tmp_path / name)


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("resnet", OptionError, "no model is called 'resnet'.*efficientnet-lite0.*torchvision:NAME"),
        ("torchvision:resnet19", OptionError, "has no model 'resnet19'; did you mean.*resnet18"),
        ("torchvision:resnet18@V9", OptionError, "no weights 'V9'; there are IMAGENET1K_V1"),
        ("no.such.module:net", OptionError, "no model factory.*No module named"),
        ("tests.cli.small_models:nothing", OptionError, "no model factory.*has no attribute 'nothing'"),
        ("tests.cli.small_models:no_module", InputTypeError, "returns a torch.nn.Module, got int"),
        ("tests.cli.small_models:broken", ModelLoadingError, "failed with RuntimeError: out of glue"),
        ("tests.cli.small_models:leaves", ModelLoadingError, "failed with SystemExit: 0"),
        ("tests.cli.small_models:CONFIG", ModelLoadingError, "failed with TypeError: 'dict' object is not callable"),
        ("..relative:net", OptionError, "no model factory"),
        (".:net", OptionError, "no model factory"),
    ],
)
def test_a_model_that_cannot_be_had(name, error, text):
    with pytest.raises(error, match=text):
        load_model(name)


def test_the_packaged_model_says_how_it_wants_its_images():
    loaded = load_model("efficientnet-lite0")
    assert loaded.preprocessing.size == 224
    assert loaded.class_name(281) == "tabby"


def test_torchvision_has_preprocessing_and_classes_without_weights():
    loaded = load_model("torchvision:squeezenet1_1", pretrained=False)
    assert loaded.preprocessing == Preprocessing(256, 224)
    assert loaded.class_name(0) == "tench"


def test_weights_that_cannot_be_fetched_say_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    with pytest.raises(ModelLoadingError, match=r"no route to host.*--checkpoint FILE"):
        load_model("torchvision:squeezenet1_1")


def test_torchvision_with_local_weights(tmp_path):
    from torchvision.models import squeezenet1_1

    state = squeezenet1_1().state_dict()
    torch.save(state, tmp_path / "weights.pt")
    loaded = load_model("torchvision:squeezenet1_1@IMAGENET1K_V1", tmp_path / "weights.pt")
    assert all(torch.equal(value, state[name]) for name, value in loaded.module.state_dict().items())


def test_timm_says_how_it_wants_its_images(tmp_path):
    timm = pytest.importorskip("timm")
    loaded = load_model("timm:mobilenetv3_small_050", pretrained=False)
    config = timm.data.resolve_model_data_config(loaded.module)
    assert loaded.preprocessing.mean == tuple(config["mean"])
    assert loaded.preprocessing.size == config["input_size"][-1]
    with pytest.raises(OptionError, match="timm has no model 'mobilenetv3_smal'; did you mean"):
        load_model("timm:mobilenetv3_smal")


def test_a_checkpoint_cut_anywhere_is_said(tmp_path):
    torch.save(Classifier().state_dict(), tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    for end in range(1, len(whole), len(whole) // 12):
        (tmp_path / "cut.pt").write_bytes(whole[:end])
        with pytest.raises(ModelLoadingError, match=r"cut\.pt (is refused|cannot be read)"):
            load_model(MODEL, tmp_path / "cut.pt")
