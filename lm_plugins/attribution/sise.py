"""SISE: the maps of several layers as masks of the image, scored by the model, fused from shallow to deep."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from captum.attr import PerturbationAttribution
from torch import Tensor, nn

from lm_plugins.attribution.arguments import arguments_of, checked_images
from lm_plugins.attribution.capture import gradients_of
from lm_plugins.attribution.fusion import Fusion, check_fusion, fused
from lm_plugins.attribution.layers import layers_before_downsampling, named_layers
from lm_plugins.attribution.normalization import is_constant, min_max
from lm_plugins.attribution.soft_masks import SoftMasks
from lm_plugins.captum.noise_tunnel import for_noise_tunnel
from lm_plugins.checks import Target, check_evaluation_mode, targets_for
from lm_plugins.errors import InputTypeError, OptionError, SkippedLayerWarning
from lm_plugins.features.score import selected
from lm_plugins.outputs.words import Output, as_probabilities, parted, rows_of
from lm_plugins.progress import progress
from lm_plugins.removal import Removal
from lm_plugins.removal.model_call import ModelCall

__all__ = ["SISE"]


class SISE(PerturbationAttribution):  # type: ignore[misc]
    r"""Semantic input sampling for explanation.

    1. *Layers*: the last of every convolutional block (`layers_before_downsampling`).
    2. *Selection*: with the mean gradient :math:`\alpha_k` of the target's score with respect to map :math:`A_k` and
       :math:`\beta = \max_k \alpha_k`, keep the maps with :math:`\alpha_k > \mu \beta`. Rectified, up-sampled bilinearly to
       the size of the image and spread over [0, 1], they are the attribution masks :math:`m_k`.
    3. *Sampling*: :math:`V_l(\lambda) = \sum_k \Psi(I \odot m_k) \, m_k(\lambda) / \sum_{\lambda'} m_k(\lambda')` with the
       probability :math:`\Psi` of the target; spread over [0, 1].
    4. *Fusion*: `fused`, from shallow to deep.

    **Patent.** SISE is patented: US 11,809,519 B2 (LG Electronics Inc. and the Governing Council of the University of
    Toronto; granted in 2023, listed as in force). Make sure that you may use it.

    Args:
        forward_func: A model of images. It runs once with gradients and then once for each mask.
        layers: Modules or names of layers, from shallow to deep; None for the automatic choice, which `layers_for` lists.
        removal: What happens where a mask is dark: a removal, the name of one, or None for layer masking. Colours fade in
            as published, where the image is multiplied by the mask; other removals see the regions above `thresholds`.
            ``"black"`` is black in pixel values; the published code multiplies preprocessed images, where 0 is the mean
            colour of the data set with many models: ``"grey"`` here.
        mu: :math:`\mu`, in [0, 1): 0 keeps every map with a positive gradient, as published.
        fusion: ``"soft"`` (default), ``"hard"`` or ``"simple"``; see `fused`. The published formula has a hard mask, the
            course code of the authors' group a soft one. Soft keeps the order of pixels below the threshold, and scores a
            little better in our benchmark.
        temperature: Steepness of the soft fusion.
        otsu_factor: What Otsu's threshold is multiplied by where little lies above the product; see `fused`. 1 as the
            formula is published, 1.5 as in the course code.
        weight: Of what the shallower layers gave, from 0 to 2; see `fused`.
        rectify: Take the positive part of each map before it becomes a mask. A map behind a ReLU stays as it is, as in
            the published networks. What comes before a down-sampling in a DenseNet or ConvNeXt has negative values as
            well; spread over [0, 1] without this, most of such a map is grey, and its mask shows half of everything.
        thresholds: For removals that know visible and hidden only; see `SoftMasks`. What is credited is then the visible
            region that was scored, not the soft mask. One run for each; the three of the default kept more confidence
            under layer masking than any one of them.
        gradient_of: ``"probability"`` as published, or ``"output"``: select maps by the gradient of what the model
            returns, before softmax or sigmoid.
        normalize: Spread the result over [0, 1]. The published formula ends with the fusion; the order of pixels is the
            same.
        batch_size: Masks in one forward pass. Small batches are fastest on a CPU; a GPU wants more.
        output: A word for what the model returns (see `lm_plugins.outputs.words`), a function that turns it into a tensor
            ``(K, ...)``, or ``(function, word)``. Without a word it is checked to be probabilities; of a single one,
            `target` is None or 0, as in Captum.

    Raises:
        OptionError: An option is not one of these.
        InputTypeError: `forward_func` is no module.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lm_plugins.attribution import SISE
        >>> block = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        >>> head = [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)]
        >>> sise = SISE(nn.Sequential(*block, *head).eval(), output="logits")
        >>> x = torch.rand(1, 3, 16, 16)
        >>> sise.layers_for(x)
        ['1', '4']
        >>> sise.attribute(x, target=1).shape
        torch.Size([1, 1, 16, 16])

    References:
        Sattarzadeh et al., "Explaining convolutional neural networks through attribution-based input sampling and
        block-wise feature aggregation", AAAI 2021, arXiv 2010.00672. No official code is known. We choose: no epsilon in the
        normalisations; maps and layers that are constant, and layers without a positive gradient, are left out; Otsu's
        threshold is exact, where the course code has 256 bins.
    """

    def __init__(
        self,
        forward_func: nn.Module,
        layers: Sequence[nn.Module | str] | None = None,
        removal: Removal | str | None = "black",
        mu: float = 0.0,
        fusion: Fusion = "soft",
        temperature: float = 100.0,
        otsu_factor: float = 1.0,
        weight: float = 1.0,
        rectify: bool = True,
        thresholds: Sequence[float] = (0.1, 0.25, 0.5),
        output: Output | None = None,
        gradient_of: Literal["probability", "output"] = "probability",
        normalize: bool = True,
        batch_size: int = 8,
    ) -> None:
        if not isinstance(forward_func, nn.Module):
            raise InputTypeError(
                f"forward_func is a torch.nn.Module, whose layers are looked at; got {type(forward_func).__name__}."
            )
        if not 0 <= mu < 1:
            raise OptionError(f"mu is in [0, 1), got {mu!r}.")
        if gradient_of not in ("probability", "output"):
            raise OptionError(f"gradient_of is 'probability' or 'output', got {gradient_of!r}.")
        if batch_size < 1:
            raise OptionError(f"batch_size is at least 1, got {batch_size!r}.")
        # They say what is wrong with them now rather than after the first layer.
        check_fusion(fusion, temperature, otsu_factor, weight)
        choose, word = parted(output)
        super().__init__(forward_func)
        self._soft_masks = SoftMasks(ModelCall(forward_func), removal, thresholds, choose)
        self._layers = None if layers is None else named_layers(forward_func, layers)
        self._mu, self._rectify = mu, rectify
        self._fused = partial(fused, how=fusion, temperature=temperature, otsu_factor=otsu_factor, weight=weight)
        self._word, self._gradient_of, self._output = word, gradient_of, choose
        self._normalize, self._batch_size = normalize, batch_size

    def layers_for(self, inputs: Tensor, additional_forward_args: Any = None) -> list[str]:
        """The layers whose maps are used, from shallow to deep.

        Args:
            inputs: Images ``(N, C, H, W)``.
            additional_forward_args: What else the model takes.

        Returns:
            Their names.
        """
        if self._layers is not None:
            return list(self._layers)
        x = checked_images(inputs, type(self).__name__)
        first = torch.zeros(1, dtype=torch.int64)
        return layers_before_downsampling(self.forward_func, x, *arguments_of(additional_forward_args, x, first))

    @for_noise_tunnel
    def attribute(
        self, inputs: Tensor, target: Any = None, additional_forward_args: Any = None, show_progress: bool = False
    ) -> Tensor:
        """Attribute the score of the target to pixels.

        Args:
            inputs: Images ``(N, C, H, W)``.
            target: A class, or one for each image, as in Captum.
            additional_forward_args: What else the model takes; tensors with N rows are meant one row an image.
            show_progress: Show a bar that counts masks (needs tqdm).

        Returns:
            ``(N, 1, H, W)``, not negative. An image for which no layer has a map with a positive gradient gets 0
            everywhere.

        Raises:
            LayerError: A layer is not called or gives no maps.
            ProbabilityError: The model does not return probabilities and `output` says that it does.
            OptionError: The model has no such target.
            TrainingModeError: The model or a part of it is in training mode.

        Warns:
            SkippedLayerWarning: Layers without a map of positive gradient, or whose maps all score alike, were left out.
        """
        check_evaluation_mode(self.forward_func, type(self).__name__)
        x = checked_images(inputs, type(self).__name__)
        targets = targets_for(target, len(x))
        layers = named_layers(self.forward_func, self.layers_for(x, additional_forward_args))
        maps, gradients = self._captured(x, targets, additional_forward_args, layers)
        if self._rectify:
            maps = [one.clamp(min=0) for one in maps]
        # Bool (N, K) for each layer.
        chosen = [
            torch.stack(
                [self._selected(row) & ~flat for row, flat in zip(one.mean((2, 3)), is_constant(of), strict=True)]
            )
            for one, of in zip(gradients, maps, strict=True)
        ]
        skipped: dict[str, int] = {}
        results = []
        total = sum(int(one.sum()) for one in chosen) * self._soft_masks.regions_per_mask
        with progress(total, type(self).__name__, show_progress) as done:
            for i in range(len(x)):
                images = []
                for name, one, keep in zip(layers, maps, chosen, strict=True):
                    value = self._sampled(x, i, one[i, keep[i]], targets[i], additional_forward_args, done)
                    if bool(is_constant(value)):
                        skipped[name] = skipped.get(name, 0) + 1
                    else:
                        images.append(min_max(value))
                results.append(self._fused(images) if images else torch.zeros_like(x[i, 0]))
        if skipped:
            listed = ", ".join(f"{name} ({count} of {len(x)} images)" for name, count in skipped.items())
            warnings.warn(
                f"left out layers that say nothing about the target, because none of their maps has a positive gradient or "
                f"all masks score alike: {listed}.",
                SkippedLayerWarning,
                stacklevel=2,
            )
        result = torch.stack(results)[:, None]
        return min_max(result) if self._normalize else result

    def _captured(
        self, x: Tensor, targets: list[Target], more: Any, layers: dict[str, nn.Module]
    ) -> tuple[list[Tensor], list[Tensor]]:
        def score(result: Any) -> Tensor:
            output = rows_of(result, len(x), self._output)
            probabilities = as_probabilities(output, self._word)
            return selected(probabilities if self._gradient_of == "probability" else output, targets)

        arguments = arguments_of(more, x, torch.arange(len(x)))
        maps, gradients, _ = gradients_of(
            lambda images: self.forward_func(images, *arguments), x, list(layers.values()), list(layers), score
        )
        return maps, gradients

    def _selected(self, weights: Tensor) -> Tensor:
        """Which maps of a layer become masks: bool ``(K,)``, from their mean gradients ``(K,)``."""
        return (weights > 0) & (weights > self._mu * weights.max())

    def _sampled(
        self, x: Tensor, i: int, maps: Tensor, target: Target, more: Any, done: Callable[[int], object]
    ) -> Tensor:
        """V of one layer for image i, ``(H, W)``; 0 if there is no map."""
        value = torch.zeros_like(x[0, 0])
        if not len(maps):
            return value
        for part in torch.split(maps, max(1, self._batch_size // self._soft_masks.regions_per_mask)):
            size = x.shape[2:]
            masks = min_max(F.interpolate(part[None], size, mode="bilinear", align_corners=False)[0]).to(x.dtype)
            seen = self._soft_masks.seen(masks)
            count = len(seen)
            arguments = arguments_of(more, x, torch.full((count,), i))
            output = self._soft_masks.outputs(x[i : i + 1], seen, arguments)
            scores = selected(as_probabilities(output, self._word), [target] * count)
            # A region is never empty (a mask reaches 1), so that its size is above 0.
            value = value + ((scores / seen.sum((1, 2)))[:, None, None] * seen).sum(0)
            done(count)
        return value
