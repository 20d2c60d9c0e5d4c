"""What an audit goes on with: only what still answers as it did when the kept numbers were made."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm_plugins.audit import AuditResult, run_audit
from lm_plugins.audit.audited_image import FEATURES
from lm_plugins.audit.model_answers import ModelAnswers, changed_answers
from lm_plugins.errors import OptionError, ShapeError
from lm_plugins.features import grid
from lm_plugins.removal import Colour

BLOCKS = {"blocks": lambda image: grid(tuple(image.shape[1:]), 4)}
SMALL = {
    "removals": ("layer_masking", "grey"), "features": BLOCKS, "orders": ("random",), "fractions": (0.25, 0.5),
    "progress": False,
}  # fmt: skip


class Net(nn.Module):
    """A network whose code can be another with the same weights and modules."""

    def __init__(self, activation: nn.Module | None = None, stride: int = 1, function=F.relu) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1, stride=stride)
        self.activation = activation or nn.ReLU()
        self.second = nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, 5)
        self.function = function
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.second(self.activation(self.first(x)))).mean((2, 3)))


class Straight(torch.autograd.Function):
    """A ReLU whose gradient is that of the identity."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.relu()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


def like(model: nn.Module, **changed: object) -> nn.Module:
    other = Net(**changed)
    other.load_state_dict(model.state_dict())
    return other


@pytest.fixture
def model() -> nn.Module:
    return Net()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 16, 16)


def same(first: AuditResult, second: AuditResult) -> None:
    pd.testing.assert_frame_equal(first.table, second.table, rtol=1e-5, atol=1e-6)


def closure(value: float):
    """A removal of which nothing but its code tells what it paints."""
    return lambda model: Colour(value)(model)


