"""Functions of one position: nothing changes but the values."""

from collections.abc import Callable
from typing import Any

from lm_plugins.masking.activation import MaskedActivation
from lm_plugins.masking.registry import register_rule, spellings

__all__: list[str] = []

_ACTIVATIONS = (
    "relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish softplus softsign tanhshrink softshrink hardshrink "
    "threshold sigmoid logsigmoid hardsigmoid hardswish hardtanh tanh"
).split()
_ARITHMETIC = (
    "abs neg exp expm1 log log1p log2 sqrt rsqrt square reciprocal sin cos atan erf sign floor ceil round clamp clip "
    "clamp_min clamp_max pow float_power nan_to_num __neg__ __abs__ __pow__ __ipow__ __rpow__"
).split()
# In evaluation they return their input; a model that drops at random all the same drops alike at every position.
_DROPOUT = "dropout dropout1d dropout2d alpha_dropout feature_dropout feature_alpha_dropout".split()
_COPIES = ("clone detach contiguous to float double half bfloat16 type_as requires_grad_ positive cpu cuda").split()


def _pointwise(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: MaskedActivation, *args: Any, **kwargs: Any) -> MaskedActivation:
        """Act on every position alike; the regions stay."""
        plain = [one.values if isinstance(one, MaskedActivation) else one for one in args]
        if not isinstance(input, MaskedActivation):
            carrier = next(one for one in args if isinstance(one, MaskedActivation))
            return carrier.like(function(input, *plain, **kwargs))
        return input.like(function(input.values, *plain, **kwargs))

    return rule


for _function in spellings(*_ACTIVATIONS, *_ARITHMETIC, *_DROPOUT, *_COPIES):
    register_rule(_function)(_pointwise(_function))
