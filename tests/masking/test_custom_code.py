"""Code that people put into models, or around them: it works layer-masked, or an error says what to do instead."""

import warnings
from functools import partial

import einops
import pytest
import torch
from einops.layers.torch import Rearrange, Reduce
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import lm_plugins as lm
from lm_plugins import errors
from tests.masking import samples

VISIBLE = samples.region(2, 8, 10, seed=1)


@pytest.fixture
def x():
    return torch.randn(2, 3, 8, 10)


@pytest.fixture
def body():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)).eval()


class Then(nn.Module):
    """A body, then a function of its map."""

    def __init__(self, body, function):
        super().__init__()
        self.body, self.function = body, function

    def forward(self, x):
        return self.function(self.body(x))


def masked(*parts):
    return lm.LayerMasked((parts[0] if len(parts) == 1 else Then(*parts)).eval())


def mean(x):
    return x.mean((2, 3))


def assert_same(wrapped, body, x, *, function=mean, **tolerances):
    """A wrapped model gives what its parts give: masked, and with everything visible."""
    expected = masked(body, function)(x, VISIBLE)
    torch.testing.assert_close(wrapped(x, VISIBLE), expected, **(tolerances or {"rtol": 0, "atol": 0}))
    torch.testing.assert_close(wrapped(x), function(body(x)), **(tolerances or {"rtol": 0, "atol": 0}))


# ---- checkpoints, functions of autograd ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [partial(checkpoint, use_reentrant=False), None])
def test_checkpoints(how, body, x):
    def run(x):
        return checkpoint_sequential(body, 2, x, use_reentrant=False) if how is None else how(body, x)

    model = masked(nn.Identity(), lambda x: run(x).mean((2, 3)))
    assert_same(model, body, x)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    model(one, VISIBLE).square().sum().backward()
    masked(body, mean)(other, VISIBLE).square().sum().backward()
    torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
def test_checkpoints_that_would_lose_gradients(body, x):
    model = masked(nn.Identity(), lambda x: checkpoint(body, x, use_reentrant=True).mean((2, 3)))
    with torch.no_grad():
        assert_same(model, body, x)
    with pytest.raises(errors.UnsupportedOperatorError, match=r"CheckpointFunction would lose.*use_reentrant=False"):
        model(x.requires_grad_(), VISIBLE)


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def test_functions_of_autograd(body, x):
    with torch.no_grad():
        plain = Then(body, lambda x: x * torch.sigmoid(x)).eval()
        assert_same(masked(body, lambda x: Swish.apply(x).mean((2, 3))), plain, x)
    with pytest.raises(errors.UnsupportedOperatorError, match=r"Function Swish would lose.*torch\.no_grad\(\)"):
        masked(body, lambda x: Swish.apply(x).mean((2, 3)))(x, VISIBLE)


# ---- Python ----------------------------------------------------------------------------------------------------------


def test_subclasses_of_sequential(body, x):
    class Dense(nn.Sequential):
        def forward(self, x):
            for module in self:
                x = module(x) + 0.5
            return x.mean((-2, -1))

    class Shifted(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, x):
            return self.module(x) + 0.5

    assert_same(masked(Dense(*body)), nn.Sequential(*map(Shifted, body)).eval(), x)


REDUCTIONS = [
    (lambda x: x.mean((2, 3)), lambda v: v.mean(1)),
    (lambda x: x.mean(dim=[-1, -2], keepdim=True).flatten(1), lambda v: v.mean(1)),
    (lambda x: torch.mean(x, (2, 3)), lambda v: v.mean(1)),
    (lambda x: x.amax((2, 3)), lambda v: v.amax(1)),
    (lambda x: torch.amin(x, dim=(-1, -2)), lambda v: v.amin(1)),
    (lambda x: x.sum((2, 3)), lambda v: v.sum(1)),
    (lambda x: nn.functional.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1), lambda v: v.mean(1)),
]


@pytest.mark.parametrize(("function", "expected"), REDUCTIONS)
def test_reductions_are_over_what_is_visible(function, expected, x):
    got = masked(nn.Identity(), function)(x, VISIBLE)
    torch.testing.assert_close(got, torch.stack([expected(one[:, seen]) for one, seen in zip(x, VISIBLE, strict=True)]))


def test_operators(x):
    def function(x):
        y = -x * 2 + 1
        y += x / 3
        y *= 2 - x**2
        y -= abs(x)
        return (1 - y) / (2 / (x.abs() + 1)) + 2**x

    got = masked(nn.Identity(), function)(x, VISIBLE)
    torch.testing.assert_close(got, torch.where(VISIBLE[:, None], function(x), 0.0))


# ---- einops ----------------------------------------------------------------------------------------------------------

