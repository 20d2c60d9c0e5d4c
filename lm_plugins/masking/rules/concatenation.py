"""Activations put beside each other: concatenated or stacked."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.activation import MaskedActivation
from lm_plugins.masking.carrier import Carrier
from lm_plugins.masking.joined_positions import joined
from lm_plugins.masking.part import are_cuts_of_same
from lm_plugins.masking.registry import register_rule, spellings
from lm_plugins.masking.token_positions import CONSTANT, TokenPositions, compact
from lm_plugins.masking.tokens import MaskedTokens, sequence_of

__all__: list[str] = []


@register_rule(*spellings("cat", "concat", "concatenate"))
def cat(tensors: Sequence[MaskedActivation | Tensor], dim: int = 0) -> MaskedActivation:
    """Concatenate channels; the option `concatenation` says what is visible, `missing` what fills the rest."""
    carriers = [one for one in tensors if isinstance(one, MaskedActivation)]
    first = carriers[0]
    if first.dims[dim] != "C" or any(one.dims != first.dims for one in carriers):
        raise UnsupportedOperatorError(
            f"torch.cat is masked along channels of activations with the same dimensions only; got dim={dim} of "
            f"{[one.dims for one in carriers]}"
        )
    return _joined(lambda values: torch.cat(values, dim), tensors, first.dims)


@register_rule(*spellings("stack"))
def stack(tensors: Sequence[MaskedActivation | Tensor], dim: int = 0) -> MaskedActivation:
    """Stack along a new channel dimension: what is visible as for a concatenation."""
    carriers = [one for one in tensors if isinstance(one, MaskedActivation)]
    dims = list(carriers[0].dims)
    if any(one.dims != carriers[0].dims for one in carriers):
        raise UnsupportedOperatorError(
            f"torch.stack is masked for activations with the same dimensions only; got dim={dim} of "
            f"{[one.dims for one in carriers]}"
        )
    dims.insert(dim % (len(dims) + 1), "C")
    return _joined(lambda values: torch.stack(values, dim), tensors, tuple(dims))


def _joined(
    join: Callable[[list[Tensor]], Tensor], tensors: Sequence[MaskedActivation | Tensor], dims: tuple[str, ...]
) -> MaskedActivation:
    first, *others = (one.visibility for one in tensors if isinstance(one, MaskedActivation))
    if any(are_cuts_of_same(one.visible, first.visible) for one in others):
        raise UnsupportedOperatorError("joining several cuts of one map puts patches into channels: a matter of tokens")
    visibility = first.after_concatenation(others)
    # An ordinary tensor beside activations does not depend on the image's hidden part: it is visible wherever they are.
    values = [one.completed_to(visibility.visible) if isinstance(one, MaskedActivation) else one for one in tensors]
    return MaskedActivation(join(values), visibility, dims)


# ---- of tokens -------------------------------------------------------------------------------------------------------


@register_rule(*spellings("cat", "concat", "concatenate"), tokens=True)
def cat_of_tokens(tensors: Sequence[MaskedTokens | Tensor], dim: int = 0) -> Any:
    """Put tokens beside each other. An ordinary tensor among them belongs to no position: class tokens, registers."""
    carriers = [one for one in tensors if isinstance(one, MaskedTokens)]
    first = carriers[0]
    dim %= first.ndim
    masks = {id(one.positions[0].visibility.visible) for one in carriers}
    if any(len(one.positions) > 1 for one in carriers):
        raise UnsupportedOperatorError(f"torch.cat of scores: {carriers}")
    if len(masks) > 1:
        return _cat_of_maps(tensors, dim)
    of = [one.positions[0] if isinstance(one, MaskedTokens) else None for one in tensors]
    if _is_along_channels(of, dim):
        return _cat_channels(tensors, carriers, dim)
    if first.is_dropped:
        whole = [one if one is None else one.whole or one for one in of]
        full = _joined_positions(whole, [one.shape for one in tensors], dim)
        if not sequence_of(full) or len({one.is_dropped for one in carriers}) > 1:
            return cat_of_tokens([one.whole() if isinstance(one, MaskedTokens) else one for one in tensors], dim)
    elif any(one.is_dropped for one in carriers):
        return cat_of_tokens([one.whole() if isinstance(one, MaskedTokens) else one for one in tensors], dim)
    values = [one.values if isinstance(one, Carrier) else one for one in tensors]
    positions = _joined_positions(of, [one.shape for one in values], dim)
    if first.is_dropped:
        positions = positions.kept_of(full)
    return MaskedTokens(torch.cat(values, dim), (positions,)).simplified()


def _cat_of_maps(tensors: Sequence[MaskedTokens | Tensor], dim: int) -> Any:
    """Put tokens of several maps beside each other: they become those of one map that holds all."""
    tensors = [one.whole() if isinstance(one, MaskedTokens) else one for one in tensors]
    carriers = [one for one in tensors if isinstance(one, MaskedTokens)]
    found = joined([one.positions[0] for one in carriers])
    if found is None or not all(_may_join(one.positions[0], dim, one.shape[dim]) for one in carriers):
        raise UnsupportedOperatorError(
            f"torch.cat of tokens of different maps along dim={dim}: {carriers}. It is masked along the dimension of tokens"
        )
    of = iter(found)
    return cat_of_tokens(
        [MaskedTokens(one.values, (next(of),)) if isinstance(one, MaskedTokens) else one for one in tensors], dim
    )


def _may_join(positions: TokenPositions, dim: int, size: int) -> bool:
    """Whether tokens, not images, lie along a dimension."""
    image = positions.numbers // (positions.map_shape[1] * positions.map_shape[2])
    is_of_images = image.shape[dim] > 1 and not torch.equal(image, image.narrow(dim, 0, 1).expand_as(image))
    return (positions.varies(dim) or size == 1) and not is_of_images


def _is_along_channels(positions: Sequence[TokenPositions | None], dim: int) -> bool:
    """Whether all tokens are those of the same positions, in whose channels something is put."""
    of = [one for one in positions if one is not None]
    return not any(one.varies(dim) for one in of) and all(
        (one.whole or one).matches(of[0].whole or of[0]) for one in of
    )


def _cat_channels(tensors: Sequence[MaskedTokens | Tensor], carriers: Sequence[MaskedTokens], dim: int) -> Any:
    """Put constants into the channels of tokens: they belong to the positions beside which they are put."""
    if len({one.is_dropped for one in carriers}) > 1:
        tensors = [one.whole() if isinstance(one, MaskedTokens) else one for one in tensors]
    first = next(one for one in tensors if isinstance(one, MaskedTokens))
    values = [one.values if isinstance(one, MaskedTokens) else first.fitted(one) for one in tensors]
    return MaskedTokens(torch.cat(values, dim), first.positions).simplified()


def _joined_positions(
    positions: Sequence[TokenPositions | None], shapes: Sequence[Sequence[int]], dim: int
) -> TokenPositions:
    first = next(one for one in positions if one is not None)
    if not first.varies(dim) and all(one is not None and one.matches(first) for one in positions):
        return first

    def make() -> TokenPositions:
        numbers = [
            first.numbers.new_full((1,) * len(shapes[0]), CONSTANT) if one is None else one.numbers for one in positions
        ]
        shape = [max(sizes) for sizes in zip(*(one.shape for one in numbers), strict=True)]
        parts = []
        for one, of_values in zip(numbers, shapes, strict=True):
            shape[dim] = of_values[dim]
            parts.append(one.expand(shape))
        return TokenPositions(compact(torch.cat(parts, dim)), first.visibility)

    return first.once(("cat", dim, tuple(positions), tuple(one[dim] for one in shapes)), make)


@register_rule(*spellings("stack"), tokens=True)
def stack_of_tokens(tensors: Sequence[MaskedTokens | Tensor], dim: int = 0) -> Any:
    """Put tokens beside each other along a new dimension."""
    return torch.cat([one.unsqueeze(dim) for one in tensors], dim)
