"""Captum's six perturbation methods, on pixel masks. Names, signatures and results are upstream's."""

import math
from collections.abc import Callable
from types import NoneType
from typing import Any

from lm_plugins.captum.noise_tunnel import for_noise_tunnel
from lm_plugins.captum.pixel_masks import PixelMasks, image_position
from lm_plugins.captum.similarity import feature_similarity
from lm_plugins.errors import MissingDependencyError, OptionError, ShapeError
from lm_plugins.outputs.words import Output
from lm_plugins.removal import Removal

try:
    from captum import attr
    from captum._utils.progress import progress
except ImportError as error:
    raise MissingDependencyError("lm_plugins.captum needs Captum: pip install 'lm_plugins[captum]'.") from error

__all__ = ["FeatureAblation", "KernelShap", "Lime", "Occlusion", "ShapleyValueSampling", "ShapleyValues"]


class _WithFutures(PixelMasks):
    """The three methods that also take forward functions which return a `torch.futures.Future`."""

    def attribute_future(
        self,
        inputs: Any,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        **settings: Any,
    ) -> Any:
        """As `attribute`, for a model that returns a Future; returns a Future."""
        upstream = super(PixelMasks, self).attribute_future  # type: ignore[misc]
        return self._attribute(
            upstream, inputs, baselines, additional_forward_args, feature_mask, target=target, **settings
        )


class FeatureAblation(_WithFutures, attr.FeatureAblation):  # type: ignore[misc]
    """`captum.attr.FeatureAblation` with any removal.

    Args:
        forward_func: A model of images, or a function of them.
        removal: How pixels are removed: an object or a name of `lm_plugins.removal`; layer masking by default.
        output: A word for what the model returns, to explain its probabilities (see `lm_plugins.outputs.words`); or a
            function that chooses, such as ``lambda result: result["out"]``. None explains what it returns.

    Example:
        >>> import torch
        >>> from lm_plugins.captum import FeatureAblation
        >>> model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
        >>> x = torch.tensor([[[[1.0, 1.0], [3.0, 3.0]]]])
        >>> FeatureAblation(model).attribute(x, feature_mask=torch.tensor([[0, 0], [1, 1]]), target=0)
        tensor([[[[-1., -1.],
                  [ 1.,  1.]]]])
    """

    @for_noise_tunnel
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
        """As upstream's; `baselines` is not used for images."""
        return self._attribute(
            super().attribute, inputs, baselines, additional_forward_args, feature_mask,
            target=target, perturbations_per_eval=perturbations_per_eval, show_progress=show_progress, **kwargs,
        )  # fmt: skip


