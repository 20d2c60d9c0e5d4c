"""The rules of torch's functions, one file per behaviour. Importing this package fills the table.

Most act on maps and on tokens; `token_layout` and `attention` act on `lm_plugins.masking.MaskedTokens`.
"""

from lm_plugins.masking.rules import (
    along_channels,
    arithmetic,
    attention,
    complex_numbers,
    concatenation,
    convolution,
    layout,
    linear,
    new_tensors,
    normalization,
    order_statistics,
    pointwise,
    pooling,
    queries,
    reductions,
    refused,
    resizing,
    token_layout,
    token_reductions,
    unfolding,
    unpooling,
)

__all__ = [
    "along_channels",
    "arithmetic",
    "attention",
    "complex_numbers",
    "concatenation",
    "convolution",
    "layout",
    "linear",
    "new_tensors",
    "normalization",
    "order_statistics",
    "pointwise",
    "pooling",
    "queries",
    "reductions",
    "refused",
    "resizing",
    "token_layout",
    "token_reductions",
    "unfolding",
    "unpooling",
]
