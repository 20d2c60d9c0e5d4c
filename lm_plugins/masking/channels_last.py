"""A map as a list of its positions: where it pays to touch some of them instead of all."""

import torch
from torch import Tensor

__all__ = ["as_map", "as_rows", "has_bags", "is_everything", "overwritten", "sum_over"]


def is_everything(region: Tensor) -> bool:
    """Whether a region, bool ``(N, H, W)``, is the whole map."""
    # As bytes, since torch's `all` of bools is many times slower.
    return bool(region.view(torch.uint8).min())


def as_rows(values: Tensor) -> Tensor:
    """A map ``(N, C, H, W)`` as rows ``(N * H * W, C)``; a view of it if its memory format is channels-last."""
    last = values.contiguous(memory_format=torch.channels_last)
    # A map with one channel or one position counts as contiguous in both formats; only permuting tells the rows.
    return last.permute(0, 2, 3, 1).reshape(-1, values.shape[1])


def as_map(rows: Tensor, shape: torch.Size) -> Tensor:
    """The map of `shape` ``(N, C, H, W)``, channels-last, that `as_rows` was given."""
    n, c, h, w = shape
    return rows.reshape(n, h, w, c).permute(0, 3, 1, 2)


def has_bags(rows: Tensor) -> bool:
    """Whether torch's embedding_bag can be relied on for these values: of other devices, not every version has it."""
    return rows.device.type in ("cpu", "cuda")


def overwritten(values: Tensor, rows: Tensor, value: float, *, in_place: bool) -> Tensor:
    """A map with one value at some of its positions. Many times as fast as a fill by a mask that broadcasts.

    Args:
        values: ``(N, C, H, W)``.
        rows: Int64: the indices of the positions among the ``N * H * W`` of the batch.
        value: What to write there.
        in_place: Write into `values` where its memory format allows it.

    Returns:
        ``(N, C, H, W)``, channels-last.
    """
    if in_place:
        return as_map(as_rows(values).index_fill_(0, rows, value), values.shape)
    copy = values.clone(memory_format=torch.channels_last)
    as_rows(copy).index_fill_(0, rows, value)
    return copy


def sum_over(values: Tensor, region: Tensor, rows_of_region: Tensor) -> Tensor:
    """Sum a map over a region. Whatever stands outside of it plays no part; without autograd it is not even read.

    Args:
        values: ``(N, C, H, W)``, floating point.
        region: Bool ``(N, H, W)``.
        rows_of_region: Int64: the indices of its positions among all of the batch.

    Returns:
        ``(N, C)``.

    Example:
        >>> import torch
        >>> values, region = torch.tensor([[[[1.0, 2.0], [3.0, torch.nan]]]]), torch.tensor([[[True, True], [True, False]]])
        >>> sum_over(values, region, region.flatten().nonzero()[:, 0])
        tensor([[6.]])
    """
    if torch.is_grad_enabled() or not has_bags(values):  # the gradient of embedding_bag has none of its own
        return torch.where(region[:, None], values, 0.0).sum((2, 3))
    n, c, h, _ = values.shape
    counts = region.sum(2).reshape(-1)  # one bag a line of each image: enough of them to share, and short for precision
    bags = torch.nn.functional.embedding_bag(rows_of_region, as_rows(values), counts.cumsum(0) - counts, mode="sum")
    return bags.reshape(n, h, c).sum(1)
