"""The runner: the same numbers whatever the order, the batches and the interruptions."""

import errno
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from lm_plugins.audit import MEASURES, AuditResult, run_audit
from lm_plugins.errors import (
    InputTypeError,
    NonFiniteError,
    OptionError,
    ShapeError,
    TrainingModeError,
    UnsupportedOperatorError,
)
from lm_plugins.features import grid
from lm_plugins.removal import Blur, Colour, LayerMasking, PixelRemoval

BLOCKS = {"blocks": lambda image: grid(tuple(image.shape[1:]), 4)}
SMALL = {
    "removals": ("layer_masking", "grey"), "features": BLOCKS, "orders": ("random",), "fractions": (0.25, 0.5),
    "progress": False,
}  # fmt: skip


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5)
    ).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 16, 16)


def same(first: AuditResult, second: AuditResult) -> None:
    pd.testing.assert_frame_equal(first.table, second.table, rtol=1e-5, atol=1e-6)
    pd.testing.assert_frame_equal(first.summary, second.summary, rtol=1e-4, atol=1e-5)


def test_the_table_holds_what_was_asked_for(model, images):
    result = run_audit(
        model,
        images,
        labels=[0, 1, None, 3],
        names=list("abcd"),
        **{**SMALL, "orders": ("random", "least_salient_first")},
    )
    table = result.table
    assert list(table.columns) == ["measure", "removal", "features", "order", "fraction", "image", "value", "seed"]
    agreement = table[table["measure"] == "agreement"]
    assert len(agreement) == 4 * 2 * 2 * 3  # images, removals, orders, fractions with 0
    assert (agreement[agreement["fraction"] == 0]["value"] == 1).all()
    assert set(table[table["measure"] == "accuracy"]["image"]) == {"a", "b", "d"}
    assert not table["value"].isna().any()
    assert (result.summary["low"] <= result.summary["mean"] + 1e-12).all()
    assert (result.summary["mean"] <= result.summary["high"] + 1e-12).all()
    assert (table[(table["measure"] == "hidden_pixels")]["value"] == 0).all()
    bias = table[table["measure"] == "colour_bias"].groupby("removal")["value"].max()
    assert bias["layer_masking"] == 0 < bias["grey"]


def test_numbers_equal_a_plain_loop(model, images):
    result = run_audit(model, images, names=list("abcd"), measures=("missingness",), **{**SMALL, "fractions": (1.0,)})
    with torch.inference_mode():
        plain = model(images)
        nothing = model(torch.zeros_like(images))
    for removal, after in (("grey", nothing), ("layer_masking", LayerMasking()(model)(images, torch.zeros(16, 16)))):
        rows = result.table[(result.table["removal"] == removal) & (result.table["fraction"] == 1)]
        for measure, expected in (
            ("agreement", (after.argmax(1) == plain.argmax(1)).double()),
            ("confidence", after.softmax(1).amax(1).double()),
        ):
            values = rows[rows["measure"] == measure].sort_values("image")["value"].tolist()
            assert values == pytest.approx(expected.tolist(), abs=1e-6)


def test_order_and_batches_do_not_matter(model, images):
    names = ["a", "b", "c", "d"]
    every = {**SMALL, "measures": list(MEASURES), "lime_samples": 20}
    result = run_audit(model, images, labels=[0, 1, 2, 3], names=names, **every)
    turned = {**every, "removals": ("grey", "layer_masking"), "batch_size": 1}
    other = run_audit(model, images.flip(0), labels=[3, 2, 1, 0], names=names[::-1], **turned)
    same(result, other)
    assert result.recommendation == other.recommendation


def test_images_without_names_get_them_from_their_pixels(model, images):
    first = run_audit(model, list(images), **SMALL)
    second = run_audit(model, (one for one in images.flip(0)), **SMALL)
    same(first, second)
    assert run_audit(model, images[:1].expand(2, -1, -1, -1), **SMALL).table["image"].nunique() == 2


