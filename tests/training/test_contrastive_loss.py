"""The loss against literal loops, the authors' formula, and a well-kept library's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.losses import SupConLoss

from lm_plugins.errors import InputTypeError, NonFiniteError, OptionError, ShapeError
from lm_plugins.training import supervised_contrastive_loss
from tests.references.contrastive import contrastive_loss, published_loss


def embeddings(rows, seed=0, size=5):
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None, max_examples=40)
@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    hidden=st.integers(0, 2**9 - 1),
    temperature=st.sampled_from([0.07, 0.1, 1.0]),
    seed=st.integers(0, 5),
)
def test_loops(labels, hidden, temperature, seed):
    background = [bool(hidden >> i & 1) for i in range(len(labels))]
    z = embeddings(len(labels), seed)
    found = supervised_contrastive_loss(z, torch.tensor(labels), torch.tensor(background), temperature)
    torch.testing.assert_close(found, contrastive_loss(z, labels, background, temperature))


@pytest.mark.parametrize("seed", range(4))
def test_metric_learning(seed):
    z, labels = embeddings(12, seed), torch.tensor([0, 1, 2] * 4)
    found = supervised_contrastive_loss(z, labels, temperature=0.1)
    torch.testing.assert_close(found, SupConLoss(temperature=0.1)(z, labels), rtol=1e-6, atol=0)


@pytest.mark.parametrize("seed", range(4))
def test_published_exconb(seed):
    labels, real = [0, 1, 0, 2, 5, 5], 4
    z = torch.nn.functional.normalize(embeddings(12, seed), dim=1)
    background = torch.arange(6) >= real
    found = supervised_contrastive_loss(
        z, torch.tensor(labels).repeat(2), background.repeat(2), temperature=0.1, base_temperature=0.07
    )
    torch.testing.assert_close(found, published_loss(z[:6], z[6:], labels, real, 0.1), rtol=1e-6, atol=0)


def test_published_background_class():
    labels = [0, 1, 0, 2, 5, 5]
    z = torch.nn.functional.normalize(embeddings(12), dim=1)
    found = supervised_contrastive_loss(z, torch.tensor(labels).repeat(2), temperature=0.1, base_temperature=0.07)
    torch.testing.assert_close(found, published_loss(z[:6], z[6:], labels, 6, 0.1), rtol=1e-6, atol=0)


def test_gradients():
    z, labels = embeddings(6).requires_grad_(), torch.tensor([0, 1, 0, 1, 2, 2])
    background = torch.tensor([False] * 4 + [True] * 2)
    assert torch.autograd.gradcheck(lambda z: supervised_contrastive_loss(z, labels, background, 0.5), z)


def test_background_pushes_away_and_is_no_positive():
    labels = torch.tensor([0, 0, 1, 1, 2])
    far, near = embeddings(5), embeddings(5)
    far[4], near[4] = -far[:4].sum(0), near[:4].sum(0)
    background = torch.tensor([False] * 4 + [True])
    losses = [supervised_contrastive_loss(one, labels, background) for one in (far, near)]
    assert losses[0] < losses[1]


@pytest.mark.parametrize("rows", [1, 3])
def test_no_positive(rows):
    z = embeddings(rows).requires_grad_()
    loss = supervised_contrastive_loss(z, torch.arange(rows))
    loss.backward()
    assert loss == 0
    assert torch.equal(z.grad, torch.zeros_like(z))


def test_one_image_of_two_views():
    assert supervised_contrastive_loss(embeddings(2), torch.tensor([3, 3])) == 0


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"z": torch.ones(4, 5, dtype=torch.int64)}, InputTypeError, "floating-point"),
        ({"z": torch.ones(2, 2, 5)}, ShapeError, "torch.cat"),
        ({"labels": torch.ones(4)}, InputTypeError, "integer"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, ShapeError, r"\(3,\)"),
        ({"background": torch.zeros(4)}, InputTypeError, "bool"),
        ({"background": torch.zeros(2, dtype=torch.bool)}, ShapeError, r"\(2,\)"),
        ({"temperature": 0.0}, OptionError, "temperature"),
        ({"base_temperature": -1.0}, OptionError, "base_temperature"),
        ({"z": torch.full((4, 5), torch.nan)}, NonFiniteError, "diverged"),
    ],
)
def test_bad_input(changed, error, words):
    given = {"z": torch.ones(4, 5), "labels": torch.tensor([0, 1, 0, 1])} | changed
    with pytest.raises(error, match=words):
        supervised_contrastive_loss(**given)
