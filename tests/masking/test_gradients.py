"""Gradients exist for visible pixels, are exact, and are zero for hidden ones."""

import pytest
import torch
from torch import nn

import lm_plugins as lm
from tests.masking import samples

every_option = pytest.mark.parametrize("options", samples.OPTIONS, ids=samples.OPTION_NAMES)


class Residual(nn.Module):
    """A block with a skip connection that is added in place, behind in-place activations."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.relu = nn.BatchNorm2d(4), nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.relu(self.norm(self.first(x)))
        out = self.second(out)
        out += x
        return self.relu(out)


class Squeeze(nn.Module):
    """Squeeze-and-excitation: channels are scaled by what a mean over space says."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.linear(nn.functional.adaptive_avg_pool2d(x, 1)))


def network(pool=None, activation=None):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        activation or nn.SiLU(inplace=True),
        pool or nn.MaxPool2d(2, 1),
        Residual(),
        Squeeze(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 1.5)
            module.running_mean.normal_(0, 0.1)
    return model.double().eval()


@pytest.fixture
def inputs():
    x = samples.values(2, 3, 8, 9)
    return x.requires_grad_(), samples.region(2, 8, 9, density=0.4)


@every_option
@pytest.mark.parametrize("pool", [nn.MaxPool2d(2, 1), nn.AvgPool2d(3, 1, 1)], ids=str)
def test_gradcheck(options, pool, inputs):
    x, visible = inputs
    masked = lm.LayerMasked(network(pool), options)
    # The plan of neighbour padding has float32 weights: what is checked is smooth all the same.
    assert torch.autograd.gradcheck(lambda x: masked(x, visible), x)


@pytest.mark.parametrize(
    "options", [*samples.OPTIONS, *samples.ABLATIONS[:4]], ids=[*samples.OPTION_NAMES, *samples.ABLATION_NAMES[:4]]
)
def test_second_order_gradients(options, inputs):
    x, visible = inputs
    x, visible = x[:1, :, :6, :6].detach().requires_grad_(), visible[:1, :6, :6]
    masked = lm.LayerMasked(network(nn.AvgPool2d(2, 1)), options)
    assert torch.autograd.gradgradcheck(lambda x: masked(x, visible), x)


def test_second_order_gradients_of_parameters(inputs):
    # As gradient penalties and influence functions take them.
    x, visible = inputs
    model = network(nn.AvgPool2d(2, 1))
    (gradient,) = torch.autograd.grad(lm.LayerMasked(model)(x, visible).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in model.parameters() if one.ndim > 1)
    assert (x.grad[~visible[:, None].expand_as(x)] == 0).all()
    assert (x.grad[visible[:, None].expand_as(x)] != 0).any()


@every_option
def test_zero_for_hidden_pixels_and_not_for_visible_ones(options, inputs):
    x, visible = inputs
    lm.LayerMasked(network(nn.AvgPool2d(2, 1)), options)(x, visible).square().sum().backward()
    of_pixels = x.grad.abs().amax(1)
    assert (of_pixels[~visible] == 0).all()
    assert (of_pixels[visible] > 0).all()


def test_hidden_pixels_that_are_not_finite_leave_gradients_finite(inputs):
    x, visible = inputs
    clean = x.detach().clone().requires_grad_()
    dirty = torch.where(visible[:, None], x, torch.nan).detach().requires_grad_()
    masked = lm.LayerMasked(network())
    for one in (clean, dirty):
        masked(one, visible).sum().backward()
    assert torch.equal(clean.grad, dirty.grad)


def test_gradients_of_the_plain_model_where_everything_is_visible(inputs):
    x, visible = inputs
    model = network()
    everything = torch.ones_like(visible)
    (expected,) = torch.autograd.grad(model(x).sum(), x)
    (got,) = torch.autograd.grad(lm.LayerMasked(model)(x, everything).sum(), x)
    assert torch.equal(got, expected)


def test_in_place_and_out_of_place_agree(inputs):
    x, visible = inputs
    model = network(activation=nn.ReLU(inplace=True))
    masked = lm.LayerMasked(model)
    in_place = torch.autograd.grad(masked(x, visible).sum(), [x, *model.parameters()])
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    out_of_place = torch.autograd.grad(masked(x, visible).sum(), [x, *model.parameters()])
    for got, expected in zip(in_place, out_of_place, strict=True):
        torch.testing.assert_close(got, expected)


def test_with_and_without_autograd_the_output_is_the_same(inputs):
    x, visible = inputs
    masked = lm.LayerMasked(network())
    tracked = masked(x, visible)
    assert tracked.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(masked(x, visible), tracked.detach(), rtol=1e-12, atol=1e-12)


def test_gradients_reach_parameters(inputs):
    x, visible = inputs
    model = network()
    lm.LayerMasked(model)(x.detach(), visible).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_nothing_visible_has_zero_gradients(inputs):
    x, _ = inputs
    nothing = torch.zeros(8, 9, dtype=torch.bool)
    output = lm.LayerMasked(network())(x, nothing)
    if output.requires_grad:
        output.sum().backward()
        assert x.grad is None or (x.grad == 0).all()
    assert output.isfinite().all()