def test_a_data_set_is_read_image_by_image(model, images):
    class DataSet:
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> Tensor:
            if index >= len(images):
                raise IndexError(index)
            return images[index]

    same(run_audit(model, DataSet(), **SMALL), run_audit(model, images, **SMALL))


def test_features_in_a_word_are_those_of_a_function(model, images):
    table = run_audit(model, images, **{**SMALL, "features": "grid:4"}).table
    expected = run_audit(model, images, **{**SMALL, "features": {"grid:4": BLOCKS["blocks"]}}).table
    assert table.equals(expected)


def test_another_seed_draws_other_features(model, images):
    one, other = (run_audit(model, images, seed=seed, **SMALL) for seed in (0, 1))
    assert not one.table["value"].equals(other.table["value"])


def test_objects_that_somebody_gives(model, images):
    region = torch.zeros(16, 16, dtype=torch.bool)
    region[2:9, 3:9] = True
    result = run_audit(
        model, images, regions=[region, region, None, region.float()], measures=("shape_bias", "shape_leakage", "lime"),
        lime_samples=20, **SMALL,
    )  # fmt: skip
    found = result.table.groupby("measure")["image"].nunique().to_dict()
    assert found["shape_bias_object"] == found["shape_bias_swapped"] == found["lime_alignment"] == 3
    assert found["lime_ablation"] == 4
    assert set(result.table[result.table["measure"].str.startswith("shape")]["features"]) == {"object"}


def test_a_brightness_model_has_no_shape_to_leak(images):
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)).eval()
    shape = {**SMALL, "measures": ("shape_leakage",), "removals": ("grey",)}
    flat = images.mean((2, 3), keepdim=True).expand_as(images) * 10
    values = run_audit(model, flat, output="logits", **shape).table["value"]
    assert len(values)
    assert values.abs().max() < 1e-6


class Interrupted(Colour):
    """Stops the audit after some forward passes."""

    left = 0
    error: type[BaseException] = KeyboardInterrupt

    def replaced(self, x: Tensor, visible: Tensor) -> Tensor:
        type(self).left -= 1
        if type(self).left < 0:
            raise self.error
        return super().replaced(x, visible)


def test_an_interrupted_audit_goes_on_where_it_stopped(model, images, tmp_path):
    removals = {"grey": Interrupted(), "blur": Blur(2.0)}
    asked = {**SMALL, "removals": removals, "measures": ("missingness",)}
    Interrupted.left = 10**6
    expected = run_audit(model, images, **asked)
    parts = 10**6 - Interrupted.left - 1  # one pass tries the removal
    Interrupted.left = 2 + parts // 2  # another one is for the answers that are kept
    with pytest.raises(KeyboardInterrupt):
        run_audit(model, images, out=tmp_path, **asked)
    assert not (tmp_path / "audit.json").exists()
    with pytest.raises(OptionError, match="no finished audit"):
        AuditResult.load(tmp_path)
    Interrupted.left = 2 + parts - parts // 2
    same(run_audit(model, images, out=tmp_path, **asked), expected)
    Interrupted.left = 2
    same(run_audit(model, images, out=tmp_path, **asked), expected)
    same(AuditResult.load(tmp_path), expected)


def test_a_full_disk_leaves_no_half_part(model, images, tmp_path, monkeypatch):
    whole = pd.DataFrame.to_parquet
    left = [3]

    def to_parquet(frame, path, **settings):
        left[0] -= 1
        if left[0] >= 0:
            return whole(frame, path, **settings)
        Path(path).write_bytes(b"PAR1")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", to_parquet)
    with pytest.raises(OSError, match="No space left"):
        run_audit(model, images, out=tmp_path, **SMALL)
    parts = list((tmp_path / "parts").iterdir())
    assert [one.suffix for one in parts] == [".parquet"] * 3
    monkeypatch.undo()
    same(run_audit(model, images, out=tmp_path, **SMALL), run_audit(model, images, **SMALL))


