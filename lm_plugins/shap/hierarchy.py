"""The hierarchy of features for SHAP's Partition explainer: a binary tree in SciPy's linkage format.

A row ``(left, right, distance, size)`` for each merge; node i < M is leaf i, node M + r what row r makes, the last row is
the root. A distance below 0 tells Partition to descend no further and to share the credit evenly below.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["centres_of", "hierarchy_of_features", "hierarchy_of_pixels"]

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


def centres_of(feature_mask: _Ints) -> _Floats:
    """The mean row and column of every feature.

    Args:
        feature_mask: ``(H, W)`` with ids from 0 to K - 1.

    Returns:
        ``(K, 2)``.
    """
    ids = feature_mask.ravel()
    counts = np.bincount(ids)
    rows, columns = np.indices(feature_mask.shape)
    return np.stack([np.bincount(ids, where.ravel()) / counts for where in (rows, columns)], 1)


def hierarchy_of_features(centres: _Floats) -> _Floats:
    """Halve the features by position, along the longer side of the box of their centres, until each is alone.

    Cuts run between different coordinates as near to the median as there are: rows and columns of a grid stay whole, and
    the tree is as deep as the logarithm of the number of features. On single pixels these are the cuts of
    `shap.maskers.Image`.

    Args:
        centres: Row and column of every feature, ``(K, 2)``.

    Returns:
        ``(K - 1, 4)``, all distances 0; equal centres give an equal tree.

    Example:
        >>> import numpy as np
        >>> from lm_plugins.shap.hierarchy import hierarchy_of_features
        >>> hierarchy_of_features(np.array([[0.0, 0.0], [0.0, 1.0], [5.0, 0.0]]))
        array([[0., 1., 0., 2.],
               [3., 2., 0., 3.]])
    """
    count = len(centres)
    tree = np.zeros((max(count - 1, 0), 4))
    # One level of the tree in each round. `features` is sorted by group; `nodes` has the node id of each group.
    features = np.arange(count)
    starts, nodes = np.array([0]), np.array([2 * count - 2])
    free = 2 * count - 3
    while len(starts):
        sizes = np.diff(np.append(starts, len(features)))
        features, starts, sizes, nodes = _without_singles(features, starts, sizes, nodes)
        if not len(starts):
            break
        group = np.repeat(np.arange(len(starts)), sizes)
        points = centres[features]
        extent = np.maximum.reduceat(points, starts) - np.minimum.reduceat(points, starts)
        axis = (extent[:, 1] > extent[:, 0]).astype(np.int64)[group]
        along, across = (np.take_along_axis(points, side[:, None], 1)[:, 0] for side in (axis, 1 - axis))
        order = np.lexsort((features, across, along, group))
        features, along = features[order], along[order]
        left = _cuts(along, starts, sizes)
        starts = np.stack([starts, starts + left], 1).ravel()
        halves = np.stack([left, sizes - left], 1).ravel()
        inner = halves > 1
        children = np.where(inner, 0, features[starts])
        children[inner] = free - np.arange(inner.sum())
        free -= int(inner.sum())
        tree[nodes - count, :2] = children.reshape(-1, 2)
        tree[nodes - count, 3] = sizes
        nodes = children
    return tree


def hierarchy_of_pixels(feature_mask: _Ints, channels: int) -> _Floats:
    """The hierarchy of features, and in every feature a balanced tree of its pixels and channels with distance -1.

    Args:
        feature_mask: ``(H, W)`` with ids from 0 to K - 1.
        channels: The number of channels C; leaf ``(row * W + column) * C + channel`` is one value of the image.

    Returns:
        ``(H * W * C - 1, 4)``.
    """
    leaves = feature_mask.size * channels
    ids = np.repeat(feature_mask.ravel(), channels)
    order = np.argsort(ids, kind="stable")
    sizes = np.bincount(ids)
    inside, roots = _balanced(order, sizes)
    above = hierarchy_of_features(centres_of(feature_mask))
    count, first = len(sizes), leaves + len(inside)
    is_feature = above[:, :2] < count
    child = above[:, :2].astype(np.int64)
    above[:, :2] = np.where(is_feature, roots[np.where(is_feature, child, 0)], first + child - count)
    node_sizes = np.concatenate([sizes, np.zeros(len(above), np.int64)])
    for row, (left, right) in enumerate(child):  # children come before their parents
        node_sizes[count + row] = node_sizes[left] + node_sizes[right]
    above[:, 3] = node_sizes[count:]
    return np.concatenate([inside, above])


def _without_singles(features: _Ints, starts: _Ints, sizes: _Ints, nodes: _Ints) -> tuple[_Ints, _Ints, _Ints, _Ints]:
    """The groups that can still be cut."""
    many = sizes > 1
    features = features[np.repeat(many, sizes)]
    sizes = sizes[many]
    return features, np.cumsum(sizes) - sizes, sizes, nodes[many]


def _cuts(along: _Floats, starts: _Ints, sizes: _Ints) -> _Ints:
    """How many of each sorted group go left: about half, without cutting between equal coordinates if possible."""
    rank = np.arange(len(along)) - np.repeat(starts, sizes)
    size = np.repeat(sizes, sizes)
    distance = np.abs(2 * rank - size)  # of a cut before this member, from the middle
    is_tied = np.append(False, along[1:] == along[:-1])
    # A cut before the first member is none; one between equal coordinates is taken only if there is no other.
    cost = np.where(rank == 0, 4 * size, np.where(is_tied, distance + 2 * size, distance))
    best: _Ints = np.minimum.reduceat(cost * len(along) + rank, starts) % len(along)
    return best


def _balanced(order: _Ints, sizes: _Ints) -> tuple[_Floats, _Ints]:
    """Merge neighbours in `order` pair by pair, in all features at once, until every feature is one node.

    Returns:
        The rows, and the node of each feature.
    """
    nodes, node_sizes = order, np.ones(len(order))
    counts = sizes
    rows: list[_Floats] = []
    free = len(order)
    while (counts > 1).any():
        rank = np.arange(len(nodes)) - np.repeat(np.cumsum(counts) - counts, counts)
        is_left = (rank % 2 == 0) & (rank + 1 < np.repeat(counts, counts))
        left = np.flatnonzero(is_left)
        merged = node_sizes[left] + node_sizes[left + 1]
        rows.append(np.stack([nodes[left], nodes[left + 1], np.full(len(left), -1.0), merged], 1))
        nodes, node_sizes = nodes.copy(), node_sizes.copy()
        nodes[left], node_sizes[left] = free + np.arange(len(left)), merged
        free += len(left)
        stays = rank % 2 == 0
        nodes, node_sizes, counts = nodes[stays], node_sizes[stays], (counts + 1) // 2
    return np.concatenate(rows) if rows else np.zeros((0, 4)), nodes
