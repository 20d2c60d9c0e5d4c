"""Measures of removals against slow definitions, and by law."""

import math
import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import nn

from lm_plugins.audit import (
    alignment,
    class_entropy,
    coalitions_after,
    colour_bias,
    entropy_interval,
    gradient_saliency,
    lime_attribution,
    linearity,
    mean_interval,
    missingness,
    rank_agreement,
    removal_order,
    salient_region,
    shape_leakage,
    swapped_quadrants,
    top_jaccard,
    wordnet_similarity,
)
from lm_plugins.audit.lime_explanation import lime_coalitions
from lm_plugins.errors import MissingDependencyError, OptionError, ShapeError
from lm_plugins.features import grid, relabelled, visible_from
from lm_plugins.removal import LayerMasking


@st.composite
def feature_masks(draw, side=6):
    ids = draw(st.lists(st.integers(0, 5), min_size=side * side, max_size=side * side))
    return relabelled(torch.tensor(ids).reshape(side, side))


@given(feature_masks(), st.integers(0, 9), st.sampled_from(["random", "most_salient_first", "least_salient_first"]))
def test_an_order_holds_every_feature_once(feature_mask, seed, order):
    saliency = torch.rand(feature_mask.shape, generator=torch.Generator().manual_seed(seed))
    sequence = removal_order(feature_mask, order, saliency, seed)
    assert sorted(sequence.tolist()) == list(range(int(feature_mask.max()) + 1))
    if order != "random":
        means = [float(saliency[feature_mask == i].double().mean()) for i in sequence.tolist()]
        assert means == sorted(means, reverse=order == "most_salient_first")


@given(feature_masks(), st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_more_removed_is_less_visible_and_as_much_as_asked_for(feature_mask, fractions):
    sequence = removal_order(feature_mask, "random", seed=1)
    coalitions = coalitions_after(sequence, sorted(fractions))
    count = len(sequence)
    assert (~coalitions).sum(1).tolist() == [round(one * count) for one in sorted(fractions)]
    assert bool((coalitions[1:] <= coalitions[:-1]).all())  # what is gone stays gone
    for coalition, gone in zip(coalitions, (~coalitions).sum(1).tolist(), strict=True):
        assert set((~coalition).nonzero().flatten().tolist()) == set(sequence[:gone].tolist())
    assert visible_from(coalitions, feature_mask).shape == (len(fractions), 6, 6)


def test_the_random_order_depends_on_the_seed_alone():
    feature_mask = grid((8, 8), 2)
    first = removal_order(feature_mask, "random", seed=3)
    torch.rand(5)
    assert torch.equal(first, removal_order(feature_mask, "random", seed=3))
    assert not torch.equal(first, removal_order(feature_mask, "random", seed=4))


@given(st.integers(2, 5), st.integers(1, 6), st.integers(0, 99), st.booleans())
def test_missingness_equals_its_definition(classes, count, seed, has_label):
    random = np.random.default_rng(seed)
    after = torch.from_numpy(random.dirichlet(np.ones(classes), count))
    plain = torch.from_numpy(random.dirichlet(np.ones(classes)))
    label = int(random.integers(classes)) if has_label else None
    matrix = torch.from_numpy(random.random((classes, classes)))
    left = missingness(after, plain, label, matrix)
    assert ("accuracy" in left) == has_label
    before = max(range(classes), key=lambda c: float(plain[c]))
    for k in range(count):
        best = max(range(classes), key=lambda c: float(after[k, c]))
        assert left["predicted_class"][k] == best
        assert left["agreement"][k] == (best == before)
        assert left["confidence"][k] == float(after[k, best])
        reference = before if label is None else label
        assert left["class_similarity"][k] == float(matrix[best, reference])
        if label is not None:
            assert left["accuracy"][k] == (best == label)
    by_function = missingness(after, plain, label, lambda a, b: float(matrix[a, b]))
    assert torch.equal(by_function["class_similarity"], left["class_similarity"])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_class_entropy_equals_its_definition(predicted):
    shares = [predicted.count(one) / len(predicted) for one in set(predicted)]
    assert class_entropy(predicted) == pytest.approx(-sum(p * math.log(p) for p in shares))
    assert 0 <= class_entropy(predicted) <= math.log(len(predicted)) + 1e-12


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20), st.floats(-3, 3))
def test_intervals_of_means_hold_the_mean_and_move_with_it(values, shift):
    low, high = mean_interval(values)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    moved = mean_interval([one + shift for one in values])
    assert moved == pytest.approx((low + shift, high + shift), abs=1e-9)
    assert mean_interval(values) == (low, high)