CHANGES = {
    "the activation": ({"activation": nn.GELU()}, {}, r"modules: no longer .*ReLU.*now .*GELU"),
    "the stride": ({"stride": 2}, {}, r"modules: no longer .*now .*stride=\(2, 2\)"),
    "the code": ({"function": F.gelu}, {}, r"the model \(a difference of .*its code or output= has changed"),
    "the output": ({}, {"output": lambda result: result.flip(1)}, r"the model \(a difference of .*output= has changed"),
    "the classes": ({}, {"output": lambda result: result[:, :4]}, r"the model \(shape \(1, 4\) where it was \(1, 5\)"),
    "a closure": (
        {},
        {"removals": {"mine": closure(2.0)}},
        r"the removal 'mine', .*what these are made of has changed",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_audit_of_something_else_is_refused_and_begun_anew_when_asked(change, model, images, tmp_path):
    modules, settings, text = CHANGES[change]
    asked = {**SMALL, "removals": {"mine": closure(0.0)}} if change == "a closure" else SMALL
    run_audit(model, images, out=tmp_path, **asked)
    other = like(model, **modules)
    now = {**asked, **settings}
    with pytest.raises(OptionError, match=f"(?s){text}.*Take another folder, or begin anew") as caught:
        run_audit(other, images, out=tmp_path, **now)
    assert " at 0x" not in str(caught.value)
    same(run_audit(other, images, out=tmp_path, resume=False, **now), run_audit(other, images, **now))
    same(run_audit(other, images, out=tmp_path, **now), run_audit(other, images, **now))


def test_another_gradient_is_refused_where_features_go_by_it(model, images, tmp_path):
    salient = {**SMALL, "removals": ("grey",), "orders": ("most_salient_first",), "measures": ("missingness",)}
    run_audit(model, images, out=tmp_path / "salient", **salient)
    run_audit(model, images, out=tmp_path / "random", **{**salient, "orders": ("random",)})
    other = like(model, function=Straight.apply)
    with pytest.raises(OptionError, match=r"the gradient of the model \(a difference"):
        run_audit(other, images, out=tmp_path / "salient", **salient)
    run_audit(other, images, out=tmp_path / "random", **{**salient, "orders": ("random",)})


def test_another_similarity_of_classes_gives_its_own_numbers(model, images, tmp_path):
    for similarity in (lambda a, b: float(a == b), lambda a, b: 0.25, torch.eye(5) / 2, torch.ones(5, 5)):
        kept = run_audit(model, images, out=tmp_path, class_similarity=similarity, **SMALL)
        same(kept, run_audit(model, images, class_similarity=similarity, **SMALL))
    assert (kept.table["measure"] == "class_similarity").sum() == 3 * 2 * 3
    labelled = run_audit(model, images, labels=[0, 1, 2], class_similarity=torch.eye(5), **SMALL).table
    by_measure = {name: part["value"].tolist() for name, part in labelled.groupby("measure")}
    assert by_measure["class_similarity"] == by_measure["accuracy"]


def test_a_removal_of_another_name_is_shown_under_that_name(model, images, tmp_path):
    run_audit(model, images, out=tmp_path, **{**SMALL, "removals": {"paint": "grey"}})
    renamed = {**SMALL, "removals": {"mean colour": "grey"}}
    same(run_audit(model, images, out=tmp_path, **renamed), run_audit(model, images, **renamed))


def test_removals_of_one_text_in_one_audit_are_told_apart(model, images, tmp_path):
    both = {**SMALL, "removals": {"grey": closure(0.0), "bright": closure(2.0)}}
    found = run_audit(model, images, out=tmp_path, **both)
    same(found, run_audit(model, images, **both))
    same(run_audit(model, images, out=tmp_path, **both), found)
    assert set(found.table["removal"]) == {"grey", "bright"}


def test_removals_and_orders_that_are_added_are_kept_in_mind(model, images, tmp_path):
    run_audit(model, images, out=tmp_path, **{**SMALL, "removals": {"a": closure(0.0)}})
    run_audit(model, images, out=tmp_path, **{**SMALL, "removals": {"b": closure(1.0)}})
    for name in ("a", "b"):
        with pytest.raises(OptionError, match=f"the removal '{name}'"):
            run_audit(model, images, out=tmp_path, **{**SMALL, "removals": {name: closure(2.0)}})


def test_features_that_are_cut_otherwise_are_measured_anew(model, images, tmp_path, monkeypatch):
    asked = {**SMALL, "features": ("patches",)}
    run_audit(model, images, out=tmp_path, **asked)
    monkeypatch.setitem(FEATURES, "patches", lambda image: grid(tuple(image.shape[1:]), 8))
    same(run_audit(model, images, out=tmp_path, **asked), run_audit(model, images, **asked))


def test_other_images_first_are_no_reason_to_stop(model, images, tmp_path):
    run_audit(model, images[:1], out=tmp_path, **SMALL)
    same(run_audit(model, images.flip(0), out=tmp_path, **SMALL), run_audit(model, images.flip(0), **SMALL))


def test_a_model_that_cannot_take_the_kept_image_says_so(model, images, tmp_path):
    class Sized(Net):
        size = 16

        def forward(self, x: Tensor) -> Tensor:
            if x.shape[2] != self.size:
                raise RuntimeError(f"made for {self.size} pixels")
            return super().forward(x)

    run_audit(Sized().eval(), images, out=tmp_path, **SMALL)
    torch.manual_seed(1)
    other = Sized()
    other.size = 8
    torch.manual_seed(1)
    first = Sized()
    run_audit(first, images, out=tmp_path, resume=False, **SMALL)
    with pytest.raises(OptionError, match=r"fails on the image \(1, 3, 16, 16\).*made for 8 pixels"):
        run_audit(other, images[:, :, :8, :8], out=tmp_path, **SMALL)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda folder: (folder / "settings.json").write_text("{"), "settings.json cannot be read"),
        (lambda folder: (folder / "settings.json").write_text("[]"), "settings.json cannot be read"),
        (lambda folder: (folder / "answers.npz").write_bytes(b"PK\x03\x04"), "answers.npz cannot be read"),
        (lambda folder: (folder / "answers.npz").write_text("{}"), "answers.npz cannot be read"),
        (lambda folder: np.savez(folder / "answers.npz", image=np.zeros(3)), "answers.npz cannot be read"),
        (lambda folder: (folder / "answers.npz").unlink(), "does not say what its model answered"),
    ],
)
def test_damaged_folders_say_so_and_can_be_begun_anew(model, images, tmp_path, damage, text):
    expected = run_audit(model, images, out=tmp_path, **SMALL)
    damage(tmp_path)
    with pytest.raises(OptionError, match=f"{text}.*(resume=False|begin anew)"):
        run_audit(model, images, out=tmp_path, **SMALL)
    same(run_audit(model, images, out=tmp_path, resume=False, **SMALL), expected)


