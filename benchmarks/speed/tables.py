"""The tables of a run, in Markdown."""

from collections.abc import Sequence
from typing import Any

from benchmarks.speed import explainers
from benchmarks.speed.forward import MASKED, PLAIN
from benchmarks.speed.timing import Summary


def document(record: dict[str, Any]) -> str:
    """All tables of a record, as `benchmarks.speed.__main__` writes it."""
    sections = record["sections"]
    parts = [_machine(record), "### Goals\n\n" + goal_table(record["goals"])]
    if "forward" in sections:
        parts.append("### One forward pass\n\n" + _forward(sections["forward"]))
    if "reference" in sections:
        parts.append("### Against full-map filling\n\n" + _reference(sections["reference"]))
    if "explainers" in sections:
        parts.append("### Explainers\n\n" + _explainers(sections["explainers"]))
    if "memory" in sections:
        parts.append("### Memory\n\n" + _memory(sections["memory"]))
    if "growth" in sections:
        parts.append("### Growth\n\n" + _growth(sections["growth"]))
    return "\n\n".join(parts) + "\n"


def goal_table(goals: list[dict[str, Any]]) -> str:
    """Goal, measured, reached or not."""
    words = {True: "yes", False: "**no**", None: "not measured"}
    rows = []
    for one in goals:
        measured = "–" if one["measured"] is None else f"{one['measured']:.2f}"
        where = f" ({one['where']})" if one["where"] else ""
        rows.append([one["what"], f"{one['relation']} {one['limit']:.2f}", measured + where, words[one["reached"]]])
    return table(["what", "goal", "measured", "reached"], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(one: Summary, digits: int = 2, scale: float = 1.0) -> str:
    """Median and quartiles."""
    median, lower, upper = (f"{scale * one[name]:.{digits}f}" for name in ("median", "lower", "upper"))
    return f"{median} [{lower}, {upper}]"


def _machine(record: dict[str, Any]) -> str:
    machine, versions, settings = record["machine"], record["versions"], record["settings"]
    gpu = f"GPU: {machine['gpu']}, CUDA {machine['cuda']}." if "gpu" in machine else "GPU: not measured."
    load = "" if machine["load before"] is None else f" (load before the run: {machine['load before']:.1f})"
    numbers = ", ".join(f"{name} {version}" for name, version in versions.items())
    quick = " **A quick run, to see that everything works: these are no results.**" if settings["quick"] else ""
    kept = machine.get("keeps freed memory")
    allocator = (
        ""
        if kept is None
        else " Freed memory is kept."
        if kept
        else " Freed memory is kept or not, as the C library decides."
    )
    return (
        f"`{record['command']}`, {record['date']}, {record['minutes']:.0f} minutes.{quick} "
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads{load}. {gpu} {numbers}. "
        f"Medians of paired rounds, with quartiles in brackets.{allocator}"
    )


def _forward(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        if "not covered" in row:
            lines.append([row["model"], f"not covered: {row['not covered']}", *["–"] * 7])
            continue
        case = f"{row['visible']:.0%} of {row['features']}"
        plain = [f"{1000 * row['seconds'][one]['median'] / row['batch']:.1f}" for one in PLAIN]
        last = [spread(row[road]["plain, channels-last"]) for road in MASKED]
        default = [f"{row[road]['plain, default']['median']:.2f}" for road in MASKED]
        lines.append([row["model"], case, str(row["batch"]), *plain, *last, " / ".join(default)])
    head = ["model", "visible", "batch", "plain, default (ms an image)", "plain, channels-last", "plain, prepared"]
    head += [f"{road} / plain channels-last" for road in MASKED] + [f"{' / '.join(MASKED)}, over plain default"]
    return table(head, lines)


def _reference(section: dict[str, Any]) -> str:
    rows = [[row["road"], spread(row["seconds"]), spread(row["times faster"])] for row in section["rows"]]
    title = (
        f"{section['model']}, batch {section['batch']}, half of the patches. With the published options ours computes the "
        f"same function: the largest difference of two logits is {section['difference']:.0e} of the largest logit.\n\n"
    )
    return title + table(["", "seconds", "times faster than the published style"], rows)


def _explainers(section: dict[str, Any]) -> str:
    roads = explainers.ROADS
    speed, overhead = [], []
    for row in section["rows"]:
        rates = [spread(row["samples per second"][road], 1) for road in roads]
        against = [f"{row['against grey'][road]['median']:.2f}" for road in roads[:2]]
        speed.append([row["explainer"], str(row["samples"]), *rates, *against])
        overhead.append([row["explainer"], *(spread(row["overhead"][road], 3) for road in explainers.OVERHEAD_ROADS)])
    over = [f"time of {road} / upstream, grey" for road in roads[:2]]
    return (
        f"{section['model']}, {section['features']} features, rounds: {section['rounds']}. Samples in a second:\n\n"
        + table(["explainer", "samples", *roads, *over], speed)
        + "\n\nMilliseconds for each sample outside of the model:\n\n"
        + table(["explainer", *explainers.OVERHEAD_ROADS], overhead)
    )


def _memory(section: dict[str, Any]) -> str:
    if "not measured" in section:
        return f"Not measured: {section['not measured']}."
    rows = []
    for row in section["rows"]:
        if "not covered" in row:
            rows.append([row["model"], f"not covered: {row['not covered']}", *["–"] * 4])
            continue
        sizes = [f"{row[road] / 2**20:.0f}" for road in ("plain", *MASKED)]
        rows.append([row["model"], *sizes, *(f"{row[road] / row['plain']:.2f}" for road in MASKED)])
    head = ["model", "plain, channels-last (MiB)", *MASKED, *(f"{road} / plain" for road in MASKED)]
    return f"Batches of {section['batch']}, half of the patches.\n\n" + table(head, rows)


def _growth(section: dict[str, Any]) -> str:
    titles = {
        "pixels": f"{section['model']}, 4 images: milliseconds for a thousand pixels of each",
        "batch": f"{section['model']}: milliseconds for an image, over the size of the batch",
        "samples": "Explainers on a trivial model: milliseconds for a sample, over the number of samples",
    }
    per = {"pixels": 1000.0, "batch": 1.0, "samples": 1.0}
    parts = []
    for axis, title in titles.items():
        one = section[axis]
        sizes = [f"{round(size**0.5)} x {round(size**0.5)}" if axis == "pixels" else str(size) for size in one["sizes"]]
        rows = []
        for name, curve in one["seconds"].items():
            values = [
                f"{1000 * per[axis] * at['median'] / size:.3g}" for size, at in zip(one["sizes"], curve, strict=True)
            ]
            rows.append([name, *values, f"{one['exponent'][name]:.2f}"])
        parts.append(f"{title}.\n\n" + table(["", *sizes, "exponent of the larger half"], rows))
    return "\n\n".join(parts)
