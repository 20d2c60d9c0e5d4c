"""Views: dimensions permuted, merged, split, cut and padded. The regions follow the spatial ones.

The batch may be folded into the channels, as conditional convolutions do, where each image has weights of its own: a view
``(N, C, H, W)`` as ``(1, N * C, H, W)`` has the dimensions ``C B H W``, where "B" counts the channels of the first image,
then those of the second, and so on. A convolution with as many groups for every image keeps them apart.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.activation import NCHW, MaskedActivation, PaddedActivation
from lm_plugins.masking.geometry import Window
from lm_plugins.masking.mask import Mask
from lm_plugins.masking.registry import function_name, register_rule, spellings
from lm_plugins.masking.torch_functions import properties

__all__ = ["FOLDED", "folded", "unfolded"]

#: The dimensions of a map whose batch is folded into its channels.
FOLDED = ("C", "B", "H", "W")


def folded(input: MaskedActivation, shape: Sequence[int]) -> MaskedActivation | None:
    """The activation with its batch folded into its channels, if that is what a view as `shape` does."""
    if input.dims != NCHW or input.shape[0] == 1:  # one image needs no folding
        return None
    n, c, *sides = input.shape
    return (
        MaskedActivation(input.values.reshape(shape), input.visibility, FOLDED) if shape == [1, n * c, *sides] else None
    )


def unfolded(input: MaskedActivation, shape: Sequence[int]) -> MaskedActivation | None:
    """The activation with its batch as the first dimension again, if that is what a view as `shape` does."""
    n = input.visibility.visible.positions.shape[0]
    is_folded = input.dims in (FOLDED, ("B", "C", "H", "W")) or (n == 1 and input.dims == ("C", "N", "H", "W"))
    if not is_folded or 1 not in input.shape[:2] or list(shape) != [n, input.shape[:2].numel() // n, *input.shape[2:]]:
        return None
    return MaskedActivation(input.values.reshape(shape), input.visibility, NCHW)


def _relabelled(input: MaskedActivation, values: Tensor, dims: Sequence[str]) -> MaskedActivation:
    if [one for one in dims if one in "NBHW"] not in (["N", "H", "W"], ["B", "H", "W"]):
        raise UnsupportedOperatorError(
            f"a view of {input!r} with dimensions {tuple(dims)}: batch, height and width must stay in this order, each "
            "once"
        )
    return MaskedActivation(values, input.visibility, tuple(dims))


def _sizes(sizes: tuple[Any, ...]) -> list[int]:
    """Torch's variadic sizes: ``view(2, 3)`` or ``view((2, 3))``."""
    return [int(one) for one in (sizes[0] if len(sizes) == 1 and isinstance(sizes[0], Sequence) else sizes)]


# ---- order of dimensions ---------------------------------------------------------------------------------------------


@register_rule(*spellings("permute"))
def permute(input: MaskedActivation, *order: Any, dims: Sequence[int] = ()) -> MaskedActivation:
    """Reorder dimensions."""
    order = tuple(_sizes(order or (dims,)))
    return _relabelled(input, input.values.permute(order), [input.dims[one] for one in order])


@register_rule(*spellings("transpose", "swapdims"))
def transpose(input: MaskedActivation, dim0: int, dim1: int) -> MaskedActivation:
    """Swap two dimensions."""
    dims = list(input.dims)
    dims[dim0], dims[dim1] = dims[dim1], dims[dim0]
    return _relabelled(input, input.values.transpose(dim0, dim1), dims)


@register_rule(*properties("mT"))
def m_t(input: MaskedActivation, owner: Any = None) -> MaskedActivation:
    """Swap the last two dimensions."""
    return transpose(input, -2, -1)


@register_rule(*properties("T"))
def t(input: MaskedActivation, owner: Any = None) -> MaskedActivation:
    """Reverse the order of dimensions."""
    return permute(input, *reversed(range(input.ndim)))


@register_rule(*properties("data"))
def data(input: MaskedActivation, owner: Any = None) -> MaskedActivation:
    """The same values, that autograd does not follow."""
    return input.like(input.values.detach())


@register_rule(*spellings("rot90"), both=True)
def rot90(input: Any, k: int = 1, dims: Sequence[int] = (0, 1)) -> Any:
    """Rotate by quarters: mirror and swap two dimensions."""
    first, second = dims
    k %= 4
    if k == 2:
        return input.flip(first, second)
    return input if k == 0 else input.flip(second if k == 1 else first).transpose(first, second)


@register_rule(*spellings("swapaxes"))
def swapaxes(input: MaskedActivation, axis0: int, axis1: int) -> MaskedActivation:
    """Swap two dimensions, by NumPy's name."""
    return transpose(input, axis0, axis1)


