"""The methods that explain images, by name: one table, one way to ask."""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lm_plugins.errors import MissingDependencyError, OptionError
from lm_plugins.features import Features
from lm_plugins.outputs.words import OutputIs, as_probabilities
from lm_plugins.removal import Removal

__all__ = ["METHODS", "Method", "Question"]


@dataclass(frozen=True)
class Question:
    """What is to be explained, and how.

    Args:
        model: In evaluation mode.
        x: One image ``(1, C, H, W)``.
        target: A class.
        removal: How pixels are removed.
        features: Which pixels are removed together.
        feature_mask: They, as ``(H, W)``.
        output: What the model returns, in a word of `lm_plugins.outputs.words`.
        of: ``"probability"`` of the target, or the ``"output"`` before it.
        samples: Coalitions or masks, for methods that draw them.
        seed: Of what is drawn.
        layer: For methods that look at layers; None for their own choice.
        batch_size: Images in one forward pass.
    """

    model: nn.Module
    x: Tensor
    target: int
    removal: Removal
    features: Features
    feature_mask: Tensor
    output: OutputIs = "logits"
    of: Literal["probability", "output"] = "probability"
    samples: int = 500
    seed: int = 0
    layer: str | None = None
    batch_size: int = 8

    def probabilities(self, result: Tensor) -> Tensor:
        """What the model returned as probabilities ``(N, classes)``; values ``(N, outputs)`` of a regression."""
        rows = as_probabilities(result, self.output)
        return rows[:, None] if rows.ndim == 1 else rows

    def explained(self, result: Tensor) -> Tensor:
        """What the model returned as it is explained, ``(N, classes)``."""
        if self.of == "probability" or self.output in ("probabilities", "regression"):
            return self.probabilities(result)
        rows = result.reshape(len(result), -1)
        # The logit of class 0 of two is that of class 1 with the other sign.
        return torch.cat([-rows, rows], 1) if rows.shape[1] == 1 else rows


@dataclass(frozen=True)
class Method:
    """A method that explains images.

    Args:
        description: What it does.
        source: The module that it comes from.
        install: How to install what it needs.
        attribute: From a question to an attribution ``(H, W)``.
        features: Which pixels are removed together if nothing else is said.
        uses_removal: Whether the result depends on the removal.
    """

    description: str
    source: str
    install: str
    attribute: Callable[[Question], Tensor]
    features: Features
    uses_removal: bool = True

    @property
    def says_zero(self) -> bool:
        """Whether the adapter warns of attributions that are 0."""
        return self.source in ("lm_plugins.captum", "lm_plugins.lime")

    def is_available(self) -> bool:
        """Whether it is installed."""
        try:
            importlib.import_module(self.source)
        except ImportError:
            return False
        return True

    def __call__(self, question: Question) -> Tensor:
        """Explain.

        Raises:
            MissingDependencyError: What the method needs is not installed.
            OptionError: It does not fit the options.
        """
        return self.attribute(question).detach().cpu()


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f"lm_plugins.{name}")
    except MissingDependencyError:
        raise
    except ImportError as error:
        raise MissingDependencyError(
            f"this method needs lm_plugins.{name}, which cannot be imported here ({error})."
        ) from error


