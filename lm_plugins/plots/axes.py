"""What the plots share: an axis to draw on, and one look for each removal."""

from collections.abc import Iterable
from typing import Any

from lm_plugins.errors import MissingDependencyError

__all__ = ["axis_for", "styles"]

#: The palette of Okabe and Ito, which people with any colour vision can tell apart, with lines and markers besides.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f7f7f")
_LINES, _MARKERS = ("-", "--", "-.", ":"), ("o", "s", "^", "D", "v", "P", "X", "*")

#: Removals look the same in every plot, whichever of them are compared.
_FIXED = {"layer_masking": 0, "grey": 7, "black": 6, "blur": 2, "inpainting_telea": 3, "white": 4, "noisy_linear": 5}


def axis_for(ax: Any = None, size: tuple[float, float] = (6.4, 4.2)) -> tuple[Any, Any]:
    """Figure and axis: those of `ax`, or new ones.

    Args:
        ax: A matplotlib axis, or None.
        size: Of a new figure, in inches.

    Returns:
        Figure and axis.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    if ax is not None:
        return ax.figure, ax
    try:
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise MissingDependencyError("plots need matplotlib: pip install 'lm_plugins[plots]'.") from error
    return plt.subplots(figsize=size, layout="constrained")


def styles(removals: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour, line and marker of each removal, as `matplotlib` takes them.

    Args:
        removals: Names.

    Returns:
        Keyword arguments for ``plot`` by name.
    """
    found: dict[str, dict[str, Any]] = {}
    free = [place for place in range(len(_COLOURS)) if place not in _FIXED.values()] + list(range(len(_COLOURS)))
    for i, name in enumerate(dict.fromkeys(removals)):
        place = _FIXED[name] if name in _FIXED else free[i % len(free)]
        found[name] = {
            "color": _COLOURS[place],
            "marker": _MARKERS[place],
            "linestyle": _LINES[place % len(_LINES)],
            "linewidth": 2.5 if name == "layer_masking" else 1.6,
            "markersize": 4,
        }
    return found
