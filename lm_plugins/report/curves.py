"""Curves over the removed fraction, as the coordinates of an SVG drawing."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from lm_plugins.report.wording import Measure, measure_wording

__all__ = ["HEIGHT", "WIDTH", "Chart", "Line", "charts", "numbers_without_curve"]

WIDTH, HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 32, 16, 54


@dataclass(frozen=True)
class Line:
    """One removal in a chart.

    Args:
        removal: Its name.
        path: Of the means.
        whiskers: ``(x, top, bottom)`` of each confidence interval; removals stand side by side.
        points: ``(x, y, text)`` of each mean.
        rows: Of the table below: fraction, mean, low, high, count.
    """

    removal: str
    path: str
    whiskers: list[tuple[float, float, float]]
    points: list[tuple[float, float, str]]
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Chart:
    """One measure over the removed fraction, with a line for each removal.

    Args:
        id: Unique in a page.
        measure: What is measured.
        features: Which pixels are removed together.
        order: In which order.
        lines: One a removal.
        x_ticks: Position and text.
        y_ticks: Likewise.
    """

    id: str
    measure: Measure
    features: str
    order: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]

    @property
    def setting(self) -> str:
        """Features and order in words."""
        return f"{self.features}, {self.order.replace('_', ' ')} order".replace("first order", "first")


def charts(summary: pd.DataFrame, removals: list[str]) -> list[Chart]:
    """The charts of an audit.

    Args:
        summary: Of an `AuditResult`.
        removals: In the order in which they are drawn.

    Returns:
        One chart for each measure, kind of features and order that has several fractions.
    """
    found: list[Chart] = []
    chosen = summary[summary["fraction"].notna()]
    for (measure, features, order), group in chosen.groupby(["measure", "features", "order"], sort=False, dropna=False):
        if group["fraction"].nunique() < 2:
            continue
        number = len(found)
        found.append(_chart(f"chart-{number}", str(measure), str(features), str(order), group, removals))
    return sorted(found, key=lambda chart: (chart.measure.place, chart.measure.title, chart.order != "random"))


def numbers_without_curve(summary: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of the summary that no chart shows: measures that are one number for each removal."""
    counts = summary.groupby(["measure", "features", "order"], dropna=False)["fraction"].transform("nunique")
    rows = summary[summary["fraction"].isna() | (counts < 2)]
    return [
        {**{str(k): v for k, v in row.items()}, "wording": measure_wording(str(row["measure"]))}
        for row in rows.to_dict("records")
    ]


def _chart(name: str, measure: str, features: str, order: str, group: pd.DataFrame, removals: list[str]) -> Chart:
    top = float(group["fraction"].max())
    low, high = min(0.0, float(group["low"].min())), max(float(group["high"].max()), 1e-9)
    step = _step(high - low)
    low = step * (low // step)
    high = step * -(-high // step) if high > 1 or high < 0.5 else 1.0

    def x(fraction: float) -> float:
        return round(_LEFT + fraction / top * (WIDTH - _LEFT - _RIGHT), 1)

    def y(value: float) -> float:
        return round(HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM), 1)

    lines = []
    for place, removal in enumerate(removals):
        part = group[group["removal"] == removal].sort_values("fraction")
        if part.empty:
            continue
        rows: list[dict[str, Any]] = [{str(k): v for k, v in row.items()} for row in part.to_dict("records")]
        aside = 5.0 * (place - (len(removals) - 1) / 2)
        whiskers = [(round(x(row["fraction"]) + aside, 1), y(row["high"]), y(row["low"])) for row in rows]
        points = [
            (round(x(row["fraction"]) + aside, 1), y(row["mean"]),
             f"{removal}, {row['fraction']:.0%} removed: {row['mean']:.3f} ({row['low']:.3f} to {row['high']:.3f})")
            for row in rows
        ]  # fmt: skip
        path = "M" + "L".join(f"{a},{b}" for a, b, _ in points)
        lines.append(Line(removal, path, whiskers, points, rows))
    fractions = sorted(set(group["fraction"]))
    count = round((high - low) / step)
    ticks = [low + step * i for i in range(count + 1)]
    return Chart(
        name,
        measure_wording(measure),
        features,
        order,
        lines,
        [(x(fraction), f"{fraction:.0%}") for fraction in fractions],
        [(y(tick), f"{tick:.10g}") for tick in ticks],
    )


def _step(span: float) -> float:
    """A distance of ticks that people like to read, four to eight of them."""
    power = 10.0 ** (len(str(int(span))) - 1 if span >= 1 else -_zeros(span))
    return next((power * one for one in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0) if span / (power * one) <= 6), power * 2)


def _zeros(span: float) -> int:
    """How far behind the point the first digit is: 0.2 -> 1."""
    return next(n for n in range(1, 300) if span * 10**n >= 1)
