"""Functions of one position: nothing changes but the values."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.carrier import Carrier
from lm_plugins.masking.registry import function_name, register_rule, spellings

__all__: list[str] = []

_ACTIVATIONS = (
    "relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish softplus softsign tanhshrink softshrink hardshrink "
    "threshold sigmoid logsigmoid hardsigmoid hardswish hardtanh tanh"
).split()
_ARITHMETIC = (
    "abs neg exp expm1 log log1p log2 sqrt rsqrt square reciprocal sin cos atan erf sign floor ceil round clamp clip "
    "clamp_min clamp_max nan_to_num positive __neg__ __abs__"
).split()
# In evaluation they return their input; a model that drops at random all the same drops alike at every position.
_DROPOUT = "dropout dropout1d dropout2d alpha_dropout feature_dropout feature_alpha_dropout".split()
_COPIES = "clone detach contiguous float double half bfloat16 requires_grad_ cpu cuda".split()
_CONVERSIONS = "to type_as".split()


def _pointwise(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: Any, *args: Any, **kwargs: Any) -> Any:
        """Act on every position alike; the regions stay."""
        others = (*args, *kwargs.values())
        if not isinstance(input, Carrier) or any(isinstance(one, Carrier) for one in others):
            raise UnsupportedOperatorError(
                f"{function_name(function)} is masked with an activation as its first argument only, beside numbers and "
                "ordinary tensors"
            )
        values = function(input.values, *args, **kwargs)
        if values.shape != input.values.shape:
            raise UnsupportedOperatorError(
                f"{function_name(function)} would change the shape of {input!r} to {tuple(values.shape)}"
            )
        return input.like(values)

    return rule


def _conversion(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: Any, *args: Any, **kwargs: Any) -> Any:
        """Convert dtype, device or memory format; another activation only lends its own."""
        plain = [one.values if isinstance(one, Carrier) else one for one in args]
        named = {name: one.values if isinstance(one, Carrier) else one for name, one in kwargs.items()}
        if isinstance(input, Carrier):
            return input.like(function(input.values, *plain, **named))
        result: Tensor = function(input, *plain, **named)
        return result

    return rule


for _function in spellings(*_ACTIVATIONS, *_ARITHMETIC, *_DROPOUT, *_COPIES):
    register_rule(_function)(_pointwise(_function))

for _function in spellings(*_CONVERSIONS):
    register_rule(_function)(_conversion(_function))
