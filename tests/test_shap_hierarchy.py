"""The hierarchy of features for the Partition explainer, against its definition and upstream's."""

import numpy as np
import pytest
import shap
from hypothesis import given
from hypothesis import strategies as st

import lm_plugins.shap as ours
from lm_plugins.shap.hierarchy import hierarchy_of_features, hierarchy_of_pixels


def leaves_of(tree: np.ndarray) -> list[frozenset[int]]:
    """The leaves below each node, by definition."""
    nodes = [frozenset([leaf]) for leaf in range(len(tree) + 1)]
    for left, right, _, size in tree:
        assert not nodes[int(left)] & nodes[int(right)]
        nodes.append(nodes[int(left)] | nodes[int(right)])
        assert len(nodes[-1]) == size
    return nodes


def depth_of(tree: np.ndarray) -> int:
    depths = [0] * (len(tree) + 1)
    for left, right, _, _ in tree:
        depths.append(1 + max(depths[int(left)], depths[int(right)]))
    return depths[-1]


@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(1, 12), st.integers(0, 99)
)  # fmt: skip
def test_the_hierarchy_keeps_features_whole(height: int, width: int, channels: int, count: int, seed: int) -> None:
    ids = np.random.default_rng(seed).integers(0, count, (height, width))
    mask = np.unique(ids, return_inverse=True)[1].reshape(height, width)
    tree = hierarchy_of_pixels(mask, channels)
    nodes = leaves_of(tree)
    leaves = height * width * channels
    assert nodes[-1] == frozenset(range(leaves))
    for feature in range(mask.max() + 1):
        inside = np.flatnonzero(np.repeat(mask.ravel() == feature, channels))
        assert frozenset(inside.tolist()) in nodes
    for node, (_, _, distance, _) in zip(nodes[leaves:], tree, strict=True):
        features = {int(mask.ravel()[leaf // channels]) for leaf in node}
        assert (distance < 0) == (len(features) == 1)
    biggest = int(np.bincount(mask.ravel()).max()) * channels
    # Tied coordinates, as in a grid, may unbalance a cut a little.
    assert depth_of(tree) <= np.ceil(np.log2(biggest)) + 2 * np.ceil(np.log2(mask.max() + 1)) + 1


def test_the_hierarchy_of_equal_centres_is_balanced() -> None:
    tree = hierarchy_of_features(np.zeros((64, 2)))
    assert depth_of(tree) == 6
    assert leaves_of(tree)[-1] == frozenset(range(64))
    assert hierarchy_of_features(np.zeros((1, 2))).shape == (0, 4)


@pytest.mark.parametrize("shape", [(8, 8, 3), (7, 5, 3), (1, 6, 1), (5, 9, 2)])
def test_the_hierarchy_of_pixels_is_upstreams_above_channels(shape: tuple[int, int, int]) -> None:
    last = np.prod(shape) - 1
    of_ours = {node for node in leaves_of(ours.Masker(shape).clustering) if len(node) >= shape[2]}
    of_theirs = {node for node in leaves_of(shap.maskers.Image(np.zeros(shape)).clustering) if len(node) >= shape[2]}
    assert of_ours == {frozenset(last - leaf for leaf in node) for node in of_theirs}  # upstream counts from the end
