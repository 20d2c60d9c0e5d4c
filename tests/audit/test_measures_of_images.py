"""What is run for each image, on a model whose answers can be worked out by hand."""

import pytest
import torch
from torch import Tensor, nn

from lm_plugins.audit import AuditResult, run_audit
from lm_plugins.features import grid

QUARTERS = {"quarters": lambda image: grid(tuple(image.shape[1:]), 4)}


class Quarters(nn.Module):
    """Logits from the mean brightness of the four quarters of an image: 0 for class 0, a weighted sum for class 1."""

    def __init__(self, weights: tuple[float, ...], bias: float) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.linear = nn.Linear(4, 2)
        self.linear.weight.data = torch.tensor([[0.0] * 4, weights])
        self.linear.bias.data = torch.tensor([0.0, bias])

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.pool(x).flatten(1))


def audited(model: nn.Module, images: Tensor, measure: str, **settings: object) -> AuditResult:
    return run_audit(
        model.eval(), images, removals=("grey",), features=QUARTERS, orders=("random",), measures=(measure,),
        lime_samples=100, progress=False, **{"output": "logits", **settings},
    )  # fmt: skip


def values(result: AuditResult, measure: str) -> list[float]:
    return result.table[result.table["measure"] == measure].sort_values("image")["value"].tolist()


def test_every_image_gets_a_draw_of_its_own():
    same = torch.rand(1, 1, 8, 8).expand(20, -1, -1, -1)
    result = audited(Quarters((4.0, 3.0, 2.0, 1.0), 0.0), same, "missingness", fractions=(0.25,))
    confidence = result.table[(result.table["measure"] == "confidence") & (result.table["fraction"] > 0)]["value"]
    assert confidence.round(6).nunique() == 4


def test_salient_quarters_go_first_or_last():
    for order, expected in (("most_salient_first", -1.0), ("least_salient_first", 4.0)):
        result = run_audit(
            Quarters((5.0, 2.0, 1.0, 0.5), -3.5).eval(), torch.ones(1, 1, 8, 8), removals=("grey",), features=QUARTERS,
            orders=(order,), fractions=(0.5,), measures=("missingness",), progress=False,
        )  # fmt: skip
        logit = {-1.0: 1.5 - 3.5, 4.0: 7.0 - 3.5}[expected]
        rows = result.table[(result.table["measure"] == "confidence") & (result.table["fraction"] == 0.5)]
        assert rows["value"].item() == pytest.approx(float(torch.tensor(abs(logit)).sigmoid()), abs=1e-6)
        assert result.curves("agreement", "quarters", order)[0.5].item() == (logit > 0)


def test_ablation_takes_what_lime_holds_for_important():
    # Class 1 lives by the first two quarters; without them class 0 wins.
    result = audited(Quarters((4.0, 3.0, 0.1, 0.1), -1.0), torch.ones(1, 1, 8, 8), "lime")
    assert values(result, "lime_ablation") == [0.0]
    spread = audited(Quarters((1.0, 1.1, 1.2, 1.3), -1.0), torch.ones(1, 1, 8, 8), "lime")
    assert values(spread, "lime_ablation") == [1.0]


def test_alignment_with_the_object():
    region = torch.zeros(8, 8, dtype=torch.bool)
    region[:4] = True
    aligned = audited(Quarters((1.0, 1.0, -1.0, -1.0), 0.2), torch.ones(1, 1, 8, 8), "lime", regions=[region])
    assert values(aligned, "lime_alignment")[0] > 0.9
    assert values(aligned, "lime_jaccard") == [1.0]


@pytest.mark.parametrize("measure", ["lime", "rank_agreement", "shape_bias", "shape_leakage"])
def test_explanations_and_shapes_are_of_what_is_predicted_right(measure):
    """Of six images, three of class 1 have the right label, one has another, and two of class 0 have none."""
    torch.manual_seed(0)
    bright, dark = 1 + torch.rand(4, 3, 8, 8) / 9, torch.rand(2, 3, 8, 8) / 9
    region = torch.zeros(8, 8, dtype=torch.bool)
    region[:4, :4] = True
    result = run_audit(
        Quarters((4.0, 3.0, 2.0, 1.0), -4.0).eval(), torch.cat([bright, dark]).mean(1, keepdim=True),
        labels=[1, 1, 0, 1, None, None], regions=[region] * 6, names=list("abcdef"), removals=("grey", "layer_masking"),
        features=QUARTERS, orders=("random",), measures=(measure,), lime_samples=20, progress=False,
    )  # fmt: skip
    assert sorted(result.table["image"].unique()) == ["a", "b", "d", "e", "f"]


def test_leakage_goes_into_images_of_other_labels():
    """A host whose label is the class of the object is none, whatever the model says about it."""
    model = Quarters((-4.0, 0.0, 0.0, 0.0), 1.5)
    of_class_1 = torch.ones(1, 1, 8, 8)
    of_class_1[:, :, :4, :4] = 0
    images = torch.cat([of_class_1, torch.ones(1, 1, 8, 8)])
    hole = torch.zeros(8, 8, dtype=torch.bool)
    hole[:4, :4] = True
    settings = {"regions": [hole, None], "names": ["object", "other"]}
    assert values(audited(model, images, "shape_leakage", labels=[1, 0], **settings), "shape_leakage")
    assert not values(audited(model, images, "shape_leakage", labels=[1, 1], **settings), "shape_leakage")


