"""Functions of one position: nothing changes but the values."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
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
    "clamp_min clamp_max nan_to_num positive zero_ fill_ trunc fix frac __neg__ __abs__ "
    "isnan isinf isfinite isneginf isposinf logical_not bitwise_not __invert__ "
    "tan asin acos asinh atanh sinh cosh erfc sinc logit deg2rad rad2deg signbit sgn"
).split()
_DROPOUT = "dropout dropout1d dropout2d alpha_dropout feature_dropout feature_alpha_dropout".split()
_RANDOM_IN_TRAINING = ("rrelu", "rrelu_")
_COPIES = "clone detach contiguous float double half bfloat16 bool int long requires_grad_ cpu cuda".split()
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


def _dropout(function: Callable[..., Any]) -> Callable[..., Any]:
    evaluate = _pointwise(function)
    by_module = function.__module__ == F.__name__

    def rule(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False, *, train: bool = True) -> Any:
        """Return the input, in evaluation."""
        _check_not_training(function, training and train and p > 0)
        return evaluate(input, p, False, inplace) if by_module else evaluate(input, p, False)

    return rule


def _leaky_at_random(function: Callable[..., Any]) -> Callable[..., Any]:
    evaluate = _pointwise(function)

    def rule(
        input: Any, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, *rest: Any, **kwargs: Any
    ) -> Any:
        """Act on every position alike, in evaluation."""
        _check_not_training(function, training)
        return evaluate(input, lower, upper, False, *rest, **kwargs)

    return rule


def _check_not_training(function: Callable[..., Any], is_training: bool) -> None:
    if is_training:
        raise UnsupportedOperatorError(
            f"{function_name(function)} was called with training=True: every answer would be another. Call model.eval(); of "
            "a dropout layer within a function that is no module, call its own eval()"
        )


for _function in spellings(*_ACTIVATIONS, *_ARITHMETIC, *_COPIES):
    if _function.__name__ not in (*_RANDOM_IN_TRAINING, "detach_"):
        register_rule(_function, both=True)(_pointwise(_function))

for _function in spellings(*_DROPOUT):
    register_rule(_function, both=True)(_dropout(_function))

for _function in spellings("rrelu"):
    register_rule(_function, both=True)(_leaky_at_random(_function))

for _function in spellings(*_CONVERSIONS):
    register_rule(_function, both=True)(_conversion(_function))