# A function with einops, and the same with torch.
EINOPS = {
    "channels last": (lambda x: einops.rearrange(x, "n c h w -> n h w c"), lambda x: x.permute(0, 2, 3, 1)),
    "features": (lambda x: einops.rearrange(x, "n c h w -> n (c h w)"), lambda x: x.flatten(1)),
    "groups": (
        lambda x: einops.rearrange(x, "n (g c) h w -> n g c h w", g=2).mean(2),
        lambda x: x.reshape(2, 2, 2, 8, 10).mean(2),
    ),
    "mean": (lambda x: einops.reduce(x, "n c h w -> n c", "mean"), lambda x: x.mean((2, 3))),
    "mean of size one": (
        lambda x: einops.reduce(x, "n c h w -> n c 1 1", "mean"),
        lambda x: x.mean((2, 3), keepdim=True),
    ),
    "max": (lambda x: einops.reduce(x, "n c h w -> n c", "max"), lambda x: x.amax((2, 3))),
    "min": (Reduce("n c h w -> n c", "min"), lambda x: x.amin((2, 3))),
    "layers": (
        nn.Sequential(Rearrange("n c h w -> n h w c"), nn.GELU(), Rearrange("n h w c -> n c h w")),
        nn.GELU(),
    ),
    # What torch's own functions cannot do on a map yet, einops cannot either.
    "tokens": (
        lambda x: einops.rearrange(x, "n c h w -> n (h w) c").mean(1),
        lambda x: x.permute(0, 2, 3, 1).reshape(2, 80, 4).mean(1),
    ),
    "blocks": (
        lambda x: einops.rearrange(x, "n c (h a) (w b) -> n (c a b) h w", a=2, b=2).mean((2, 3)),
        lambda x: x.reshape(2, 4, 4, 2, 5, 2).permute(0, 1, 3, 5, 2, 4).reshape(2, 16, 4, 5).mean((2, 3)),
    ),
}


@pytest.mark.parametrize("kind", EINOPS)
def test_einops_does_what_torch_does(kind, body, x):
    with_einops, with_torch = EINOPS[kind]
    try:
        expected = masked(body, with_torch)(x, VISIBLE)
    except errors.UnsupportedOperatorError:
        assert kind in ("tokens", "blocks")
        with pytest.raises(errors.UnsupportedOperatorError, match=r"Missing in this model"):
            masked(body, with_einops)(x, VISIBLE)
        return
    torch.testing.assert_close(masked(body, with_einops)(x, VISIBLE), expected)
    assert lm.coverage(Then(body, with_einops).eval(), x)


# ---- wrappers --------------------------------------------------------------------------------------------------------


def test_data_parallel(body, x):
    assert_same(masked(nn.DataParallel(body), mean), body, x)
    assert_same(nn.DataParallel(masked(body, mean)), body, x)


def test_distributed_data_parallel(body, x, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrap = nn.parallel.DistributedDataParallel
        assert_same(masked(wrap(body), mean), body, x)
        assert_same(wrap(masked(body, mean)), body, x)
    finally:
        torch.distributed.destroy_process_group()


def test_graph_modules(body, x):
    assert_same(masked(torch.fx.symbolic_trace(body), mean), body, x)


def test_parametrizations(x):
    body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    nn.utils.parametrizations.weight_norm(body[0])
    nn.utils.parametrizations.spectral_norm(body[2])
    body.eval()
    plain = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    for i in (0, 2):
        plain[i].load_state_dict({"weight": body[i].weight, "bias": body[i].bias})
    assert_same(masked(body, mean), plain, x)


def test_functional_call(body, x):
    wrapped = masked(body, mean)
    zeros = {name: torch.zeros_like(value) for name, value in wrapped.named_parameters()}
    expected = wrapped(x, VISIBLE)
    assert (torch.func.functional_call(wrapped, zeros, (x, VISIBLE)) == 0).all()
    assert torch.equal(wrapped(x, VISIBLE), expected)
    inside = masked(nn.Identity(), lambda x: torch.func.functional_call(body, dict(body.named_parameters()), x))
    assert_same(masked(inside.model, mean), body, x)


@torch.inference_mode()
def test_inference_mode(body, x):
    assert_same(masked(body, mean), body, x)


def test_autocast(body, x):
    wrapped, expected = masked(body, mean), masked(body, mean)(x, VISIBLE)
    with torch.autocast("cpu", torch.bfloat16):
        got, plain = wrapped(x, VISIBLE), wrapped(x)
    assert got.dtype == plain.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), expected, rtol=0.05, atol=0.02)


# ---- feature extractors ----------------------------------------------------------------------------------------------


# The right half is hidden.
HALF = torch.arange(128).expand(128, 128) < 64


