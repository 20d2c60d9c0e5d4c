"""The report of explanations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lm_plugins.report.page import rendered
from lm_plugins.report.pictures import heat_map, photograph, ranks_picture

__all__ = ["ExplainedImage", "Explanation", "explanation_report"]


@dataclass(frozen=True)
class Explanation:
    """One attribution of one image.

    Args:
        removal: The removal that it was made with.
        attribution: ``(H, W)``.
        ranks: ``(H, W)`` on [0, 1]: the share of pixels with a higher attribution.
        left: Removed fraction of the most important pixels, and the probability of the target that is left.
        seconds: How long it took.
    """

    removal: str
    attribution: Tensor
    ranks: Tensor
    left: Mapping[float, float]
    seconds: float


@dataclass(frozen=True)
class ExplainedImage:
    """One image and its explanations.

    Args:
        name: Of the image.
        pixels: ``(C, H, W)`` on [0, 1], as the model saw it.
        target: The name of the class that is explained.
        probability: Of that class.
        predicted: The name of the class that the model says.
        explanations: At least one.
        is_probability: Whether `probability`, and what is left of it, are some; else values of a regression.
    """

    name: str
    pixels: Tensor
    target: str
    probability: float
    predicted: str
    explanations: Sequence[Explanation] = field(default_factory=list)
    is_probability: bool = True

    @property
    def says(self) -> str:
        """What the model says about the target, in a word."""
        return f"{self.probability:.1%}" if self.is_probability else f"{self.probability:.4g}"

    @property
    def limit(self) -> float:
        """The largest absolute attribution: one scale for all explanations of the image."""
        return max([float(one.attribution.abs().max()) for one in self.explanations] + [1e-12])


def explanation_report(
    images: Sequence[ExplainedImage],
    method: str,
    description: str,
    provenance: Mapping[str, Any],
    skipped: Mapping[str, str] | None = None,
    not_shown: int = 0,
) -> str:
    """Write the report of explanations.

    Args:
        images: With their explanations.
        method: The name of the method.
        description: What it does.
        provenance: How the explanations came about.
        skipped: Images that could not be read, and why.
        not_shown: How many more images were explained.

    Returns:
        The page.

    Raises:
        MissingDependencyError: Jinja2 or Pillow is not installed.
    """
    is_probability = all(image.is_probability for image in images)
    fractions = images[0].explanations[0].left if images else {}
    return rendered(
        "explanation.html.j2",
        title=f"Explained by {method}",
        method=method,
        description=description,
        images=[_viewer(image) for image in images],
        what="the probability of the class" if is_probability else "the output",
        columns=[
            "Photograph",
            "Removal",
            "Class" if is_probability else "Output",
            *(f"{one:.0%}" for one in fractions),
            "Seconds",
        ],
        skipped=dict(skipped or {}),
        not_shown=not_shown,
        provenance=[(key, str(value)) for key, value in provenance.items()],
    )


def _viewer(image: ExplainedImage) -> dict[str, Any]:
    return {
        "image": image,
        "picture": photograph(image.pixels),
        "views": {
            one.removal: {
                "heat_map": heat_map(one.attribution, image.limit),
                "ranks": ranks_picture(one.ranks),
                "left": [
                    {"fraction": fraction, "says": f"{100 * left:.3g} %" if image.is_probability else f"{left:.4g}"}
                    for fraction, left in one.left.items()
                ],
            }
            for one in image.explanations
        },
    }
