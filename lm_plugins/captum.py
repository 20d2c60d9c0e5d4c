"""Captum's perturbation methods, with any removal: change one import line.

    from lm_plugins.captum import Occlusion      # instead of: from captum.attr import Occlusion
    Occlusion(model).attribute(x, sliding_window_shapes=(3, 32, 32), strides=(3, 16, 16), target=281)

The classes perturb a pixel mask instead of the image and hand both to the removal. So no baseline value has to survive
Captum's arithmetic, any dtype works, and LIME's similarity is computed on which features are present.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lm_plugins.errors import (
    InputTypeError,
    MaskValueError,
    MissingDependencyError,
    OptionError,
    ShapeError,
    UnsupportedOperatorError,
)
from lm_plugins.masking import MASKED
from lm_plugins.removal import LayerMasking, Removal

try:
    from captum import attr
except ImportError as error:
    raise MissingDependencyError("lm_plugins.captum needs Captum: pip install 'lm_plugins[captum]'.") from error

__all__ = [
    "FeatureAblation",
    "KernelShap",
    "Lime",
    "Occlusion",
    "ShapleyValueSampling",
    "ShapleyValues",
    "feature_similarity",
]


def feature_similarity(kernel_width: float = 1.0) -> Callable[..., float]:
    r"""A similarity for LIME that looks at which features are present, not at pixel values.

    :math:`\exp(-d^2 / 2w^2)` with the cosine distance d between the coalition and the full one, :math:`1 - \sqrt{k / F}`
    for k of F features. For Captum's own `Lime` on ``lm.LayerMasked(model)``, whose default similarity would see the
    sentinel value of hidden pixels.

    Args:
        kernel_width: The width w, above 0. Captum's default is 1, that of the lime package 0.25.

    Returns:
        A ``similarity_func`` for `captum.attr.Lime`.

    Raises:
        OptionError: `kernel_width` is not above 0.

    Example:
        >>> import torch
        >>> from lm_plugins.captum import feature_similarity
        >>> similarity = feature_similarity(kernel_width=0.5)
        >>> round(similarity(None, None, torch.tensor([[1, 0, 0, 0]])), 4)
        0.6065
    """
    if not kernel_width > 0:
        raise OptionError(f"kernel_width is above 0, got {kernel_width!r}.")

    def similarity(original: Any, perturbed: Any, coalition: Tensor, **settings: Any) -> float:
        share = float(coalition.double().mean())
        distance = 1 - share**0.5
        return float(torch.tensor(-(distance**2) / (2 * kernel_width**2)).exp())

    return similarity


class _WithArguments(nn.Module):
    """A model called with further arguments beside its image."""

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        super().__init__()
        self.forward_func = forward_func
        self.training = getattr(forward_func, "training", False)
        self.arguments: tuple[Any, ...] = ()

    def forward(self, x: Tensor) -> Any:
        return self.forward_func(x, *self.arguments)


class _PixelMasks:
    """What the six classes share: Captum perturbs ``(N, 1, H, W)`` masks, the removal acts on the images."""

    def __init__(self, forward_func: Callable[..., Any], removal: Removal | None = None, **upstream: Any) -> None:
        # The next class in line is Captum's.
        super().__init__(self._forward_masks(forward_func, removal), **upstream)  # type: ignore[call-arg]

    def _forward_masks(self, forward_func: Callable[..., Any], removal: Removal | None) -> Callable[..., Any]:
        if not callable(forward_func):
            raise InputTypeError(f"forward_func is a model or a function, got {type(forward_func).__name__}.")
        model = _WithArguments(forward_func)
        forward = (LayerMasking() if removal is None else removal)(model)

        def forward_masks(visible: Tensor, x: Tensor, *arguments: Any) -> Any:
            model.arguments = arguments
            try:
                return forward(x, visible)
            finally:
                model.arguments = ()

        return forward_masks

    def attribute_future(self, *args: Any, **kwargs: Any) -> Any:
        """Not available: a removal needs the output of the model itself, not a promise of it.

        Raises:
            UnsupportedOperatorError: Always.
        """
        raise UnsupportedOperatorError(
            f"{type(self).__name__}.attribute_future is not available with a removal; call attribute."
        )

    def _attribute(
        self,
        attribute: Callable[..., Any],
        inputs: Tensor,
        baselines: Any,
        additional_forward_args: Any,
        feature_mask: Tensor | None = None,
        **settings: Any,
    ) -> Any:
        is_tuple = isinstance(inputs, tuple)
        x = inputs[0] if is_tuple and len(inputs) == 1 else inputs
        if not isinstance(x, Tensor):
            raise InputTypeError(
                f"inputs is one image tensor (N, C, H, W), got {type(x).__name__}; what else the model takes goes into "
                "additional_forward_args."
            )
        if x.ndim != 4:
            raise ShapeError(f"inputs is a batch of images (N, C, H, W), got shape {tuple(x.shape)}.")
        if baselines is not None and not (isinstance(baselines, float) and baselines == MASKED):
            warnings.warn(
                "baselines is not used: hidden pixels are removed by layer masking, or by what was passed as removal= "
                "(a colour, say: removal=lm_plugins.removal.Colour(0.0)).",
                UserWarning,
                stacklevel=3,
            )
        more = () if additional_forward_args is None else additional_forward_args
        more = more if isinstance(more, tuple) else (more,)
        if feature_mask is not None:
            settings["feature_mask"] = _of_pixels(feature_mask, x)
        everything = torch.ones(x.shape[0], 1, *x.shape[2:], device=x.device)
        result = attribute(inputs=everything, baselines=0, additional_forward_args=(x, *more), **settings)
        if settings.get("return_input_shape", True):
            result = result.expand(*result.shape[:1], x.shape[1], *result.shape[2:]).clone()
        return (result,) if is_tuple else result


def _of_pixels(feature_mask: Any, x: Tensor) -> Tensor:
    """A feature mask as Captum's mask perturbation needs it: int64 ``(1 or N, 1, H, W)``."""
    mask = feature_mask[0] if isinstance(feature_mask, tuple) and len(feature_mask) == 1 else feature_mask
    if not isinstance(mask, Tensor):
        raise InputTypeError(f"feature_mask is an integer tensor, got {type(mask).__name__}.")
    shaped = mask.reshape((1,) * (4 - mask.ndim) + mask.shape) if mask.ndim < 4 else mask
    fits = shaped.ndim == 4 and shaped.shape[0] in (1, x.shape[0]) and shaped.shape[1] in (1, x.shape[1])
    if not fits or shaped.shape[2:] != x.shape[2:]:
        raise ShapeError(
            f"feature_mask has shape {tuple(mask.shape)}, the images {tuple(x.shape)}: expected (H, W), (1, 1, H, W) or "
            "(1, C, H, W) of the same height and width."
        )
    if bool((shaped != shaped[:, :1]).any()):
        raise MaskValueError(
            "feature_mask gives the channels of a pixel different ids; a pixel is visible or hidden as a whole, so all its "
            "channels belong to one feature."
        )
    return shaped[:, :1].to(x.device).long().contiguous()


