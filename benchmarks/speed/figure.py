"""The figure of a run: forward passes, explainers, memory, growth."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from benchmarks.speed.explainers import ROADS
from benchmarks.speed.forward import MASKED

COLOURS = {"unprepared": "#56b4e9", "prepared": "#0072b2", "ours": "#56b4e9", "ours, prepared": "#0072b2",
           "upstream, sentinel": "#d55e00", "upstream, grey": "0.6", "plain": "0.6",
           "KernelShap": "#009e73", "Lime": "#cc79a7", "lime_image": "#e69f00"}  # fmt: skip


def draw(sections: dict[str, Any], file: Path) -> None:
    """Draw what was measured, a panel for each section that is there."""
    panels = {"forward": _forward, "explainers": _explainers, "memory": _memory, "growth": _growth}
    chosen = {name: panel for name, panel in panels.items() if sections.get(name)}
    if not chosen:
        return
    columns = min(2, len(chosen))
    lines = -(-len(chosen) // columns)
    fig, axes = plt.subplots(lines, columns, figsize=(7 * columns, 4 * lines), squeeze=False, layout="constrained")
    for axis in axes.flat[len(chosen) :]:
        axis.axis("off")
    for axis, (name, panel) in zip(axes.flat, chosen.items(), strict=False):
        panel(axis, sections[name])
        axis.spines[["top", "right"]].set_visible(False)
    fig.savefig(file, dpi=130)
    plt.close(fig)


def _bars(axis: Axes, names: list[str], heights: dict[str, list[float]], errors: dict[str, Any] | None = None) -> None:
    width = 0.8 / len(heights)
    for number, (road, values) in enumerate(heights.items()):
        places = [place + (number - (len(heights) - 1) / 2) * width for place in range(len(names))]
        yerr = None if errors is None else errors[road]
        axis.bar(places, values, width, yerr=yerr, color=COLOURS[road], label=road, error_kw={"lw": 1})
    axis.set_xticks(range(len(names)), names, rotation=20, ha="right", fontsize=8)
    axis.legend(frameon=False, fontsize=8)


def _forward(axis: Axes, rows: list[dict[str, Any]]) -> None:
    """The worst ratio of each model, over batches of more than one image."""
    names = list(dict.fromkeys(row["model"] for row in rows if row.get("batch", 0) > 1))
    heights: dict[str, list[float]] = {}
    errors: dict[str, Any] = {}
    for road in MASKED:
        worst = [
            max(
                (row[road]["plain, channels-last"] for row in rows if row["model"] == name and row["batch"] > 1),
                key=lambda one: one["median"],
            )
            for name in names
        ]
        heights[road] = [one["median"] for one in worst]
        errors[road] = [
            [one["median"] - one["lower"] for one in worst],
            [one["upper"] - one["median"] for one in worst],
        ]
    _bars(axis, names, heights, errors)
    axis.axhline(1, color="black", lw=0.8)
    axis.axhline(1.25, color="black", lw=0.8, ls=":")
    axis.set(title="one forward pass, worst case of each model", ylabel="time / plain channels-last")


def _explainers(axis: Axes, section: dict[str, Any]) -> None:
    rows = section["rows"]
    rates = {road: [row["samples per second"][road]["median"] for row in rows] for road in ROADS}
    _bars(axis, [row["explainer"] for row in rows], rates)
    axis.set(title=f"explainers, {section['model']}", ylabel="samples per second")
    axis.set_ylim(top=1.35 * max(max(one) for one in rates.values()))  # room for the legend


def _memory(axis: Axes, section: dict[str, Any]) -> None:
    rows = [row for row in section["rows"] if "not covered" not in row]
    ratios = {road: [row[road] / row["plain"] for row in rows] for road in MASKED}
    _bars(axis, [row["model"] for row in rows], ratios)
    axis.axhline(1, color="black", lw=0.8)
    axis.axhline(1.2, color="black", lw=0.8, ls=":")
    axis.set(title=f"memory of a forward pass, batch {section.get('batch')}", ylabel="peak / plain channels-last")
    axis.set_ylim(top=1.25 * max(1.2, *(max(one) for one in ratios.values())))


def _growth(axis: Axes, section: dict[str, Any]) -> None:
    """Batch and samples in one panel; each curve relative to its first point, as linear growth would have it."""
    for part, line in (("batch", "-"), ("samples", "--")):
        for name, curve in section[part]["seconds"].items():
            sizes = section[part]["sizes"]
            per_unit = [one["median"] / size for size, one in zip(sizes, curve, strict=True)]
            label = f"{name}, {section[part]['exponent'][name]:.2f}"
            relative = [one / per_unit[-1] for one in per_unit]
            axis.plot(
                [size / sizes[-1] for size in sizes], relative, line, marker="o", ms=3, c=COLOURS[name], label=label
            )
    axis.axhline(1, color="black", lw=0.8)
    axis.set(xscale="log", title="growth: cost of one image (-) or one sample (--), and the exponent",
             xlabel="size of the batch or number of samples / largest", ylabel="cost / that at the largest")  # fmt: skip
    axis.legend(frameon=False, fontsize=8)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
