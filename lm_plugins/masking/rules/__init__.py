"""The rules of torch's functions, one file per behaviour. Importing this package fills the table."""

from lm_plugins.masking.rules import (
    convolution,
    extrema,
    head,
    layout,
    merge,
    normalization,
    pointwise,
    pooling,
    queries,
    resizing,
    statistics,
)

__all__ = [
    "convolution",
    "extrema",
    "head",
    "layout",
    "merge",
    "normalization",
    "pointwise",
    "pooling",
    "queries",
    "resizing",
    "statistics",
]
