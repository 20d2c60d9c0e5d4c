"""What models ask a tensor about itself."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lm_plugins.masking.carrier import Carrier
from lm_plugins.masking.registry import register_rule

__all__: list[str] = []

_QUERIES = (
    "size dim ndimension numel nelement stride is_contiguous get_device is_floating_point is_complex element_size"
).split()


def _query(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: Carrier, *args: Any, **kwargs: Any) -> Any:
        """Answer for the values."""
        return function(input.values, *args, **kwargs)

    return rule


for _function in (*(getattr(Tensor, name) for name in _QUERIES), torch.numel, torch.is_floating_point):
    register_rule(_function)(_query(_function))
