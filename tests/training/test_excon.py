"""ExCon's views: the explanation where the model agrees, the back-up where not, and images of background."""

import pytest
import torch

import lm_plugins as lm
from lm_plugins.errors import InputTypeError, OptionError, ShapeError
from lm_plugins.training import ExConViews, GradCam, supervised_contrastive_loss
from tests.training.networks import images, left_half, network


class Answers(torch.nn.Module):
    """Says class 0 or, where the mean of an image is negative, class 1."""

    def forward(self, x):
        mean = x.mean((1, 2, 3))
        return torch.stack([mean, -mean], 1)


def batch(count=4):
    """Whole images whose left half has the sign that the model looks at, with labels that agree for the first two."""
    x, _ = images(count)
    x[..., :4] = x[..., :4].abs()
    labels = torch.tensor([0, 0, 1, 1] * (count // 4))
    return x, x.flip(3), x.flip(2), labels


def excon(**options):
    return ExConViews(options.pop("explainer", left_half), 2, **options)


def test_exconb():
    whole, backup, other, labels = batch()
    views = excon()(Answers(), whole, backup, other, labels)
    shown = torch.cat([whole[..., :4], torch.zeros(4, 3, 8, 4)], 3)
    assert torch.equal(views.images[:2], shown[:2])
    assert torch.equal(views.images[2:4], backup[2:])
    assert torch.equal(views.images[4:8], other)
    assert torch.equal(views.images[8:], shown[2:])
    assert views.targets.tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 2, 2]
    assert views.background.tolist() == [False] * 8 + [True] * 2
    assert views.sources.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 2, 3]


def test_excon():
    views = excon(background=False)(Answers(), *batch())
    assert len(views) == 8
    assert not views.background.any()


def test_published_background():
    views = excon(background_views=2)(Answers(), *batch())
    assert views.sources[8:].tolist() == [2, 3, 2, 3]


def test_cap_on_background():
    several = [excon(max_background=3, seed=seed)(Answers(), *batch(16)).sources[32:].tolist() for seed in (0, 0, 1)]
    assert all(len(one) == 3 for one in several)
    assert several[0] == several[1]
    assert several[0] != several[2]
    assert len(excon(max_background=0)(Answers(), *batch())) == 8


def test_start():
    whole, backup, other, labels = batch()
    make = excon(start=1)
    views = make(Answers(), whole, backup, other, labels)
    assert torch.equal(views.images, torch.cat([backup, other]))
    make.epoch = 1
    assert len(make(Answers(), whole, backup, other, labels)) == 10


@pytest.mark.parametrize("value", [1.0, torch.nan])
def test_maps_that_say_nothing(value):
    whole, backup, other, labels = batch()
    views = excon(explainer=lambda model, x, labels: torch.full((len(x), 8, 8), value))(
        Answers(), whole, backup, other, labels
    )
    assert torch.equal(views.images, torch.cat([backup, other]))


def test_a_real_model_is_left_as_it_was():
    model = network(3)
    x, labels = images()
    views = ExConViews(GradCam("0"), 3)(model, x, x, x, labels)
    assert all(one.training for one in model.modules())
    loss = supervised_contrastive_loss(views.outputs(model[:5]), views.targets, views.background)
    loss.backward()
    assert loss.isfinite()


def test_layer_masking():
    model = network(3).eval()
    x, labels = images()
    views = ExConViews(left_half, 3, removal=None)(model, x, x, x, labels)
    assert torch.equal(views.images[:4], x)
    encoder = model[:5].eval()
    torch.testing.assert_close(views.outputs(encoder), lm.LayerMasked(encoder)(views.images, views.visible))
    with torch.no_grad():
        agrees = lm.LayerMasked(model)(x, left_half(model, x, labels) > 0).argmax(1) == labels
    assert torch.equal(views.visible[:4].flatten(1).all(1), ~agrees)


def test_one_image():
    views = excon()(Answers(), *(one[:1] for one in batch()))
    assert len(views) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": -1}, "threshold"),
        ({"background_views": 0}, "background_views"),
        ({"max_background": -1}, "max_background"),
        ({"start": 1.5}, "start"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_options(options, words):
    with pytest.raises(OptionError, match=words):
        excon(**options)


def test_bad_input():
    whole, backup, other, labels = batch()
    with pytest.raises(ShapeError, match="one shape"):
        excon()(Answers(), whole, backup[..., :4], other, labels)
    with pytest.raises(OptionError, match="labels"):
        excon()(Answers(), whole, backup, other, labels + 5)
    with pytest.raises(InputTypeError, match="explainer"):
        excon(explainer=None)
