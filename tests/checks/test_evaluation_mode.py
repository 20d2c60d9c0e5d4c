"""A model, or a part of one, in training mode: refused by all in the same words, before anything runs."""

import functools
import re

import numpy as np
import pytest
import torch
from torch import nn

import lm_plugins as lm
from lm_plugins.audit import confidence_in_top, deletion, insertion, run_audit
from lm_plugins.audit.lime_explanation import lime_attribution
from lm_plugins.audit.saliency import gradient_saliency
from lm_plugins.checks import check_evaluation_mode, modules_of
from lm_plugins.errors import TrainingModeError
from lm_plugins.features import CoalitionEvaluator, grid
from lm_plugins.removal import REMOVALS, Colour, LayerMasking, as_removal
from lm_plugins.testing import check_model

WORDS = "needs a model in evaluation mode; in training mode: "
ADVICE = ". Call model.eval() first: dropout would draw at random, and batch norm would mix images and move"
FEATURES = grid((12, 12), 6)
EVERYTHING = torch.ones(1, 12, 12, dtype=torch.bool)


@pytest.fixture
def model():
    """In evaluation mode, except for its batch norm."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    net[1].train()
    return net


@pytest.fixture
def x():
    return torch.randn(1, 3, 12, 12)


def captum(name, removal, **settings):
    def call(model, x):
        ours = pytest.importorskip("lm_plugins.captum")
        explainer = getattr(ours, name)(model, removal=removal)
        return explainer.attribute(x, target=0, **(settings or {"feature_mask": FEATURES}))

    return call


def attribution(name, *arguments, **settings):
    def call(model, x):
        ours = pytest.importorskip("lm_plugins.attribution")
        return getattr(ours, name)(model, *arguments, **settings).attribute(x, target=0)

    return call


def lime(model, x):
    ours = pytest.importorskip("lm_plugins.lime")
    image = np.zeros((12, 12, 3), np.float32)
    return ours.LimeImageExplainer(model, removal="grey").explain_instance(image, num_samples=9, progress_bar=False)


def masked_classifier(model, x):
    ours = pytest.importorskip("lm_plugins.lime")
    return ours.MaskedClassifier(model, np.zeros((12, 12, 3), np.float32), removal="grey")


def shap_model(model, x):
    ours = pytest.importorskip("lm_plugins.shap")
    return ours.Model(model, removal="grey")(np.zeros((1, 12, 12, 3), np.float32))


def shap_function(model, x):
    ours = pytest.importorskip("lm_plugins.shap")
    function = ours.ValueFunction(model, np.zeros((12, 12, 3), np.float32), FEATURES.numpy(), removal="grey")
    return function(function.everything)


def quantus(model, x):
    ours = pytest.importorskip("lm_plugins.quantus")
    masks = ours.PixelMasks(model, x, removal="grey")
    return masks(torch.from_numpy(masks.x_batch))


def layers(model, x):
    ours = pytest.importorskip("lm_plugins.attribution")
    return ours.layers_before_downsampling(model, x)


def answered(model, x):
    answers = pytest.importorskip("lm_plugins.cli.answers")
    return answers.answered(model, x, "logits")


def by_hand(measure):
    """A measure of a forward that the user wrote, which no removal checks."""

    def call(model, x):
        return measure(lambda x, visible: model(x * visible[:, None]), x, x, 0)

    return call


CALLS = {
    "FeatureAblation": captum("FeatureAblation", "grey"),
    "KernelShap": captum("KernelShap", None),
    "Lime": captum("Lime", "blur"),
    "ShapleyValues": captum("ShapleyValues", "black"),
    "ShapleyValueSampling": captum("ShapleyValueSampling", lambda model: lambda x, visible: model(x)),
    "Occlusion": captum("Occlusion", "image_mean", sliding_window_shapes=(3, 6, 6), strides=(3, 6, 6)),
    "RISE": attribution("RISE", output="logits"),
    "SISE": attribution("SISE", output="logits"),
    "AdaSISE": attribution("AdaSISE", output="logits"),
    "IntegratedGradCam": attribution("IntegratedGradCam", "1"),
    "the choice of layers": layers,
    "LIME": lime,
    "LIME ": masked_classifier,
    "SHAP": shap_model,
    "SHAP ": shap_function,
    "Quantus": quantus,
    "the audit": lambda m, x: run_audit(m, x, removals=("grey",), progress=False),
    "the gradient": lambda m, x: gradient_saliency(m, x, 0),
    "LIME  ": lambda m, x: lime_attribution(m, "grey", x, FEATURES, 0, samples=4),
    "deletion": by_hand(deletion),
    "insertion": by_hand(insertion),
    "confidence": by_hand(confidence_in_top),
    "the evaluation of coalitions": lambda m, x: CoalitionEvaluator(as_removal("grey")(m), x, FEATURES)(
        torch.ones(1, 4)
    ),
    "coverage": lm.coverage,
    "check_model": check_model,
    "the command line": answered,
    "layer masking": lambda m, x: lm.LayerMasked(m)(x),
    **{
        type(removal).__name__ + " " * i: lambda m, x, removal=removal: removal(m)(x, EVERYTHING)
        for i, removal in enumerate(make() for make in REMOVALS.values())
        if not isinstance(removal, LayerMasking)
    },
}
#: What paints by another removal's hand is asked in that one's name.
NAMES = {"PixelColour": "Colour", "SHAP  ": "SHAP"}


@pytest.mark.parametrize("who", CALLS)
def test_a_part_in_training_mode_is_refused_before_statistics_move(model, x, who):
    ran = []
    model.register_forward_pre_hook(lambda *_: ran.append(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    asked = NAMES.get(who.strip(), who.strip())
    with pytest.raises(TrainingModeError, match=rf"^{asked} {WORDS}[\w. ]*\b1{re.escape(ADVICE)}"):
        CALLS[who](model, x)
    assert not ran
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_that_went_to_evaluation_mode_after_the_explainer_was_made_is_taken(model, x):
    captum = pytest.importorskip("lm_plugins.captum")
    shap = pytest.importorskip("lm_plugins.shap")
    lime = pytest.importorskip("lm_plugins.lime")
    model.train()
    image = np.zeros((12, 12, 3), np.float32)
    explainer, function = captum.FeatureAblation(model), shap.ValueFunction(model, image, FEATURES.numpy())
    masked, of_lime = lm.LayerMasked(model), lime.LimeImageExplainer(model, output="logits", random_state=0)
    model.eval()
    assert explainer.attribute(x, feature_mask=FEATURES, target=0).isfinite().all()
    assert np.isfinite(function(function.everything)).all()
    assert of_lime.explain_instance(
        image, num_samples=9, progress_bar=False, segmentation_fn=lambda i: FEATURES.numpy()
    )
    assert deletion(masked, x, x, 0, steps=2, output="regression").scores.isfinite().all()


# ---- functions -------------------------------------------------------------------------------------------------------

NET = nn.Sequential(nn.Dropout())


def wrapped(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


class Pipeline:
    def __init__(self, net):
        self.steps = {"net": net}

    def predict(self, x):
        return self.steps["net"](x)

    def __call__(self, x):
        return self.predict(x)


class CallsGlobal:
    def __call__(self, x):
        return NET(x)


def calls_global(x):
    return [NET(one) for one in x]


FUNCTIONS = {
    "a variable that is closed over": (lambda net: lambda x: net(x), "net.0"),
    "a list of models": (lambda net: (lambda nets: lambda x: sum(one(x) for one in nets))([net]), "nets.0.0"),
    "a default": (lambda net: lambda x, model=net: model(x), "model.0"),
    "a default by keyword": (lambda net: lambda x, *, model=net: model(x), "model.0"),
    "a partial's argument": (lambda net: functools.partial(lambda net, x: net(x), net), "0.0"),
    "a partial's keyword": (lambda net: functools.partial(lambda x, net: net(x), net=net), "net.0"),
    "a partial of a model": (lambda net: functools.partial(net), "the model itself, 0"),
    "a bound method": (lambda net: net.forward, "the model itself, 0"),
    "an attribute": (lambda net: Pipeline(net), "steps.net.0"),
    "an attribute of a method's owner": (lambda net: Pipeline(net).predict, "steps.net.0"),
    "an object that is closed over": (
        lambda net: (lambda it: lambda x: it.predict(x))(Pipeline(net)),
        "it.steps.net.0",
    ),
    "a decorated function": (lambda net: wrapped(lambda x: net(x)), "net.0"),
    "a cached function": (lambda net: functools.lru_cache(lambda x: net(x)), "net.0"),
    "a function in a function": (lambda net: lambda x: (lambda y: net(y))(x), "net.0"),
    "a global": (lambda net: calls_global, "NET.0"),
    "a global of a function that is called": (lambda net: lambda x: calls_global(x)[0], "calls_global.NET.0"),
    "a global in an object": (lambda net: CallsGlobal(), "NET.0"),
}


@pytest.mark.parametrize("how", FUNCTIONS)
def test_a_module_that_a_function_holds_is_seen(how):
    make, names = FUNCTIONS[how]
    NET.train()
    net = nn.Sequential(nn.Dropout())
    with pytest.raises(TrainingModeError, match=f"the test {WORDS}{names}{re.escape(ADVICE)}"):
        check_evaluation_mode(make(net), "the test")
    NET.eval()
    net.eval()
    check_evaluation_mode(make(net), "the test")


def test_transforms_which_never_leave_training_mode_are_no_models(x):
    class Normalize(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.ones(1))

        def forward(self, x):
            return x - self.mean

    normalize, softmax = Normalize(), nn.Softmax(1)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout()).eval()

    def predict(x):
        return softmax(net(normalize(x)))

    check_evaluation_mode(predict, "the test")
    assert as_removal("grey")(predict)(x, EVERYTHING).shape == (1, 3)
    captum = pytest.importorskip("lm_plugins.captum")
    assert captum.FeatureAblation(predict).attribute(x, feature_mask=FEATURES, target=0).isfinite().all()
    net.train()
    with pytest.raises(TrainingModeError, match=rf"FeatureAblation {WORDS}net\.2\. "):
        captum.FeatureAblation(predict).attribute(x, feature_mask=FEATURES, target=0)


class Touchy:
    __slots__ = ()

    def __getattr__(self, name):
        raise AssertionError(name)


class Counted(list):
    """A list that counts how many of its entries are looked at."""

    count = 0

    def __iter__(self):
        for one in super().__iter__():
            self.count += 1
            yield one


def test_what_is_nearest_is_looked_at_first():
    net = nn.ReLU()
    far = [[[net]]]
    assert modules_of(lambda x: (far, net)) == [("net", net)]
    assert modules_of(lambda x: far[0]) == []


def test_looking_for_modules_calls_nothing_and_ends():
    touchy, loop = Touchy(), []
    loop.append(loop)
    rows = [Counted({str(i): i} for i in range(10**4)) for _ in range(1000)]
    assert modules_of(lambda x: (touchy, loop, rows, not_assigned)) == []
    assert sum(one.count for one in rows) <= 100 * 101
    if loop is None:
        not_assigned = 1


def test_statistics_do_not_move_where_a_lambda_hides_the_model(x):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    before = net[1].running_mean.clone()
    with pytest.raises(TrainingModeError, match=rf"Colour {WORDS}net\.1"):
        Colour()(lambda x: net(x))(x, EVERYTHING)
    assert torch.equal(net[1].running_mean, before)
    assert int(net[1].num_batches_tracked) == 0
