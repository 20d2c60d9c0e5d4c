"""Functions that have no masked meaning, and why: what they return depends on hidden positions, or on chance."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.registry import function_name, register_rule, spellings

__all__: list[str] = []

_FOURIER = "every frequency depends on every position, hidden ones as well"
_RECURRENT = "what it says of a token depends on all tokens before it, hidden ones as well"
_CHANCE = "it draws at random, so that every answer would be another"
_COUNT = "how many entries it returns depends on the values, of hidden positions as well"
_ROWS = "its windows run over tokens from the end of a row of the map to the start of the next"
_VOLUME = "volumes and videos (N, C, D, H, W) are not masked, images (N, C, H, W) are"

REASONS: dict[str, tuple[Callable[..., Any], ...]] = {
    _FOURIER: tuple(
        getattr(torch.fft, name)
        for name in "fft ifft rfft irfft fft2 ifft2 rfft2 irfft2 fftn ifftn rfftn irfftn hfft ihfft".split()
    ),
    _RECURRENT: (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu),
    _CHANCE: (
        F.fractional_max_pool2d, F.fractional_max_pool2d_with_indices, torch.rand_like, torch.randn_like, torch.randint_like,
        torch.bernoulli, torch.Tensor.bernoulli, torch.Tensor.bernoulli_, torch.Tensor.normal_, torch.Tensor.uniform_,
        torch.multinomial, torch.Tensor.multinomial, F.gumbel_softmax,
    ),
    _COUNT: tuple(spellings("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount", "histc")),
    _ROWS: (F.max_pool1d, F.lp_pool1d, F.conv_transpose1d, F.adaptive_max_pool1d),
    _VOLUME: (F.conv3d, F.conv_transpose3d, F.avg_pool3d, F.max_pool3d, F.adaptive_avg_pool3d),
}  # fmt: skip


def _refusal(function: Callable[..., Any], reason: str) -> Callable[..., Any]:
    def rule(*args: Any, **kwargs: Any) -> Any:
        """Say why there is no masked meaning."""
        raise UnsupportedOperatorError(f"{function_name(function)} has no masked meaning: {reason}")

    return rule


for _reason, _functions in REASONS.items():
    for _function in _functions:
        register_rule(_function, both=True)(_refusal(_function, _reason))
