"""Embeddings: how similar an image is to given vectors, such as CLIP's to those of texts."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lm_plugins.errors import InputTypeError, NonFiniteError, ShapeError
from lm_plugins.outputs.words import chosen_by

__all__ = ["Similarity"]


class Similarity:
    """The cosine similarity of each image's embedding to reference vectors: an ``output=`` for models that embed.

    For CLIP, the references are the features of texts, and each is a target; for faces and retrieval, the embedding of
    another image. With ``scale`` of the model and a softmax behind it (``output=(Similarity(...), "logits")``), the values
    are the probabilities of zero-shot classification.

    Args:
        references: ``(R, D)``, or ``(D,)`` for one. They need not have unit length.
        field: What of the model's output is the embedding: the name of a field, as ``"image_embeds"``, or a function. None if
            the model returns the tensor itself. ``(N, D)``, or maps or tokens that are averaged by a function.
        scale: Multiplies the similarities, such as ``model.logit_scale.exp()`` of CLIP.

    Raises:
        ShapeError: The references are not ``(R, D)``.
        InputTypeError: They are not floating point.
        NonFiniteError: A reference has no length, or is infinite or NaN.

    Example:
        >>> import torch
        >>> from lm_plugins.outputs import Similarity
        >>> to_axes = Similarity(torch.eye(2))
        >>> to_axes(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])
        >>> Similarity(torch.eye(2), field="image_embeds")({"image_embeds": torch.tensor([[0.0, 2.0]])})
        tensor([[0., 1.]])

    References:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021 (CLIP), where the
        logits are scaled cosine similarities.
    """

    def __init__(
        self, references: Tensor, field: str | Callable[[Any], Any] | None = None, scale: float | Tensor = 1.0
    ) -> None:
        if not isinstance(references, Tensor) or not references.is_floating_point():
            kind = references.dtype if isinstance(references, Tensor) else type(references).__name__
            raise InputTypeError(f"references are a floating-point tensor (R, D), got {kind}.")
        vectors = references.detach()[None] if references.ndim == 1 else references.detach()
        if vectors.ndim != 2 or not vectors.numel():
            raise ShapeError(f"references are vectors (R, D), got shape {tuple(references.shape)}.")
        lengths = vectors.norm(dim=1, keepdim=True)
        if not bool((lengths > 0).all() & lengths.isfinite().all()):
            raise NonFiniteError(
                "a reference vector has no length, or holds infinity or NaN: nothing can be similar to it."
            )
        self._references = vectors / lengths
        self._choose = chosen_by(field)
        self._scale = float(scale)

    def __call__(self, result: Any) -> Tensor:
        """The similarities of what a model returned.

        Args:
            result: It, for N images.

        Returns:
            ``(N, R)``, from -1 to 1 times the scale. An embedding of no length is similar to nothing: 0.

        Raises:
            InputTypeError: There is no tensor of embeddings in it.
            ShapeError: The embeddings are not ``(N, D)``.
        """
        embeddings = self._choose(result)
        if not isinstance(embeddings, Tensor):
            raise InputTypeError(
                f"an embedding is a tensor (N, D), got {type(embeddings).__name__}; name the field of the output that "
                "holds it."
            )
        if embeddings.ndim != 2 or embeddings.shape[1] != self._references.shape[1]:
            raise ShapeError(
                f"embeddings (N, {self._references.shape[1]}) fit the references, got {tuple(embeddings.shape)}."
            )
        unit = torch.nn.functional.normalize(embeddings, dim=1)
        similarities: Tensor = self._scale * unit @ self._references.to(unit).T
        return similarities

    def __repr__(self) -> str:
        return f"Similarity({tuple(self._references.shape)}, scale={self._scale:g})"
