"""The rules of torch's functions, one file per behaviour. Importing this package fills the table.

Those for maps come first; the ones named after tokens, and attention, act on `lm_plugins.masking.MaskedTokens`.
"""

from lm_plugins.masking.rules import (
    attention,
    convolution,
    extrema,
    head,
    layout,
    linear,
    merge,
    normalization,
    pointwise,
    pooling,
    queries,
    resizing,
    statistics,
    token_layout,
    token_merge,
    token_pooling,
)

__all__ = [
    "attention",
    "convolution",
    "extrema",
    "head",
    "layout",
    "linear",
    "merge",
    "normalization",
    "pointwise",
    "pooling",
    "queries",
    "resizing",
    "statistics",
    "token_layout",
    "token_merge",
    "token_pooling",
]