def test_intervals_of_means_have_the_width_of_theory():
    values = np.random.default_rng(0).normal(size=400)
    low, high = mean_interval(values)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)


@given(st.lists(st.integers(0, 30), min_size=2, max_size=30))
def test_intervals_of_entropies_hold_the_entropy(classes):
    low, high = entropy_interval(classes)
    assert 0 <= low <= class_entropy(classes) + 1e-9
    assert class_entropy(classes) - 1e-9 <= high <= math.log(len(classes)) + 1e-9


@given(st.integers(2, 5), st.integers(0, 99))
def test_colour_bias_equals_its_definition(colours, seed):
    answers = torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(3), colours))
    distances = [
        sum(abs(float(answers[i, c] - answers[j, c])) for c in range(3)) / 2 for i in range(colours) for j in range(i)
    ]
    assert colour_bias(answers) == pytest.approx(sum(distances) / len(distances))
    assert 0 <= colour_bias(answers) <= 1
    assert colour_bias(answers[:1].expand(3, 3)) == 0


@given(feature_masks(), st.integers(0, 99))
def test_alignment_and_jaccard_equal_their_definitions(feature_mask, seed):
    generator = torch.Generator().manual_seed(seed)
    count = int(feature_mask.max()) + 1
    scores = torch.randn(count, generator=generator)
    region = torch.rand(6, 6, generator=generator) < 0.4
    cells = [(r, c) for r in range(6) for c in range(6)]
    mean = sum(bool(region[cell]) for cell in cells) / 36
    weights = [sum(float(region[cell]) - mean for cell in cells if feature_mask[cell] == i) for i in range(count)]
    dot = sum(float(scores[i]) * weights[i] for i in range(count))
    sizes = math.sqrt(sum(float(one) ** 2 for one in scores)) * math.sqrt(sum(one**2 for one in weights))
    assert alignment(scores, feature_mask, region) == pytest.approx(dot / sizes if sizes > 1e-8 else 0, abs=1e-6)
    top = sorted(range(count), key=lambda i: -float(scores[i]))[: max(1, min(2, count // 2))]
    chosen = {cell for cell in cells if int(feature_mask[cell]) in top}
    inside = {cell for cell in cells if region[cell]}
    assert top_jaccard(scores, feature_mask, region, top=2) == pytest.approx(
        len(chosen & inside) / max(1, len(chosen | inside))
    )


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=12))
def test_rank_agreement_is_spearmans(pairs):
    a, b = (torch.tensor(one, dtype=torch.float64) for one in zip(*pairs, strict=True))
    expected = spearmanr(a, b).statistic if len(a.unique()) > 1 and len(b.unique()) > 1 else None
    found = float(rank_agreement(a, b))
    if expected is None:
        assert found == (1.0 if len(a.unique()) == len(b.unique()) == 1 else 0.0)
    else:
        assert found == pytest.approx(expected)
    assert rank_agreement(torch.stack([a, b]), torch.stack([b, a])).tolist() == [found, found]


def test_swapped_quadrants_is_as_large_and_its_own_inverse():
    region = torch.rand(3, 6, 8) < 0.3
    swapped = swapped_quadrants(region)
    assert torch.equal(swapped.sum((1, 2)), region.sum((1, 2)))
    assert torch.equal(swapped_quadrants(swapped), region)
    assert torch.equal(swapped[:, :3, :4], region[:, 3:, 4:])


def test_a_salient_region_grows_from_the_most_salient_features():
    saliency = torch.arange(36.0).reshape(6, 6)
    region = salient_region(saliency, grid((6, 6), 2), share=0.3)
    assert torch.equal(region, torch.isin(grid((6, 6), 2), torch.tensor([6, 7, 8])))
    assert salient_region(saliency, torch.zeros(6, 6, dtype=torch.int64)).all()


def test_shape_leakage_by_hand():
    of_shape, of_swapped = torch.tensor([[0.25, 0.75], [0.5, 0.5]]), torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    assert shape_leakage(of_shape, of_swapped, 1).tolist() == [0.25, 0.5]


def test_linear_models_are_linear():
    weights, bias = torch.randn(4, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    cosine, error = linearity(weights + bias, weights.sum(0) + bias, bias)
    assert (cosine, error) == pytest.approx((1.0, 0.0))
    assert linearity(torch.ones(2, 3), torch.zeros(3), torch.zeros(3)) == (0.0, math.inf)
    assert linearity(torch.zeros(2, 3), torch.zeros(3), torch.zeros(3)) == (0.0, 0.0)


def test_saliency_is_the_gradient_and_leaves_none_behind():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double().eval()
    x = torch.rand(1, 3, 6, 6, dtype=torch.float64)
    with torch.inference_mode():  # a caller's mode does not matter
        saliency = gradient_saliency(model, x.clone(), 2)
    slopes = torch.zeros_like(x)
    for index in np.ndindex(*x.shape):
        step = torch.zeros_like(x)
        step[index] = 1e-5
        slopes[index] = (model(x + step)[0, 2] - model(x - step)[0, 2]).detach() / 2e-5
    torch.testing.assert_close(saliency, slopes[0].abs().amax(0), atol=1e-8, rtol=1e-5)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("removal", ["grey", LayerMasking()], ids=str)
def test_lime_finds_what_an_additive_model_adds(removal):
    model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 2, bias=False)).eval()
    model[2].weight.data = torch.tensor([[0.0, 0.0, 0.0, 0.0], [4.0, -2.0, 1.0, 0.0]])
    x, feature_mask = torch.ones(1, 1, 4, 4), grid((4, 4), 2)
    state = torch.get_rng_state()
    found = lime_attribution(model, removal, x, feature_mask, target=1, samples=200)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.argsort(descending=True).tolist() == [0, 2, 3, 1]
    torch.testing.assert_close(found, torch.tensor([4.0, -2.0, 1.0, 0.0]), atol=0.6, rtol=0)
    again = lime_attribution(model, removal, x, feature_mask, target=1, samples=200, batch_size=7)
    torch.testing.assert_close(again, found, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("features", "samples"), [(16, 512), (16, 40), (3, 12)])