def test_a_truncated_part_is_done_again(model, images, tmp_path):
    expected = run_audit(model, images, out=tmp_path, **SMALL)
    for part in list((tmp_path / "parts").glob("*.parquet"))[:3]:
        part.write_bytes(part.read_bytes()[:-20])
    same(run_audit(model, images, out=tmp_path, **SMALL), expected)


def test_images_and_removals_may_be_added(model, images, tmp_path):
    run_audit(model, images[:2], out=tmp_path, names=["a", "b"], **SMALL)
    more = {**SMALL, "removals": ("layer_masking", "grey", "blur")}
    result = run_audit(model, images, out=tmp_path, names=list("abcd"), **more)
    same(result, run_audit(model, images, names=list("abcd"), **more))
    # The same name for another image is no reason to take its numbers.
    swapped = run_audit(model, images.flip(0), out=tmp_path, names=list("abcd"), **more)
    same(swapped, run_audit(model, images.flip(0), names=list("abcd"), **more))


def test_other_settings_are_refused_unless_begun_anew(model, images, tmp_path):
    run_audit(model, images, out=tmp_path, **SMALL)
    with pytest.raises(OptionError, match=r"other settings.*seed was 0, is 1.*resume=False"):
        run_audit(model, images, out=tmp_path, seed=1, **SMALL)
    with torch.no_grad():
        model[0].weight += 1
    with pytest.raises(OptionError, match=r"other settings.*model was 'Sequential"):
        run_audit(model, images, out=tmp_path, **SMALL)
    same(run_audit(model, images, out=tmp_path, resume=False, **SMALL), run_audit(model, images, **SMALL))


class Shifted:
    """A removal of somebody's own, without a text that tells what it does."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, model: nn.Module) -> object:
        return Colour(self.value)(model)


def test_removals_without_a_text_are_told_apart(model, images, tmp_path):
    run_audit(model, images, out=tmp_path, **{**SMALL, "removals": {"mine": Shifted(0.0)}})
    found = run_audit(model, images, out=tmp_path, **{**SMALL, "removals": {"mine": Shifted(3.0)}})
    same(found, run_audit(model, images, **{**SMALL, "removals": {"mine": Shifted(3.0)}}))


class Spectrum(nn.Module):
    """A model that layer masking does not cover."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft2(x).abs().flatten(1)[:, :5]


def test_a_model_that_is_not_covered_is_audited_with_the_others(images):
    result = run_audit(Spectrum().eval(), images, **SMALL)
    assert set(result.table["removal"]) == {"grey"}
    assert list(result.left_out) == ["layer_masking"]
    assert "rfft" in result.left_out["layer_masking"]
    assert result.recommendation.removal == "grey"
    one_channel = run_audit(Spectrum().eval(), images[:, :1], **{**SMALL, "removals": ("grey", "black")})
    assert "one a channel (1), got 3" in one_channel.left_out["black"]
    with pytest.raises(UnsupportedOperatorError, match="no removal works with this model"):
        run_audit(Spectrum().eval(), images, **{**SMALL, "removals": ("layer_masking",)})


def test_a_model_that_fails_by_itself_says_so(images):
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)) / 0

    with pytest.raises(NonFiniteError, match=r"NaN|infinity"):
        run_audit(Broken().eval(), images * 0, **SMALL)


def test_the_model_is_left_alone(model, images):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    run_audit(model, images, **{**SMALL, "orders": ("most_salient_first",)})
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model[0]._forward_hooks


def test_outputs_of_other_kinds(model, images):
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"probabilities": self.inner(x).softmax(1)}

    wrapped = run_audit(
        Wrapped().eval(), images, output=(lambda result: result["probabilities"], "probabilities"),
        measures=["missingness", "lime"], lime_samples=20, **SMALL,
    )  # fmt: skip
    same(wrapped, run_audit(model, images, measures=["missingness", "lime"], lime_samples=20, **SMALL))


def test_similarity_of_classes_adds_a_curve(model, images):
    matrix = torch.eye(5)
    table = run_audit(model, images, class_similarity=matrix, **SMALL).table
    similar = table[table["measure"] == "class_similarity"]["value"].tolist()
    assert similar == table[table["measure"] == "agreement"]["value"].tolist()


