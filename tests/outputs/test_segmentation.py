"""The mean of each class over a region."""

import pytest
import torch
from torch import Tensor, nn

import lm_plugins as lm
from lm_plugins.attribution import RISE
from lm_plugins.captum import FeatureAblation
from lm_plugins.errors import InputTypeError, MaskValueError, OptionError, ShapeError
from lm_plugins.features import grid
from lm_plugins.outputs import Segmentation

X = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
MAPS = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
REGION = torch.zeros(4, 4, dtype=torch.bool)
REGION[1:3, :2] = True


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.body(x)}


def test_the_mean_over_a_region() -> None:
    expected = MAPS[:, :, REGION].mean(2)
    torch.testing.assert_close(Segmentation(REGION)(MAPS), expected)
    torch.testing.assert_close(Segmentation(REGION.repeat_interleave(2, 0).repeat_interleave(2, 1))(MAPS), expected)
    torch.testing.assert_close(Segmentation()(MAPS), MAPS.mean((2, 3)))
    each = torch.stack([REGION, ~REGION, REGION])
    torch.testing.assert_close(Segmentation(each, "out")({"out": MAPS})[:, 1], MAPS[:, 1, ~REGION].mean(1))


def test_each_class_where_it_is_found() -> None:
    model = Dense().eval()
    found = Segmentation.of_prediction(model, X, "out")
    labels = model(X)["out"][0].argmax(0)
    for label in range(3):
        expected = labels == label if bool((labels == label).any()) else torch.ones(16, 16, dtype=torch.bool)
        assert torch.equal(found.region[label], expected)
    single = Segmentation.of_prediction(lambda x: x[:, :1] - 0.5, X)
    assert torch.equal(single.region[0], X[0, 0] > 0.5)


@pytest.mark.parametrize("removal", [None, "grey"])
def test_adapters_explain_a_class_of_a_region(removal) -> None:
    model, features = Dense().eval(), grid((16, 16), 8)
    region = torch.zeros(16, 16, dtype=torch.bool)
    region[4:12, 4:12] = True
    choose = Segmentation(region, "out")
    found = FeatureAblation(model, removal=removal, output=choose).attribute(
        X, target=1, feature_mask=features[None, None]
    )
    forward = lm.removal.as_removal(removal)(model)
    for part in range(4):
        hidden = forward(X, (features != part)[None])["out"]
        expected = (model(X)["out"] - hidden)[0, 1][region].mean()
        torch.testing.assert_close(found[0, 0][features == part], expected.expand(64).detach())
    heat = RISE(model, removal=removal, output=(choose, "regression")).attribute(X, target=1, n_masks=8, seed=0)
    assert heat.isfinite().all()


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Segmentation(torch.ones(4)), ShapeError, r"\(4,\)"),
        (lambda: Segmentation([[1]]), ShapeError, "got list"),
        (lambda: Segmentation(torch.full((4, 4), 0.5)), MaskValueError, "0 and 1"),
        (lambda: Segmentation(torch.zeros(4, 4)), MaskValueError, "something of each class"),
        (lambda: Segmentation(torch.stack([REGION] * 2))(MAPS), ShapeError, "regions for 2 classes, the model has 3"),
        (lambda: Segmentation(REGION)({"out": MAPS}), InputTypeError, "got dict; name the field"),
        (lambda: Segmentation(REGION)(MAPS[0]), ShapeError, r"\(3, 4, 4\)"),
        (
            lambda: Segmentation(torch.eye(64, dtype=torch.bool) & (torch.arange(64) == 5))(MAPS),
            OptionError,
            "no position",
        ),
        (lambda: Segmentation.of_prediction(lambda x: MAPS, X), ShapeError, "one image"),
    ],
)
def test_mistakes_are_named(make, error, text: str) -> None:
    with pytest.raises(error, match=text):
        make()
