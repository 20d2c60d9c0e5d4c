"""Plots of an audit."""

from typing import TYPE_CHECKING, Any

from lm_plugins.errors import OptionError
from lm_plugins.plots.axes import axis_for, styles

if TYPE_CHECKING:
    from lm_plugins.audit import AuditResult

__all__ = ["compare_removals", "missingness_curves"]

#: What the axes say.
LABELS = {
    "accuracy": "accuracy",
    "agreement": "unchanged predictions",
    "class_entropy": "entropy of predicted classes (nats)",
    "class_similarity": "similarity of predicted class",
    "colour_bias": "colour bias",
    "confidence": "mean confidence",
}


def missingness_curves(
    result: "AuditResult",
    measure: str = "agreement",
    features: str = "patches",
    order: str = "random",
    ax: Any = None,
) -> tuple[Any, Any]:
    """Curves of one measure over the removed fraction, one for each removal, with 95 % intervals.

    Args:
        result: Of an audit.
        measure: Such as ``"accuracy"``, ``"agreement"``, ``"class_entropy"``, ``"confidence"``.
        features: What was removed.
        order: In which order.
        ax: A matplotlib axis to draw on; None makes a figure.

    Returns:
        Figure and axis.

    Raises:
        OptionError: The audit holds no such numbers.
        MissingDependencyError: matplotlib is not installed.
    """
    table = result.curves(measure, features, order)  # raises if there is nothing to draw
    summary = result.summary
    rows = summary[(summary["measure"] == measure) & (summary["features"] == features) & (summary["order"] == order)]
    fig, ax = axis_for(ax)
    for name, style in styles(sorted(table.index)).items():
        one = rows[rows["removal"] == name].sort_values("fraction")
        x, mean, low, high = (one[column].to_numpy(float) for column in ("fraction", "mean", "low", "high"))
        ax.fill_between(x, low, high, color=style["color"], alpha=0.12, linewidth=0)
        ax.plot(x, mean, label=name.replace("_", " "), **style)
    ax.set(
        xlabel=f"removed fraction of {features.replace('_', ' ')}, {order.replace('_', ' ')}",
        ylabel=LABELS.get(measure, measure.replace("_", " ")),
    )
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.2)
    ax.legend(frameon=False)
    return fig, ax


def compare_removals(result: "AuditResult", measure: str | None = None, ax: Any = None) -> tuple[Any, Any]:
    """Bars that compare removals: by the scores that the recommendation goes by, or by one measure.

    Args:
        result: Of an audit.
        measure: A measure of the summary, averaged over what it was measured for (fractions above 0); None for the scores.
        ax: A matplotlib axis to draw on; None makes a figure.

    Returns:
        Figure and axis; the recommended removal is marked.

    Raises:
        OptionError: The audit holds no such numbers.
        MissingDependencyError: matplotlib is not installed.
    """
    if measure is None:
        values, label = result.recommendation.scores, "score: unchanged predictions"
    else:
        rows = result.summary[(result.summary["measure"] == measure) & ~(result.summary["fraction"] == 0)]
        means = rows.groupby("removal")["mean"].mean().sort_values(ascending=False)
        values, label = {str(name): float(one) for name, one in means.items()}, LABELS.get(measure, measure)
    if not values:
        raise OptionError(f"this audit holds no {measure or 'scores'} to compare removals by.")
    fig, ax = axis_for(ax, (6.4, 1.0 + 0.45 * len(values)))
    names = list(values)
    ax.barh(range(len(names)), [values[name] for name in names], color=[styles([n])[n]["color"] for n in names])
    for place, name in enumerate(names):
        ax.annotate(
            f"{values[name]:.3f}", (values[name], place), (4, 0), textcoords="offset points", va="center", fontsize=9
        )
    chosen = result.recommendation.removal
    texts = [name.replace("_", " ") + (" (recommended)" if name == chosen else "") for name in names]
    ax.set_yticks(range(len(names)), texts)
    ax.invert_yaxis()
    ax.set_xlabel(label.replace("_", " "))
    ax.margins(x=0.15)
    ax.spines[["top", "right"]].set_visible(False)
    return fig, ax
