"""EDDA's views: what is left, what is hidden, and what each is trained towards."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import lm_plugins as lm
from lm_plugins.errors import InputTypeError, NonFiniteError, OptionError, ShapeError, TrainingModeError
from lm_plugins.removal import Colour
from lm_plugins.training import ExplanationDrivenAugmentation, GradCam
from tests.training.networks import images, left_half, network


def edda(**options):
    return ExplanationDrivenAugmentation(options.pop("explainer", left_half), 3, **options)


def test_views():
    x, labels = images()
    views = edda()(network(4), x, labels)
    assert torch.equal(views.images[:4], x)
    assert torch.equal(views.images[4:8, ..., :4], x[..., :4])
    assert torch.equal(views.images[4:8, ..., 4:], torch.zeros(4, 3, 8, 4))
    assert torch.equal(views.images[8:, ..., 4:], x[..., 4:])
    assert torch.equal(views.images[8:, ..., :4], torch.zeros(4, 3, 8, 4))
    assert torch.equal(views.targets, torch.cat([labels, labels, torch.full((4,), 3)]))
    assert torch.equal(views.sources, torch.arange(4).repeat(3))
    assert views.background.tolist() == [False] * 8 + [True] * 4
    assert views.visible[:4].all()
    assert torch.equal(views.visible[4:8], ~views.visible[8:])


@pytest.mark.parametrize(
    ("low_confidence", "outputs", "targets"),
    [("background", 4, [3, 3, 3, 3]), ("negative", 6, [3, 4, 5, 3]), (None, 3, [])],
)
def test_low_confidence(low_confidence, outputs, targets):
    x, labels = images()
    augment = edda(low_confidence=low_confidence)
    assert augment.outputs == outputs
    views = augment(network(outputs), x, labels)
    assert views.targets[8:].tolist() == targets
    F.cross_entropy(views.logits(network(outputs)), views.targets).backward()


def test_uniform():
    x, labels = images()
    views = edda(low_confidence="uniform")(network(), x, labels)
    assert torch.equal(views.targets[:8], F.one_hot(labels.repeat(2), 3).float())
    torch.testing.assert_close(views.targets[8:], torch.full((4, 3), 1 / 3))
    loss = F.cross_entropy(views.logits(network()), views.targets)
    by_hand = -(views.targets * network()(views.images).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, by_hand)


def test_the_last_layer_must_fit():
    x, labels = images()
    with pytest.raises(OptionError, match="one output more"):
        edda()(network(3), x, labels).logits(network(3))
    with pytest.raises(OptionError, match="3 classes, the model has 4"):
        edda(low_confidence="uniform")(network(4), x, labels).logits(network(4))


@pytest.mark.parametrize("value", [0.0, torch.nan])
def test_maps_that_say_nothing_give_no_views(value):
    x, labels = images()

    def says_nothing_twice(model, x, labels):
        maps = left_half(model, x, labels)
        maps[1:3] = value
        return maps

    views = edda(explainer=says_nothing_twice)(network(4), x, labels)
    assert views.sources.tolist() == [0, 1, 2, 3, 0, 3, 0, 3]


def test_all_views_rejected():
    x, labels = images()
    views = edda(explainer=lambda model, x, labels: torch.zeros(len(x), 8, 8))(network(4), x, labels)
    assert torch.equal(views.images, x)
    assert torch.equal(views.targets, labels)


def test_only_supported():
    x, labels = images(8)
    model = network(4).eval()
    views = edda(only_supported=True)(model, x, labels)
    everything = edda()(model, x, labels)
    with torch.no_grad():
        kept, removed = (model(everything.images[i : i + 8]).softmax(1) for i in (8, 16))
        before = model(x).softmax(1)
    agrees = kept.argmax(1) == labels
    falls = (removed < before)[torch.arange(8), labels]
    assert 0 < agrees.sum() + falls.sum() < 16
    expected = [*range(8), *torch.arange(8)[agrees].tolist(), *torch.arange(8)[falls].tolist()]
    assert views.sources.tolist() == expected


def test_probability_seed_and_epoch():
    x, labels = images(40)
    counts = []
    for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0)):
        augment = edda(probability=0.5, seed=seed)
        augment.epoch = epoch
        counts.append(augment(network(4), x, labels).sources.tolist())
    assert counts[0] == counts[1]
    assert counts[0] != counts[2]
    assert counts[0] != counts[3]
    assert 40 < len(counts[0]) < 120
    assert len(edda(probability=0)(network(4), x, labels)) == 40


def test_warm_up():
    x, labels = images()
    augment = edda(warm_up=2)
    for epoch, count in ((0, 4), (1, 4), (2, 12)):
        augment.epoch = epoch
        assert len(augment(network(4), x, labels)) == count


def test_refresh():
    x, labels = images()
    asked = []

    def counting(model, x, labels):
        asked.append(len(x))
        return left_half(model, x, labels)

    augment = edda(explainer=counting, refresh=2)
    first = augment(network(4), x[:2], labels[:2], [7, 8])
    augment.epoch = 1
    again = augment(network(4), x[:3], labels[:3], torch.tensor([7, 8, 9]))
    assert asked == [2, 1]
    assert torch.equal(first.visible[2:], again.visible[[3, 4, 6, 7]])
    other = edda(explainer=counting, refresh=2)
    other.take_up(augment.regions())
    other.epoch = 2
    other(network(4), x[:3], labels[:3], [7, 8, 9])
    assert asked == [2, 1, 2]  # 7 and 8 are two epochs old


@pytest.mark.parametrize(
    ("index", "error", "words"),
    [(None, InputTypeError, "pass index"), ([1], OptionError, "1 numbers for 4 images")],
)
def test_refresh_needs_the_index(index, error, words):
    with pytest.raises(error, match=words):
        edda(refresh=3)(network(4), *images(), index)


def test_refresh_needs_the_same_images():
    augment = edda(refresh=3)
    x, labels = images()
    augment(network(4), x, labels, range(4))
    with pytest.raises(ShapeError, match="the same in every"):
        augment(network(4), x[..., :6], labels, range(4))


def test_other_paint():
    x, labels = images()
    views = edda(removal=Colour(2.0))(network(4), x, labels)
    assert torch.equal(views.images[4:8, ..., 4:], torch.full((4, 3, 8, 4), 2.0))


def test_layer_masking():
    x, labels = images()
    model = network(4).eval()
    views = edda(removal=None)(model, x, labels)
    assert torch.equal(views.images, x.repeat(3, 1, 1, 1))
    logits = views.logits(model)
    torch.testing.assert_close(logits, lm.LayerMasked(model)(views.images, views.visible))
    F.cross_entropy(logits, views.targets).backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in model.parameters())
    changed = torch.where(views.visible[:, None], views.images, 9.0)
    torch.testing.assert_close(lm.LayerMasked(model)(changed, views.visible), logits, rtol=0, atol=0)


def test_layer_masking_in_training_mode():
    x, labels = images()
    model = network(4)
    views = edda(removal="layer_masking")(model, x, labels)
    with pytest.raises(TrainingModeError, match=r"model\.eval"):
        views.logits(model)


def test_a_real_explainer_and_one_image():
    model = network(4)
    x, labels = images(1)
    views = edda(explainer=GradCam("0"))(model, x, labels)
    assert len(views) == 3
    assert model.training


def test_collate():
    x, labels = images()
    model = network(4)
    data = [(image, int(label)) for image, label in zip(x, labels, strict=True)]
    (batch,) = DataLoader(data, 4, collate_fn=edda().collate(model))
    views = edda()(model, x, labels)
    assert torch.equal(batch[0], views.images)
    assert torch.equal(batch[1], views.targets)


@pytest.mark.parametrize(("options", "words"), [({"removal": None}, "layer masking"), ({"refresh": 2}, "index")])
def test_collate_cannot(options, words):
    with pytest.raises(OptionError, match=words):
        edda(**options).collate(network(4))


def test_collate_of_other_data():
    with pytest.raises(InputTypeError, match="pairs"):
        edda().collate(network(4))([(torch.zeros(3, 8, 8), 1, 2)])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": 1.0}, "threshold"),
        ({"probability": 1.5}, "probability"),
        ({"low_confidence": "other"}, "low_confidence"),
        ({"warm_up": -1}, "warm_up"),
        ({"batch_size": 0}, "batch_size"),
        ({"refresh": 0}, "refresh"),
        ({"removal": "gray"}, "no removal"),
    ],
)
def test_options(options, words):
    with pytest.raises(OptionError, match=words):
        edda(**options)


def test_what_is_no_explainer():
    with pytest.raises(InputTypeError, match="explainer"):
        edda(explainer="GradCam")


@pytest.mark.parametrize(
    ("x", "labels", "error", "words"),
    [
        (torch.zeros(2, 3, 8, 8), torch.tensor([0, 3]), OptionError, r"0 \.\. 2"),
        (torch.zeros(2, 3, 8, 8), torch.tensor([-1, 0]), OptionError, r"0 \.\. 2"),
        (torch.zeros(2, 3, 8, 8), torch.tensor([0.0, 1.0]), InputTypeError, "integer"),
        (torch.zeros(2, 3, 8, 8), [0, 1], InputTypeError, "list"),
        (torch.zeros(2, 3, 8, 8), torch.tensor([0]), ShapeError, r"\(2,\)"),
        (torch.zeros(3, 8, 8), torch.tensor([0]), ShapeError, "N, C, H, W"),
        (torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.int64), ShapeError, "empty"),
        (torch.full((1, 3, 8, 8), torch.nan), torch.tensor([0]), NonFiniteError, "NaN"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.tensor([0]), InputTypeError, "uint8"),
    ],
)
def test_bad_input(x, labels, error, words):
    with pytest.raises(error, match=words):
        edda()(network(4), x, labels)
