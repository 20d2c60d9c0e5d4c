"""The supervised contrastive loss, with images of background that only push away."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_plugins.errors import InputTypeError, NonFiniteError, OptionError, ShapeError

__all__ = ["supervised_contrastive_loss"]


def supervised_contrastive_loss(
    z: Tensor,
    labels: Tensor,
    background: Tensor | None = None,
    temperature: float = 0.1,
    base_temperature: float | None = None,
) -> Tensor:
    r"""Supervised contrastive loss, of ExCon and ExConB.

    With unit vectors :math:`z_i`, the anchors A, and :math:`P(i)` the other rows with the label of i,

    .. math::
        L = \frac{1}{|A|} \sum_{i \in A} \frac{-1}{|P(i)|} \sum_{p \in P(i)}
        \log \frac{\exp(z_i \cdot z_p / \tau)}{\sum_{a \ne i} \exp(z_i \cdot z_a / \tau)}

    Rows of background stand in the denominators only: they are no anchors and nobody's positives (ExConB). For background
    as a class of its own, give it a label of its own instead. For SimCLR, give each image a label of its own.

    Args:
        z: Embeddings ``(M, D)``, one row for each view; they are divided by their lengths.
        labels: Integers ``(M,)``.
        background: Bool ``(M,)``; None for none.
        temperature: :math:`\tau`, above 0.
        base_temperature: If given, the loss is multiplied by ``temperature / base_temperature``; 0.07 in the published code.

    Returns:
        A number; 0, with gradients of 0, if no anchor has a positive.

    Raises:
        InputTypeError: `z` is not floating point, `labels` are no integers or `background` is not bool.
        ShapeError: The shapes do not fit.
        OptionError: A temperature is not above 0.
        NonFiniteError: An embedding is infinite or NaN.

    Example:
        >>> import torch
        >>> from lm_plugins.training import supervised_contrastive_loss
        >>> z = torch.eye(4)[[0, 1, 0, 1]]
        >>> round(supervised_contrastive_loss(z, torch.tensor([0, 1, 0, 1])).item(), 4)
        0.0001

    References:
        Khosla et al., "Supervised contrastive learning", NeurIPS 2020, equation 2. Zhang et al., "ExCon: Explanation-driven
        supervised contrastive learning for image classification", arXiv 2111.14271 (2021), and its code. There anchors
        without a positive count as 0 in the mean; here they do not count, which is the same for batches of two views.
    """
    _check(z, labels, background)
    for name, value in (("temperature", temperature), ("base_temperature", base_temperature)):
        if value is not None and not value > 0:
            raise OptionError(f"{name} is above 0, got {value!r}.")
    anchors = torch.ones_like(labels, dtype=torch.bool) if background is None else ~background
    z = F.normalize(z, dim=1)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(itself, -torch.inf)
    positive = (labels[:, None] == labels) & ~itself & anchors & anchors[:, None]
    count = positive.sum(1)
    rows = count > 0
    if not bool(rows.any()):
        return z.sum() * 0
    log_probability = logits[rows].log_softmax(1).masked_fill(~positive[rows], 0.0)
    loss = -(log_probability.sum(1) / count[rows]).mean()
    return loss if base_temperature is None else loss * (temperature / base_temperature)


def _check(z: Tensor, labels: Tensor, background: Tensor | None) -> None:
    if not isinstance(z, Tensor) or not z.is_floating_point():
        raise InputTypeError("z is a floating-point tensor (M, D).")
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise InputTypeError("labels are an integer tensor (M,).")
    if background is not None and (not isinstance(background, Tensor) or background.dtype != torch.bool):
        raise InputTypeError("background is a bool tensor (M,), or None.")
    shapes = [tuple(labels.shape), *([] if background is None else [tuple(background.shape)])]
    if z.ndim != 2 or any(shape != (len(z),) for shape in shapes):
        raise ShapeError(
            f"z is (M, D), and labels and background are (M,); got {tuple(z.shape)} and {', '.join(map(str, shapes))}. Views "
            "are rows: torch.cat([z1, z2]), with labels.repeat(2)."
        )
    if not bool(z.isfinite().all()):
        raise NonFiniteError("an embedding is infinite or NaN: training has diverged; lower the learning rate.")
