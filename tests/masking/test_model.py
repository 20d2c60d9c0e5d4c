"""`LayerMasked` around a model: what it takes, what it gives back, and that it leaves no trace."""

import gc

import pytest
import torch
import torchvision
from torch import nn

import lm_plugins as lm
from lm_plugins.masking import MaskedActivation, as_visible, run_masked
from tests.masking import samples


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 1, 1),
        nn.Conv2d(8, 8, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    model[1].running_var.uniform_(0.5, 1.5)
    return model.eval().requires_grad_(False)


@pytest.fixture
def model():
    return network()


@pytest.fixture
def x():
    return torch.randn(3, 3, 12, 14, generator=torch.Generator().manual_seed(1))


VISIBLE = samples.region(1, 12, 14)[0]
VISIBLES = samples.region(3, 12, 14, seed=2)


# ---- masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    "shape",
    [(12, 14), (1, 12, 14), (1, 1, 12, 14), (3, 12, 14), (3, 1, 12, 14)],
    ids=lambda shape: "x".join(map(str, shape)),
)
def test_every_shape_and_dtype_of_a_mask_agrees(model, x, dtype, shape):
    masked = lm.LayerMasked(model)
    expected = masked(x, VISIBLE.expand(3, 1, 12, 14))
    visible = VISIBLE.expand(shape).to(dtype)
    assert torch.equal(masked(x, visible), expected)
    assert torch.equal(as_visible(visible, x), VISIBLE.expand(3, 12, 14))
    assert not torch.equal(expected, model(x))


def test_one_mask_for_each_image(model, x):
    masked = lm.LayerMasked(model)
    expected = torch.cat([masked(x[i : i + 1], VISIBLES[i]) for i in range(3)])
    torch.testing.assert_close(masked(x, VISIBLES), expected)
    torch.testing.assert_close(masked(x, VISIBLES[:, None].float()), expected)


def test_a_mask_that_requires_grad_or_is_not_contiguous(model, x):
    masked = lm.LayerMasked(model)
    expected = masked(x, VISIBLE)
    assert torch.equal(masked(x, VISIBLE.float().requires_grad_()), expected)
    assert torch.equal(masked(x, VISIBLE.t().contiguous().t()), expected)


def test_keyword_arguments(model, x):
    masked = lm.LayerMasked(model=model, options=lm.MaskingOptions())
    assert torch.equal(masked(x=x, visible=VISIBLE), masked(x, VISIBLE))


# ---- the sentinel ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_sentinel_is_exact(dtype):
    assert lm.MASKED == -7.71875
    assert float(torch.tensor(lm.MASKED, dtype=dtype)) == lm.MASKED


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_painting_with_the_sentinel_is_hiding(x, dtype):
    model, x = network().to(dtype), x.to(dtype)
    masked = lm.LayerMasked(model)
    painted = torch.where(VISIBLES[:, None], x, lm.MASKED)
    assert torch.equal(masked(painted), masked(x, VISIBLES))


def test_captum_style_arithmetic_keeps_the_sentinel(model, x):
    mask = VISIBLES[:, None].float()
    painted = x * mask + (1 - mask) * lm.MASKED
    assert torch.equal(lm.LayerMasked(model)(painted), lm.LayerMasked(model)(x, VISIBLES))


def test_without_the_sentinel_it_is_the_plain_forward(model, x):
    assert torch.equal(lm.LayerMasked(model)(x), model(x))
    with_sentinels_in_view = torch.where(VISIBLES[:, None], x, lm.MASKED)
    everything = torch.ones(12, 14)
    assert torch.equal(lm.LayerMasked(model)(with_sentinels_in_view, everything), model(with_sentinels_in_view))


def test_an_image_that_is_all_sentinel(model, x):
    nothing = torch.full_like(x, lm.MASKED)
    assert torch.equal(lm.LayerMasked(model)(nothing), lm.LayerMasked(model)(x, torch.zeros(12, 14)))


