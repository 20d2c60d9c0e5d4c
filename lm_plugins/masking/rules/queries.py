"""What models and hooks ask a tensor about itself, and about its gradients."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lm_plugins.masking.carrier import Carrier
from lm_plugins.masking.registry import register_rule
from lm_plugins.masking.tokens import MaskedTokens, gathered, restored
from lm_plugins.masking.torch_functions import properties

__all__: list[str] = []

_OF_SHAPE = "size dim ndimension numel nelement stride is_contiguous".split()
_OF_KIND = "get_device is_floating_point is_complex is_signed is_inference is_conj is_neg element_size".split()
_PROPERTIES = (
    "dtype device requires_grad layout is_cuda is_cpu is_mps is_xpu is_xla is_meta is_sparse is_sparse_csr is_quantized "
    "is_mkldnn is_nested is_leaf grad_fn retains_grad itemsize output_nr _version"
).split()


def _about_shape(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: Carrier, *args: Any, **kwargs: Any) -> Any:
        """Answer for the values, of all tokens."""
        is_whole = input.values.shape == input.shape
        return function(input.values if is_whole else input.values.new_empty(()).expand(input.shape), *args, **kwargs)

    return rule


def _about_kind(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: Carrier, *args: Any, **kwargs: Any) -> Any:
        """Answer for the values."""
        return function(input.values, *args, **kwargs)

    return rule


for _function in (*(getattr(Tensor, name) for name in _OF_SHAPE), torch.numel, *properties("shape", "ndim")):
    register_rule(_function, both=True)(_about_shape(_function))

for _function in (
    *(getattr(Tensor, name) for name in _OF_KIND),
    *properties(*_PROPERTIES),
    torch.is_floating_point,
    torch.is_complex,
    Tensor.retain_grad,
):
    register_rule(_function, both=True)(_about_kind(_function))


# ---- gradients: of the values, with 0 for tokens that were dropped ------------------------------------------------------


def _of_all(input: Carrier, gradient: Tensor | None) -> Tensor | None:
    if isinstance(input, MaskedTokens) and gradient is not None:
        for one in input.positions:
            gradient = gradient if one.whole is None else restored(gradient, one)
    return gradient


def register_hook(input: Carrier, hook: Callable[[Tensor], Tensor | None]) -> Any:
    """Call the hook with the gradient of the values."""

    def call(gradient: Tensor) -> Tensor | None:
        changed = hook(_of_all(input, gradient))  # type: ignore[arg-type]
        if isinstance(input, MaskedTokens) and changed is not None:
            for one in input.positions:
                changed = changed if one.whole is None else gathered(changed, one)
        return changed

    return input.values.register_hook(  # type: ignore[no-untyped-call]
        call if isinstance(input, MaskedTokens) and input.is_dropped else hook
    )


def grad(input: Carrier, owner: Any = None) -> Tensor | None:
    """The gradient of the values, if autograd kept it."""
    return _of_all(input, input.values.grad)


def autograd_grad(outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
    """Gradients with respect to values."""
    of = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    chosen = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    found = torch.autograd.grad(
        [one.values if isinstance(one, Carrier) else one for one in chosen],
        [one.values if isinstance(one, Carrier) else one for one in of],
        *args,
        **kwargs,
    )
    return tuple(
        _of_all(one, gradient) if isinstance(one, Carrier) else gradient
        for one, gradient in zip(of, found, strict=True)
    )


def detach_(input: Carrier) -> Carrier:
    """Let autograd no longer follow the values, which stay: also of an activation that a hook has kept."""
    input.values = input.values.detach()
    return input


register_rule(torch.detach_, Tensor.detach_, both=True)(detach_)
register_rule(Tensor.register_hook, both=True)(register_hook)
register_rule(torch.autograd.grad, both=True)(autograd_grad)
register_rule(*properties("grad"), both=True)(grad)
