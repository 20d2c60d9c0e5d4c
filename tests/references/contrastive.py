"""The supervised contrastive loss, in loops over anchors, positives and rows, as it stands in the papers."""

import math

from torch import Tensor


def contrastive_loss(z: Tensor, labels: list[int], background: list[bool], temperature: float) -> Tensor:
    """Khosla et al., NeurIPS 2020, equation 2; rows of background stand in denominators only (ExConB)."""
    unit = [row / row.square().sum().sqrt() for row in z]
    total, anchors = z.new_zeros(()), 0
    for i in range(len(z)):
        positives = [p for p in range(len(z)) if p != i and labels[p] == labels[i] and not background[p]]
        if background[i] or not positives:
            continue
        denominator = sum(((unit[i] @ unit[a]) / temperature).exp() for a in range(len(z)) if a != i)
        for p in positives:
            total = total - ((unit[i] @ unit[p]) / temperature - denominator.log()) / len(positives)
        anchors += 1
    return total / max(anchors, 1)


def published_loss(z1: Tensor, z2: Tensor, labels: list[int], real: int, temperature: float) -> Tensor:
    """ExConB as the authors' code has it, for two views of unit vectors: image `real` and later ones are background.

    Both views of background are rows, the mean is over all rows times all / real, and temperature / 0.07 is a factor.
    """
    rows = [*z1, *z2]
    n = len(z1)
    total = z1.new_zeros(())
    for i in range(2 * n):
        same = [p for p in range(2 * n) if p != i and labels[p % n] == labels[i % n]]
        positives = [p for p in same if max(p % n, i % n) < real]
        logits = [rows[i] @ rows[a] / temperature for a in range(2 * n)]
        largest = max(float(one) for one in logits)
        denominator = sum((one - largest).exp() for a, one in enumerate(logits) if a != i)
        mean = sum(logits[p] - largest - denominator.log() for p in positives) / max(len(positives), 1)
        total = total - (temperature / 0.07) * mean
    assert math.isfinite(float(total))
    return total / (2 * n) * (n / real)
