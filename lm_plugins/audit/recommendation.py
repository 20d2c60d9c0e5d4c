"""Which removal to use: one rule, applied to all alike."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lm_plugins.audit.bootstrap import mean_interval
from lm_plugins.audit.tables import pd
from lm_plugins.removal import (
    Blur,
    Colour,
    ImageMean,
    Inpainting,
    LayerMasking,
    NoisyLinear,
    PixelColour,
    RandomColour,
    Removal,
)

__all__ = ["Recommendation", "cost_of", "recommend"]

#: Scores that differ by no more count as equal: one image of a hundred.
TIE = 0.01

#: A removal whose answer moves by more (total variation) when hidden pixels change does not remove.
SEES_HIDDEN = 1e-3

#: Removals from cheap to expensive on a CPU; those of the user's own come last.
_CHEAP_FIRST: tuple[type, ...] = (
    Colour, PixelColour, RandomColour, ImageMean, Blur, LayerMasking, Inpainting, NoisyLinear
)  # fmt: skip


@dataclass(frozen=True)
class Recommendation:
    """The removal that an audit recommends.

    Args:
        removal: Its name; None if the audit cannot tell.
        reason: In one sentence.
        scores: Of every removal, best first.
    """

    removal: str | None
    reason: str
    scores: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def cost_of(removal: Removal) -> int:
    """The place of a removal in the order from cheap to expensive on a CPU.

    Args:
        removal: A removal.

    Returns:
        0 for colours, more for what takes longer; the same, and the most, for all removals of somebody's own.

    Example:
        >>> from lm_plugins.audit import cost_of
        >>> from lm_plugins.removal import Blur, Colour, LayerMasking
        >>> cost_of(Colour()) < cost_of(Blur()) < cost_of(LayerMasking()) < cost_of(lambda model: model)
        True
    """
    ranks = (rank for rank, kind in enumerate(_CHEAP_FIRST) if isinstance(removal, kind))
    return next(ranks, len(_CHEAP_FIRST))


def recommend(table: pd.DataFrame, costs: Mapping[str, int] | None = None) -> Recommendation:
    r"""Recommend a removal from the table of an audit.

    The score of a removal is the mean of ``agreement`` over images, removed fractions above 0 and kinds of features, with
    features removed in random order:

    .. math::
        \text{score}(r) = \frac{1}{|I| |F|} \sum_{i \in I} \sum_{f \in F} 1[\hat c(x_i, r, f) = \hat c(x_i)]

    A model that has lost random features should mostly say what it said before; what it says instead is owed to the
    removal. The highest score wins. Scores within 0.01 of it are equal, and of equal ones the cheapest wins: colours,
    blur, layer masking, inpainting, noisy linear imputation, anything else, in this order; of equally cheap ones that with
    the higher score, then the first by name. A removal whose answers depend on hidden pixels (measure ``hidden_pixels``)
    is no removal and cannot win. Labels play no part, so that the rule is the same with and without them.

    Args:
        table: Of an `AuditResult`.
        costs: Of each removal by name, as `cost_of` ranks them; names that are not in it count as expensive.

    Returns:
        The recommendation, with None as the removal where nothing was measured that could tell.
    """
    chosen = table[(table["measure"] == "agreement") & (table["fraction"] > 0) & (table["order"] == "random")]
    if chosen.empty:
        return Recommendation(
            None, 'Without missingness in random order (order "random") no removal can be recommended.'
        )
    # First over the numbers of each image, so that images weigh the same.
    images = chosen.groupby(["removal", "image"])["value"].mean().unstack("removal").dropna()
    if images.empty:
        return Recommendation(None, "No image was measured with every removal, so that they cannot be compared.")
    scores = images.mean().sort_values(ascending=False, kind="stable")
    hidden = table[table["measure"] == "hidden_pixels"].groupby("removal")["value"].max()
    cheats = sorted(name for name, value in hidden.items() if value > SEES_HIDDEN and name in scores)
    eligible = scores.drop(cheats)
    ranked = {str(name): float(value) for name, value in scores.items()}
    if eligible.empty:
        return Recommendation(None, f"The answers of {_listed(cheats)} depend on hidden pixels: none removes.", ranked)
    best = float(eligible.max())
    equal = [str(name) for name in eligible.index if float(eligible[name]) >= best - TIE]
    winner = min(equal, key=lambda name: ((costs or {}).get(name, len(_CHEAP_FIRST)), -ranked[name], name))
    return Recommendation(winner, _reason(winner, equal, eligible, images, cheats, int(table["seed"].iloc[0])), ranked)


def _reason(
    winner: str, equal: list[str], eligible: "pd.Series[float]", images: pd.DataFrame, cheats: list[str], seed: int
) -> str:
    text = f"With {winner} the model keeps its prediction in {eligible[winner]:.1%} of the cases when features go at random"
    ties = [name for name in equal if name != winner]
    others = [str(name) for name in eligible.index if name not in equal]
    if ties:
        text += f", as much as with {_listed([f'{name} ({eligible[name]:.1%})' for name in ties])} to within a point, and is"
        text += f" the {'cheaper' if len(ties) == 1 else 'cheapest'} of them"
    if others:
        second = others[0]
        low, _ = mean_interval((images[winner] - images[second]).to_numpy(), seed)
        text += f"; {'next is' if ties else 'more than with'} {second} ({eligible[second]:.1%}"
        text += ")" if low > 0 else f", a difference that {len(images)} images do not settle)"
    if cheats:
        text += f"; {_listed(cheats)} cannot be trusted, since hidden pixels change the answer"
    return f"{text}."


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
