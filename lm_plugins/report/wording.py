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
        "How varied the predicted classes are. If it falls while more is removed, the removal itself pushes images "
        "towards a few classes: a bias.",
    ),
    (
        "confidence",
        "Confidence",
        "Mean probability of the predicted class. It should fall as evidence goes; staying high on nothing is a bad sign.",
    ),
    (
        "class_similarity",
        "Similarity of classes",
        "How near the predicted class is to the right one in the class hierarchy. Higher: mistakes are milder.",
    ),
    (
        "shape_bias",
        "Shape bias",
        "How much more the object's own outline changes the answer than the same outline with swapped quadrants. Near 0: "
        "the shape of the hole says nothing.",
    ),
    (
        "shape_leakage",
        "Shape leakage",
        "How far the hole of one object in another image pulls the prediction towards that object. Near 0: the hole does "
        "not speak.",
    ),
    (
        "colour_bias",
        "Colour bias",
        "How much the answer depends on the fill colour. 0 for layer masking by construction.",
    ),
    (
        "linearity",
        "Linearity",
        "How well the output with some features removed is a sum over features. Higher: linear explanations fit better.",
    ),
    ("alignment", "Alignment", "How well explanations point at the object. Higher is better."),
    (
        "topk_ablation",
        "Ablation of the most important",
        "How fast the answer goes when what LIME found important is removed. Faster: the explanation found what matters.",
    ),
    ("deletion", "Deletion", "Area under the score while important pixels disappear. Lower is better."),
    ("insertion", "Insertion", "Area under the score while important pixels appear. Higher is better."),
    (
        "ranking_agreement",
        "Agreement of rankings",
        "Whether this removal ranks explanation methods as other removals do. Higher: conclusions depend less on it.",
    ),
    (
        "hidden_pixels",
        "Hidden pixels matter",
        "How far the answer moves when hidden pixels change. 0: what is removed is removed.",
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
