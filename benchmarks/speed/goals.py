"""What the project promises itself, and whether a run kept it."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.speed.forward import GOAL_BATCH, GOAL_MODEL, MASKED

VIT = "ViT-B/16"
#: A power law with a larger exponent is not called linear.
LINEAR = 1.05
#: The explainers whose number of samples the user chooses.
SAMPLED = ("KernelShap", "Lime", "lime_image")
LAST = "plain, channels-last"


@dataclass(frozen=True)
class Goal:
    """One promise.

    Args:
        what: In words.
        relation: ``"<="`` or ``">="``.
        limit: The number promised.
        measured: What a run gave; None if it did not measure it.
        where: Which case the number is of, if it is the worst of several.
    """

    what: str
    relation: str
    limit: float
    measured: float | None
    where: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether it was kept; None if it was not measured."""
        if self.measured is None:
            return None
        return self.measured <= self.limit if self.relation == "<=" else self.measured >= self.limit


def goals(sections: dict[str, Any]) -> list[dict[str, Any]]:
    """All goals with what was measured, as plain data.

    Args:
        sections: What each section returned, by its name; sections may be missing.
    """
    found = [
        *_forward(sections.get("forward", [])),
        *_reference(sections.get("reference")),
        *_explainers(sections.get("explainers", {"rows": []})["rows"]),
        *_memory(sections.get("memory", {"rows": []})["rows"]),
        *_growth(sections.get("growth", {})),
    ]
    return [asdict(one) | {"reached": one.reached} for one in found]


def _forward(rows: list[dict[str, Any]]) -> Iterator[Goal]:
    measured = [row for row in rows if "not covered" not in row]
    for road, limit in (("prepared", 1.0), ("unprepared", 1.08)):
        values = [
            row[road][LAST]["median"]
            for row in measured
            if (row["model"], row["batch"], row["features"], row["visible"]) == (GOAL_MODEL, GOAL_BATCH, "patches", 0.5)
        ]
        what = f"{GOAL_MODEL}, batch {GOAL_BATCH}, half of the patches: {road} / plain channels-last"
        yield Goal(what, "<=", limit, values[0] if values else None)
    for name in dict.fromkeys(row["model"] for row in rows):
        cells = [row for row in measured if row["model"] == name and row["batch"] > 1]
        worst = max(cells, key=lambda row: row["prepared"][LAST]["median"], default=None)
        if worst is None:
            yield Goal(f"{name}: prepared / plain channels-last, worst case", "<=", 1.25, None, "not covered")
        else:
            where = f"batch {worst['batch']}, {worst['visible']:.0%} of the {worst['features']} visible"
            value = worst["prepared"][LAST]["median"]
            yield Goal(f"{name}: prepared / plain channels-last, worst case", "<=", 1.25, value, where)
    half = [row for row in measured if row["model"] == VIT and (row["features"], row["visible"]) == ("patches", 0.5)]
    largest = max(half, key=lambda row: row["batch"], default=None)
    value = None if largest is None else min(largest[road][LAST]["median"] for road in MASKED)
    yield Goal(f"{VIT}, half of the patches: layer-masked / plain", "<=", 0.65, value)


def _reference(section: dict[str, Any] | None) -> Iterator[Goal]:
    rows = {} if section is None else {row["road"]: row["times faster"]["median"] for row in section["rows"]}
    what = f"{GOAL_MODEL}: published-style filling / ours prepared, the same function"
    yield Goal(what, ">=", 3.0, rows.get("ours, published options, prepared"))


def _explainers(rows: list[dict[str, Any]]) -> Iterator[Goal]:
    by_name = {row["explainer"]: row for row in rows}
    for name in SAMPLED:
        for road in ("ours", "ours, prepared"):
            row = by_name.get(name)
            value = None if row is None else row["against grey"][road]["median"]
            yield Goal(f"{name}: {road} / upstream with grey", "<=", 0.85, value)
    for name in SAMPLED:
        row = by_name.get(name)
        for road, what in (
            ("ours", "masking a trivial one included"),
            ("ours, nothing removed", "the explainer alone"),
        ):
            value = None if row is None else row["overhead"][road]["median"]
            yield Goal(f"{name}: ms for each sample outside of the model, {what}", "<=", 0.1, value)


def _memory(rows: list[dict[str, Any]]) -> Iterator[Goal]:
    for road in MASKED:
        ratios = {row["model"]: row[road] / row["plain"] for row in rows if "not covered" not in row}
        worst = max(ratios, key=lambda name: ratios[name], default=None)
        what = f"peak memory: {road} / plain channels-last, worst model"
        yield Goal(what, "<=", 1.2, None if worst is None else ratios[worst], worst or "")


def _growth(section: dict[str, Any]) -> Iterator[Goal]:
    for axis, what in (("batch", "size of the batch"), ("samples", "number of samples")):
        exponents = section.get(axis, {}).get("exponent", {})
        exponents = {name: value for name, value in exponents.items() if name != "plain"}
        worst = max(exponents, key=lambda name: exponents[name], default=None)
        value = None if worst is None else exponents[worst]
        yield Goal(f"cost against the {what}: exponent (1 is linear)", "<=", LINEAR, value, worst or "")
