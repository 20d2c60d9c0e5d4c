"""How well detections match one box: against the definition, written out."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from lm_plugins.attribution import RISE
from lm_plugins.captum import FeatureAblation, KernelShap
from lm_plugins.errors import InputTypeError, OptionError, ShapeError
from lm_plugins.features import grid
from lm_plugins.outputs import Detection, Detections

G = torch.Generator().manual_seed(0)
BOX = torch.tensor([0.2, 0.2, 0.6, 0.6])


@dataclass
class DetrOutput:
    """As transformers' detectors return it."""

    logits: Tensor
    pred_boxes: Tensor


OUTPUT = DetrOutput(torch.randn(2, 5, 4, generator=G), torch.rand(2, 5, 4, generator=G) * 0.5 + 0.2)


def iou(one: list[float], other: list[float]) -> float:
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_matches_of_transformers_detectors(scores: str) -> None:
    target = torch.tensor([0.1, 0.7, 0.2] if scores == "softmax" else [0.1, 0.7, 0.2, 0.3])
    found = Detection(BOX, target, scores)(OUTPUT)
    for image in range(2):
        best = 0.0
        for query in range(5):
            x, y, w, h = OUTPUT.pred_boxes[image, query].tolist()
            logits = OUTPUT.logits[image, query]
            if scores == "softmax":
                probabilities, objectness = logits.softmax(0)[:3], 1 - logits.softmax(0)[3]
            else:
                probabilities, objectness = logits.sigmoid(), logits.sigmoid().max()
            alike = probabilities @ target / probabilities.norm() / target.norm()
            overlap = iou(BOX.tolist(), [x - w / 2, y - h / 2, x + w / 2, y + h / 2])
            best = max(best, overlap * float(alike * objectness))
        assert float(found[image]) == pytest.approx(best, rel=1e-5)


def test_matches_of_torchvisions_detectors() -> None:
    first = {"boxes": torch.tensor([[0.2, 0.2, 0.6, 0.6], [0.0, 0.0, 1.0, 1.0]]), "labels": torch.tensor([2, 1]),
             "scores": torch.tensor([0.9, 0.8])}  # fmt: skip
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "scores": torch.zeros(0)}
    assert Detection(BOX, 1)([first, nothing]).tolist() == pytest.approx([0.8 * 0.16, 0.0])
    assert Detection(BOX, 2)([first, nothing]).tolist() == pytest.approx([0.9, 0.0])
    assert Detection(BOX, 5)([first, nothing]).tolist() == [0.0, 0.0]
    chosen = Detection.of_prediction(lambda x: [first], torch.rand(1, 3, 4, 4))
    assert chosen([first]).tolist() == pytest.approx([0.9])
    second = Detection.of_prediction(lambda x: [first], torch.rand(1, 3, 4, 4), number=1)
    assert second.box.tolist() == [0.0, 0.0, 1.0, 1.0]


def test_other_detectors_are_read_by_a_function() -> None:
    def read(result: Tensor, image: int) -> Detections:
        return Detections(result[image], torch.ones(len(result[image]), 1), torch.ones(len(result[image])))

    assert Detection(BOX, 0, detections=read)(BOX[None, None].repeat(3, 1, 1)).tolist() == pytest.approx([1.0] * 3)


class Detector(nn.Module):
    """A small DETR: a box and classes for each of four queries, from attention to the tokens of the map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.queries = nn.Parameter(torch.randn(1, 4, 8))
        self.classes, self.boxes = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, pixel_values: Tensor) -> DetrOutput:
        t = self.body(pixel_values).flatten(2).transpose(1, 2)
        found = (self.queries.expand(len(t), -1, -1) @ t.transpose(1, 2)).softmax(-1) @ t
        return DetrOutput(self.classes(found) * 5, self.boxes(found).sigmoid())


@pytest.mark.parametrize("removal", [None, "grey"])
def test_explainers_explain_one_box(removal) -> None:
    model, x = Detector().eval(), torch.rand(1, 3, 16, 16, generator=G)
    target = Detection.of_prediction(model, x)
    features = grid((16, 16), 8)
    ablation = FeatureAblation(model, removal=removal, output=target).attribute(x, feature_mask=features[None, None])
    assert ablation.abs().sum() > 0
    shap = KernelShap(model, removal=removal, output=target).attribute(
        x, feature_mask=features[None, None], n_samples=16
    )
    assert shap.isfinite().all()
    heat = RISE(model, removal=removal, output=target).attribute(x, n_masks=8, seed=0)
    assert heat.isfinite().all()


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Detection(BOX[:3], 0), ShapeError, r"got shape \(3,\)"),
        (lambda: Detection(BOX.flip(0), 0), OptionError, "left to right"),
        (lambda: Detection(BOX, -1), OptionError, "index of a class"),
        (lambda: Detection(BOX, True), OptionError, "index of a class"),
        (lambda: Detection(BOX, torch.ones(1, 3)), ShapeError, r"scores \(K,\)"),
        (lambda: Detection(BOX, 0, "argmax"), OptionError, "'softmax' or 'sigmoid'"),
        (lambda: Detection(BOX, 0)({"logits": OUTPUT.logits, "pred_boxes": None}), InputTypeError, "pred_boxes"),
        (lambda: Detection(BOX, 0)([torch.ones(2)]), InputTypeError, "got list"),
        (lambda: Detection.of_prediction(lambda x: OUTPUT, BOX, 9), OptionError, "5 objects .* no number 9"),
    ],
)
def test_mistakes_are_named(make, error, text: str) -> None:
    with pytest.raises(error, match=text):
        make()