def test_a_part_of_other_columns_is_done_again(model, images, tmp_path):
    expected = run_audit(model, images, out=tmp_path, **SMALL)
    for part in (tmp_path / "parts").glob("*.parquet"):
        pd.DataFrame({"value": [1.0]}).to_parquet(part)
    same(run_audit(model, images, out=tmp_path, **SMALL), expected)


DAMAGES = {
    "text for numbers": lambda table: table.assign(value="much"),
    "bools for numbers": lambda table: table.assign(value=True),
    "numbers for text": lambda table: table.assign(removal=3),
    "nothing for text": lambda table: table.assign(image=None),
    "half a class": lambda table: table.assign(measure="predicted_class", value=0.5),
    "no class": lambda table: table.assign(measure="predicted_class", value=float("nan")),
    "an infinite class": lambda table: table.assign(measure="predicted_class", value=float("inf")),
    "no seed": lambda table: table.assign(seed=float("nan")),
    "other columns": lambda table: table.rename(columns={"value": "number"}),
    "a column more": lambda table: table.assign(more=1),
}


@pytest.mark.parametrize(
    "damage",
    [
        *DAMAGES.values(),
        lambda table: table.assign(value=float("nan")),
        lambda table: table[:0],
        lambda table: table[1:],
    ],
)
def test_a_damaged_part_is_measured_again(model, images, tmp_path, damage):
    expected = run_audit(model, images, out=tmp_path, **SMALL)
    for part in (tmp_path / "parts").glob("*.parquet"):
        damage(pd.read_parquet(part)).to_parquet(part)
    similarity = torch.eye(5)
    found = run_audit(model, images, out=tmp_path, class_similarity=similarity, **SMALL).table
    same(AuditResult(found[found["measure"] != "class_similarity"], expected.provenance), expected)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_table_is_not_loaded(model, images, tmp_path, damage):
    run_audit(model, images, out=tmp_path, **SMALL)
    file = tmp_path / "table.parquet"
    damage(pd.read_parquet(file)).to_parquet(file)
    with pytest.raises(OptionError, match=r"cannot be read: .*Run it again"):
        AuditResult.load(tmp_path)


@pytest.mark.parametrize("damaged", [{"costs": []}, {"costs": {"grey": "much"}}, {"left_out": 3}])
def test_a_damaged_provenance_is_not_loaded(model, images, tmp_path, damaged):
    run_audit(model, images, out=tmp_path, **SMALL)
    file = tmp_path / "audit.json"
    record = json.loads(file.read_text())
    record["provenance"].update(damaged)
    file.write_text(json.dumps(record))
    with pytest.raises(OptionError, match=r"audit\.json does not say what removals cost"):
        AuditResult.load(tmp_path)


@pytest.mark.parametrize("text", ["[]", '{"rows": 3}', '{"provenance": 1}', "{"])
def test_a_damaged_record_is_not_loaded(model, images, tmp_path, text):
    run_audit(model, images, out=tmp_path, **SMALL)
    (tmp_path / "audit.json").write_text(text)
    with pytest.raises(OptionError, match="cannot be read"):
        AuditResult.load(tmp_path)


def answers(values: Tensor, tolerance: float = 1e-3, **environment: str) -> ModelAnswers:
    return ModelAnswers(torch.zeros(1, 1, 2, 2), {"the model": values.double()}, tolerance, environment)


@pytest.mark.parametrize("name", ["settings.json", "answers.npz", "audit.json", "parts", "part"])
@pytest.mark.parametrize("resume", [True, False])
def test_folders_for_files_and_files_for_folders_are_named(model, images, tmp_path, name, resume):
    run_audit(model, images, out=tmp_path, **SMALL)
    place = next((tmp_path / "parts").glob("*.parquet")) if name == "part" else tmp_path / name
    if place.is_dir():
        shutil.rmtree(place)
        place.touch()
    else:
        place.unlink()
        place.mkdir()
    with pytest.raises(OptionError, match=f"{re.escape(place.name)} is a .* Take another folder, or remove it"):
        run_audit(model, images, out=tmp_path, resume=resume, **SMALL)
    assert place.exists()