@register_rule(*spellings("movedim", "moveaxis"))
def movedim(input: MaskedActivation, source: int | Sequence[int], destination: int | Sequence[int]) -> MaskedActivation:
    """Move dimensions."""
    # Sizes that are all different tell where each dimension went.
    order = torch.empty(tuple(range(input.ndim)), device="meta").movedim(source, destination).shape  # type: ignore[arg-type]
    return permute(input, order)


# ---- merging and splitting dimensions --------------------------------------------------------------------------------


def _reshaped(input: MaskedActivation, shape: Sequence[int]) -> MaskedActivation | Tensor:
    """Give the values a new shape; a view that merges space with channels makes an ordinary tensor of features."""
    target = list(torch.empty(input.shape, device="meta").reshape(list(shape)).shape)
    for refold in (folded, unfolded):
        refolded = refold(input, target)
        if refolded is not None:
            return refolded
    dims: list[str] = []
    old, new = 0, 0
    leaves = False
    while old < input.ndim or new < len(target):
        have = int(input.shape[old]) if old < input.ndim else None
        want = target[new] if new < len(target) else None
        if have == 1 and want != 1 and input.dims[old] == "C":  # a channel dimension of one, dropped
            old += 1
            continue
        if want == 1 and have != 1:  # one inserted
            dims.append("C")
            new += 1
            continue
        # The smallest group of old dimensions that holds as many values as a group of new ones.
        first_old, first_new = old, new
        have, want = have or 1, want or 1
        old, new = old + 1, new + 1
        while have != want:
            if have < want:
                have *= int(input.shape[old])
                old += 1
            else:
                want *= target[new]
                new += 1
        letters = [one for one in input.dims[first_old:old] if one != "C"]
        count = len(target[first_new:new])
        if "N" in letters and target[first_new : first_new + 1] != [int(input.shape[first_old])]:
            raise UnsupportedOperatorError(f"a view of {input!r} as {tuple(target)} mixes images of the batch")
        if letters and (count, old - first_old) != (1, 1):
            # Dimensions of size one can stand anywhere: what matters is where the batch and the map's sides went.
            leaves = leaves or letters != ["N"]
            dims += ["N"] + ["C"] * (count - 1) if letters == ["N"] else ["C"] * count
        else:
            dims += letters or ["C"] * count
    if leaves:
        own = input.visibility.on_their_own
        if own is not input.visibility:  # samples that nobody puts together with the others
            return MaskedActivation(input.values, own, input.dims).reshape(target)
        return _features(input, target)
    return _relabelled(input, input.values.reshape(target), dims)


def _features(input: MaskedActivation, shape: list[int]) -> Tensor:
    """Flatten a map into features: the way out of the spatial world."""
    if shape[0] != input.shape[0] or input.dims[0] != "N" or (len(shape) > 2 and any(one != 1 for one in shape[2:])):
        raise UnsupportedOperatorError(
            f"a view of {input!r} as {tuple(shape)} mixes positions and channels; flattening a map into (N, features) is "
            "masked, and so are views that leave height and width alone"
        )
    region = input.visibility.visible
    if region.is_full:
        return input.values.reshape(shape)
    if input.visibility.options.flatten == "neighbours":
        settled = MaskedActivation(input.values, input.visibility.settled, input.dims)
        return settled.completed_to(Mask(torch.ones_like(region.positions))).reshape(shape)
    return input.with_hidden(0.0, region).reshape(shape)


@register_rule(*spellings("reshape", "view"))
def reshape(
    input: MaskedActivation, *sizes: Any, shape: Sequence[int] = (), size: Sequence[int] = ()
) -> MaskedActivation | Tensor:
    """Merge or split dimensions."""
    if len(sizes) == 1 and isinstance(sizes[0], torch.dtype):
        raise UnsupportedOperatorError("no masking rule for torch.Tensor.view(dtype)")
    return _reshaped(input, _sizes(sizes or (shape or size,)))


@register_rule(*spellings("flatten"))
def flatten(input: MaskedActivation, start_dim: int = 0, end_dim: int = -1) -> MaskedActivation | Tensor:
    """Merge a range of dimensions."""
    return _reshaped(input, torch.empty(input.shape, device="meta").flatten(start_dim, end_dim).shape)


@register_rule(*spellings("unflatten"))
def unflatten(input: MaskedActivation, dim: int, sizes: Sequence[int]) -> MaskedActivation | Tensor:
    """Split a dimension."""
    dim %= input.ndim
    return _reshaped(input, [*input.shape[:dim], *sizes, *input.shape[dim + 1 :]])