class FeatureAblation(_PixelMasks, attr.FeatureAblation):  # type: ignore[misc]
    """`captum.attr.FeatureAblation` with any removal.

    Args:
        forward_func: A model of images, or a function of them.
        removal: How pixels are removed; layer masking by default.

    Example:
        >>> import torch
        >>> from lm_plugins.captum import FeatureAblation
        >>> model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
        >>> x = torch.tensor([[[[1.0, 1.0], [3.0, 3.0]]]])
        >>> FeatureAblation(model).attribute(x, feature_mask=torch.tensor([[0, 0], [1, 1]]), target=0)
        tensor([[[[-1., -1.],
                  [ 1.,  1.]]]])
    """

    def attribute(
        self,
        inputs: Any,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> Any:
        """As upstream's; `baselines` is not used."""
        return self._attribute(
            super().attribute, inputs, baselines, additional_forward_args, feature_mask,
            target=target, perturbations_per_eval=perturbations_per_eval, show_progress=show_progress, **kwargs,
        )  # fmt: skip


class Occlusion(_PixelMasks, attr.Occlusion):  # type: ignore[misc]
    """`captum.attr.Occlusion` with any removal.

    Args:
        forward_func: A model of images, or a function of them.
        removal: How pixels are removed; layer masking by default.
    """

    def attribute(
        self,
        inputs: Any,
        sliding_window_shapes: Any,
        strides: Any = None,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
    ) -> Any:
        """As upstream's, with windows ``(C, height, width)`` that span all channels; `baselines` is not used."""
        window = sliding_window_shapes[0] if isinstance(sliding_window_shapes[0], tuple) else sliding_window_shapes
        x = inputs[0] if isinstance(inputs, tuple) else inputs
        if isinstance(x, Tensor) and x.ndim == 4 and (len(window) != 3 or window[0] != x.shape[1]):
            raise ShapeError(
                f"sliding_window_shapes is {tuple(window)}: a pixel is visible or hidden as a whole, so windows span all "
                f"channels: ({x.shape[1]}, height, width)."
            )
        steps = strides[0] if isinstance(strides, tuple) and isinstance(strides[0], tuple) else strides
        return self._attribute(
            super().attribute, inputs, baselines, additional_forward_args,
            sliding_window_shapes=(1, *window[1:]), strides=(1, *steps[1:]) if isinstance(steps, tuple) else steps,
            target=target, perturbations_per_eval=perturbations_per_eval, show_progress=show_progress,
        )  # fmt: skip


class ShapleyValueSampling(_PixelMasks, attr.ShapleyValueSampling):  # type: ignore[misc]
    """`captum.attr.ShapleyValueSampling` with any removal.

    Args:
        forward_func: A model of images, or a function of them.
        removal: How pixels are removed; layer masking by default.
    """

    def attribute(
        self,
        inputs: Any,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int = 25,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
    ) -> Any:
        """As upstream's; `baselines` is not used."""
        return self._attribute(
            super().attribute, inputs, baselines, additional_forward_args, feature_mask, target=target,
            n_samples=n_samples, perturbations_per_eval=perturbations_per_eval, show_progress=show_progress,
        )  # fmt: skip


class ShapleyValues(_PixelMasks, attr.ShapleyValues):  # type: ignore[misc]
    """`captum.attr.ShapleyValues` with any removal.

    Args:
        forward_func: A model of images, or a function of them.
        removal: How pixels are removed; layer masking by default.
    """

    def attribute(
        self,
        inputs: Any,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
    ) -> Any:
        """As upstream's; `baselines` is not used."""
        return self._attribute(
            super().attribute, inputs, baselines, additional_forward_args, feature_mask,
            target=target, perturbations_per_eval=perturbations_per_eval, show_progress=show_progress,
        )  # fmt: skip


class _SampledPixelMasks(_PixelMasks):
    """What the two regressions on sampled coalitions share."""

    def attribute(
        self,
        inputs: Any,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int = 25,
        perturbations_per_eval: int = 1,
        return_input_shape: bool = True,
        show_progress: bool = False,
    ) -> Any:
        """As upstream's; `baselines` is not used. A custom similarity sees pixel masks in place of images."""
        return self._attribute(
            super().attribute, inputs, baselines, additional_forward_args, feature_mask, target=target,  # type: ignore[misc]
            n_samples=n_samples, perturbations_per_eval=perturbations_per_eval,
            return_input_shape=return_input_shape, show_progress=show_progress,
        )  # fmt: skip


class Lime(_SampledPixelMasks, attr.Lime):  # type: ignore[misc]
    """`captum.attr.Lime` with any removal.

    Args:
        forward_func: A model of images, or a function of them.
        interpretable_model: As upstream's.
        similarity_func: As upstream's; by default `feature_similarity`, which looks at which features are present.
        perturb_func: As upstream's.
        removal: How pixels are removed; layer masking by default.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        interpretable_model: Any = None,
        similarity_func: Callable[..., Any] | None = None,
        perturb_func: Callable[..., Any] | None = None,
        removal: Removal | None = None,
    ) -> None:
        super().__init__(
            forward_func,
            removal,
            interpretable_model=interpretable_model,
            similarity_func=similarity_func or feature_similarity(),
            perturb_func=perturb_func,
        )


class KernelShap(_SampledPixelMasks, attr.KernelShap):  # type: ignore[misc]
    """`captum.attr.KernelShap` with any removal.

    Args:
        forward_func: A model of images, or a function of them.
        removal: How pixels are removed; layer masking by default.
    """