def test_lime_fits_what_lime_fits(features, samples):
    """The same coalitions and scores, through lime's own classes, with the settings that lime has for images."""
    lime_base = pytest.importorskip("lime.lime_base")
    metrics = pytest.importorskip("sklearn.metrics")
    torch.manual_seed(features)
    weights, products = torch.randn(features), torch.randn(features, features) / 3
    ids = torch.arange(features).reshape(1, -1)

    class Interacting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            flat = x[:, 0, 0]
            value = flat @ weights + torch.einsum("ni,ij,nj->n", flat, products, flat)
            return torch.stack([-value, value], 1)

    x = torch.ones(1, 1, 1, features)
    found = lime_attribution(Interacting().eval(), "grey", x, ids, 1, samples, seed=3)
    coalitions = lime_coalitions(features, samples, seed=3).double()
    assert bool(coalitions[0].all())
    assert 0.3 < float(coalitions[1:].mean()) < 0.7
    scores = Interacting()(coalitions.float()[:, None, None]).double().numpy()
    distances = metrics.pairwise_distances(coalitions.numpy(), coalitions[:1].numpy(), metric="cosine").ravel()
    base = lime_base.LimeBase(lambda d: np.sqrt(np.exp(-(d**2) / 0.25**2)), random_state=np.random.RandomState(0))
    _, pairs, _, _ = base.explain_instance_with_data(coalitions.numpy(), scores, distances, 1, 100000)
    expected = torch.tensor([value for _, value in sorted(pairs)]).float()
    # The scores went through float32, and the regression adds no more than a few roundings to them.
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_lime_sees_the_whole_image_first():
    """With two samples, the whole image and another, the fit goes through what the whole image got."""
    seen = []

    class Watched(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.clone())
            return x.mean((2, 3))

    lime_attribution(Watched().eval(), "grey", torch.ones(1, 1, 4, 4), grid((4, 4), 1), 0, samples=2)
    assert sum(bool((one == 1).all()) for one in torch.cat(seen)) == 1


