"""Complex numbers: joined from two activations, and taken apart again."""

from collections.abc import Callable
from typing import Any

import torch

from lm_plugins.masking.registry import register_rule, spellings
from lm_plugins.masking.rules.arithmetic import merged
from lm_plugins.masking.torch_functions import properties

__all__: list[str] = []


@register_rule(torch.complex, both=True)
def complex(real: Any, imag: Any) -> Any:
    """Join real and imaginary parts: a merge of both."""
    return merged(torch.complex, (real, imag), {})


@register_rule(torch.polar, both=True)
def polar(abs: Any, angle: Any) -> Any:
    """Join absolute values and angles: a merge of both."""
    return merged(torch.polar, (abs, angle), {})


def _part(name: str) -> Callable[..., Any]:
    def rule(input: Any, owner: Any = None) -> Any:
        """Take the real or the imaginary part."""
        return input.like(getattr(input.values, name))

    return rule


for _name in ("real", "imag"):
    for _function in (getattr(torch, _name), *properties(_name)):
        register_rule(_function, both=True)(_part(_name))


def _of_parts(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: Any) -> Any:
        """Act on every position alike."""
        return input.like(function(input.values))

    return rule


for _function in spellings("angle", "conj", "resolve_conj"):
    register_rule(_function, both=True)(_of_parts(_function))


@register_rule(torch.view_as_real, both=True)
def view_as_real(input: Any) -> Any:
    """Put both parts into a new last dimension of channels."""
    return input.unsqueeze(-1).like(torch.view_as_real(input.values))


@register_rule(torch.view_as_complex, both=True)
def view_as_complex(input: Any) -> Any:
    """Join the two channels of the last dimension."""
    first = input.select(-1, 0) if input.is_tokens else input[..., 0]
    return first.like(torch.view_as_complex(input.values))
