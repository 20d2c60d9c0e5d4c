"""Similarity of embeddings to references, in every adapter."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lm_plugins as lm
from lm_plugins.captum import FeatureAblation
from lm_plugins.errors import InputTypeError, NonFiniteError, ShapeError
from lm_plugins.features import grid
from lm_plugins.outputs import Similarity

X = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TEXTS = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))


@dataclass
class ModelOutput:
    image_embeds: Tensor
    text_embeds: Tensor | None = None


class Tower(nn.Module):
    """An image encoder that returns what transformers' CLIP does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())

    def forward(self, pixel_values: Tensor) -> ModelOutput:
        return ModelOutput(self.body(pixel_values).mean((2, 3)) - 0.1)


@pytest.mark.parametrize("field", ["image_embeds", lambda result: result.image_embeds])
@pytest.mark.parametrize("removal", [None, "grey"])
def test_each_text_is_a_target(field, removal) -> None:
    model = Tower().eval()
    explainer = FeatureAblation(model, removal=removal, output=Similarity(TEXTS, field, scale=10.0))
    features = grid((16, 16), 8)
    found = explainer.attribute(X, target=2, feature_mask=features[None, None])
    forward = lm.removal.as_removal(removal)(model)
    for part in range(4):
        hidden = forward(X, (features != part)[None]).image_embeds
        both = [10 * F.cosine_similarity(one, TEXTS[2:], dim=1) for one in (model(X).image_embeds, hidden)]
        torch.testing.assert_close(found[0, 0][features == part], (both[0] - both[1]).expand(64).detach())


def test_a_softmax_behind_it_is_zero_shot_classification() -> None:
    model = Tower().eval()
    values = lm.features.CoalitionEvaluator(
        lm.LayerMasked(model), X, grid((16, 16), 8), output=(Similarity(TEXTS, "image_embeds", 5.0), "logits")
    )
    found = values(torch.ones(1, 4, dtype=torch.bool))
    unit = F.normalize(model(X).image_embeds, dim=1) @ F.normalize(TEXTS, dim=1).T
    torch.testing.assert_close(found, (5 * unit).softmax(1).detach())


def test_one_reference_and_other_kinds_of_output() -> None:
    pair = namedtuple("pair", ["first", "embedding"])(None, torch.tensor([[0.0, 2.0], [0.0, 0.0]]))
    assert Similarity(torch.tensor([0.0, 3.0]), "embedding")(pair).tolist() == [[1.0], [0.0]]
    half = Similarity(torch.eye(2))(torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    assert half.dtype == torch.float64
    assert "(2, 2)" in repr(Similarity(torch.eye(2)))


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Similarity(torch.zeros(2, 3)), NonFiniteError, "no length"),
        (lambda: Similarity(torch.full((1, 3), torch.inf)), NonFiniteError, "infinity"),
        (lambda: Similarity(torch.ones(2, 3).int()), InputTypeError, "floating-point tensor"),
        (lambda: Similarity([1.0]), InputTypeError, "got list"),
        (lambda: Similarity(torch.ones(1, 2, 3)), ShapeError, r"\(1, 2, 3\)"),
        (lambda: Similarity(torch.eye(2), 3), InputTypeError, "a name or a function"),
        (lambda: Similarity(torch.eye(2))({"a": 1}), InputTypeError, "got dict"),
        (lambda: Similarity(torch.eye(2), "b")({"a": 1}), InputTypeError, "without a field 'b'; it has 'a'"),
        (lambda: Similarity(torch.eye(2))(torch.ones(1, 3)), ShapeError, r"embeddings \(N, 2\)"),
        (lambda: Similarity(torch.eye(2))(torch.ones(1, 2, 4, 4)), ShapeError, r"\(1, 2, 4, 4\)"),
    ],
)
def test_mistakes_are_named(make, error, text: str) -> None:
    with pytest.raises(error, match=text):
        make()
