"""Further arguments of a model travel with each call: threads share an explainer, and messages name the user's modules."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import lm_plugins as lm
from lm_plugins.errors import InputTypeError, UnsupportedOperatorError
from lm_plugins.features import grid
from lm_plugins.removal import Blur, LayerMasking, as_removal
from lm_plugins.removal.model_call import ModelCall, seen_by

FEATURES = grid((12, 12), 6)
ROUNDS = 10
LEFT = torch.tensor(([1.0] * 6 + [0.1] * 6) * 12, dtype=torch.float64).reshape(1, 1, 12, 12)
RIGHT = LEFT.flip(3)


class Weighted(nn.Module):
    """A model of an image and of weights of its pixels."""

    def __init__(self, net, at_call=lambda: None):
        super().__init__()
        self.net, self.at_call = net, at_call

    def forward(self, x, weights):
        self.at_call()
        result = self.net(x * weights)
        self.at_call()
        return result


class Meeting:
    """Where two threads wait for each other, the first times that they come."""

    def __init__(self, times):
        self.barrier, self.times, self.mine = threading.Barrier(2), times, threading.local()

    def __call__(self):
        self.mine.count = getattr(self.mine, "count", 0) + 1
        if self.mine.count <= self.times:
            self.barrier.wait(30)


def with_meeting(name, meet):
    """A removal in which threads meet after the explainer's call and before the model's."""

    def removal(model):
        inner = as_removal(name)(model)

        def forward(x, visible, *further):
            meet()
            return inner(x, visible, *further)

        return forward

    return removal


@pytest.fixture
def net():
    torch.manual_seed(0)
    maps = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*maps, nn.Flatten(), nn.Linear(8, 2)).double().eval()


@pytest.fixture
def x():
    return torch.rand(1, 3, 12, 12, dtype=torch.float64)


def in_two_threads(call, arguments):
    """The results of one call for each argument, at the same time."""
    with ThreadPoolExecutor(len(arguments)) as pool:
        return [one.result() for one in [pool.submit(call, argument) for argument in arguments]]


def explainer(name, model, removal):
    if name in ("RISE", "SISE"):
        ours = pytest.importorskip("lm_plugins.attribution")
        return getattr(ours, name)(model, removal=removal, output="regression", batch_size=64)
    return getattr(pytest.importorskip("lm_plugins.captum"), name)(model, removal=removal)


SETTINGS = {
    "FeatureAblation": {"feature_mask": FEATURES},
    "ShapleyValues": {"feature_mask": FEATURES, "perturbations_per_eval": 4},
    "Occlusion": {"sliding_window_shapes": (3, 6, 6), "strides": (3, 6, 6)},
    "RISE": {"n_masks": 8, "seed": 0},
    "SISE": {},
}


@pytest.mark.parametrize("removal", ["layer_masking", "blur"])
@pytest.mark.parametrize("name", SETTINGS)
def test_threads_with_one_explainer_get_what_their_own_arguments_give(name, removal, net, x):
    def attributed(method, weights):
        return method.attribute(x, target=0, additional_forward_args=(weights,), **SETTINGS[name])

    alone = [attributed(explainer(name, Weighted(net).eval(), removal), weights) for weights in (LEFT, RIGHT)]
    assert not torch.allclose(*alone)
    for _ in range(ROUNDS):
        # SISE sets hooks on the layers of the shared model, too: its first two calls of the model run side by side.
        model = Weighted(net, Meeting(4) if name == "SISE" else lambda: None).eval()
        shared = explainer(name, model, with_meeting(removal, Meeting(1)))
        found = in_two_threads(lambda weights, shared=shared: attributed(shared, weights), (LEFT, RIGHT))
        for one, expected in zip(found, alone, strict=True):
            torch.testing.assert_close(one, expected)


def test_threads_with_one_integrated_grad_cam(net, x):
    ours = pytest.importorskip("lm_plugins.attribution")

    def attributed(method, weights):
        return method.attribute(x, target=0, additional_forward_args=(weights,), n_steps=3)

    alone = [attributed(ours.IntegratedGradCam(Weighted(net).eval(), "net.1"), weights) for weights in (LEFT, RIGHT)]
    assert not torch.allclose(*alone)
    for _ in range(ROUNDS):
        shared = ours.IntegratedGradCam(Weighted(net, Meeting(4)).eval(), "net.1")
        found = in_two_threads(lambda weights, shared=shared: attributed(shared, weights), (LEFT, RIGHT))
        for one, expected in zip(found, alone, strict=True):
            torch.testing.assert_close(one, expected)


def test_threads_with_one_lime_explainer_draw_the_same_coalitions_as_alone():
    ours = pytest.importorskip("lm_plugins.lime")
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    image = np.random.default_rng(0).random((12, 12, 3)).astype(np.float32)

    def explained(explainer, segmentation_fn):
        explanation = explainer.explain_instance(
            image, top_labels=1, num_samples=15, progress_bar=False, segmentation_fn=segmentation_fn
        )
        return explanation.local_exp

    alone = explained(
        ours.LimeImageExplainer(model, removal="grey", output="logits", random_state=0), lambda image: FEATURES.numpy()
    )
    for _ in range(ROUNDS):
        meet = Meeting(1)

        def segmented(image, meet=meet):
            meet()  # after the random state is made, before coalitions are drawn
            return FEATURES.numpy()

        shared = ours.LimeImageExplainer(model, removal="grey", output="logits", random_state=0)
        for found in in_two_threads(
            lambda function, shared=shared: explained(shared, function), (segmented, segmented)
        ):
            assert found == alone


# ---- how the arguments travel ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("removal", ["layer_masking", "grey", "noisy_linear"])
def test_further_arguments_follow_or_precede_the_images(removal, net, x):
    visible = torch.rand(1, 12, 12) > 0.3
    expected = as_removal(removal)(net)(x, visible)
    call = ModelCall(lambda factor, images, shift: factor * net(images) + shift)
    forward = as_removal(removal)(call)
    torch.testing.assert_close(seen_by(forward, x, visible, (3.0,), (2.0,)), 2 * expected + 3)
    torch.testing.assert_close(seen_by(as_removal(removal)(ModelCall(net)), x, visible), expected, atol=0, rtol=0)


@pytest.mark.parametrize("hides", [True, False])
def test_layer_masking_hands_further_arguments_on(hides, net, x):
    visible = torch.ones(12, 12, dtype=torch.bool)
    visible[2:5] = not hides
    found = lm.LayerMasked(Weighted(net).eval())(x, visible, LEFT)
    torch.testing.assert_close(found, lm.LayerMasked(net)(x * LEFT, visible))


def test_layer_masking_in_captums_own_classes_takes_further_arguments_after_the_mask(net, x):
    captum = pytest.importorskip("captum.attr")
    ours = pytest.importorskip("lm_plugins.captum")
    model = Weighted(net).eval()
    found = captum.FeatureAblation(lm.LayerMasked(model)).attribute(
        x, lm.MASKED, target=0, additional_forward_args=(None, LEFT), feature_mask=FEATURES[None, None]
    )
    expected = ours.FeatureAblation(model).attribute(
        x, target=0, additional_forward_args=(LEFT,), feature_mask=FEATURES
    )
    torch.testing.assert_close(found, expected)


def test_what_layer_masking_learns_outlives_a_batch(net, x):
    captum = pytest.importorskip("lm_plugins.captum")
    made = []

    def removal(model):
        made.append(LayerMasking()(model))
        return made[-1]

    method = captum.FeatureAblation(Weighted(net).eval(), removal=removal)
    method.attribute(x, target=0, feature_mask=FEATURES, additional_forward_args=(LEFT,))
    method.attribute(x, target=0, feature_mask=FEATURES, additional_forward_args=(RIGHT,))
    assert len(made) == 1


def test_a_removal_that_takes_no_further_arguments_says_so(net, x):
    captum = pytest.importorskip("lm_plugins.captum")

    def zeros(model):
        return lambda x, visible: model(x * visible[:, None])

    values = captum.FeatureAblation(net, removal=zeros).attribute(x, target=0, feature_mask=FEATURES)
    expected = captum.FeatureAblation(net, removal="grey").attribute(x, target=0, feature_mask=FEATURES)
    torch.testing.assert_close(values, expected)
    method = captum.FeatureAblation(Weighted(net).eval(), removal=zeros)
    with pytest.raises(InputTypeError, match=r"is to be forward\(x, visible, \*further\)"):
        method.attribute(x, target=0, feature_mask=FEATURES, additional_forward_args=(LEFT,))


# ---- names -----------------------------------------------------------------------------------------------------------


def unmaskable():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.LPPool3d(2, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double().eval()


@pytest.mark.parametrize(
    ("function", "path"),
    [
        (lambda net: net, "'1 (LPPool3d)'"),
        (lambda net: net.forward, "'1 (LPPool3d)'"),
        (lambda net: lambda x: net(x), "'net.1 (LPPool3d)'"),
    ],
)
@pytest.mark.parametrize("name", ["FeatureAblation", "RISE"])
def test_messages_name_the_modules_of_the_users_model(name, function, path, x):
    method = explainer(name, function(unmaskable()), None)
    with pytest.raises(UnsupportedOperatorError) as caught:
        method.attribute(x, target=0, **SETTINGS[name])
    assert f"lp_pool3d, called in {path}" in str(caught.value)
    assert "forward_func" not in str(caught.value)


def test_a_call_has_the_modules_and_parameters_of_its_model(net):
    call = ModelCall(net)
    assert list(call.named_modules()) == list(net.named_modules())
    assert [name for name, _ in nn.Sequential(call).named_modules()][:4] == ["", "0", "0.0", "0.1"]
    assert list(call.parameters()) == list(net.parameters())
    assert list(ModelCall(lambda x: net(x)).parameters()) == list(net.parameters())


def test_a_model_is_not_layer_masked_twice(net, x):
    captum = pytest.importorskip("lm_plugins.captum")
    masked = lm.LayerMasked(net)
    for model in (masked, nn.Sequential(masked, nn.Softmax(1)).eval(), lambda x: masked(x)):
        with pytest.raises(InputTypeError, match=r"layer-masked already.*masked\.model"):
            captum.FeatureAblation(model)
    painted = captum.FeatureAblation(masked, removal=Blur(2.0)).attribute(x, target=0, feature_mask=FEATURES)
    plain = captum.FeatureAblation(net, removal=Blur(2.0)).attribute(x, target=0, feature_mask=FEATURES)
    torch.testing.assert_close(painted, plain)


@pytest.mark.parametrize("other", ["resnet50", None, nn.ReLU])
def test_what_cannot_be_called_is_refused(other):
    with pytest.raises(InputTypeError, match="forward_func is a model or a function, got"):
        ModelCall(other)
