"""Explanations by LIME under each removal, judged and compared."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lm_plugins.audit.alignment import alignment, top_features, top_jaccard
from lm_plugins.audit.audited_image import AuditedImage
from lm_plugins.audit.lime_explanation import lime_coefficients
from lm_plugins.audit.measures.measure import NO_FRACTION, Measure, Number, Prepared
from lm_plugins.audit.rank_agreement import rank_agreement
from lm_plugins.removal import as_removal

__all__ = ["LimeQuality", "RankAgreement"]


@dataclass(frozen=True)
class _WithLime(Measure):
    """What the measures of explanations by LIME share. Only images that are predicted right are explained."""

    features: str
    samples: int
    seed: int
    order = ""

    @property
    def key(self) -> str:
        """How many coalitions."""
        return f"{self.samples} samples"

    def _attribution(self, image: AuditedImage, name: str, prepared: Prepared) -> Tensor:
        """Coefficients ``(F,)``; the two measures share them."""
        place = (name, self.features)
        if place not in image.shared:
            image.shared[place] = lime_coefficients(
                prepared.forward,
                image.x,
                image.feature_mask(self.features),
                image.predicted,
                self.samples,
                image.seed(self.seed, self.features, "lime"),
                image.model.batch_size,
                image.model.normalised,
            )
        found: Tensor = image.shared[place]
        return found


@dataclass(frozen=True)
class LimeQuality(_WithLime):
    """Whether LIME finds what matters: ablation of its top features and, where the object is known, alignment with it."""

    measure = "lime"

    def __call__(self, image: AuditedImage, removals: Mapping[str, Prepared]) -> list[Number]:
        """Explain, then judge: features are ablated by grey for all, as the paper does."""
        if not image.is_right:
            return []
        feature_mask = image.feature_mask(self.features)
        grey = as_removal("grey")(image.model.model)
        numbers = []
        for name, prepared in removals.items():
            attribution = self._attribution(image, name, prepared)
            without = torch.ones(1, len(attribution), dtype=torch.bool)
            without[0, top_features(attribution)] = False
            after = image.model.probabilities(grey, image.x, feature_mask, without)[0]
            kept = float(int(after.argmax()) == image.predicted)
            numbers.append(Number(name, "lime_ablation", NO_FRACTION, kept))
            if image.region is not None:
                cosine = alignment(attribution, feature_mask, image.region)
                numbers.append(Number(name, "lime_alignment", NO_FRACTION, cosine))
                jaccard = top_jaccard(attribution, feature_mask, image.region)
                numbers.append(Number(name, "lime_jaccard", NO_FRACTION, jaccard))
        return numbers


@dataclass(frozen=True)
class RankAgreement(_WithLime):
    """Whether LIME ranks the features under one removal as it does under the others."""

    measure = "rank_agreement"
    together = True

    def __call__(self, image: AuditedImage, removals: Mapping[str, Prepared]) -> list[Number]:
        """The mean rank correlation of each removal with the others."""
        if not image.is_right:
            return []
        maps = {name: self._attribution(image, name, prepared) for name, prepared in removals.items()}
        numbers = []
        for name, one in maps.items():
            others = [float(rank_agreement(one, other)) for key, other in maps.items() if key != name]
            if others:
                numbers.append(Number(name, self.measure, NO_FRACTION, sum(others) / len(others)))
        return numbers
