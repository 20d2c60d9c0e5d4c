"""Missingness: curves over the removed fraction."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from lm_plugins.audit.audited_image import AuditedImage
from lm_plugins.audit.measures.measure import Measure, Number, Prepared
from lm_plugins.audit.missingness import ClassSimilarity, class_similarities, missingness
from lm_plugins.audit.removal_order import Order, coalitions_after, removal_order

__all__ = ["Missingness", "similarities"]


@dataclass(frozen=True)
class Missingness(Measure):
    """Curves over the removed fraction."""

    features: str
    order: Order
    fractions: tuple[float, ...]
    seed: int
    measure = "missingness"

    @property
    def needs_saliency(self) -> bool:
        """Whether features go by saliency."""
        return self.order != "random"

    def __call__(self, image: AuditedImage, removals: Mapping[str, Prepared]) -> list[Number]:
        """Remove more and more features."""
        feature_mask = image.feature_mask(self.features)
        saliency = image.saliency if self.needs_saliency else None
        sequence = removal_order(feature_mask, self.order, saliency, image.seed(self.seed, self.features))
        coalitions = coalitions_after(sequence, self.fractions)
        numbers = []
        for name, prepared in removals.items():
            after = image.model.probabilities(prepared.forward, image.x, feature_mask, coalitions)
            # Nothing removed is the plain model under every removal, and needs no run.
            left = missingness(torch.cat([image.plain[None], after]), image.plain, image.label)
            for measure, values in left.items():
                for fraction, value in zip((0.0, *self.fractions), values.tolist(), strict=True):
                    numbers.append(Number(name, measure, fraction, value))
        return numbers


def similarities(
    numbers: Iterable[Number], label: int | None, similarity: ClassSimilarity, classes: int
) -> list[Number]:
    """How close predictions stayed, from the predicted classes that `Missingness` gave.

    It needs no run of the model, so that no number of another similarity is ever kept.

    Args:
        numbers: Of one image, those of other measures among them.
        label: Of the image; None compares with the prediction for the whole image.
        similarity: Of classes.
        classes: How many the model has.

    Returns:
        A number ``class_similarity`` for every ``predicted_class``.
    """
    predicted = [number for number in numbers if number.measure == "predicted_class"]
    whole = next((int(number.value) for number in predicted if number.fraction == 0), 0)
    values = class_similarities(
        torch.tensor([int(number.value) for number in predicted], dtype=torch.int64),
        whole if label is None else label,
        similarity,
        classes,
    )
    return [
        number._replace(measure="class_similarity", value=value)
        for number, value in zip(predicted, values.tolist(), strict=True)
    ]
