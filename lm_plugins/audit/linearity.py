"""Linearity: whether the answer for several parts is the sum of the answers for each."""

import torch.nn.functional as F
from torch import Tensor

from lm_plugins.errors import ShapeError

__all__ = ["linearity"]


def linearity(parts: Tensor, union: Tensor, nothing: Tensor) -> tuple[float, float]:
    r"""Compare the outputs for single parts of an image with the output for all of them together.

    With :math:`\Delta(S) = f(S) - f(\emptyset)` what a set of features adds to the output for nothing:

    .. math::
        \text{cosine} = \cos\Bigl(\sum_p \Delta(\{p\}), \Delta(S)\Bigr), \qquad
        \text{error} = \frac{\bigl\|\sum_p \Delta(\{p\}) - \Delta(S)\bigr\|_2}{\|\Delta(S)\|_2}

    LIME and KernelSHAP fit a linear model of the features, so that they describe a more linear answer better.

    Args:
        parts: Outputs with one of P features visible each, ``(P, D)``: features before the classifier, or logits.
        union: Output with all of them visible, ``(D,)``.
        nothing: Output with nothing visible, ``(D,)``; zeros for the paper's formula.

    Returns:
        Cosine in [-1, 1] (1 = linear) and relative error (0 = linear). Where the union adds nothing, cosine 0 and error 0,
        or infinity if the parts add something.

    Raises:
        ShapeError: The three do not fit.

    Example:
        >>> import torch
        >>> from lm_plugins.audit import linearity
        >>> cosine, error = linearity(torch.tensor([[2.0, 1.0], [1.0, 3.0]]), torch.tensor([2.0, 3.0]), torch.ones(2))
        >>> round(cosine, 4), error
        (1.0, 0.0)

    References:
        Balasubramanian and Feizi, ICCV 2023, on features before the classifier and without the term for nothing; it makes
        the measure 1 for additive models with a bias.
    """
    if parts.ndim != 2 or union.shape != parts.shape[1:] or nothing.shape != union.shape:
        raise ShapeError(
            f"expected outputs (P, D), (D,) and (D,), got {tuple(parts.shape)}, {tuple(union.shape)} and "
            f"{tuple(nothing.shape)}."
        )
    whole = (union - nothing).double()
    total = (parts - nothing).double().sum(0)
    error, size = float((total - whole).norm()), float(whole.norm())
    relative = error / size if size else (float("inf") if error else 0.0)
    # Cosines may round to a little over 1.
    return float(F.cosine_similarity(total, whole, dim=0).clamp(-1, 1)), relative
