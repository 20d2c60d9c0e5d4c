"""Whether it matters what hidden pixels hold, and what colour they are painted in."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lm_plugins.audit.audited_image import AuditedImage
from lm_plugins.audit.colour_bias import colour_bias, is_paint, painted
from lm_plugins.audit.measures.measure import Measure, Number, Prepared
from lm_plugins.audit.removal_order import coalitions_after, removal_order
from lm_plugins.features import visible_from
from lm_plugins.removal import Colour

__all__ = ["ColourBias", "HiddenPixels"]

#: Of the features that are removed.
SOME = 0.3


@dataclass(frozen=True)
class _AtRandom(Measure):
    """What the measures share that remove some features, drawn at random."""

    features: str
    seed: int
    order = "random"

    def _some_visible(self, image: AuditedImage) -> Tensor:
        """What stays visible of an image, bool ``(H, W)``."""
        feature_mask = image.feature_mask(self.features)
        sequence = removal_order(feature_mask, "random", seed=image.seed(self.seed, self.features))
        return visible_from(coalitions_after(sequence, [SOME]), feature_mask)[0].to(image.x.device)


@dataclass(frozen=True)
class HiddenPixels(_AtRandom):
    """Whether the answer depends on pixels that are hidden: 0 for everything that deserves to be called a removal."""

    measure = "hidden_pixels"

    def __call__(self, image: AuditedImage, removals: Mapping[str, Prepared]) -> list[Number]:
        """Fill hidden pixels by noise and compare."""
        visible = self._some_visible(image)
        generator = torch.Generator().manual_seed(image.seed(self.seed, "noise"))
        noise = torch.randn(image.x.shape, generator=generator).to(image.x)
        both = torch.cat([image.x, torch.where(visible, image.x, noise)])
        numbers = []
        for name, prepared in removals.items():
            one, other = image.model.answers(prepared.forward, both, visible.expand(2, -1, -1))
            numbers.append(Number(name, self.measure, SOME, float((one - other).abs().sum() / 2)))
        return numbers


@dataclass(frozen=True)
class ColourBias(_AtRandom):
    """How much the answer depends on the colour of the paint."""

    measure = "colour_bias"

    def __call__(self, image: AuditedImage, removals: Mapping[str, Prepared]) -> list[Number]:
        """Remove the same features in several colours."""
        visible = self._some_visible(image)
        images = painted(image.x, visible)
        masks = visible.expand(len(images), -1, -1)
        numbers = []
        for name, prepared in removals.items():
            if is_paint(prepared.removal):
                # The paint itself, so that nothing is left to remove.
                answers = image.model.answers(Colour()(image.model.model), images, torch.ones_like(masks))
            else:
                answers = image.model.answers(prepared.forward, images, masks)
            numbers.append(Number(name, self.measure, SOME, colour_bias(answers)))
        return numbers