class _Synset:
    """Depths of a tree in which each letter is a level."""

    def __init__(self, name: str) -> None:
        self.name = name

    def wup_similarity(self, other: "_Synset") -> float | None:
        common = 0
        while self.name[: common + 1] == other.name[: common + 1] and common < min(len(self.name), len(other.name)):
            common += 1
        return 2 * common / (len(self.name) + len(other.name)) if common else None


class _Corpus:
    def synset(self, name: str) -> _Synset:
        if not name.isalpha():
            raise ValueError(name)
        return _Synset(name)

    def synset_from_pos_and_offset(self, part: str, offset: int) -> _Synset:
        return _Synset({1: "dog", 2: "dove"}[offset])


def test_similarity_of_classes():
    matrix = wordnet_similarity(["n00000001", "n00000002", "cat"], corpus=_Corpus())
    expected = torch.tensor([[1, 4 / 7, 0], [4 / 7, 1, 0], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(matrix, expected)
    with pytest.raises(OptionError, match="'n00000009' is no synset"):
        wordnet_similarity(["n00000009"], corpus=_Corpus())


def test_similarity_of_classes_without_nltk_or_its_corpus(monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk", None)
    monkeypatch.setitem(sys.modules, "nltk.corpus", None)
    with pytest.raises(MissingDependencyError, match="pip install nltk"):
        wordnet_similarity(["cat"])
    corpus = types.ModuleType("nltk.corpus")

    class Absent:
        def ensure_loaded(self) -> None:
            raise LookupError

    corpus.wordnet = Absent()
    monkeypatch.setitem(sys.modules, "nltk", types.ModuleType("nltk"))
    monkeypatch.setitem(sys.modules, "nltk.corpus", corpus)
    with pytest.raises(MissingDependencyError, match=r"nltk\.download"):
        wordnet_similarity(["cat"])


ONES = torch.ones(4, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: removal_order(ONES, "best_first"), OptionError, "one of 'random', .*; got 'best_first'"),
        (lambda: removal_order(ONES, "most_salient_first"), OptionError, "needs a saliency"),
        (lambda: removal_order(ONES, "most_salient_first", torch.ones(2, 2)), ShapeError, r"\(2, 2\).*\(4, 4\)"),
        (lambda: coalitions_after(torch.arange(3), [1.5]), OptionError, r"in \[0, 1\], got \[1.5\]"),
        (lambda: missingness(torch.ones(2, 3), torch.ones(2)), ShapeError, r"got \(2, 3\) and \(2,\)"),
        (lambda: missingness(torch.ones(2, 3), torch.ones(3), label=3), OptionError, "label is 3.*0 to 2"),
        (lambda: missingness(torch.ones(2, 3), torch.ones(3), similarity=torch.ones(2, 2)), ShapeError, r"\(3, 3\)"),
        (lambda: class_entropy([]), ShapeError, "no prediction"),
        (lambda: colour_bias(torch.ones(1, 3)), ShapeError, r"at least 2 colours, got \(1, 3\)"),
        (lambda: mean_interval([]), OptionError, "at least one number"),
        (lambda: mean_interval([1.0], level=2), OptionError, "between 0 and 1, got 2"),
        (lambda: linearity(torch.ones(2, 3), torch.ones(2), torch.ones(2)), ShapeError, r"\(2, 3\), \(2,\)"),
        (lambda: alignment(torch.ones(3), ONES, ONES), ShapeError, r"2 features.*\(3,\)"),
        (lambda: alignment(torch.ones(2), ONES, torch.ones(2, 2)), ShapeError, r"\(2, 2\)"),
        (lambda: top_jaccard(torch.ones(2), ONES, ONES, top=0), OptionError, "at least 1, got 0"),
        (lambda: rank_agreement(torch.ones(1), torch.ones(1)), ShapeError, r"at least 2, got \(1,\)"),
        (lambda: swapped_quadrants(torch.ones(3)), ShapeError, r"got shape \(3,\)"),
        (lambda: salient_region(torch.ones(4, 4), ONES, share=1.0), OptionError, "between 0 and 1, got 1.0"),
        (lambda: shape_leakage(torch.ones(2, 3), torch.ones(3, 3), 0), ShapeError, r"\(2, 3\) and \(3, 3\)"),
    ],
)
def test_bad_input(call, error, text):
    with pytest.raises(error, match=text):
        call()
