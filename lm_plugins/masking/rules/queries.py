"""What models ask a tensor about itself."""

from typing import Any

import torch
from torch import Tensor

from lm_plugins.masking.activation import MaskedActivation
from lm_plugins.masking.registry import register_rule

__all__: list[str] = []

for _query in ("size", "dim", "ndimension", "numel", "nelement", "stride", "is_contiguous", "get_device",
               "is_floating_point", "is_complex", "element_size"):  # fmt: skip
    _method = getattr(Tensor, _query)

    def _rule(input: MaskedActivation, *args: Any, _method: Any = _method, **kwargs: Any) -> Any:
        """Answer for the values."""
        return _method(input.values, *args, **kwargs)

    register_rule(_method)(_rule)

register_rule(torch.numel)(lambda input: input.values.numel())
register_rule(torch.is_floating_point)(lambda input: input.values.is_floating_point())
