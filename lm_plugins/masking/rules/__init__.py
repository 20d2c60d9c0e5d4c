"""The rules of torch's functions, one file per behaviour. Importing this package fills the table.

Most act on maps and on tokens; `token_layout` and `attention` act on `lm_plugins.masking.MaskedTokens`.
"""

from lm_plugins.masking.rules import (
    arithmetic,
    attention,
    concatenation,
    convolution,
    layout,
    linear,
    normalization,
    pointwise,
    pooling,
    queries,
    reductions,
    resizing,
    token_layout,
)

__all__ = [
    "arithmetic",
    "attention",
    "concatenation",
    "convolution",
    "layout",
    "linear",
    "normalization",
    "pointwise",
    "pooling",
    "queries",
    "reductions",
    "resizing",
    "token_layout",
]
