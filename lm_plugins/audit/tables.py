"""The one place that asks for pandas and pyarrow."""

from lm_plugins.errors import MissingDependencyError

try:
    import pandas as pd
    import pyarrow  # noqa: F401  what pandas writes parquet with
except ImportError as error:
    raise MissingDependencyError("the audit needs pandas and pyarrow: pip install 'lm_plugins[audit]'.") from error

__all__ = ["COLUMNS", "pd"]

#: The tidy table: one number a row.
COLUMNS = ("measure", "removal", "features", "order", "fraction", "image", "value", "seed")
