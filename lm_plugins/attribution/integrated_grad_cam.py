"""Integrated Grad-CAM: Grad-CAM averaged along a path from a baseline to the image."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch
from captum.attr import LayerAttribution
from captum.attr._utils.approximation_methods import SUPPORTED_METHODS, approximation_parameters
from torch import Tensor, nn

from lm_plugins.attribution.arguments import arguments_of, checked_images
from lm_plugins.attribution.capture import activations_of, gradients_of
from lm_plugins.attribution.layers import named_layers
from lm_plugins.captum.noise_tunnel import for_noise_tunnel
from lm_plugins.checks import check_evaluation_mode, targets_for
from lm_plugins.errors import InputTypeError, LayerError, OptionError, ShapeError
from lm_plugins.features.score import selected
from lm_plugins.outputs.words import Output, parted, rows_of

__all__ = ["OFFICIAL_DEMO", "IntegratedGradCam"]

Relu = Literal["per_step", "final"]
Integral = Literal["riemann", "riemann_stieltjes"]

#: Arguments of ``attribute`` that give the authors' demo notebook: no subtraction, a left sum that is not divided.
OFFICIAL_DEMO: Mapping[str, Any] = MappingProxyType(
    {"n_steps": 50, "method": "riemann_left", "subtract_baseline": False, "average": False, "relu": "per_step"}
)

#: A step is left of, right of, or between both of these points.
_STIELTJES = {"riemann_left": (1.0, 0.0), "riemann_right": (0.0, 1.0), "riemann_trapezoid": (0.5, 0.5)}


class IntegratedGradCam(LayerAttribution):  # type: ignore[misc]
    r"""Integrated Grad-CAM.

    On the straight path :math:`I_t = I' + \alpha_t (I - I')` from a baseline to the image, with Grad-CAM's weights
    :math:`w_k(t) = \operatorname{mean}_{ij} \partial y / \partial A_{k,ij}(I_t)` and weights :math:`c_t` of the
    integration rule,

    .. math::
        E = \sum_t c_t \operatorname{ReLU}\Big( \sum_k w_k(t) \, \big(A_k(I_t) - A_k(I')\big) \Big)

    With ``integral="riemann_stieltjes"`` it is a path integral at the layer, element by element,

    .. math::
        E_{ij} = \operatorname{ReLU}\Big(\sum_t \sum_k \frac{\partial y}{\partial A_{k,ij}}(t) \,
        \big(A_{k,ij}(I_t) - A_{k,ij}(I_{t-1})\big)\Big)

    which without ReLU is complete: it sums to :math:`y(I) - y(I')`, exactly if the model is linear after the layer, and in
    the limit of many steps otherwise.

    Args:
        forward_func: A model of images, or a function of them that runs `layer`.
        layer: The layer, usually the last convolutional one; with a model its name will do.
        output: A word for what the model returns (see `lm_plugins.outputs.words`), to explain the probabilities that it
            means; or a function that turns it into a tensor ``(N, ...)``. None explains what it returns.

    Raises:
        InputTypeError: `forward_func` cannot be called.
        LayerError: `layer` is not a part of the model.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lm_plugins.attribution import IntegratedGradCam
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
        >>> cam = IntegratedGradCam(model.eval(), "1")
        >>> attribution = cam.attribute(torch.rand(1, 3, 16, 16), target=1)
        >>> cam.interpolate(attribution, (16, 16), "bilinear").shape
        torch.Size([1, 1, 16, 16])

    References:
        Sattarzadeh et al., "Integrated Grad-CAM: sensitivity-aware visual explanation of deep convolutional networks via
        integrated gradient-based scoring", ICASSP 2021, arXiv 2102.07805; its figure shows the ReLU in each step and the
        subtraction. The authors' demo differs: `OFFICIAL_DEMO`.
        Lucas, Lerma, Furst and Raicu, "RSI-Grad-CAM: visual explanations from deep networks via Riemann-Stieltjes
        integrated gradient-based localization", arXiv 2205.10900. There the integrals are averaged over positions to
        weigh the maps of the image; here they stay where they are, which makes them complete.
    """

    def __init__(self, forward_func: Callable[..., Any], layer: nn.Module | str, output: Output | None = None) -> None:
        if not callable(forward_func) or isinstance(forward_func, type):
            raise InputTypeError(f"forward_func is a model or a function, got {type(forward_func).__name__}.")
        if isinstance(forward_func, nn.Module):
            ((self._name, layer),) = named_layers(forward_func, [layer]).items()
        elif isinstance(layer, nn.Module):
            self._name = type(layer).__name__
        else:
            raise LayerError("forward_func is a function, whose layers have no names: pass the module itself as layer.")
        parted(output)  # an unknown word is said now
        self._output = output
        super().__init__(forward_func, layer)

    @for_noise_tunnel
    def attribute(
        self,
        inputs: Tensor,
        target: Any = None,
        baselines: Tensor | float | None = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "riemann_right",
        internal_batch_size: int | None = None,
        relu: Relu | None = "per_step",
        integral: Integral = "riemann",
        subtract_baseline: bool = True,
        average: bool = True,
    ) -> Tensor:
        """Attribute the output of the target to positions of the layer.

        Args:
            inputs: Images ``(N, C, H, W)``.
            target: A class, or one for each image, as in Captum. Logits are the usual choice.
            baselines: Where the path starts: a number, or a tensor that broadcasts to `inputs`; None for 0. It is in the
                space of the model's input, where 0 is the mean colour of the data set with most models (the paper's black
                image is 0 only in a model without normalisation).
            additional_forward_args: What else the model takes; tensors with N rows are meant one row an image.
            n_steps: Points on the path, at least 1.
            method: The integration rule, as in Captum's IntegratedGradients: ``"riemann_right"`` (which includes the
                image), ``"riemann_left"``, ``"riemann_middle"``, ``"riemann_trapezoid"`` or ``"gausslegendre"``.
            internal_batch_size: Images in one forward pass, at least 1; None for all steps of all images at once.
            relu: ``"per_step"``, ``"final"`` for one after the sum, or None. The Riemann-Stieltjes sum takes ``"final"``
                for ``"per_step"``: single steps mean nothing there.
            integral: ``"riemann"`` or ``"riemann_stieltjes"`` (which needs a left, right or trapezoid rule).
            subtract_baseline: Subtract the activations of the baseline.
            average: Weights of the rule sum to 1; without, to `n_steps`.

        Returns:
            ``(N, 1, h, w)`` at the resolution of the layer, as Captum's LayerGradCam gives it. `interpolate` of Captum's
            LayerAttribution, with ``"bilinear"``, brings it to that of the image.

        Raises:
            OptionError: An option is not one of these, or the model has no such target.
            LayerError: The layer is not called, gives no maps, or the target does not depend on it.
            TrainingModeError: The model or a part of it is in training mode.
        """
        for model in (self.forward_func, self.layer):
            check_evaluation_mode(model, type(self).__name__)
        x = checked_images(inputs, type(self).__name__)
        targets = targets_for(target, len(x))
        alphas, weights = _rule(method, n_steps, integral)
        if relu is not None and relu not in get_args(Relu):
            raise OptionError(f"relu is 'per_step', 'final' or None, got {relu!r}.")
        if internal_batch_size is not None and internal_batch_size < 1:
            raise OptionError(f"internal_batch_size is at least 1, or None; got {internal_batch_size!r}.")
        baseline = _baseline(baselines, x)
        path = [baseline + alpha * (x - baseline) for alpha in alphas]
        maps, gradients = self._on_path(path, x, targets, additional_forward_args, internal_batch_size)
        if integral == "riemann_stieltjes":
            left, right = _STIELTJES[method]
            mean = left * gradients[:-1] + right * gradients[1:]
            steps = (mean * (maps[1:] - maps[:-1])).sum(2)  # (steps, N, h, w)
            return _relu(steps.sum(0), relu is not None)[:, None]
        change = maps - self._at(baseline, x, additional_forward_args) if subtract_baseline else maps
        steps = (gradients.mean((3, 4), keepdim=True) * change).sum(2)  # (steps, N, h, w)
        scale = torch.tensor(weights).to(steps)[:, None, None, None] * (1 if average else n_steps)
        return _relu((_relu(steps, relu == "per_step") * scale).sum(0), relu == "final")[:, None]

    def _on_path(
        self, path: list[Tensor], x: Tensor, targets: list[Any], more: Any, batch: int | None
    ) -> tuple[Tensor, Tensor]:
        """Maps and gradients ``(steps, N, K, h, w)``."""
        images = torch.cat(path)
        rows = torch.arange(len(x)).repeat(len(path))
        size = batch or len(images)
        parts = []
        for part, of in zip(torch.split(images, size), torch.split(rows, size), strict=True):
            chosen = [targets[i] for i in of.tolist()]

            def score(result: Any, chosen: list[Any] = chosen) -> Tensor:
                return selected(rows_of(result, len(chosen), self._output), chosen)

            call = partial(_called, self.forward_func, arguments_of(more, x, of))
            parts.append(gradients_of(call, part, [self.layer], [self._name], score)[:2])
        maps, gradients = (torch.cat([part[which][0] for part in parts]) for which in (0, 1))
        shape = (len(path), *x.shape[:1], *maps.shape[1:])
        return maps.reshape(shape), gradients.reshape(shape)

    def _at(self, baseline: Tensor, x: Tensor, more: Any) -> Tensor:
        """Maps ``(N, K, h, w)`` of the baseline."""
        arguments = arguments_of(more, x, torch.arange(len(x)))
        with torch.no_grad():
            (maps,), _ = activations_of(lambda: self.forward_func(baseline, *arguments), [self.layer], [self._name])
        return maps


def _called(forward_func: Callable[..., Any], arguments: tuple[Any, ...], images: Tensor) -> Any:
    return forward_func(images, *arguments)


def _relu(values: Tensor, apply: bool) -> Tensor:
    return values.clamp(min=0) if apply else values


def _baseline(baselines: Any, x: Tensor) -> Tensor:
    if baselines is None or (isinstance(baselines, (int, float)) and not isinstance(baselines, bool)):
        return torch.full_like(x, 0.0 if baselines is None else float(baselines))
    if not isinstance(baselines, Tensor):
        raise InputTypeError(f"baselines is a number, a tensor or None, got {type(baselines).__name__}.")
    try:
        return baselines.detach().to(x).expand_as(x)
    except RuntimeError as error:
        raise ShapeError(
            f"baselines has shape {tuple(baselines.shape)}, which does not broadcast to the images' {tuple(x.shape)}."
        ) from error


def _rule(method: str, n_steps: int, integral: str) -> tuple[list[float], list[float]]:
    """Where on the path, and with which weights."""
    if not isinstance(n_steps, int) or n_steps < 1:
        raise OptionError(f"n_steps is a whole number of at least 1, got {n_steps!r}.")
    if integral not in get_args(Integral):
        raise OptionError(f"integral is one of {', '.join(map(repr, get_args(Integral)))}; got {integral!r}.")
    if method not in SUPPORTED_METHODS:
        raise OptionError(f"method is one of {', '.join(map(repr, SUPPORTED_METHODS))}; got {method!r}.")
    if integral == "riemann_stieltjes":
        if method not in _STIELTJES:
            raise OptionError(
                f"a Riemann-Stieltjes sum takes method {', '.join(map(repr, _STIELTJES))}; got {method!r}."
            )
        return [step / n_steps for step in range(n_steps + 1)], []
    # Captum's Riemann rules start at two steps; one step of the right rule is plain Grad-CAM.
    single = {"riemann_left": 0.0, "riemann_middle": 0.5, "riemann_right": 1.0}
    if n_steps == 1 and method in single:
        return [single[method]], [1.0]
    if n_steps == 1 and method == "riemann_trapezoid":
        raise OptionError("riemann_trapezoid needs at least 2 steps, got n_steps=1.")
    step_sizes, alphas = approximation_parameters(method)
    return alphas(n_steps), step_sizes(n_steps)
