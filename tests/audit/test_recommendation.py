"""The recommendation: no advertisement. And what becomes of a result on disk."""

import json

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from lm_plugins.audit import AuditResult, cost_of, recommend, run_audit
from lm_plugins.errors import OptionError, ShapeError
from lm_plugins.features import grid
from lm_plugins.removal import Blur, Colour, LayerMasking

BLOCKS = {"blocks": lambda image: grid(tuple(image.shape[1:]), 4)}
COSTS = {"grey": cost_of(Colour()), "blur": cost_of(Blur()), "layer_masking": cost_of(LayerMasking())}


def table(scores: dict[str, list[float]], measure: str = "agreement", fraction: float = 0.3) -> pd.DataFrame:
    rows = [
        {"measure": measure, "removal": name, "features": "patches", "order": "random", "fraction": fraction,
         "image": f"{i:02d}", "value": value, "seed": 0}
        for name, values in scores.items() for i, value in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize("best", ["grey", "blur", "layer_masking"])
def test_whoever_keeps_most_wins(best):
    scores = {name: [0.9] * 10 if name == best else [0.4] * 10 for name in COSTS}
    found = recommend(table(scores), COSTS)
    assert found.removal == best
    assert next(iter(found.scores)) == best
    assert found.scores[best] == pytest.approx(0.9)
    assert f"With {best} the model keeps its prediction in 90.0%" in found.reason


@pytest.mark.parametrize("ahead", [0.0, 0.009])
def test_of_equal_ones_the_cheapest_wins(ahead):
    found = recommend(table({"layer_masking": [0.8 + ahead], "blur": [0.8], "grey": [0.8]}), COSTS)
    assert found.removal == "grey"
    assert "as much as with" in found.reason
    assert "cheapest of them" in found.reason
    assert recommend(table({"layer_masking": [0.82], "grey": [0.8]}), COSTS).removal == "layer_masking"


def test_a_difference_that_may_be_chance_is_called_so():
    sure = recommend(table({"layer_masking": [1.0] * 30, "grey": [0.5] * 30}), COSTS)
    assert "do not settle" not in sure.reason
    unsure = recommend(table({"layer_masking": [1.0, 0.0, 1.0, 1.0], "grey": [0.0, 1.0, 1.0, 0.0]}), COSTS)
    assert unsure.removal == "layer_masking"
    assert "a difference that 4 images do not settle" in unsure.reason


def test_images_weigh_the_same_and_only_fractions_above_zero_count():
    whole = table({"grey": [1.0] * 4, "blur": [1.0] * 4}, fraction=0.0)
    part = table({"grey": [0.0, 1.0, 0.0, 0.0], "blur": [1.0, 1.0, 0.0, 0.0]})
    found = recommend(pd.concat([whole, part]), COSTS)
    assert found.scores == {"blur": 0.5, "grey": 0.25}


def test_an_audit_that_cannot_tell_says_so():
    assert recommend(table({"grey": [1.0]}, measure="colour_bias")).removal is None
    nothing = AuditResult(pd.DataFrame(columns=list(table({"grey": [1.0]}).columns)))
    assert nothing.recommendation.removal is None
    assert nothing.summary.empty
    peeking = pd.concat([table({"grey": [1.0]}), table({"grey": [0.5]}, measure="hidden_pixels")])
    assert recommend(peeking).removal is None
    assert recommend(peeking).scores == {"grey": 1.0}


class BlindToGrey(nn.Sequential):
    """Pixels of value 0 add nothing anywhere, and the class is a matter of proportion: grey is harmless."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 1, bias=False),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4, bias=False),
        )


class AfraidOfPaint(nn.Module):
    """Tells bright from dark images, but cries "paint" where pixels are grey or black, which the images never are."""

    def __init__(self) -> None:
        super().__init__()
        self.sides = nn.Conv2d(1, 2, 1, bias=False)
        self.sides.weight.data = torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1)
        self.paint = nn.Conv2d(2, 2, 1)
        self.paint.weight.data = torch.tensor([[-1.5, -1.5], [0.0, 1.0]]).reshape(2, 2, 1, 1)
        self.paint.bias.data = torch.tensor([1.0, -1.5])

    def forward(self, x: Tensor) -> Tensor:
        sides = self.sides(x).relu()
        paint = self.paint(sides).relu().sum(1, keepdim=True) * 20
        return torch.cat([sides.mean((2, 3)), paint.mean((2, 3))], 1)


def photographs(count: int) -> Tensor:
    """Bright and dark pixels, more of one than of the other."""
    signs = (
        torch.rand(count, 1, 16, 16) < torch.tensor([0.3, 0.7]).repeat(count // 2)[:, None, None, None]
    ).float() * 2 - 1
    return signs * (1 + 0.2 * torch.rand(count, 1, 16, 16))


ASKED = {"features": BLOCKS, "orders": ("random",), "fractions": (0.2, 0.5), "progress": False}


def test_a_model_to_which_grey_is_harmless_gets_grey():
    torch.manual_seed(1)
    images = torch.randn(8, 3, 16, 16) + torch.randn(8, 3, 1, 1)
    found = run_audit(BlindToGrey().eval(), images, **ASKED).recommendation
    assert found.removal == "grey"
    assert found.scores["grey"] > found.scores["black"] + 0.1
    assert "layer_masking" in found.scores


# Its logits happen to sum to 1.
@pytest.mark.filterwarnings("ignore:what was said to be logits:lm_plugins.errors.OutputWarning")
def test_a_model_that_paint_confuses_gets_layer_masking():
    removals = {"layer_masking": "layer_masking", "grey": "grey", "black": Colour(-2.0), "blur": Blur(2.0)}
    found = run_audit(
        AfraidOfPaint().eval(), photographs(8), removals=removals, output="logits", **ASKED
    ).recommendation
    assert found.removal == "layer_masking"
    assert all(found.scores["layer_masking"] > found.scores[name] + 0.3 for name in ("grey", "black", "blur"))


@pytest.fixture
def result() -> AuditResult:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4)).eval()
    names, provenance = ["a", "<b>", "c,d"], {"command": "audit <it>"}
    return run_audit(model, torch.randn(3, 3, 16, 16), provenance=provenance, names=names, **ASKED)


def test_a_saved_result_comes_back(result, tmp_path):
    result.save(tmp_path)
    again = AuditResult.load(tmp_path)
    pd.testing.assert_frame_equal(again.table, result.table)
    pd.testing.assert_frame_equal(again.summary, result.summary)
    assert again.recommendation == result.recommendation
    assert again.provenance == json.loads(json.dumps(result.provenance))
    assert again.provenance["command"] == "audit <it>"
    means = pd.read_csv(tmp_path / "summary.csv")["mean"]
    assert means.tolist() == pytest.approx(result.summary["mean"].tolist())
    assert sorted(pd.read_csv(tmp_path / "table.csv")["image"].unique()) == ["<b>", "a", "c,d"]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["audit.json", "summary.csv", "table.csv", "table.parquet"]


def test_the_summary_is_the_mean_over_images(result):
    for row in result.summary.itertuples():
        if row.measure == "class_entropy":
            continue
        values = result.table[
            (result.table["measure"] == row.measure) & (result.table["removal"] == row.removal)
            & (result.table["fraction"] == row.fraction) & (result.table["features"] == row.features)
        ]["value"]  # fmt: skip
        assert row.mean == pytest.approx(values.mean())
        assert row.count == 3


def test_curves_are_a_table_to_print(result):
    curves = result.curves("agreement", "blocks")
    assert list(curves.columns) == [0.0, 0.2, 0.5, "mean"]
    assert curves["mean"].tolist() == pytest.approx(((curves[0.2] + curves[0.5]) / 2).tolist())
    assert curves["mean"].is_monotonic_decreasing
    with pytest.raises(OptionError, match=r"no accuracy/blocks/random.*agreement/blocks/random"):
        result.curves("accuracy", "blocks")


def test_a_result_that_is_not_whole_is_not_loaded(result, tmp_path):
    with pytest.raises(OptionError, match="no finished audit"):
        AuditResult.load(tmp_path)
    result.save(tmp_path)
    result.table.iloc[:5].to_parquet(tmp_path / "table.parquet")
    with pytest.raises(OptionError, match="a table of 5 rows where"):
        AuditResult.load(tmp_path)
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    with pytest.raises(OptionError, match="cannot be read"):
        AuditResult.load(tmp_path)
    with pytest.raises(ShapeError, match="value"):
        AuditResult(result.table.drop(columns="value"))
