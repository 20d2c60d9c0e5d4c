"""The audit's own saliency: the size of the gradient, which no removal has a hand in."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lm_plugins.checks import check_evaluation_mode, check_target
from lm_plugins.outputs.words import rows_of

__all__ = ["gradient_saliency"]


def gradient_saliency(
    model: nn.Module, x: Tensor, target: int, output: Callable[[Any], Tensor] | None = None
) -> Tensor:
    r"""How strongly the output for a class reacts to each pixel.

    .. math::
        s(\lambda) = \max_c \left| \frac{\partial f_t(x)}{\partial x_c(\lambda)} \right|

    One backward pass. An explanation by removal would favour the removal that it was made with.

    Args:
        model: A differentiable model in evaluation mode; its own gradients stay as they are.
        x: One image ``(1, C, H, W)``.
        target: The class t.
        output: Turns what the model returns into a tensor ``(1, classes)``; None if it is one.

    Returns:
        ``(H, W)``, at least 0.

    Raises:
        TrainingModeError: The model or a part of it is in training mode.
        OptionError: The model has no such class.

    Example:
        >>> import torch
        >>> from lm_plugins.audit import gradient_saliency
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1, bias=False)).eval()
        >>> _ = model[1].weight.data.copy_(torch.tensor([[1.0, -2.0, 0.0, 3.0]]))
        >>> gradient_saliency(model, torch.ones(1, 1, 2, 2), target=0)
        tensor([[1., 2.],
                [0., 3.]])

    References:
        Simonyan, Vedaldi and Zisserman, "Deep inside convolutional networks", ICLR workshops 2014.
    """
    check_evaluation_mode(model, "the gradient")
    with torch.inference_mode(False), torch.enable_grad():
        image = x.detach().clone().requires_grad_()
        scores = rows_of(model(image), 1, output)[0].reshape(-1)
        score = scores[check_target(target, tuple(scores.shape))]
        (gradient,) = torch.autograd.grad(score, image)
    return gradient[0].abs().amax(0)
