"""The report of an audit."""

from collections.abc import Mapping, Sequence
from typing import Any

from lm_plugins.audit import AuditResult
from lm_plugins.report.curves import HEIGHT, WIDTH, charts, numbers_without_curve
from lm_plugins.report.examples import Example
from lm_plugins.report.page import rendered

__all__ = ["audit_report"]


def audit_report(
    result: AuditResult,
    examples: Sequence[Example] = (),
    skipped: Mapping[str, str] | None = None,
    left_out: Mapping[str, str] | None = None,
    command: str = "lm-plugins audit --from DIR",
) -> str:
    """Write the report of an audit.

    Args:
        result: What was measured. Every number in the page is one of ``result.summary``, ``result.recommendation`` or of
            the examples.
        examples: Photographs after removals.
        skipped: Images that could not be read, and why.
        left_out: Removals that were not audited, and why.
        command: How to make the page again from the saved table.

    Returns:
        The page.

    Raises:
        MissingDependencyError: Jinja2 is not installed.
    """
    scores = dict(result.recommendation.scores)
    measured = list(dict.fromkeys(str(name) for name in result.summary["removal"]))
    removals = [name for name in scores if name in measured]
    removals += [name for name in measured if name not in removals]
    return rendered(
        "audit.html.j2",
        title="Which removal can I trust?",
        recommendation=result.recommendation,
        removals=removals,
        scores=scores,
        charts=charts(result.summary, removals),
        numbers=numbers_without_curve(result.summary),
        examples=[_viewer(example, removals) for example in examples],
        skipped=dict(skipped or {}),
        left_out=dict(left_out or {}),
        provenance=_flat(result.provenance),
        command=command,
        images=int(result.table["image"].nunique()),
        width=WIDTH,
        height=HEIGHT,
    )


def _viewer(example: Example, removals: Sequence[str]) -> dict[str, Any]:
    """What the page needs to show an example."""
    there = {step.removal for step in example.steps}
    steps: dict[str, list[dict[str, Any]]] = {name: [] for name in removals if name in there}
    for step in example.steps:
        if step.removal in steps:
            steps[step.removal].append(
                {
                    "fraction": step.fraction,
                    "picture": step.picture,
                    "says": f"{step.predicted} ({step.probability:.0%})",
                }
            )
    return {"example": example, "whole": f"{example.predicted} ({example.probability:.0%})", "steps": steps}


def _flat(provenance: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Names and values, nested ones with a dotted name."""
    rows: list[tuple[str, str]] = []
    for key, value in provenance.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            rows += _flat(value, f"{name}.")
        else:
            rows.append((name, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)))
    return rows