def test_a_file_as_the_folder_is_named(model, images, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(OptionError, match="out is a file where an audit needs a folder"):
        run_audit(model, images, out=tmp_path / "out", **SMALL)


def test_an_audit_begun_anew_leaves_no_earlier_result(model, images, tmp_path):
    run_audit(model, images, out=tmp_path, **SMALL)

    def stops(image):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_audit(model, images, out=tmp_path, resume=False, **{**SMALL, "features": {"blocks": stops}})
    with pytest.raises(OptionError, match="no finished audit"):
        AuditResult.load(tmp_path)


def test_a_folder_belongs_to_one_audit_at_a_time(model, images, tmp_path):
    refused = []

    def begin_another(*_: object) -> None:
        hook.remove()  # the second audit runs the same model
        with pytest.raises(OptionError, match=r"another audit is writing to .*: wait until it has ended"):
            run_audit(model, images, out=tmp_path, resume=False, **SMALL)
        refused.append(True)

    hook = model.head.register_forward_hook(begin_another)
    alone = run_audit(model, images, out=tmp_path, **SMALL)
    assert refused
    pd.testing.assert_frame_equal(run_audit(model, images, out=tmp_path, **SMALL).table, alone.table)


def test_an_audit_that_fails_lets_go_of_its_folder(model, images, tmp_path):
    with pytest.raises(ShapeError):
        run_audit(model, images, out=tmp_path, **{**SMALL, "fractions": (0.3,)}, class_similarity=torch.zeros(2, 2))
    with pytest.raises(OptionError, match="other settings"):
        run_audit(model, images, out=tmp_path, **SMALL)
    run_audit(model, images, out=tmp_path, resume=False, **SMALL)


def test_rounding_is_no_change_and_what_is_more_is_one():
    before = torch.tensor([[0.0, 4.0]])
    # The tolerance is a share of the range, 4; a thousand times a rounding adds nothing to it.
    assert not changed_answers(answers(before), answers(before + 0.003))
    assert "a difference of 0.005" in changed_answers(answers(before), answers(before + 0.005))
    # An offset that all outputs share does not hide what they say.
    assert changed_answers(answers(before + 100), answers(before + torch.tensor([[100.0, 100.05]])))
    assert changed_answers(answers(before), answers(before * torch.nan))
    assert "shape (2,)" in changed_answers(answers(before), answers(before[0]))


def test_another_environment_is_named_where_answers_differ():
    before, now = answers(torch.ones(1, 2), torch="2.3", device="cpu"), torch.tensor([[1.0, 2.0]])
    assert "torch was 2.3, is 2.4." in changed_answers(before, answers(now, torch="2.4", device="cpu"))
    assert not changed_answers(before, answers(torch.ones(1, 2), torch="2.4", device="cpu"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_answers_come_back_from_disk(tmp_path, dtype):
    image = torch.randn(1, 3, 4, 4).to(dtype)
    kept = ModelAnswers(image, {"the removal 'ü/:', X()": torch.randn(1, 5).double()}, 0.1, {"torch": "2.3"})
    kept.save(tmp_path / "answers.npz")
    found = ModelAnswers.load(tmp_path / "answers.npz")
    assert found.image.dtype == dtype
    assert torch.equal(found.image, image)
    assert found.values.keys() == kept.values.keys()
    assert all(torch.equal(found.values[name], kept.values[name]) for name in kept.values)
    assert (found.tolerance, found.environment) == (0.1, {"torch": "2.3"})


def test_the_environment_does_not_stop_an_audit_that_answers_alike(model, images, tmp_path):
    expected = run_audit(model, images, out=tmp_path, **SMALL)
    with np.load(tmp_path / "answers.npz") as file:
        arrays = dict(file)
    about = json.loads(str(arrays.pop("about")))
    assert {"torch", "device", "dtype", "threads", "instructions"} <= set(about["environment"])
    about["environment"]["torch"] = "1.0"
    np.savez(tmp_path / "answers.npz", about=np.array(json.dumps(about)), **arrays)
    same(run_audit(model, images, out=tmp_path, **SMALL), expected)
    arrays["value_0"] = arrays["value_0"] + np.arange(5)
    np.savez(tmp_path / "answers.npz", about=np.array(json.dumps(about)), **arrays)
    with pytest.raises(OptionError, match=re.escape("The environment is another: torch was 1.0, is")):
        run_audit(model, images, out=tmp_path, **SMALL)
