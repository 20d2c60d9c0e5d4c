"""Explaining a model that is being trained leaves it as it was."""

import copy

import pytest
import torch
from captum.attr import DeepLift, IntegratedGradients, LayerGradCam, Saliency, ShapleyValueSampling
from torch import nn

from lm_plugins.attribution import RISE, SISE
from lm_plugins.captum import Occlusion
from lm_plugins.errors import InputTypeError, LayerError, OptionError, ShapeError
from lm_plugins.training import Attribution, GradCam, explained, salient_region
from tests.training.networks import images, left_half, network

EXPLAINERS = {
    "Grad-CAM": GradCam("0"),
    "Saliency": Attribution(Saliency, abs=False),
    "IntegratedGradients": Attribution(IntegratedGradients, n_steps=3),
    "DeepLift": Attribution(DeepLift),
    "ShapleyValueSampling": Attribution(
        ShapleyValueSampling, n_samples=1, feature_mask=torch.arange(64).view(8, 8) // 16
    ),
    "occlusion": Attribution(Occlusion, sliding_window_shapes=(3, 4, 4), strides=(3, 4, 4)),
    "SISE": Attribution(lambda model: SISE(model, layers=["0"], output="logits")),
    "RISE": Attribution(lambda model: RISE(model, output="logits"), n_masks=5, seed=0),
}


@pytest.mark.parametrize("name", EXPLAINERS)
@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks and attributes on non-linear")
def test_the_model_is_left_as_it_was(name):
    model = network()
    model[0].eval()
    x, labels = images()
    model(x).sum().backward()
    state = copy.deepcopy(model.state_dict())
    gradients = [one.grad.clone() for one in model.parameters()]
    modes = [one.training for one in model.modules()]
    maps = explained(model, EXPLAINERS[name], x, labels, batch_size=3)
    assert maps.shape == (4, 8, 8)
    assert not maps.requires_grad
    assert maps.isfinite().all()
    assert [one.training for one in model.modules()] == modes
    assert all(torch.equal(one, state[key]) for key, one in model.state_dict().items())
    for one, gradient in zip(model.parameters(), gradients, strict=True):
        assert torch.equal(one.grad, gradient)
    assert not any(one._forward_hooks or one._backward_hooks for one in model.modules())


def test_it_is_left_as_it_was_after_an_error():
    model = network()

    def fails(model, x, labels):
        model.weight_that_is_missing  # noqa: B018

    with pytest.raises(AttributeError):
        explained(model, fails, *images())
    assert all(one.training for one in model.modules())


def test_grad_cam_is_captums():
    model = network().eval()
    x, labels = images()
    expected = LayerGradCam(model, model[0]).attribute(x, target=labels)[:, 0]
    torch.testing.assert_close(GradCam("0")(model, x, labels), expected)
    torch.testing.assert_close(GradCam("0", relu=True)(model, x, labels), expected.relu())


def test_a_batch_equals_its_images():
    model = network().eval()
    x, labels = images(5)
    whole = explained(model, GradCam("0"), x, labels)
    torch.testing.assert_close(whole, explained(model, GradCam("0"), x, labels, batch_size=1))


def test_labels_of_inference_mode():
    model = network().eval()
    x, _ = images()
    with torch.inference_mode():
        labels = model(x).argmax(1)
    for explainer in (GradCam("0"), Attribution(Saliency)):
        torch.testing.assert_close(
            explained(model, explainer, x, labels), explained(model, explainer, x, labels.clone())
        )


def test_the_mode_of_the_model_as_published():
    model = network()
    x, labels = images()
    before = model[1].running_mean.clone()
    in_evaluation = explained(model, GradCam("0"), x, labels)
    assert torch.equal(model[1].running_mean, before)
    in_training = explained(model, GradCam("0"), x, labels, training_mode=True)
    assert not torch.equal(model[1].running_mean, before)
    assert not torch.allclose(in_evaluation, in_training)


def test_salient_region():
    maps = torch.tensor([[[0.0, 1.0], [3.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]], [[torch.nan, 0.0], [1.0, 2.0]]])
    region, says_something = salient_region(maps)
    assert region.tolist() == [[[False, False], [True, True]], [[False] * 2] * 2, [[False] * 2] * 2]
    assert says_something.tolist() == [True, False, False]
    assert salient_region(maps, 0.8)[0][0].tolist() == [[False, False], [False, True]]
    assert salient_region(maps, 0)[0][0].tolist() == [[False, True], [True, True]]


@pytest.mark.parametrize("threshold", [-0.1, 1, 1.5, "0.5", True])
def test_threshold(threshold):
    with pytest.raises(OptionError, match="threshold"):
        salient_region(torch.rand(1, 2, 2), threshold)


@pytest.mark.parametrize(
    ("explainer", "error", "words"),
    [
        (lambda model, x, labels: x, ShapeError, r"\(N, H, W\)"),
        (lambda model, x, labels: None, InputTypeError, "NoneType"),
        (lambda model, x, labels: x[:, 0] > 0, InputTypeError, "bool"),
        (GradCam("missing"), LayerError, "missing"),
        (GradCam("4"), LayerError, "maps"),
        (GradCam("5"), LayerError, "maps"),
    ],
)
def test_bad_explainers(explainer, error, words):
    with pytest.raises(error, match=words):
        explained(network(), explainer, *images())


def test_what_is_no_classifier():
    with pytest.raises(InputTypeError, match="logits"):
        GradCam("0")(nn.Sequential(nn.Conv2d(3, 4, 3)), *images())
    with pytest.raises(OptionError, match=r"label 2 .* 2 outputs"):
        GradCam("0")(network(2).eval(), *images())


def test_what_is_no_explainer():
    with pytest.raises(InputTypeError, match="name of a layer"):
        GradCam(nn.ReLU())
    with pytest.raises(InputTypeError, match="Saliency"):
        Attribution("Saliency")
    assert repr(GradCam("0")) == "GradCam('0', relu=False)"
    assert repr(Attribution(Saliency)) == "Attribution(Saliency)"


def test_no_images():
    assert explained(network(), left_half, torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.int64)).shape == (
        0,
        8,
        8,
    )
