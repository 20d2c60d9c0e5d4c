"""The one place that asks for pandas and pyarrow."""

from lm_plugins.errors import MissingDependencyError

try:
    import pandas as pd
    import pyarrow  # noqa: F401  what pandas writes parquet with
except ImportError as error:
    raise MissingDependencyError("the audit needs pandas and pyarrow: pip install 'lm_plugins[audit]'.") from error

__all__ = ["COLUMNS", "RESULT", "damage", "pd"]

#: The tidy table: one number a row.
COLUMNS = ("measure", "removal", "features", "order", "fraction", "image", "value", "seed")

#: What a result is written to. The first vouches for the others.
RESULT = ("audit.json", "table.parquet", "table.csv", "summary.csv")

_NUMBERS = ("fraction", "value", "seed")


def damage(table: pd.DataFrame) -> str:
    """What is wrong with a table that was read from a file, in words; empty if nothing is.

    Args:
        table: With any columns.
    """
    if list(table.columns) != list(COLUMNS):
        return f"its columns are {', '.join(map(str, table.columns)) or 'none'}, not {', '.join(COLUMNS)}"
    for column in COLUMNS:
        values = table[column]
        if column in _NUMBERS:
            if len(values) and (values.dtype == bool or not pd.api.types.is_numeric_dtype(values)):
                return f"the column {column} holds no numbers"
        elif not all(isinstance(one, str) for one in values):
            return f"the column {column} holds something else than text"
    classes = table["value"][table["measure"] == "predicted_class"]
    if not all(float(one).is_integer() and one >= 0 for one in classes):
        return "a predicted class is no whole number"
    if table["seed"].isna().any():
        return "a seed is missing"
    return ""
