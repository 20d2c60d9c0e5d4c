"""The rules of torch's functions, one file per behaviour. Importing this package fills the table.

Those for maps come first; the ones named after tokens, and attention, act on `lm_plugins.masking.MaskedTokens`.
"""

from lm_plugins.masking.rules import (
    arithmetic,
    attention,
    comparison,
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
    transposed_convolution,
)

__all__ = [
    "arithmetic",
    "attention",
    "comparison",
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
    "transposed_convolution",
]