class Peeking(PixelRemoval):
    """A blurred copy of the image, as much code makes it: hidden pixels shine through."""

    def replaced(self, x: Tensor, visible: Tensor) -> Tensor:
        return torch.where(visible[:, None], x, torch.nn.functional.avg_pool2d(x, 5, 1, 2))


def test_what_lets_the_model_peek_cannot_win(model, images):
    result = run_audit(model, images, **{**SMALL, "removals": {"peeking": Peeking(), "grey": "grey"}})
    assert (
        result.table[(result.table["measure"] == "hidden_pixels")].groupby("removal")["value"].max()["peeking"] > 0.001
    )
    assert result.recommendation.removal == "grey"
    assert "peeking cannot be trusted" in result.recommendation.reason


@pytest.mark.parametrize(
    ("changed", "error", "text"),
    [
        ({"images": []}, OptionError, "no images"),
        ({"images": "photos"}, InputTypeError, "got str"),
        ({"images": [torch.zeros(3, 4, 4, dtype=torch.uint8)]}, InputTypeError, "torch.uint8"),
        ({"images": [torch.zeros(4, 4)]}, ShapeError, r"\(C, H, W\).*\(4, 4\)"),
        ({"images": [torch.full((3, 4, 4), torch.nan)]}, NonFiniteError, "NaN"),
        ({"labels": [1]}, OptionError, "1 labels for 4 images"),
        ({"labels": [1, 2, 3, "cat"]}, InputTypeError, "'cat'"),
        ({"labels": [1, 2, 3, 99]}, OptionError, "label is 99.*0 to 4"),
        ({"names": ["a", "b", "c", "a"]}, OptionError, "'a' came more than once"),
        ({"removals": "grey"}, OptionError, r"pass \('grey',\)"),
        ({"removals": ("gray",)}, OptionError, "no removal is called 'gray'"),
        ({"removals": ("grey", "grey")}, OptionError, "once each"),
        ({"removals": ()}, OptionError, "no removals"),
        ({"features": ("pixels",)}, OptionError, "'patches', 'superpixels', 'grid:N', 'slic:N'; got 'pixels'"),
        ({"features": ("grid:0",)}, OptionError, "'grid:N', 'slic:N'; got 'grid:0'"),
        ({"features": (3,)}, OptionError, "got 3"),
        ({"features": ()}, OptionError, "a kind of features is missing"),
        ({"features": {"odd": lambda image: torch.zeros(2, 2, dtype=torch.int64)}}, ShapeError, r"'odd'.*\(2, 2\)"),
        ({"orders": ("best",)}, OptionError, "got 'best'"),
        ({"fractions": (0.5, 1.5)}, OptionError, r"in \(0, 1\]"),
        ({"measures": ("magic",)}, OptionError, "missingness.*got magic"),
        ({"regions": [None] * 3}, OptionError, "3 regions for 4 images"),
        ({"regions": [torch.ones(4, 4)] * 4}, ShapeError, r"region of image .* \(4, 4\): expected \(16, 16\)"),
        ({"regions": [torch.full((16, 16), 0.5)] * 4}, InputTypeError, "0 and 1"),
        ({"regions": ["object"] * 4}, InputTypeError, "got str"),
        ({"batch_size": 0}, OptionError, "at least 1"),
        ({"output": "guesses"}, OptionError, "'guesses'"),
    ],
)
def test_bad_input(model, images, changed, error, text):
    with pytest.raises(error, match=text):
        run_audit(model, changed.pop("images", images), **{**SMALL, **changed})


def test_a_model_in_training_mode_is_refused(model, images):
    with pytest.raises(TrainingModeError, match=r"training mode: the model itself.*model\.eval"):
        run_audit(model.train(), images, **SMALL)
    with pytest.raises(InputTypeError, match="got function"):
        run_audit(lambda x: x, images, **SMALL)