def assert_ordinary_with_zeros(maps, sizes):
    for one, size in zip(maps, sizes, strict=True):
        assert type(one) is torch.Tensor
        assert tuple(one.shape[-2:]) == (size, size)
        # The windows of the stem and of strides reach over the edge.
        assert (one[..., size // 2 + 2 :] == 0).all()
        assert (one[..., : size // 2] != 0).any((0, 1)).all()


@torch.no_grad()
def test_torchvisions_feature_extractor():
    models = pytest.importorskip("torchvision.models")
    from torchvision.models.feature_extraction import create_feature_extractor

    model = models.resnet18().eval()
    extractor = create_feature_extractor(model, {"layer1": "a", "layer2": "b"})
    output = lm.LayerMasked(extractor)(torch.randn(1, 3, 128, 128), HALF)
    assert list(output) == ["a", "b"]
    assert_ordinary_with_zeros(output.values(), [32, 16])


@torch.no_grad()
def test_timms_features():
    timm = pytest.importorskip("timm")
    x = torch.randn(1, 3, 128, 128)
    backbone = timm.create_model("resnet10t", features_only=True, out_indices=(1, 2)).eval()
    assert_ordinary_with_zeros(lm.LayerMasked(backbone)(x, HALF), [32, 16])
    model = timm.create_model("resnet10t").eval()

    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model.forward_features(x)

    x = torch.randn(1, 3, 256, 256)
    assert_ordinary_with_zeros(
        [lm.LayerMasked(Features().eval())(x, HALF.repeat_interleave(2, 0).repeat_interleave(2, 1))], [8]
    )


# ---- compilers -------------------------------------------------------------------------------------------------------


def counting(graphs):
    """A backend that runs graphs as they are, and keeps how many operations each has."""

    def backend(graph, inputs):
        graphs.append(sum(node.op.startswith("call") for node in graph.graph.nodes))
        return graph.forward

    return backend


def test_compile_around_a_masked_model(body, x):
    graphs = []
    compiled = torch.compile(masked(body, mean), backend=counting(graphs))
    assert_same(compiled, body, x)
    assert sum(graphs) == 0  # nothing of it is compiled

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.masked = masked(body, mean)

        def forward(self, x, visible):
            return self.masked(x * 1, visible) * 2

    with torch.no_grad():  # else torch warns about itself
        expected = 2 * masked(body, mean)(x, VISIBLE)
        assert torch.equal(torch.compile(Twice(), backend=counting(graphs))(x, VISIBLE), expected)
    assert sum(graphs) == 2  # what is around it is


def test_compiled_model_inside(body, x):
    graphs = []
    compiled = torch.compile(Then(body, mean).eval(), backend=counting(graphs))
    expected = masked(body, mean)(x, VISIBLE)
    assert torch.equal(lm.LayerMasked(compiled)(x, VISIBLE), expected)
    assert torch.equal(lm.LayerMasked(compiled)(x), mean(body(x)))
    assert torch.equal(lm.LayerMasked(compiled)(x, VISIBLE), expected)


def quietly(function, *args):
    """TorchScript and the old quantization warn that they are on their way out; models still use them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args)


@pytest.mark.parametrize(
    "compile_part", [torch.jit.script, lambda part: torch.jit.trace(part, torch.randn(1, 3, 8, 10))]
)
def test_parts_in_torchscript(compile_part, body, x):
    part = quietly(compile_part, body)
    message = r"'body' \(\w+\) is compiled by torch\.jit\.script or torch\.jit\.trace: .*load_state_dict"
    with pytest.raises(errors.UnsupportedOperatorError, match=message):
        masked(part, mean)(x, VISIBLE)
    with pytest.raises(errors.UnsupportedOperatorError, match="the model itself"):
        lm.LayerMasked(part)(x, VISIBLE)
    assert torch.equal(masked(part, mean)(x), mean(body(x)))  # everything visible needs no rules


def test_functions_in_torchscript(body, x):
    def swish(x):
        return x * torch.sigmoid(x)

    model = nn.Sequential(body, Then(nn.Identity(), quietly(torch.jit.script, swish)))
    message = (
        r"below torch's functions was called in \"?'1 \(Then\)'.*compiled by torch\.jit\.script.*"
        r"Replace it by Python code"
    )
    with pytest.raises(errors.UnsupportedOperatorError, match=message):
        masked(model)(x, VISIBLE)


def test_masked_models_cannot_be_recorded(body, x):
    message = "cannot be traced or exported: .*one mask for ever"
    with pytest.raises(errors.UnsupportedOperatorError, match=message):
        quietly(torch.jit.trace, lm.LayerMasked(body), (x, VISIBLE))


def test_exported_models(body, x):
    exported = torch.export.export(body, (x,)).module()
    with pytest.raises(errors.UnsupportedOperatorError, match=r"graph of low-level operators.*before the export"):
        lm.LayerMasked(exported)(x, VISIBLE)


def test_quantized_models(body, x):
    quantization = torch.ao.quantization
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    dynamic = quietly(quantization.quantize_dynamic, nn.Sequential(body, head).eval(), {nn.Linear}).eval()
    assert masked(dynamic)(x, VISIBLE).shape == (2, 5)  # a head takes ordinary tensors

    def convert():
        model = quantization.QuantWrapper(body).eval()
        model.qconfig = quantization.default_qconfig
        prepared = quantization.prepare(model)
        prepared(x)
        return quantization.convert(prepared)

    with pytest.raises(errors.UnsupportedOperatorError, match=r"is quantized: .*before quantization"):
        lm.LayerMasked(quietly(convert))(x, VISIBLE)
