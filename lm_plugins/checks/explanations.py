"""Explanations that say little or nothing, and why: said once, with the remedy, where upstream says nothing."""

import warnings

from torch import Tensor

from lm_plugins.errors import ExplanationWarning

__all__ = ["warn_of_few_samples", "warn_of_one_feature", "warn_of_zeros"]

#: The line that called an adapter, as seen from here: the check, its caller, the adapter's method.
_CALLER = 4


def warn_of_few_samples(samples: int, features: int, what: str, name: str) -> None:
    """Warn where a linear model has fewer samples than weights.

    Args:
        samples: Coalitions that are drawn.
        features: Weights that are fitted, beside a constant.
        what: Who fits.
        name: The argument that says how many samples there are.

    Warns:
        ExplanationWarning: There are fewer samples than features, and one for the constant.

    Example:
        >>> import pytest
        >>> from lm_plugins.checks.explanations import warn_of_few_samples
        >>> with pytest.warns(UserWarning, match="25 samples for 50 features"):
        ...     warn_of_few_samples(25, 50, "KernelShap", "n_samples")
    """
    if samples <= features:
        warnings.warn(
            f"{what} fits a linear model to {samples} samples for {features} features: its weights are noise, others with every "
            f"seed. Pass {name} of several times the number of features, or fewer and larger features.",
            ExplanationWarning,
            stacklevel=_CALLER,
        )


def warn_of_one_feature(what: str, remedy: str) -> None:
    """Warn of an image that is a single feature, of which no explanation can say where it matters.

    Args:
        what: What made it so.
        remedy: What to do.

    Warns:
        ExplanationWarning: Always.
    """
    warnings.warn(
        f"{what} made a single feature of the whole image: an explanation cannot tell one part from another. {remedy}",
        ExplanationWarning,
        stacklevel=_CALLER,
    )


def warn_of_zeros(attributions: tuple[Tensor, ...], what: str, remedy: str) -> None:
    """Warn of images whose attributions are exactly 0.

    Args:
        attributions: ``(N, ...)`` for each input of the model.
        what: The method.
        remedy: What to do.

    Warns:
        ExplanationWarning: All attributions of an image are 0.

    Example:
        >>> import pytest, torch
        >>> from lm_plugins.checks.explanations import warn_of_zeros
        >>> with pytest.warns(UserWarning, match="exactly 0 everywhere for 1 of 2 images"):
        ...     warn_of_zeros((torch.tensor([[0.0, 0.0], [0.0, 1.0]]),), "Lime", "Explain logits.")
    """
    zero = None
    for one in attributions:
        here = (one.reshape(len(one), -1) == 0).all(1)
        zero = here if zero is None else zero & here
    if zero is not None and bool(zero.any()):
        images = "" if len(zero) == 1 else f" for {int(zero.sum())} of {len(zero)} images"
        warnings.warn(
            f"the attribution by {what} is exactly 0 everywhere{images}. {remedy}",
            ExplanationWarning,
            stacklevel=_CALLER,
        )
