"""Explainers for training: anything that gives a map for an image and its label."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm_plugins.attribution.capture import gradients_of
from lm_plugins.attribution.layers import named_layers
from lm_plugins.errors import InputTypeError, OptionError

__all__ = ["Attribution", "Explainer", "GradCam"]

#: ``explainer(model, x, labels)``: images ``(N, C, H, W)`` and int64 labels ``(N,)`` to maps ``(N, H, W)``. The model is in
#: evaluation mode when it is called.
Explainer = Callable[[nn.Module, Tensor, Tensor], Tensor]


class GradCam:
    r"""Grad-CAM of the label at one layer, brought to the size of the image.

    .. math:: E = \sum_k \Big(\operatorname{mean}_{ij} \partial y / \partial A_{k,ij}\Big) A_k

    Args:
        layer: Name of a convolutional layer, as in ``model.named_modules()``.
        relu: Keep positive evidence only. ExCon's code keeps both signs.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lm_plugins.training import GradCam
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
        >>> GradCam("0")(model.eval(), torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 0, 1])).shape
        torch.Size([4, 16, 16])

    References:
        Selvaraju et al., "Grad-CAM", ICCV 2017. Layer and missing ReLU as in the code of Zhang et al., "ExCon" (2021).
    """

    def __init__(self, layer: str, *, relu: bool = False) -> None:
        if not isinstance(layer, str):
            raise InputTypeError(
                f"layer is the name of a layer, as in model.named_modules(); got {type(layer).__name__}."
            )
        self.layer = layer
        self.relu = relu

    def __call__(self, model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        """Explain each image's label.

        Args:
            model: A classifier in evaluation mode.
            x: Images ``(N, C, H, W)``.
            labels: Int64 ``(N,)``.

        Returns:
            ``(N, H, W)``.

        Raises:
            LayerError: The model has no such layer, or its output is no batch of maps.
        """
        layers = named_layers(model, [self.layer])
        maps, gradients, _ = gradients_of(
            model, x, list(layers.values()), list(layers), lambda out: _chosen(out, labels)
        )
        cam = (gradients[0].mean((2, 3), keepdim=True) * maps[0]).sum(1, keepdim=True)
        cam = cam.relu() if self.relu else cam
        return F.interpolate(cam, x.shape[2:], mode="bilinear", align_corners=False)[:, 0]

    def __repr__(self) -> str:
        return f"GradCam({self.layer!r}, relu={self.relu})"


class Attribution:
    """Any attribution method in Captum's style: Captum's own, `lm_plugins.captum`, SISE or RISE.

    Args:
        method: Builds it from the model: a class such as ``captum.attr.Saliency``, or a function such as
            ``lambda model: SISE(model, layers=["layer2"])``.
        options: For its ``attribute``, such as ``abs=False``.

    Raises:
        InputTypeError: `method` cannot be called.

    Example:
        >>> import torch
        >>> from captum.attr import Saliency
        >>> from torch import nn
        >>> from lm_plugins.training import Attribution
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
        >>> Attribution(Saliency, abs=False)(model.eval(), torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 0, 1])).shape
        torch.Size([4, 16, 16])

    References:
        Channels are added with their signs, as in the code of ExCon.
    """

    def __init__(self, method: Callable[[nn.Module], Any], **options: Any) -> None:
        if not callable(method):
            raise InputTypeError(
                f"method builds an attribution method from a model, as the class captum.attr.Saliency does; got {method!r}."
            )
        self.method = method
        self.options = options

    def __call__(self, model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        """Explain each image's label.

        Args:
            model: A classifier in evaluation mode.
            x: Images ``(N, C, H, W)``.
            labels: Int64 ``(N,)``.

        Returns:
            ``(N, H, W)``; maps of another size are brought to that of the image.
        """
        with torch.inference_mode(False), torch.enable_grad():
            found = self.method(model).attribute(x.detach().clone().requires_grad_(), target=labels, **self.options)
        maps: Tensor = found.detach().sum(1)
        if maps.shape[1:] != x.shape[2:]:
            maps = F.interpolate(maps[:, None], x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
        return maps

    def __repr__(self) -> str:
        return f"Attribution({getattr(self.method, '__name__', self.method)})"


def _chosen(output: Any, labels: Tensor) -> Tensor:
    """The logit of each image's label."""
    if not isinstance(output, Tensor) or output.ndim != 2:
        got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise InputTypeError(f"training explains classifiers with logits (N, classes); this model returns {got}.")
    if int(labels.max()) >= output.shape[1]:
        raise OptionError(f"label {int(labels.max())} is out of range: the model has {output.shape[1]} outputs.")
    return output.gather(1, labels[:, None])[:, 0]
