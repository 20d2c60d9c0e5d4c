"""Missingness: what becomes of a model's answer while features go missing."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lm_plugins.errors import OptionError, ShapeError

__all__ = ["ClassSimilarity", "class_entropy", "missingness"]

#: How much alike two classes are: a matrix ``(classes, classes)``, or a function of two class indices.
ClassSimilarity = Tensor | Callable[[int, int], float]


def missingness(
    probabilities: Tensor, plain: Tensor, label: int | None = None, similarity: ClassSimilarity | None = None
) -> dict[str, Tensor]:
    r"""What is left of the answer for one image after removals.

    With :math:`\hat c_k = \arg\max_c p_k(c)` the class that is predicted after removal k, :math:`\hat c` that of the whole
    image and :math:`y` its label:

    .. math::
        \text{accuracy}_k = 1[\hat c_k = y], \quad \text{agreement}_k = 1[\hat c_k = \hat c], \quad
        \text{confidence}_k = \max_c p_k(c)

    Args:
        probabilities: After the removals, ``(K, classes)``.
        plain: Those of the whole image, ``(classes,)``.
        label: The class of the image, if it is known; else there is no accuracy.
        similarity: Of classes, for ``class_similarity``: between the prediction and the label; without a label, between the
            prediction and that for the whole image.

    Returns:
        ``(K,)`` each: ``agreement``, ``confidence`` and ``predicted_class``; ``accuracy`` with a label, and
        ``class_similarity`` where one is given.

    Raises:
        ShapeError: The two do not fit, or the similarity does not fit them.
        OptionError: The label is no class of the model.

    Example:
        >>> import torch
        >>> from lm_plugins.audit import missingness
        >>> after = torch.tensor([[0.7, 0.3], [0.4, 0.6]])
        >>> left = missingness(after, plain=torch.tensor([0.9, 0.1]), label=1)
        >>> left["agreement"].tolist(), left["accuracy"].tolist()
        ([1.0, 0.0], [0.0, 1.0])

    References:
        Jain et al., "Missingness bias in model debugging", ICLR 2022; Balasubramanian and Feizi, ICCV 2023.
    """
    if probabilities.ndim != 2 or plain.shape != probabilities.shape[1:]:
        raise ShapeError(
            f"expected probabilities (K, classes) and (classes,), got {tuple(probabilities.shape)} and {tuple(plain.shape)}."
        )
    classes = len(plain)
    if label is not None and not 0 <= label < classes:
        raise OptionError(f"a label is {label}, the model has {classes} classes: expected 0 to {classes - 1}.")
    predicted = probabilities.argmax(1)
    before = int(plain.argmax())
    measured = {
        "agreement": (predicted == before).double(),
        "confidence": probabilities.amax(1).double(),
        "predicted_class": predicted.double(),
    }
    if label is not None:
        measured["accuracy"] = (predicted == label).double()
    if similarity is not None:
        reference = before if label is None else label
        measured["class_similarity"] = class_similarities(predicted, reference, similarity, classes)
    return measured


def class_similarities(predicted: Tensor, reference: int, similarity: ClassSimilarity, classes: int) -> Tensor:
    """How much alike predicted classes and a class are.

    Args:
        predicted: Class indices ``(K,)``.
        reference: A class index.
        similarity: Of classes.
        classes: How many there are.

    Returns:
        Float64 ``(K,)``.

    Raises:
        ShapeError: The matrix is not ``(classes, classes)``.
    """
    if not isinstance(similarity, Tensor):
        values = [float(similarity(one, reference)) for one in predicted.tolist()]
        return torch.tensor(values, dtype=torch.float64)
    if similarity.shape != (classes, classes):
        raise ShapeError(
            f"the similarity of classes has shape {tuple(similarity.shape)}, the model {classes} classes: expected "
            f"({classes}, {classes})."
        )
    return similarity[predicted.to(similarity.device), reference].double()


def class_entropy(predicted: Sequence[float] | Tensor) -> float:
    r"""Entropy of the distribution of predicted classes over images: 0 if all get the same one.

    .. math::
        H = -\sum_c p_c \ln p_c, \qquad p_c = \text{the share of images that get class } c

    A removal that pushes a model towards a few classes ("grey patches are a crossword puzzle") brings it down. Compare it
    with that at removed fraction 0: the entropy of the model's answers to the whole images.

    Args:
        predicted: Class indices, one for each image.

    Returns:
        Nats, from 0 to the logarithm of the number of images.

    Raises:
        ShapeError: There is none.

    Example:
        >>> from lm_plugins.audit import class_entropy
        >>> round(class_entropy([3, 3, 7, 7]), 4)
        0.6931

    References:
        Balasubramanian and Feizi, ICCV 2023; without their :math:`10^{-7}` in the logarithm.
    """
    classes = torch.as_tensor(predicted)
    if not classes.numel():
        raise ShapeError("there is no prediction to take the entropy of.")
    counts = torch.unique(classes, return_counts=True)[1].tolist()
    total = sum(counts)
    return float(sum(count / total * math.log(total / count) for count in counts))
