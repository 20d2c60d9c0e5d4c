"""Activations and gradients of layers, taken with hooks that never stay behind."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from lm_plugins.errors import LayerError

__all__ = ["activations_of", "gradients_of", "hooked"]


@contextmanager
def hooked(layers: Sequence[nn.Module], hook: Callable[[int, Any], Any]) -> Iterator[None]:
    """Hooks on the outputs of layers, gone at the end of the block, also after an exception.

    They act in the thread that set them only: another one may be running the same model.

    Args:
        layers: The layers.
        hook: ``hook(index, output)``; what it returns, if not None, takes the place of the output.

    Yields:
        Nothing.
    """
    thread = get_ident()

    def act(index: int, output: Any) -> Any:
        return hook(index, output) if get_ident() == thread else None

    handles = []
    try:
        for index, layer in enumerate(layers):
            handles.append(layer.register_forward_hook(lambda m, x, output, index=index: act(index, output)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def activations_of(
    call: Callable[[], Any], layers: Sequence[nn.Module], names: Sequence[str]
) -> tuple[list[Tensor], Any]:
    """The maps of some layers in one run of a model.

    A layer that is called several times counts with its last call, as in Captum, or with the one that its name ends in,
    such as ``relu@1``. What a later layer changes in place does not reach the captured maps.

    Args:
        call: Runs the model.
        layers: The layers.
        names: Their names, for messages.

    Returns:
        The maps ``(N, K, h, w)`` of each layer, and what the model returned.

    Raises:
        LayerError: A layer is not called, or its output is no batch of maps larger than 1 x 1.
    """
    captured: dict[int, Any] = {}
    wanted = [int(name.partition("@")[2] or 0) for name in names]
    count = [0] * len(layers)

    def keep(index: int, output: Any) -> Any:
        count[index] += 1
        if wanted[index] not in (0, count[index]):
            return None
        captured[index] = output
        # The model goes on with a copy, so that an in-place ReLU cannot change what was captured.
        return output.clone() if isinstance(output, Tensor) else None

    with hooked(layers, keep):
        output = call()
    for index, name in enumerate(names):
        if index not in captured:
            often = f" {wanted[index]} times" if wanted[index] > 1 else ""
            raise LayerError(
                f"the layer {name} was not called{often} when the model ran; choose a layer that this model uses."
            )
        maps = captured[index]
        is_spatial = isinstance(maps, Tensor) and maps.ndim == 4 and maps.shape[2] * maps.shape[3] > 1
        if not is_spatial:
            got = f"a tensor of shape {tuple(maps.shape)}" if isinstance(maps, Tensor) else type(maps).__name__
            raise LayerError(
                f"the layer {name} gives {got}; maps (N, K, h, w) larger than 1 x 1 are needed. Choose a convolutional "
                "layer before the global pooling."
            )
    return [captured[index] for index in range(len(layers))], output


def gradients_of(
    call: Callable[[Tensor], Any],
    x: Tensor,
    layers: Sequence[nn.Module],
    names: Sequence[str],
    score: Callable[[Any], Tensor],
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Maps of layers, and the gradient of a score with respect to them.

    Works also within `torch.no_grad` and `torch.inference_mode`, and leaves ``.grad`` of all parameters alone.

    Args:
        call: The model.
        x: Images ``(N, C, H, W)``.
        layers: The layers.
        names: Their names, for messages.
        score: Turns what the model returns into one number for each image, ``(N,)``.

    Returns:
        Maps ``(N, K, h, w)`` of each layer, the gradients of the same shapes, and the scores; all detached.

    Raises:
        LayerError: A layer is not called, gives no maps, or the score does not depend on it.
    """
    with torch.inference_mode(False), torch.enable_grad():
        inputs = x.detach().clone().requires_grad_()
        maps, output = activations_of(lambda: call(inputs), layers, names)
        values = score(output)
        missing = [name for name, one in zip(names, maps, strict=True) if not one.requires_grad]
        if missing or not values.requires_grad:
            raise LayerError(
                f"no gradient reaches {', '.join(missing) or 'the output'}: the model detaches its activations, or runs "
                "under torch.no_grad inside."
            )
        gradients = torch.autograd.grad(values.sum(), maps, allow_unused=True)
    found = []
    for name, gradient in zip(names, gradients, strict=True):
        if gradient is None:
            raise LayerError(
                f"the score of the target does not depend on the layer {name}; choose a layer on the way to it."
            )
        found.append(gradient.detach())
    return [one.detach() for one in maps], found, values.detach()