class Counted(Quarters):
    """Counts its calls, and the images in the largest one."""

    calls, largest = 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls, self.largest = self.calls + 1, max(self.largest, len(x))
        return super().forward(x)


@pytest.mark.parametrize(
    ("measure", "removal", "images", "batch"),
    [
        ("hidden_pixels", "grey", 1, 2), ("colour_bias", "grey", 1, 6), ("colour_bias", "blur", 1, 6),
        ("shape_bias", "grey", 1, 2), ("shape_leakage", "grey", 3, 4),
    ],
)  # fmt: skip
def test_what_one_image_is_asked_goes_through_the_model_at_once(measure, removal, images, batch):
    torch.manual_seed(0)
    model = Counted((4.0, 3.0, 2.0, 1.0), -4.0).eval()
    x = torch.cat([1 + torch.rand(1, 1, 8, 8), -torch.rand(images - 1, 1, 8, 8)])
    region = torch.zeros(8, 8, dtype=torch.bool)
    region[:4, :4] = True
    asked = {
        "regions": [region, *[None] * (images - 1)], "removals": (removal,), "features": QUARTERS, "orders": ("random",),
        "measures": (measure,), "progress": False, "names": list("abc")[:images],
    }  # fmt: skip
    found = run_audit(model, x, **asked)
    assert model.largest == batch
    together = model.calls
    model.calls = 0
    single = run_audit(model, x, batch_size=1, **asked)
    assert model.calls > together
    assert len(found.table)
    torch.testing.assert_close(
        torch.tensor(found.table["value"]), torch.tensor(single.table["value"]), atol=1e-6, rtol=0
    )


def test_sums_of_quarters_are_linear():
    result = audited(Quarters((4.0, -3.0, 0.5, 1.0), -1.0), torch.rand(3, 1, 8, 8), "linearity")
    assert values(result, "linearity_cosine") == pytest.approx([1.0] * 3)
    assert values(result, "linearity_error") == pytest.approx([0.0] * 3, abs=1e-5)


def test_shape_bias_removes_the_object_and_as_much_elsewhere():
    first = torch.zeros(8, 8, dtype=torch.bool)
    first[:4, :4] = True  # the first quarter; with swapped quadrants, the last
    model = Quarters((4.0, 0.0, 0.0, 0.0), -1.0)
    result = audited(model, torch.ones(2, 1, 8, 8), "shape_bias", regions=[first, ~first], labels=[1, 1])
    by_image = result.table.pivot_table(index="image", columns="measure", values="value", sort=False)
    assert sorted(map(tuple, by_image[["shape_bias_object", "shape_bias_swapped"]].to_numpy().tolist())) == [
        (0, 1),
        (1, 0),
    ]
    wrong = audited(model, torch.ones(2, 1, 8, 8), "shape_bias", regions=[first, first], labels=[1, 0])
    assert len(values(wrong, "shape_bias_object")) == 1  # only what is predicted right


# Its logits happen to sum to 1.
@pytest.mark.filterwarnings("ignore:what was said to be logits:lm_plugins.errors.OutputWarning")
def test_leakage_is_how_much_more_the_shape_pulls_than_another_hole():
    # A hole in the first quarter speaks for class 1, one in the last does not.
    model = Quarters((-4.0, 0.0, 0.0, 0.0), 1.0)
    of_class_1 = torch.ones(1, 1, 8, 8)
    of_class_1[:, :, :4, :4] = 0
    images = torch.cat([of_class_1, torch.ones(1, 1, 8, 8)])
    hole = torch.zeros(8, 8, dtype=torch.bool)
    hole[:4, :4] = True
    result = audited(model, images, "shape_leakage", regions=[hole, None], names=["object", "other"])
    expected = torch.tensor(1.0).sigmoid() - torch.tensor(-3.0).sigmoid()
    assert values(result, "shape_leakage") == pytest.approx([float(expected)])


def test_rank_agreement_is_that_of_each_removal_with_the_others(tmp_path):
    model = Quarters((4.0, 3.0, 2.0, 1.0), -4.0).eval()
    settings = {
        "features": QUARTERS, "orders": ("random",), "measures": ("rank_agreement",), "lime_samples": 200, "progress": False,
    }  # fmt: skip
    images = 2 * torch.ones(1, 3, 8, 8).mean(1, keepdim=True)
    found = run_audit(model, images, removals=("grey", "layer_masking"), **settings)
    assert found.table["value"].tolist() == pytest.approx([1.0, 1.0])
    assert found.table["removal"].tolist() == ["grey", "layer_masking"]
    assert run_audit(model, images, removals=("grey",), out=tmp_path, **settings).table.empty
    assert AuditResult.load(tmp_path).table.empty