def test_normalizing_inside_of_the_model_is_normalizing_the_image(model, x):
    # GoogLeNet and Inception do it channel by channel; many wrappers for the whole image.
    scale, shift = torch.tensor([0.5, 2.0, 1.5])[:, None, None], torch.tensor([0.1, -0.2, 0.3])[:, None, None]

    class Channelwise(nn.Module):
        def forward(self, x):
            return torch.cat([torch.unsqueeze(x[:, i], 1) * scale[i] + shift[i] for i in range(3)], 1)

    class Whole(nn.Module):
        def forward(self, x):
            return x * scale + shift

    for options in samples.OPTIONS:
        expected = lm.LayerMasked(model, options)(x * scale + shift, VISIBLES)
        for normalize in (Channelwise(), Whole()):
            got = lm.LayerMasked(nn.Sequential(normalize, model).eval(), options)(x, VISIBLES)
            torch.testing.assert_close(got, expected)


# ---- dtypes and formats ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 5e-3), (torch.bfloat16, 5e-2), (torch.float64, 1e-5)])
def test_other_precisions_are_close(x, dtype, tolerance):
    expected = lm.LayerMasked(network())(x, VISIBLES)
    got = lm.LayerMasked(network().to(dtype))(x.to(dtype), VISIBLES)
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), expected, rtol=tolerance, atol=tolerance)


def test_autocast(model, x):
    expected = lm.LayerMasked(model)(x, VISIBLES)
    with torch.autocast("cpu", torch.bfloat16):
        got = lm.LayerMasked(model)(x, VISIBLES)
        assert got.dtype == model(x).dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), expected, rtol=5e-2, atol=5e-2)


def test_residual_additions_under_autocast(x):
    # One branch comes out of a convolution in bfloat16, the other is still float32.
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return (x + self.conv(x)).mean((2, 3))

    block = Block().eval().requires_grad_(False)
    expected = lm.LayerMasked(block)(x, VISIBLES)
    with torch.autocast("cpu", torch.bfloat16):
        got = lm.LayerMasked(block)(x, VISIBLES)
    torch.testing.assert_close(got.float(), expected, rtol=5e-2, atol=5e-2)


def test_channels_last_and_other_strides(model, x):
    masked = lm.LayerMasked(model)
    expected = masked(x, VISIBLES)
    for strided in (
        x.contiguous(memory_format=torch.channels_last),
        x.transpose(2, 3).contiguous().transpose(2, 3),
        torch.stack([x, x], -1)[..., 0],
        torch.cat([x, x])[:3],
    ):
        torch.testing.assert_close(masked(strided, VISIBLES), expected)
    torch.testing.assert_close(lm.LayerMasked(network().to(memory_format=torch.channels_last))(x, VISIBLES), expected)


def test_a_single_image_repeated_by_expand(model, x):
    masked = lm.LayerMasked(model)
    repeated = x[:1].expand(3, -1, -1, -1)
    torch.testing.assert_close(masked(repeated, VISIBLES), masked(x[:1].repeat(3, 1, 1, 1), VISIBLES))


@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_modes_of_autograd(model, x, context):
    expected = lm.LayerMasked(model)(x, VISIBLES)
    with context():
        got = lm.LayerMasked(model)(x, VISIBLES)
    torch.testing.assert_close(got, expected)
    assert got.is_inference() == (context is torch.inference_mode)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_images_of_any_number_of_channels(channels):
    model = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1)).eval()
    x = torch.randn(2, channels, 9, 8)
    assert lm.LayerMasked(model)(x, torch.rand(9, 8) > 0.5).shape == (2, 4, 1, 1)


def test_inputs_are_left_alone(model, x):
    for memory_format in (torch.contiguous_format, torch.channels_last):
        given, visible = x.contiguous(memory_format=memory_format), VISIBLES.clone()
        before = given.clone()
        with torch.inference_mode():
            lm.LayerMasked(model)(given, visible)
            run_masked(model, given, torch.ones_like(visible), lm.MaskingOptions())
        assert torch.equal(given, before)
        assert torch.equal(visible, VISIBLES)


def test_a_model_that_begins_in_place_leaves_its_input_alone():
    model, x = nn.Sequential(nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)).eval(), torch.randn(1, 3, 6, 6)
    before = x.clone()
    lm.LayerMasked(model)(x, torch.eye(6))
    assert torch.equal(x, before)


# ---- no trace --------------------------------------------------------------------------------------------------------