class Occlusion(PixelMasks, attr.Occlusion):  # type: ignore[misc]
    """`captum.attr.Occlusion` with any removal.

    Args:
        forward_func: A model of images, or a function of them.
        removal: How pixels are removed: an object or a name of `lm_plugins.removal`; layer masking by default.
        output: A word for what the model returns, to explain its probabilities (see `lm_plugins.outputs.words`); or a
            function that chooses, such as ``lambda result: result["out"]``. None explains what it returns.
    """

    @for_noise_tunnel
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
        """As upstream's, with windows ``(C, height, width)`` that span all channels; `baselines` is not used for images."""
        tensors = inputs if isinstance(inputs, tuple) else (inputs,)
        position = image_position(tensors)
        windows = _one_for_each(sliding_window_shapes, len(tensors))
        steps = _one_for_each(strides, len(tensors))
        window, step, channels = windows[position], steps[position], tensors[position].shape[1]
        if not isinstance(window, tuple) or len(window) != 3 or window[0] != channels:
            raise ShapeError(
                f"sliding_window_shapes is {window} for the image: a pixel is visible or hidden as a whole, so windows span "
                f"all channels: ({channels}, height, width)."
            )
        if not isinstance(step, (int, NoneType)) and not (isinstance(step, tuple) and len(step) == 3):
            raise ShapeError(f"strides is {step} for the image: expected a number or ({channels}, height, width).")
        windows[position] = (1, *window[1:])
        steps[position] = (1, *step[1:]) if isinstance(step, tuple) else step
        return self._attribute(
            super().attribute, inputs, baselines, additional_forward_args,
            sliding_window_shapes=tuple(windows), strides=None if strides is None else tuple(steps),
            target=target, perturbations_per_eval=perturbations_per_eval, show_progress=show_progress,
        )  # fmt: skip

    def _construct_ablated_input_across_tensors(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        # Where two tensors are perturbed in one batch, Captum makes a mask without saying on which device.
        with inputs[0].device:
            return super()._construct_ablated_input_across_tensors(inputs, *args, **kwargs)

    def _attribute_progress_setup(
        self, formatted_inputs: Any, feature_mask: Any, perturbations_per_eval: int, **kwargs: Any
    ) -> Any:
        # Captum counts pixels, and its bar stops where the windows are over.
        windows = sum(math.prod(int(steps) for steps in counts) for counts in kwargs["shift_counts"])
        batches = math.ceil(windows / perturbations_per_eval)
        return progress(desc=f"{self.get_name()} attribution", total=batches + 1)


def _one_for_each(setting: Any, count: int) -> list[Any]:
    """A window or stride for each input, from Captum's spellings: one for a tensor, or a tuple of them."""
    if count == 1 and not (isinstance(setting, tuple) and setting and isinstance(setting[0], tuple)):
        return [setting]
    given = list(setting) if isinstance(setting, tuple) else [setting] * count
    if len(given) != count:
        raise OptionError(f"expected a window and a stride for each of the {count} inputs, got {setting}.")
    return given


class ShapleyValueSampling(_WithFutures, attr.ShapleyValueSampling):  # type: ignore[misc]
    """`captum.attr.ShapleyValueSampling` with any removal.

    Args:
        forward_func: A model of images, or a function of them.
        removal: How pixels are removed: an object or a name of `lm_plugins.removal`; layer masking by default.
        output: A word for what the model returns, to explain its probabilities (see `lm_plugins.outputs.words`); or a
            function that chooses, such as ``lambda result: result["out"]``. None explains what it returns.
    """

    @for_noise_tunnel
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
        """As upstream's; `baselines` is not used for images."""
        return self._attribute(
            super().attribute, inputs, baselines, additional_forward_args, feature_mask, target=target,
            n_samples=n_samples, perturbations_per_eval=perturbations_per_eval, show_progress=show_progress,
        )  # fmt: skip


class ShapleyValues(_WithFutures, attr.ShapleyValues):  # type: ignore[misc]
    """`captum.attr.ShapleyValues` with any removal.

    Args:
        forward_func: A model of images, or a function of them.
        removal: How pixels are removed: an object or a name of `lm_plugins.removal`; layer masking by default.
        output: A word for what the model returns, to explain its probabilities (see `lm_plugins.outputs.words`); or a
            function that chooses, such as ``lambda result: result["out"]``. None explains what it returns.
    """

    @for_noise_tunnel
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
        """As upstream's; `baselines` is not used for images."""
        return self._attribute(
            super().attribute, inputs, baselines, additional_forward_args, feature_mask,
            target=target, perturbations_per_eval=perturbations_per_eval, show_progress=show_progress,
        )  # fmt: skip


class _SampledPixelMasks(PixelMasks):
    """What the two regressions on sampled coalitions share."""

    _one_output = True

    @for_noise_tunnel
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
        """As upstream's; `baselines` is not used for images. A custom similarity sees coalitions in place of images."""
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
        removal: How pixels are removed: an object or a name of `lm_plugins.removal`; layer masking by default.
        output: A word for what the model returns, to explain its probabilities (see `lm_plugins.outputs.words`); or a
            function that chooses, such as ``lambda result: result["out"]``. None explains what it returns.
    """

    _if_zero = (
        "By default Captum fits a Lasso of alpha=0.01, which turns weights of about that size into 0, such as those on a "
        "probability among 1,000 classes: pass interpretable_model=SkLearnLasso(alpha=1e-4), or SkLearnRidge(alpha=1.0), of "
        "captum._utils.models.linear_model, or explain logits. Else look at target= and output=."
    )

    def __init__(
        self,
        forward_func: Callable[..., Any],
        interpretable_model: Any = None,
        similarity_func: Callable[..., Any] | None = None,
        perturb_func: Callable[..., Any] | None = None,
        removal: Removal | str | None = None,
        output: Output | None = None,
    ) -> None:
        super().__init__(
            forward_func,
            removal,
            output,
            interpretable_model=interpretable_model,
            similarity_func=similarity_func or feature_similarity(),
            perturb_func=perturb_func,
        )


class KernelShap(_SampledPixelMasks, attr.KernelShap):  # type: ignore[misc]
    """`captum.attr.KernelShap` with any removal.

    Args:
        forward_func: A model of images, or a function of them.
        removal: How pixels are removed: an object or a name of `lm_plugins.removal`; layer masking by default.
        output: A word for what the model returns, to explain its probabilities (see `lm_plugins.outputs.words`); or a
            function that chooses, such as ``lambda result: result["out"]``. None explains what it returns.
    """

    def _check_features(self, count: int) -> None:
        if count < 2:
            raise OptionError(
                "KernelShap draws coalitions of at least 2 features, the feature mask has a single one: make more of them "
                "(smaller patches, more superpixels), or take FeatureAblation."
            )
