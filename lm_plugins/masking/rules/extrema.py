"""`max` and `min`, each three functions under one name: of two tensors, along a dimension, and of everything."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.activation import MaskedActivation
from lm_plugins.masking.registry import function_name, register_rule, spellings

__all__: list[str] = []


def _extremum(function: Callable[..., Any], of_two: Callable[..., Any]) -> Callable[..., Any]:
    kind = getattr(torch.return_types, function.__name__)

    def rule(
        input: Any, dim: Any = None, keepdim: bool = False, *, other: MaskedActivation | Tensor | None = None
    ) -> Any:
        """Take the larger or smaller of two at every position, or of the channels of each, with their indices."""
        other = dim if isinstance(dim, Tensor) else other
        if other is not None:
            return of_two(input, other)
        if not isinstance(dim, int) or input.dims[dim] != "C":
            raise UnsupportedOperatorError(
                f"{function_name(function)} along dim={dim} of {input!r}: it is masked along channels, and for two "
                "activations; over space use torch.amax or torch.amin"
            )
        letters = tuple(one for i, one in enumerate(input.dims) if keepdim or i != dim % input.ndim)
        found = function(input.values, dim, keepdim)
        # The indices are as hidden as the values.
        return kind([MaskedActivation(one, input.visibility, letters) for one in found])

    return rule


for _name, _of_two in (("max", torch.maximum), ("min", torch.minimum)):
    for _function in spellings(_name):
        register_rule(_function)(_extremum(_function, _of_two))
