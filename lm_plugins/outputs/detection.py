"""Detections: how well anything that a detector finds matches one box and its class (D-RISE)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lm_plugins.errors import InputTypeError, OptionError, ShapeError
from lm_plugins.outputs.words import field_of

__all__ = ["Detection", "Detections", "Scores"]

#: How logits of queries become class probabilities: a softmax whose last class is "no object", or a sigmoid for each class.
Scores = Literal["softmax", "sigmoid"]


@dataclass(frozen=True)
class Detections:
    """What a detector proposes for one image.

    Args:
        boxes: ``(Q, 4)``: left, top, right, bottom; all in one unit.
        classes: ``(Q, K)``: the score of each class, not negative.
        objectness: ``(Q,)``, in [0, 1]: how certain it is that there is an object at all.
    """

    boxes: Tensor
    classes: Tensor
    objectness: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def of(cls, result: Any, image: int, scores: Scores = "softmax", classes: int | None = None) -> "Detections":
        """What a detector returned, of one image.

        Args:
            result: Of transformers' DETR and its kin (fields ``logits`` and ``pred_boxes``: centre, width and height), or of
                torchvision's detectors (a list of dicts with ``boxes``, ``labels`` and ``scores``).
            image: The number of the image in the batch.
            scores: How logits become probabilities; torchvision's are probabilities already.
            classes: How many classes torchvision's labels count; None takes the largest label found.

        Raises:
            InputTypeError: It is neither.
        """
        if isinstance(result, Sequence) and not isinstance(result, (str, bytes)) and len(result) > image:
            one = result[image]
            if isinstance(one, Mapping) and {"boxes", "labels", "scores"} <= set(one):
                count = classes or (int(one["labels"].max()) + 1 if len(one["labels"]) else 1)
                found = torch.nn.functional.one_hot(one["labels"].clamp(max=count - 1), count).to(one["scores"])
                return cls(one["boxes"], found, one["scores"])
        logits, boxes = field_of(result, "logits"), field_of(result, "pred_boxes")
        if not isinstance(logits, Tensor) or not isinstance(boxes, Tensor):
            raise InputTypeError(
                "detections are the output of a detector of transformers (fields 'logits' and 'pred_boxes') or of "
                f"torchvision (a list of dicts with 'boxes', 'labels' and 'scores'), got {type(result).__name__}. Turn "
                "others into Detections with a function, detections=."
            )
        centre, size = boxes[image].chunk(2, -1)
        corners = torch.cat([centre - size / 2, centre + size / 2], -1)
        if scores == "sigmoid":
            probabilities = logits[image].sigmoid()
            return cls(corners, probabilities, probabilities.amax(-1))
        probabilities = logits[image].softmax(-1)
        return cls(corners, probabilities[:, :-1], 1 - probabilities[:, -1])


class Detection:
    r"""The best match of any proposal with one box and its class: an ``output=`` for detectors.

    So RISE, KernelSHAP, Occlusion and LIME explain one box. For a target with box L and class scores P, and the proposals
    j of the masked image, with O their objectness,

    .. math:: S = \max_j \; \mathrm{IoU}(L, L_j) \cdot \frac{P \cdot P_j}{\lVert P \rVert \lVert P_j \rVert} \cdot O_j.

    Args:
        box: ``(4,)``: left, top, right, bottom, in the unit of the detector's own boxes: pixels for torchvision's, shares
            of the image for DETR's.
        label: The class, an index; or its scores ``(K,)``.
        scores: How logits become probabilities: ``"softmax"`` with a last class for no object (DETR, YOLOS), or
            ``"sigmoid"`` (RT-DETR, Deformable DETR).
        detections: Turns what the model returns, and the number of an image, into `Detections`; None knows transformers' and
            torchvision's.

    Raises:
        ShapeError: `box` is not four numbers, or the label no index and no vector.
        OptionError: The box has no area, or `scores` is unknown.

    Example:
        >>> import torch
        >>> from lm_plugins.outputs import Detection
        >>> box = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
        >>> found = [{"boxes": box, "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}]
        >>> Detection(torch.tensor([0.0, 0.0, 2.0, 4.0]), 1)(found)
        tensor([0.4500])

    References:
        Petsiuk et al., "Black-box Explanation of Object Detectors via Saliency Maps" (D-RISE), CVPR 2021: their similarity
        of two detections. Torchvision's detectors return the score of one class only: their P is one at that class, and O
        its score.
    """

    def __init__(
        self,
        box: Tensor,
        label: int | Tensor,
        scores: Scores = "softmax",
        detections: Callable[[Any, int], Detections] | None = None,
    ) -> None:
        if scores not in get_args(Scores):
            raise OptionError(f"scores is 'softmax' or 'sigmoid', got {scores!r}.")
        box = torch.as_tensor(box, dtype=torch.float64)
        if box.shape != (4,):
            raise ShapeError(f"a box is (left, top, right, bottom), got shape {tuple(box.shape)}.")
        if not bool((box[2:] > box[:2]).all() & box.isfinite().all()):
            raise OptionError(f"a box reaches from left to right and from top to bottom, got {box.tolist()}.")
        if isinstance(label, Tensor) and label.ndim != 1:
            raise ShapeError(f"a label is a class or its scores (K,), got shape {tuple(label.shape)}.")
        if not isinstance(label, Tensor) and (isinstance(label, bool) or not isinstance(label, int) or label < 0):
            raise OptionError(f"a label is the index of a class, got {label!r}.")
        self.box, self.label = box, label
        self._scores = scores
        self._detections = detections

    @classmethod
    @torch.no_grad()
    def of_prediction(
        cls,
        model: Callable[[Tensor], Any],
        x: Tensor,
        number: int = 0,
        scores: Scores = "softmax",
        detections: Callable[[Any, int], Detections] | None = None,
    ) -> "Detection":
        """Explain one of the objects that the detector finds in the whole image.

        Args:
            model: The detector.
            x: One image ``(1, C, H, W)``.
            number: 0 for the one with the highest score, 1 for the next, ...
            scores: As of the class.
            detections: As of the class.

        Raises:
            OptionError: The detector finds fewer objects.
        """
        result = model(x)
        found = Detections.of(result, 0, scores) if detections is None else detections(result, 0)
        if not 0 <= number < len(found):
            raise OptionError(f"the detector proposes {len(found)} objects for the image; there is no number {number}.")
        best = (found.objectness * found.classes.amax(-1)).argsort(descending=True, stable=True)[number]
        label = found.classes[best]
        return cls(found.boxes[best].double(), label.double(), scores, detections)

    def __call__(self, result: Any) -> Tensor:
        """The best match in each image of what a detector returned: ``(N,)``, in [0, 1]; 0 where nothing is proposed.

        Raises:
            InputTypeError: It is not known how to read it.
        """
        boxes = field_of(result, "pred_boxes", result)
        count = len(boxes) if isinstance(boxes, (list, tuple, Tensor)) else 1
        return torch.stack([self._match(self._read(result, image)) for image in range(count)])

    def _read(self, result: Any, image: int) -> Detections:
        if self._detections is not None:
            return self._detections(result, image)
        classes = len(self.label) if isinstance(self.label, Tensor) else self.label + 1
        return Detections.of(result, image, self._scores, classes=max(classes, _most_labels(result, image)))

    def _match(self, found: Detections) -> Tensor:
        if not len(found):
            return found.objectness.new_zeros(())
        box = self.box.to(found.boxes)
        shared = (torch.minimum(found.boxes[:, 2:], box[2:]) - torch.maximum(found.boxes[:, :2], box[:2])).clamp(min=0)
        sizes = (found.boxes[:, 2:] - found.boxes[:, :2]).clamp(min=0).prod(1)
        both = shared.prod(1)
        overlap = both / (sizes + (box[2:] - box[:2]).prod() - both)
        label = self.label
        if isinstance(label, Tensor):
            target = torch.nn.functional.pad(label, (0, found.classes.shape[1] - len(label))).to(found.classes)
            alike = torch.nn.functional.cosine_similarity(found.classes, target[None], dim=1)
        else:
            alike = found.classes[:, label] / found.classes.norm(dim=1).clamp(min=torch.finfo(found.classes.dtype).tiny)
        return (overlap * alike * found.objectness).max()

    def __repr__(self) -> str:
        label = f"scores {tuple(self.label.shape)}" if isinstance(self.label, Tensor) else str(self.label)
        return f"Detection({[round(one, 4) for one in self.box.tolist()]}, {label})"


def _most_labels(result: Any, image: int) -> int:
    one = result[image] if isinstance(result, (list, tuple)) and len(result) > image else None
    if isinstance(one, Mapping) and isinstance(one.get("labels"), Tensor) and len(one["labels"]):
        return int(one["labels"].max()) + 1
    return 0
