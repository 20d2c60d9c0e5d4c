"""The result of an audit: a tidy table, and everything that follows from it."""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from lm_plugins.atomic_write import written
from lm_plugins.audit.bootstrap import entropy_interval, mean_interval
from lm_plugins.audit.missingness import class_entropy
from lm_plugins.audit.recommendation import Recommendation, recommend
from lm_plugins.audit.tables import COLUMNS, damage, pd
from lm_plugins.errors import OptionError, ShapeError

__all__ = ["AuditResult"]

_GROUP = ["measure", "removal", "features", "order", "fraction"]


class AuditResult:
    """What an audit measured.

    Summary and recommendation are computed from the table, now and after loading, so that every number of a report can be
    recomputed from what was saved.

    Args:
        table: One row for each number: ``measure``, ``removal``, ``features``, ``order``, ``fraction``, ``image``,
            ``value``, ``seed``. A measure that has no order or fraction leaves them empty (``""``, NaN).
        provenance: How the numbers came about: versions, options, images, removals, what was left out and why.

    Raises:
        ShapeError: The table lacks a column.
    """

    def __init__(self, table: pd.DataFrame, provenance: Mapping[str, Any] | None = None) -> None:
        missing = [column for column in COLUMNS if column not in table.columns]
        if missing:
            raise ShapeError(
                f"the table of an audit has the columns {', '.join(COLUMNS)}; {', '.join(missing)} missing."
            )
        # The same table in whatever order images and removals were run, so that the same images are drawn below.
        ordered = table[list(COLUMNS)].sort_values([*_GROUP, "image"], kind="stable")
        self.table: pd.DataFrame = ordered.reset_index(drop=True)
        self.provenance: dict[str, Any] = dict(provenance or {})

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Means over images: ``measure, removal, features, order, fraction, mean, low, high, count``.

        ``low`` and ``high`` are bootstrap 95 % intervals over images. In place of ``predicted_class`` stands
        ``class_entropy``, which is a number of all images together.
        """
        rows = []
        for key, group in self.table.groupby(_GROUP, dropna=False, sort=True):
            values, seed = group["value"].to_numpy(float, copy=True), int(group["seed"].iloc[0])
            row = dict(zip(_GROUP, key, strict=True))
            if row["measure"] == "predicted_class":
                row["measure"] = "class_entropy"
                mean, interval = class_entropy(values), entropy_interval(values, seed)
            else:
                mean, interval = float(values.mean()), mean_interval(values, seed)
            rows.append({**row, "mean": mean, "low": interval[0], "high": interval[1], "count": len(values)})
        return pd.DataFrame(rows, columns=[*_GROUP, "mean", "low", "high", "count"])

    @cached_property
    def recommendation(self) -> Recommendation:
        """The removal to use with this model and such images; see `recommend`."""
        return recommend(self.table, self.provenance.get("costs"))

    @property
    def left_out(self) -> dict[str, str]:
        """Removals that could not be audited, and why."""
        return dict(self.provenance.get("left_out", {}))

    def curves(self, measure: str = "agreement", features: str = "patches", order: str = "random") -> pd.DataFrame:
        """The curves of one measure, as a table to print.

        Args:
            measure: Such as ``"accuracy"`` or ``"class_entropy"``.
            features: What was removed.
            order: In which order.

        Returns:
            A line for each removal, a column for each removed fraction; the last column is the mean over the fractions
            above 0, and the highest comes first.

        Raises:
            OptionError: There are no such numbers; the message says which there are.
        """
        found = self.summary
        chosen = found[(found["measure"] == measure) & (found["features"] == features) & (found["order"] == order)]
        if chosen.empty:
            there = sorted({f"{m}/{f}/{o}" for m, f, o in found[["measure", "features", "order"]].to_numpy()})
            raise OptionError(f"there is no {measure}/{features}/{order} in this audit; there are {', '.join(there)}.")
        table: pd.DataFrame = chosen.pivot_table(index="removal", columns="fraction", values="mean", dropna=False)
        table["mean"] = table[[one for one in table.columns if one > 0]].mean(axis=1)
        return table.sort_values(["mean", "removal"], ascending=[False, True])

    def save(self, folder: str | Path) -> None:
        """Write ``table.parquet``, ``table.csv``, ``summary.csv`` and ``audit.json``, each as a whole or not at all.

        Args:
            folder: Made if it is not there.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        written(folder / "table.parquet", lambda path: self.table.to_parquet(path, index=False))
        written(folder / "table.csv", lambda path: self.table.to_csv(path, index=False))
        written(folder / "summary.csv", lambda path: self.summary.to_csv(path, index=False))
        # The last: its count of rows vouches for the table.
        record = {
            "rows": len(self.table),
            "recommendation": self.recommendation.as_dict(),
            "provenance": self.provenance,
        }
        text = json.dumps(record, indent=1, ensure_ascii=False, default=str)
        written(folder / "audit.json", lambda path: path.write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, folder: str | Path) -> "AuditResult":
        """Read what `save` wrote.

        Args:
            folder: The folder.

        Returns:
            The result; summary and recommendation are computed anew from the table.

        Raises:
            OptionError: The folder holds no whole result.
        """
        folder = Path(folder)
        try:
            record = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
            table = pd.read_parquet(folder / "table.parquet")
        except FileNotFoundError as error:
            raise OptionError(
                f"{folder} holds no finished audit (no {Path(error.filename or '').name}). If one was interrupted there, run "
                "it again with the same settings: it goes on where it stopped."
            ) from error
        except (OSError, ValueError) as error:
            raise OptionError(f"the audit in {folder} cannot be read: {error}. Run it again.") from error
        if not isinstance(record, dict) or not isinstance(record.get("provenance"), dict):
            raise OptionError(f"the audit in {folder} cannot be read: audit.json has no provenance. Run it again.")
        if record.get("rows") != len(table):
            raise OptionError(
                f"{folder} holds a table of {len(table)} rows where {record.get('rows')} are expected: its files are not of "
                "one audit. Run it again."
            )
        problem = damage(table) or _damaged_costs(record["provenance"])
        if problem:
            raise OptionError(f"the audit in {folder} cannot be read: {problem}. Run it again.")
        return cls(table, record["provenance"])


def _damaged_costs(provenance: Mapping[str, Any]) -> str:
    costs = provenance.get("costs", {})
    is_whole = isinstance(costs, dict) and all(type(one) is int for one in costs.values())
    is_whole = is_whole and isinstance(provenance.get("left_out", {}), dict)
    return "" if is_whole else "audit.json does not say what removals cost, or which were left out"