class Failing(nn.Module):
    """Fails on purpose, or calls what has no rule, when told to."""

    how = None

    def forward(self, x):
        if self.how == "error":
            raise ZeroDivisionError("on purpose")
        if self.how == "unsupported":
            return torch.fft.fft2(x).real
        return x


def state_of(model):
    """Everything of a model that somebody could have changed."""
    return {
        name: (
            module.training,
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            len(module._backward_hooks),
            sorted(module.__dict__),
            type(module),
            type(module).forward,
        )
        for name, module in model.named_modules()
    }, {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("how", [None, "error", "unsupported"])
def test_leaves_no_trace(model, x, how):
    failing = Failing().eval()
    model.insert(3, failing)
    calls = []
    handles = [
        model[0].register_forward_hook(lambda *_: calls.append("hook")),
        model[0].register_forward_pre_hook(lambda *_: calls.append("pre")),
    ]
    expected = lm.LayerMasked(model)(x, VISIBLES)
    before, tensors = state_of(model)
    calls.clear()
    failing.__dict__.pop("how", None)
    type(failing).how = how
    try:
        if how == "error":
            with pytest.raises(ZeroDivisionError, match="on purpose"):
                lm.LayerMasked(model)(x, VISIBLES)
        elif how == "unsupported":
            with pytest.raises(lm.errors.UnsupportedOperatorError, match="fft2"):
                lm.LayerMasked(model)(x, VISIBLES)
        else:
            lm.LayerMasked(model)(x, VISIBLES)
    finally:
        type(failing).how = None
    assert calls[:2] == ["pre", "hook"]  # the user's own hooks fire
    after, tensors_after = state_of(model)
    assert before == after
    assert all(torch.equal(tensors[name], tensors_after[name]) for name in tensors)
    assert torch.equal(lm.LayerMasked(model)(x, VISIBLES), expected)  # and it still works
    for handle in handles:
        handle.remove()


def test_hooks_see_and_may_change_activations(model, x):
    expected = lm.LayerMasked(model)(x, VISIBLES)
    handle = model[4].register_forward_hook(lambda module, inputs, output: output * 2)
    assert not torch.allclose(lm.LayerMasked(model)(x, VISIBLES), expected)
    handle.remove()
    assert torch.equal(lm.LayerMasked(model)(x, VISIBLES), expected)


def test_is_an_ordinary_module(model, x):
    masked = lm.LayerMasked(model)
    assert masked.model is model
    assert not masked.training
    assert {name.removeprefix("model."): None for name in masked.state_dict()}.keys() == model.state_dict().keys()
    assert [*masked.parameters()] == [*model.parameters()]
    assert masked.to(torch.float64).eval()(x.double(), VISIBLES).dtype == torch.float64
    assert isinstance(masked.options, lm.MaskingOptions)


def test_a_model_used_twice_by_two_wrappers(model, x):
    options = samples.PUBLISHED
    one, other = lm.LayerMasked(model), lm.LayerMasked(model, options)
    first = one(x, VISIBLES)
    assert not torch.equal(other(x, VISIBLES), first)
    assert torch.equal(one(x, VISIBLES), first)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v3_small", "convnext_tiny"])
def test_a_run_leaves_nothing_for_the_garbage_collector(name):
    """Masks and plans of a batch are freed with it, not whenever Python looks for cycles."""
    model = torchvision.models.get_model(name, weights=None).eval()
    masked, x, visible = lm.LayerMasked(model), torch.randn(1, 3, 64, 64), torch.rand(64, 64) < 0.5
    with torch.inference_mode():
        masked(x, visible)
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            masked(x, visible)
            gc.collect()
            left = {type(one).__name__ for one in gc.garbage}
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert not left & {"Tensor", "Mask", "MaskedActivation", "FillPlan", "frame"}


def test_a_rule_that_refuses_keeps_no_activation_alive():
    model = torch.nn.Sequential(torch.nn.Flatten(2), torch.nn.Softmax(2)).eval()  # no map any more: tokens
    before = {id(one) for one in gc.get_objects() if type(one) is MaskedActivation}
    gc.disable()
    try:
        lm.LayerMasked(model)(torch.randn(1, 3, 8, 8), torch.rand(8, 8) < 0.5)
        alive = [one for one in gc.get_objects() if type(one) is MaskedActivation and id(one) not in before]
    finally:
        gc.enable()
    assert not alive