@register_rule(*spellings("unsqueeze"))
def unsqueeze(input: MaskedActivation, dim: int) -> MaskedActivation:
    """Insert a channel dimension of one."""
    dims = list(input.dims)
    dims.insert(dim % (input.ndim + 1), "C")
    return _relabelled(input, input.values.unsqueeze(dim), dims)


@register_rule(*spellings("squeeze"))
def squeeze(input: MaskedActivation, dim: int | Sequence[int] | None = None) -> MaskedActivation | Tensor:
    """Drop channel dimensions of one; dropping a map's sides of one leaves the spatial world."""
    chosen = range(input.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    dropped = {one % input.ndim for one in chosen if input.shape[one] == 1}
    kept = [i for i in range(input.ndim) if i not in dropped]
    shape = [input.shape[i] for i in kept]
    if all(input.dims[i] == "C" for i in dropped):
        return _relabelled(input, input.values.reshape(shape), [input.dims[i] for i in kept])
    return _reshaped(input, shape)


@register_rule(*spellings("as_strided"))
def as_strided(
    input: MaskedActivation, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> MaskedActivation:
    """Only where it changes nothing but the stride along dimensions of one, as a hint at a memory format."""
    own = input.values
    is_same = list(size) == list(own.shape) and storage_offset in (None, own.storage_offset())
    if not is_same or any(n > 1 and a != b for n, a, b in zip(size, stride, own.stride(), strict=True)):
        raise UnsupportedOperatorError(
            f"torch.as_strided of {input!r}: it is masked where it leaves the values as they are"
        )
    return input.like(own.as_strided(list(size), list(stride)))


@register_rule(*spellings("channel_shuffle"))
def channel_shuffle(input: MaskedActivation, groups: int) -> MaskedActivation:
    """Shuffle channels between groups."""
    return input.like(F.channel_shuffle(input.values, groups))


@register_rule(*spellings("expand"))
def expand(input: MaskedActivation, *sizes: Any, size: Sequence[int] = ()) -> MaskedActivation:
    """Repeat channel dimensions of one."""
    values = input.values.expand(_sizes(sizes or (size,)))
    dims = ("C",) * (values.ndim - input.ndim) + input.dims
    if any(dims[i] != "C" and values.shape[i] != input.values.shape[i - values.ndim] for i in range(values.ndim)):
        raise UnsupportedOperatorError(f"expanding {input!r} to {tuple(values.shape)}: it is masked for channels only")
    return _relabelled(input, values, dims)


@register_rule(*spellings("expand_as"))
def expand_as(input: MaskedActivation | Tensor, other: MaskedActivation | Tensor) -> MaskedActivation | Tensor:
    """Repeat dimensions of one up to the shape of another, which lends nothing else."""
    return expand(input, other.shape) if isinstance(input, MaskedActivation) else input.expand(other.shape)


# ---- cutting ---------------------------------------------------------------------------------------------------------


def _check_channels(function: Any, input: MaskedActivation, dim: int) -> None:
    if input.dims[dim] != "C":
        raise UnsupportedOperatorError(
            f"{function_name(function)} along dimension {dim} of {input!r}: it is masked along channels only"
        )


@register_rule(*spellings("chunk"))
def chunk(input: MaskedActivation, chunks: int, dim: int = 0) -> tuple[MaskedActivation, ...]:
    """Cut channels into equal parts."""
    _check_channels(torch.chunk, input, dim)
    return tuple(input.like(one) for one in input.values.chunk(chunks, dim))


@register_rule(*spellings("split"), torch.Tensor.split_with_sizes)
def split(
    input: MaskedActivation, split_size_or_sections: int | list[int], dim: int = 0
) -> tuple[MaskedActivation, ...]:
    """Cut channels into parts."""
    _check_channels(torch.split, input, dim)
    return tuple(input.like(one) for one in torch.split(input.values, split_size_or_sections, dim))


@register_rule(*spellings("narrow"))
def narrow(input: MaskedActivation, dim: int, start: int, length: int) -> MaskedActivation:
    """Keep a range of channels, rows or columns."""
    index: list[Any] = [slice(None)] * input.ndim
    index[dim] = slice(start, start + length)
    return getitem(input, tuple(index))


@register_rule(torch.Tensor.__setitem__)
def setitem(input: MaskedActivation, index: Any, value: Any) -> None:
    """Overwrite a part: by numbers or an ordinary tensor, or by an activation, padded to what is visible there.

    What is visible stays: a position that was hidden is hidden, whatever was written there.
    """
    if not isinstance(input, MaskedActivation):
        raise UnsupportedOperatorError(
            "torch.Tensor.__setitem__ would write an activation of which a part is hidden into an ordinary tensor"
        )
    part = getitem(input, index)
    if isinstance(value, MaskedActivation):
        if value.dims != part.dims or any(
            value.shape[i] != part.shape[i] for i, letter in enumerate(part.dims) if letter != "C"
        ):
            raise UnsupportedOperatorError(f"torch.Tensor.__setitem__ of {part!r} by {value!r}, of other positions")
        same = value.visibility is part.visibility
        value = value.values if same else value.completed_to(part.visibility.computed)
    input.values[index] = value  # the part may be a copy, padded where it stands for others


@register_rule(torch.Tensor.__getitem__)
def getitem(input: MaskedActivation, index: Any) -> MaskedActivation:
    """Keep slices: of channels (or one of them) and of rows and columns, whose regions are cut alike."""
    if not isinstance(input, MaskedActivation):
        raise UnsupportedOperatorError("indexing an ordinary tensor with an activation of which a part is hidden")
    index = index if isinstance(index, tuple) else (index,)
    used = sum(one is not None and one is not Ellipsis for one in index)
    if Ellipsis in index:
        where = index.index(Ellipsis)
        index = (*index[:where], *[slice(None)] * (input.ndim - used), *index[where + 1 :])
    index = (*index, *[slice(None)] * (input.ndim - sum(one is not None for one in index)))
    dims, cuts, old = [], {"H": slice(None), "W": slice(None)}, 0
    for one in index:
        if one is None:
            dims.append("C")
            continue
        letter = input.dims[old]
        old += 1
        if isinstance(one, slice):
            dims.append(letter)
            if letter in cuts:
                cuts[letter] = one
            if letter in "CHW" or one == slice(None):
                continue
        elif isinstance(one, int) and letter == "C":
            continue
        raise UnsupportedOperatorError(
            f"indexing {input!r} with {one!r} at its dimension {letter}: slices of channels, rows and columns and single "
            "channels are masked"
        )
    values, visibility = input.values, input.visibility
    if any(cut != slice(None) for cut in cuts.values()):
        values, visibility = _padded_for_cut(input, cuts["H"], cuts["W"]), visibility.cut(cuts["H"], cuts["W"])
    return _relabelled(MaskedActivation(input.values, visibility, input.dims), values[index], dims)


def _padded_for_cut(input: MaskedActivation, rows: slice, columns: slice) -> Tensor:
    """The values; where a slice in steps keeps hidden positions that stand for visible ones, those are padded."""
    window = Window.of_cut(rows, columns, (input.shape[input.dim_of("H")], input.shape[input.dim_of("W")]))
    if not input.visibility.samples(window) or input.visibility.visible.is_full:
        return input.values
    order = sorted(range(input.ndim), key=lambda dim: "NBCHW".index(input.dims[dim]))
    values = input.values.permute(order)
    images = values.reshape(input.visibility.visible.positions.shape[0], -1, *values.shape[-2:])
    of_images = MaskedActivation(images, input.visibility)
    input.share_memory_with(of_images)
    return of_images.padded_for(window).reshape(values.shape).permute([order.index(dim) for dim in range(input.ndim)])


# ---- padding ---------------------------------------------------------------------------------------------------------


@register_rule(F.pad)
def pad(input: MaskedActivation, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """Pad channels or the map. Constants around the map are neither visible nor hidden; neighbour padding spares them.

    So a zero pad before a convolution equals the padding of the convolution itself.
    """
    amounts = {"N": (0, 0), "C": (0, 0), "H": (0, 0), "W": (0, 0)}
    for i in range(len(pad) // 2):
        letter = input.dims[-1 - i]
        if letter in amounts and letter != "C":
            amounts[letter] = (int(pad[2 * i]), int(pad[2 * i + 1]))
    if any(amounts["N"]) or (mode != "constant" and input.dims[-2:] != ("H", "W")):
        raise UnsupportedOperatorError(f"torch.nn.functional.pad of {input!r} by {tuple(pad)} with mode={mode!r}")
    spatial = (*amounts["W"], *amounts["H"])
    is_zeros = mode == "constant" and not value and not any(pad[4:]) and min(spatial) >= 0
    if is_zeros and any(spatial) and input.dims == NCHW:
        return PaddedActivation(input, spatial)
    visibility = input.visibility.padded(spatial, mode) if any(spatial) else input.visibility
    return MaskedActivation(F.pad(input.values, tuple(pad), mode, value), visibility, input.dims)
