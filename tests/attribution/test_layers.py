"""Layers: chosen automatically, captured without traces, and named where they are wrong."""

import warnings

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from lm_plugins.attribution import (
    RISE,
    SISE,
    AdaSISE,
    IntegratedGradCam,
    layers_before_downsampling,
    min_max,
    named_layers,
)
from lm_plugins.attribution.capture import gradients_of
from lm_plugins.errors import (
    InputTypeError,
    LayerError,
    OptionError,
    ShapeError,
    SkippedLayerWarning,
    TrainingModeError,
)
from tests.attribution.conftest import hooks_of

CHOSEN = {
    "vgg16": ["features.3", "features.8", "features.15", "features.22", "features.29"],
    "resnet50": ["relu", "layer1", "layer2", "layer3", "layer4"],
    "densenet121": [
        "features.relu0",
        *(f"features.transition{i}.conv" for i in (1, 2, 3)),
        "features",
    ],
    "mobilenet_v2": [*(f"features.{i}.conv.0" for i in (2, 4, 7, 14)), "features"],
    "mobilenet_v3_small": ["features.0", *(f"features.{i}.block.0" for i in (2, 4, 9)), "features"],
    "efficientnet_b0": [*(f"features.{i}.0.block.0" for i in (2, 3, 4, 6)), "features"],
    "convnext_tiny": ["features.2.0", "features.4.0", "features.6.0", "features"],
}


def built(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torchvision.models.get_model(name, weights=None).eval()


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in CHOSEN])
def test_torchvision(name):
    model = built(name)
    x = torch.rand(1, 3, 64, 64)
    assert layers_before_downsampling(model, x) == CHOSEN[name]
    wrapped = nn.Sequential(model, nn.Softmax(1)).eval()
    assert layers_before_downsampling(wrapped, x) == [f"0.{one}" for one in CHOSEN[name]]
    # A few maps of each layer, so that it stays quick.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkippedLayerWarning)
        result = AdaSISE(model, mu=0.9, output="logits").attribute(x, target=3)
    assert result.shape == (1, 1, 64, 64)
    assert result.isfinite().all()
    assert IntegratedGradCam(model, CHOSEN[name][-1]).attribute(x, target=3, n_steps=2).isfinite().all()
    assert hooks_of(model) == 0