def _occlusion(question: Question) -> Tensor:
    if question.features.kind != "grid":
        raise OptionError(
            f"occlusion slides a square window: give features=grid:N, not {question.features}; for superpixels take "
            "method=featureablation."
        )
    channels, height, width = question.x.shape[1:]
    window = min(question.features.number, height, width)
    step = max(window // 2, 1)
    occlusion = _module("captum").Occlusion(question.model, question.removal, question.explained)
    result: Tensor = occlusion.attribute(
        question.x,
        sliding_window_shapes=(channels, window, window),
        strides=(channels, step, step),
        target=question.target,
        perturbations_per_eval=question.batch_size,
    )
    return result[0, 0]


def _feature_ablation(question: Question) -> Tensor:
    ablation = _module("captum").FeatureAblation(question.model, question.removal, question.explained)
    result: Tensor = ablation.attribute(
        question.x,
        feature_mask=question.feature_mask[None, None],
        target=question.target,
        perturbations_per_eval=question.batch_size,
    )
    return result[0, 0]


def _check_samples(question: Question) -> None:
    """Refuse a regression with fewer equations than unknowns, whose answer is noise."""
    features = int(question.feature_mask.max()) + 1
    if question.samples < features + 2:
        raise OptionError(
            f"samples={question.samples} draws fewer coalitions than the image has features ({features}), from which "
            f"nothing can be fitted: give samples={features + 2} or more, or fewer features."
        )


def _kernel_shap(question: Question) -> Tensor:
    _check_samples(question)
    kernel_shap = _module("captum").KernelShap(question.model, question.removal, question.explained)
    state = torch.get_rng_state()
    torch.manual_seed(question.seed)
    try:
        result: Tensor = kernel_shap.attribute(
            question.x,
            feature_mask=question.feature_mask[None, None],
            target=question.target,
            n_samples=question.samples,
            perturbations_per_eval=question.batch_size,
        )
    finally:
        torch.set_rng_state(state)
    return result[0, 0]


def _lime(question: Question) -> Tensor:
    _check_samples(question)
    segments = question.feature_mask.cpu().numpy()
    explainer = _module("lime").LimeImageExplainer(
        question.model, removal=question.removal, output=question.explained, random_state=question.seed
    )
    explanation = explainer.explain_instance(
        question.x[0].permute(1, 2, 0).cpu().numpy(),  # floats go to the model as they are
        labels=(question.target,),
        top_labels=None,
        num_samples=question.samples,
        batch_size=question.batch_size,
        segmentation_fn=lambda image: segments,
        progress_bar=False,
    )
    weights = torch.zeros(int(segments.max()) + 1)
    for feature, weight in explanation.local_exp[question.target]:
        weights[feature] = float(weight)
    return weights[question.feature_mask.cpu()]


def _partition(question: Question) -> Tensor:
    shap_adapter = _module("shap")
    import shap

    image = question.x[0].permute(1, 2, 0).cpu().numpy()
    masker = shap_adapter.Masker(image.shape, features=question.feature_mask.cpu().numpy())
    model = shap_adapter.Model(question.model, removal=question.removal, output=question.explained)
    values = shap.PartitionExplainer(lambda *args: model(*args)[:, question.target], masker)(
        image[None], max_evals=question.samples, batch_size=question.batch_size, silent=True
    )
    of_pixels = torch.from_numpy(np.asarray(values.values, np.float32)[0]).sum(-1).flatten()
    # SHAP spreads the value of a feature over its pixels; every other method gives each pixel the whole of it.
    ids = question.feature_mask.flatten().cpu()
    of_features = torch.zeros(int(ids.max()) + 1).index_add(0, ids, of_pixels)
    return of_features[question.feature_mask.cpu()]


def _rise(question: Question) -> Tensor:
    rise = _module("attribution").RISE(
        question.model,
        removal=question.removal,
        output=(question.explained, "regression"),
        batch_size=question.batch_size,
    )
    result: Tensor = rise.attribute(question.x, target=question.target, n_masks=question.samples, seed=question.seed)
    return result[0, 0]


def _sise(name: str) -> Callable[[Question], Tensor]:
    def attribute(question: Question) -> Tensor:
        method = getattr(_module("attribution"), name)(
            question.model,
            removal=question.removal,
            output=(question.explained, "regression"),
            batch_size=question.batch_size,
            **({} if question.layer is None else {"layers": question.layer.split(",")}),
        )
        result: Tensor = method.attribute(question.x, target=question.target)
        return result[0, 0]

    return attribute


def _integrated_grad_cam(question: Question) -> Tensor:
    module = _module("attribution")
    convolutions = [name for name, one in question.model.named_modules() if isinstance(one, nn.Conv2d)]
    if question.layer is None and not convolutions:
        raise OptionError("the model has no convolution to look at: choose one with layer=NAME.")
    method = module.IntegratedGradCam(question.model, question.layer or convolutions[-1], output=question.explained)
    result: Tensor = method.attribute(question.x, target=question.target)
    size = (int(question.x.shape[2]), int(question.x.shape[3]))
    return nn.functional.interpolate(result, size, mode="bilinear", align_corners=False)[0, 0]


_CAPTUM = "pip install 'lm_plugins[captum]'"
_ATTRIBUTION = "pip install 'lm_plugins[attribution]'"

#: Name for ``method=``, and the method.
METHODS: dict[str, Method] = {
    "occlusion": Method(
        "slide a window over the image and remove it (Captum)",
        "lm_plugins.captum", _CAPTUM, _occlusion, Features("grid", 48),
    ),
    "featureablation": Method(
        "remove each feature on its own (Captum)",
        "lm_plugins.captum", _CAPTUM, _feature_ablation, Features("slic", 50),
    ),
    "kernelshap": Method(
        "Shapley values by weighted regression on random coalitions (Captum)",
        "lm_plugins.captum", _CAPTUM, _kernel_shap, Features("slic", 50),
    ),
    "lime": Method(
        "a local linear model of random coalitions (LIME)",
        "lm_plugins.lime", "pip install 'lm_plugins[lime]'", _lime, Features("slic", 50),
    ),
    "partition": Method(
        "Owen values along a hierarchy of features (SHAP)",
        "lm_plugins.shap", "pip install 'lm_plugins[shap]'", _partition, Features("grid", 16),
    ),
    "rise": Method(
        "the mean of random masks, weighed by the output behind them",
        "lm_plugins.attribution", _ATTRIBUTION, _rise, Features("grid", 32),
    ),
    "sise": Method(
        "activation maps of several layers, weighed by the output behind them",
        "lm_plugins.attribution", _ATTRIBUTION, _sise("SISE"), Features("grid", 32),
    ),
    "adasise": Method(
        "SISE with fewer maps, chosen by their gradients",
        "lm_plugins.attribution", _ATTRIBUTION, _sise("AdaSISE"), Features("grid", 32),
    ),
    "integrated-gradcam": Method(
        "gradient-weighted maps of one layer, integrated from a baseline; removes nothing",
        "lm_plugins.attribution", _ATTRIBUTION, _integrated_grad_cam, Features("grid", 32), uses_removal=False,
    ),
}  # fmt: skip
