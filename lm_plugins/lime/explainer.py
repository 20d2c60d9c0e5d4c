"""LIME's explainer of images, with coalitions that go to a removal instead of into the pixels."""

import warnings
from collections.abc import Callable, Iterable
from copy import copy
from numbers import Integral
from typing import Any

import numpy as np
import torch
from lime import lime_image
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from lm_plugins.checks.explanations import warn_of_few_samples, warn_of_zeros
from lm_plugins.errors import InputTypeError, OptionError
from lm_plugins.features import CoalitionEvaluator
from lm_plugins.lime.classifier import Classifier, Model, Preprocess, check_agreement
from lm_plugins.lime.image import as_image, as_rgb
from lm_plugins.lime.segments import segments_of
from lm_plugins.outputs.words import Output
from lm_plugins.removal import Removal

__all__ = ["LimeImageExplainer"]

_CONSTANT = "The model says the same whatever is hidden: look at labels=, output= and the superpixels."
_FEATURE_SELECTIONS = ("auto", "none", "forward_selection", "highest_weights", "lasso_path")


class LimeImageExplainer(lime_image.LimeImageExplainer):  # type: ignore[misc]
    """`lime.lime_image.LimeImageExplainer` with any removal.

    Args:
        model: A model of images ``(N, C, H, W)`` in evaluation mode, or a function of them.
        preprocess: From an array, exactly as `explain_instance` gets it (but ``(H, W)`` as ``(H, W, 3)``), to a tensor
            ``(C, H, W)`` of the same height and width, such as torchvision's ``Compose([ToTensor(), Normalize(...)])``.
            Applied once, to the clean image: superpixels are removed afterwards. None divides uint8 by 255, takes floats
            as they are and puts the channels first. The result goes to the device and the dtype of the model.
        removal: How pixels are removed: an object or a name of `lm_plugins.removal`; layer masking by default.
        output: What the model returns, in a word: ``"logits"`` (a softmax follows), ``"probabilities"``, ``"sigmoid"``
            (labels that do not exclude each other; a sigmoid follows), ``"single_logit"`` (two classes, 0 and 1) or
            ``"regression"`` (as it is, label 0). Or a function from it to the tensor ``(K, classes)`` that is explained, as
            it is. None means logits, is refused where they look like probabilities, and takes one output for a single logit.
        kernel_width: Of the weights of samples, above 0.
        kernel: From distances and `kernel_width` to weights; None for upstream's exponential.
        verbose: Print the local predictions.
        feature_selection: ``"auto"``, ``"none"``, ``"forward_selection"``, ``"highest_weights"`` or ``"lasso_path"``.
        random_state: An integer makes every call of `explain_instance` repeatable; a ``RandomState`` moves on from call
            to call; None draws from numpy's global state.

    Raises:
        InputTypeError: `model`, `preprocess`, `removal` or `output` is not of its type.
        OptionError: `kernel_width`, `feature_selection` or `removal` is not one of those above.

    Example:
        >>> import numpy as np, torch
        >>> from lm_plugins.lime import LimeImageExplainer
        >>> model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
        >>> image = np.zeros((4, 4, 3), np.uint8)
        >>> image[:, 2:, 0] = 255  # the right half is red
        >>> explainer = LimeImageExplainer(model, removal="grey", output=lambda means: means, random_state=0)
        >>> halves = lambda image: np.repeat([[0, 0, 1, 1]], 4, 0)
        >>> explanation = explainer.explain_instance(
        ...     image, top_labels=1, num_samples=100, segmentation_fn=halves, progress_bar=False
        ... )
        >>> int(explanation.local_exp[0][0][0])  # class 0, the mean of red, is due to segment 1
        1

    References:
        Ribeiro, Singh and Guestrin, "Why Should I Trust You?", KDD 2016.
    """

    def __init__(
        self,
        model: Model | None = None,
        preprocess: Preprocess | None = None,
        removal: Removal | str | None = None,
        output: Output | None = None,
        kernel_width: float = 0.25,
        kernel: Callable[..., Any] | None = None,
        verbose: bool = False,
        feature_selection: str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        if model is None:
            raise InputTypeError(
                "the model is given here, and not as classifier_fn later: LimeImageExplainer(model, preprocess), then "
                "explain_instance(image, top_labels=5)."
            )
        self._classifier = Classifier(model, preprocess, removal, output)
        if not kernel_width > 0:
            raise OptionError(f"kernel_width is above 0, got {kernel_width!r}.")
        if feature_selection not in _FEATURE_SELECTIONS:
            raise OptionError(
                f"feature_selection is one of {', '.join(map(repr, _FEATURE_SELECTIONS))}; got {feature_selection!r}."
            )
        super().__init__(kernel_width, kernel, verbose, feature_selection, random_state)
        self._seed = random_state

    def explain_instance(
        self,
        image: NDArray[Any],
        classifier_fn: Callable[..., Any] | None = None,
        labels: Iterable[int] = (1,),
        hide_color: Any = None,
        top_labels: int | None = 5,
        num_features: int = 100000,
        num_samples: int = 1000,
        batch_size: int | None = 10,
        segmentation_fn: Callable[[NDArray[Any]], Any] | None = None,
        distance_metric: str = "cosine",
        model_regressor: Any = None,
        random_seed: int | None = None,
        progress_bar: bool = True,
    ) -> Any:
        """Explain what the model says about one image.

        For the same random state, the coalitions are those of upstream; with ``removal=Colour(...)``, so is the result.

        Args:
            image: ``(H, W, 3)``; or ``(H, W)``, which becomes RGB before `preprocess`; or ``(H, W, 1)`` for models of one
                channel, which becomes RGB in the explanation only.
            classifier_fn: Not needed. If given, it is asked once about the unperturbed image, and has to agree with the
                model: to 1e-3, times the largest output where that is above 1.
            labels: The classes to explain where `top_labels` is None; for a regression, the default means its one output.
            hide_color: Not used.
            top_labels: Explain as many of the most probable classes.
            num_features: The most superpixels in an explanation.
            num_samples: The number of coalitions, the full one included.
            batch_size: Images in one forward pass; halved if they don't fit into memory. None starts with 32.
            segmentation_fn: From the image (RGB, if it is grey) to integers ``(H, W)``; any ids. None for upstream's
                quickshift.
            distance_metric: Of coalitions, as in scikit-learn.
            model_regressor: Of scikit-learn; None for upstream's ridge regression.
            random_seed: Of the default segmentation; of the coalitions too if the explainer has no random state.
            progress_bar: Show one.

        Returns:
            Upstream's ``ImageExplanation``, with superpixels numbered from 0 without gaps.

        Raises:
            InputTypeError: The image is no array; or what `preprocess`, the model or `segmentation_fn` returns is not of
                its type.
            ShapeError: One of them has the wrong shape.
            NonFiniteError: The image is infinite or NaN somewhere.
            OptionError: A number is too small, there is no such label, `classifier_fn` disagrees with the model, or
                the model returns probabilities and no `output` was given.
            TrainingModeError: The model or a part of it is in training mode.

        Warns:
            ExplanationWarning: There are no more samples than superpixels, a single superpixel, or all weights are 0.
            OutputWarning: The model has a single output, and nobody said what it is.
        """
        _check_counts(num_samples=num_samples, num_features=num_features, batch_size=batch_size, top_labels=top_labels)
        if hide_color is not None:
            warnings.warn(
                "hide_color is not used: hidden superpixels are removed by layer masking, or by what was passed as removal= "
                "(a colour, say: removal=lm_plugins.removal.Colour(0.0)).",
                UserWarning,
                stacklevel=2,
            )
        # An integer starts afresh in every call, an object moves on. Upstream draws from the explainer's own state: each
        # call has an explainer of its own, since others may run at the same time.
        one = copy(self)
        one.base = copy(self.base)
        one.random_state = one.base.random_state = check_random_state(random_seed if self._seed is None else self._seed)
        if random_seed is None:
            random_seed = int(one.random_state.randint(0, high=1000))
        image = as_image(image)
        x = self._classifier.input_of(image)
        clean = self._classifier.clean(x)
        if classifier_fn is not None:
            check_agreement(classifier_fn, image, clean)
        labels = labels if top_labels else _existing(labels, clean.shape[1])
        shown = as_rgb(image)
        segments = segments_of(shown, segmentation_fn, random_seed)
        warn_of_few_samples(num_samples, int(segments.max()) + 1, "LIME", "num_samples")
        evaluate = CoalitionEvaluator(
            self._classifier, x, torch.from_numpy(segments), batch_size=batch_size, progress=progress_bar
        )
        explanation = super(LimeImageExplainer, one).explain_instance(
            shown,
            evaluate,
            labels,
            hide_color=0,
            top_labels=top_labels,
            num_features=num_features,
            num_samples=num_samples,
            segmentation_fn=lambda image: segments,
            distance_metric=distance_metric,
            model_regressor=model_regressor,
            random_seed=random_seed,
        )
        weights = tuple(torch.tensor([[weight for _, weight in found]]) for found in explanation.local_exp.values())
        warn_of_zeros(weights, "LIME", _CONSTANT)
        return explanation

    def data_labels(
        self,
        image: Any,
        fudged_image: Any,
        segments: NDArray[np.int64],
        classifier_fn: CoalitionEvaluator,
        num_samples: int,
        batch_size: int | None = None,
        progress_bar: bool = True,
    ) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Draw coalitions as upstream does, and evaluate them. Upstream's `explain_instance` calls this.

        Args:
            image: Not used, like `fudged_image`, `batch_size` and `progress_bar`: `classifier_fn` knows.
            fudged_image: Not used.
            segments: Ids from 0 without gaps.
            classifier_fn: Takes coalitions, not images.
            num_samples: The number of coalitions; the first is the full one.
            batch_size: Not used.
            progress_bar: Not used.

        Returns:
            The coalitions ``(num_samples, superpixels)`` and what the model says, ``(num_samples, classes)``.
        """
        features = int(segments.max()) + 1
        coalitions = self.random_state.randint(0, 2, num_samples * features).reshape(num_samples, features)
        coalitions[0] = 1
        return coalitions, classifier_fn(torch.from_numpy(coalitions)).cpu().numpy()


def _check_counts(**counts: Any) -> None:
    optional = {"batch_size": 1, "top_labels": 0}  # and the least value of each; 0 top labels are none, as upstream
    for name, value in counts.items():
        if value is None and name in optional:
            continue
        if not isinstance(value, Integral) or value < optional.get(name, 1):
            raise OptionError(f"{name} is a whole number, at least {optional.get(name, 1)}; got {value!r}.")


def _existing(labels: Iterable[int], classes: int) -> tuple[int, ...]:
    chosen = tuple(labels)
    if classes == 1 and chosen == (1,):  # the default, which is meant for two classes
        return (0,)
    missing = [label for label in chosen if not isinstance(label, Integral) or not 0 <= label < classes]
    if missing or not chosen:
        raise OptionError(f"labels are one or more of 0 to {classes - 1}, the model's classes; got {chosen}.")
    return chosen
