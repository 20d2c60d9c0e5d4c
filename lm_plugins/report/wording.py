"""What the report calls a measure, and how to read it."""

from dataclasses import dataclass

__all__ = ["Measure", "measure_wording"]


@dataclass(frozen=True)
class Measure:
    """A measure in words.

    Args:
        name: In the table.
        title: For people.
        meaning: How to read it.
        place: In the report; small comes first.
    """

    name: str
    title: str
    meaning: str
    place: int = 99


_KNOWN = [
    (
        "accuracy",
        "Accuracy",
        "Share of images that still get their label. Higher: the removal disturbs the model less.",
    ),
    (
        "agreement",
        "Agreement with the whole image",
        "Share of images that keep the class predicted for the whole image. Higher: the removal disturbs the model less.",
    ),
    (
        "class_entropy",
        "Entropy of the predicted classes",
        "How varied the predicted classes are, in nats. If it falls while more is removed, the removal drives the model "
        "into a few classes.",
    ),
    (
        "confidence",
        "Confidence",
        "Mean probability of the predicted class. High confidence with low agreement: the model is sure of the stand-in.",
    ),
    (
        "class_similarity",
        "Similarity of classes",
        "How close the predicted class is to the true one in a hierarchy of classes. Higher: mistakes are milder.",
    ),
    (
        "shape_bias_object",
        "Shape bias: object removed",
        "Share of predictions that survive although the whole object is gone. Low is good: what is left is context, and the "
        "outline of the hole.",
    ),
    (
        "shape_bias_swapped",
        "Shape bias: quadrants swapped",
        "Share of predictions that survive a hole as large as the object, elsewhere. High is good.",
    ),
    (
        "shape_leakage",
        "Shape leakage",
        "How much the hole of an object, cut into images of other things, raises the probability of its class. 0 is good: "
        "the hole does not speak.",
    ),
    (
        "colour_bias",
        "Colour bias",
        "How far the answer moves between six colours of paint (total variation). 0 is good; layer masking has no colour.",
    ),
    (
        "hidden_pixels",
        "Hidden pixels matter",
        "How far the answer moves when hidden pixels change (total variation). 0 is good: what is removed is removed.",
    ),
    ("linearity_cosine", "Linearity: cosine", "Whether features together add what they add one by one. 1 is good."),
    ("linearity_error", "Linearity: error", "How far features together are from the sum of their parts. 0 is good."),
    (
        "lime_ablation",
        "Ablation of what LIME found",
        "Share of predictions that survive when LIME's top features are painted grey. Low is good: LIME found what matters.",
    ),
    ("lime_alignment", "LIME's alignment", "Cosine of LIME's explanation and the object. High is good."),
    ("lime_jaccard", "LIME's overlap", "Overlap of LIME's top features and the object. High is good."),
    (
        "rank_agreement",
        "Agreement of rankings",
        "Rank correlation of LIME's features with those under the other removals. No direction: low says that the choice "
        "of removal matters.",
    ),
]

_BY_NAME = {name: Measure(name, title, meaning, place) for place, (name, title, meaning) in enumerate(_KNOWN)}


def measure_wording(name: str) -> Measure:
    """The words for a measure.

    Args:
        name: In the table; one that is not known here is spelled out.

    Returns:
        They.

    Example:
        >>> from lm_plugins.report.wording import measure_wording
        >>> measure_wording("top_k_iou").title
        'Top k iou'
    """
    return _BY_NAME.get(name, Measure(name, name.replace("_", " ").capitalize(), ""))