class Functional(nn.Module):
    """Pools by functions, and calls one ReLU three times."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(k, 4, 3, padding=1) for k in (3, 4, 4))
        self.relu = nn.ReLU(inplace=True)
        self.unused = nn.Conv2d(3, 3, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x = F.max_pool2d(self.relu(self.a(x)), 2)
        x = F.avg_pool2d(self.relu(self.b(x)), 2)
        return self.fc(self.relu(self.c(x)).mean((2, 3)))


def test_functional_pooling_and_a_shared_module():
    model = Functional().eval()
    x = torch.rand(2, 3, 16, 16)
    assert layers_before_downsampling(model, x) == ["relu@1", "relu@2", "relu@3"]
    assert SISE(model, output="logits").attribute(x, target=0).shape == (2, 1, 16, 16)


def test_convolutions_without_padding_are_no_downsampling():
    convolutions = [layer for i in range(4) for layer in (nn.Conv2d(3 if i == 0 else 4, 4, 3), nn.ReLU())]
    model = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    assert layers_before_downsampling(model, torch.rand(1, 3, 32, 32)) == ["7"]


def test_captured_maps_do_not_change_in_place(model, x):
    maps, gradients, _ = gradients_of(model, x, [model[3], model[4]], ["3", "4"], lambda output: output[:, 0])
    # The batch norm behind the convolution is followed by a ReLU in place.
    assert (maps[1] < 0).any()
    assert gradients[0].shape == maps[0].shape


def test_the_model_is_left_as_it_was(model, x):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for method in (SISE(model, output="logits"), AdaSISE(model, output="logits")):
        with torch.inference_mode():
            method.attribute(x, target=0)
    IntegratedGradCam(model, "8").attribute(x, target=0, n_steps=2)
    RISE(model, output="logits").attribute(x, target=0, n_masks=2)
    assert hooks_of(model) == 0
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not x.requires_grad


def test_no_hook_survives_an_exception(model, x):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.training = model, False
            self.calls_left = 1

        def forward(self, x):
            self.calls_left -= 1
            if self.calls_left < 0:
                raise RuntimeError("broken on purpose")
            return self.model(x)

    for method in (SISE, AdaSISE):
        for calls in range(4):
            broken = Broken()
            broken.calls_left = calls
            with pytest.raises(RuntimeError, match="broken on purpose"):
                method(broken, output="logits", batch_size=1).attribute(x, target=0)
            assert hooks_of(broken) == 0
    broken = Broken()
    with pytest.raises(RuntimeError, match="broken on purpose"):
        IntegratedGradCam(broken, "model.8").attribute(x, target=0, n_steps=2)
    assert hooks_of(broken) == 0


METHODS = {
    "IntegratedGradCam": lambda m, layer="8": IntegratedGradCam(m, layer),
    "SISE": lambda m, layer="8": SISE(m, [layer], output="logits"),
    "AdaSISE": lambda m, layer="8": AdaSISE(m, [layer], output="logits"),
}


@pytest.mark.parametrize("method", METHODS)
def test_bad_layers(model, x, method):
    build = METHODS[method]
    with pytest.raises(LayerError, match=r"has no layer 'conv9'.*the first of them are 0, 1, 2"):
        build(model, "conv9")
    with pytest.raises(LayerError, match="the layer Conv2d is not a part of the model"):
        build(model, nn.Conv2d(3, 3, 3))
    with pytest.raises(LayerError, match="a module or the name of one, got int"):
        build(model, 3)
    with pytest.raises(LayerError, match=r"the layer 10 gives a tensor of shape \(.*, 10\); maps"):
        build(model, "10").attribute(x, target=0)
    with pytest.raises(LayerError, match=r"the layer 9 gives a tensor of shape \(.*, 10, 1, 1\)"):
        build(model, "9").attribute(x, target=0)
    with pytest.raises(LayerError, match="relu@4 was not called 4 times"):
        build(Functional().eval(), "relu@4").attribute(torch.rand(1, 3, 16, 16), target=0)
    with pytest.raises(LayerError, match="has no layer '8@first'"):
        build(model, "8@first")
    with pytest.raises(LayerError, match="unused was not called"):
        build(Functional().eval(), "unused").attribute(torch.rand(1, 3, 16, 16), target=0)
    assert hooks_of(model) == 0


def test_more_bad_layers(model, x):
    with pytest.raises(LayerError, match="8 is given twice"):
        named_layers(model, ["8", model[8]])
    with pytest.raises(LayerError, match="no layer is given"):
        SISE(model, [])
    with pytest.raises(LayerError, match="no layer of the model comes before a down-sampling"):
        SISE(nn.Sequential(nn.Flatten(), nn.Linear(960, 2)).eval(), output="logits").attribute(x.float(), target=0)

    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.side, self.training = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 3), False

        def forward(self, x):
            self.side(x)
            return self.conv(x).mean((2, 3))

    with pytest.raises(LayerError, match="does not depend on the layer side"):
        IntegratedGradCam(Detached().eval(), "side").attribute(x.float(), target=0)


@pytest.mark.parametrize("method", [*METHODS, "RISE"])
def test_bad_input(model, x, method):
    explainer = RISE(model, output="logits") if method == "RISE" else METHODS[method](model)
    more = {"n_masks": 2} if method == "RISE" else {}
    for target, error, text in (
        (7, OptionError, "target is 7, the model has 4 outputs: choose 0 to 3"),
        ([0, 1, 2], OptionError, "3 classes for 2 images"),
        (None, OptionError, "choose one, such as target=0"),
        (1.5, InputTypeError, "got 1.5"),
        ((0, 0), OptionError, "pass 1 index"),
    ):
        with pytest.raises(error, match=text):
            explainer.attribute(x, target=target, **more)
    with pytest.raises(ShapeError, match=r"got shape \(3, 20, 16\); add the batch dimension"):
        explainer.attribute(x[0], target=0, **more)
    with pytest.raises(InputTypeError, match="got ndarray"):
        explainer.attribute(x.numpy(), target=0, **more)
    with pytest.raises(InputTypeError, match=r"floating point.*torch.uint8"):
        explainer.attribute(x.byte(), target=0, **more)
    model.train()
    with pytest.raises(TrainingModeError, match="in training mode: the model itself, 0, 1 and 10 more"):
        explainer.attribute(x, target=0, **more)


def test_min_max_survives_constants():
    maps = torch.tensor([[[2.0, 2.0]], [[0.3 + 1e-8, 0.3]], [[-1.0, 3.0]], [[0.0, 1e-30]]])
    expected = torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]], [[0.0, 1.0]], [[0.0, 1.0]]])
    torch.testing.assert_close(min_max(maps), expected)
