"""An explanation by LIME under a removal, as the audit judges it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lm_plugins.errors import MissingDependencyError
from lm_plugins.removal import Removal

__all__ = ["lime_attribution"]


def lime_attribution(
    model: nn.Module, removal: Removal | str, x: Tensor, feature_mask: Tensor, target: int, samples: int = 512,
    seed: int = 0, batch_size: int | None = None, output: Callable[[Any], Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """Coefficients of LIME for the features of one image, with the settings of the layer masking paper.

    Coalitions keep each feature with probability one half and depend on the seed alone, so that every removal gets the
    same ones. Ridge regression (penalty 1), weights :math:`e^{-d^2 / 2w^2}` with the cosine distance d and w = 0.25.

    Args:
        model: A model that returns scores ``(N, classes)``, or anything that `output` takes them from.
        removal: An object or a name of `lm_plugins.removal`.
        x: One image ``(1, C, H, W)``.
        feature_mask: Integer ``(H, W)`` with ids from 0 to F - 1.
        target: The class to explain.
        samples: Coalitions.
        seed: Of the coalitions.
        batch_size: Coalitions in one forward pass; None for 32.
        output: Turns what the model returns into the scores; None if they are.

    Returns:
        ``(F,)`` on the CPU.

    Raises:
        MissingDependencyError: Captum or scikit-learn is not installed.

    References:
        Ribeiro, Singh and Guestrin, "Why should I trust you?", KDD 2016; Balasubramanian and Feizi, ICCV 2023.
    """
    try:
        import sklearn  # noqa: F401  what Captum's ridge regression is
        from captum._utils.models.linear_model import SkLearnRidge

        from lm_plugins.captum import Lime, feature_similarity
    except ImportError as error:
        raise MissingDependencyError(
            "LIME needs Captum and scikit-learn: pip install 'lm_plugins[captum]' scikit-learn."
        ) from error
    explainer = Lime(
        model, interpretable_model=SkLearnRidge(alpha=1.0), similarity_func=feature_similarity(0.25), removal=removal,
        output=output,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        torch.manual_seed(seed)
        coefficients: Tensor = explainer.attribute(
            x, target=target, feature_mask=feature_mask.to(x.device), n_samples=samples,
            perturbations_per_eval=batch_size or 32, return_input_shape=False,
        )  # fmt: skip
    return coefficients.detach().reshape(-1).cpu()
