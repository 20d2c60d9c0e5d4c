"""A carrier is a tensor: code that asks gets the answer that it gets for any tensor, and nothing computes unseen."""

import concurrent.futures
import copy
import threading
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

import lm_plugins as lm
from lm_plugins import errors
from lm_plugins.masking import run_masked
from tests.masking import samples

H, W = 12, 10
VISIBLE = samples.region(2, H, W, density=0.6, seed=3)


@pytest.fixture
def x():
    return torch.rand(2, 3, H, W, dtype=torch.float64)


@pytest.fixture
def body():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)).double().eval()


class Code(nn.Module):
    """A function of a map, behind a body and in front of a global pool."""

    def __init__(self, body, function):
        super().__init__()
        self.body, self.function = body, function

    def forward(self, x):
        return self.function(self.body(x)).mean((2, 3))


def answer(body, function, x, visible=VISIBLE, **kwargs):
    return lm.LayerMasked(Code(body, function).eval(), **kwargs)(x, visible)


# ---- code that asks whether it has a tensor ------------------------------------------------------------------------------


def test_code_that_asks_gets_a_yes(body, x):
    for ask in (torch.is_tensor, lambda y: isinstance(y, Tensor), lambda y: isinstance(y, torch.Tensor | np.ndarray)):
        got = answer(body, lambda y, ask=ask: y + 10 * y if ask(y) else y, x)
        torch.testing.assert_close(got, answer(body, lambda y: 11 * y, x))


def test_transforms_of_torchvision_are_not_skipped(body, x):
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    plain = Code(body, lambda y: y)
    by_hand = (x - torch.tensor(mean, dtype=x.dtype)[:, None, None]) / torch.tensor(std, dtype=x.dtype)[:, None, None]
    got = lm.LayerMasked(nn.Sequential(v2.Normalize(mean, std), plain).eval())(x, VISIBLE)
    torch.testing.assert_close(got, lm.LayerMasked(plain.eval())(by_hand, VISIBLE))


@pytest.mark.parametrize(
    ("transform", "change"),
    [
        (v2.CenterCrop(8), lambda x: x[..., 2:10, 1:9]),
        (v2.Pad(2), lambda x: F.pad(x, (2, 2, 2, 2))),
        (v2.RandomHorizontalFlip(p=1.0), lambda x: x.flip(-1)),
        (v2.RandomVerticalFlip(p=1.0), lambda x: x.flip(-2)),
        (v2.Resize((24, 20), antialias=False), lambda x: F.interpolate(x, (24, 20), mode="bilinear")),
        (v2.Resize((24, 20)), lambda x: F.interpolate(x, (24, 20), mode="bilinear", antialias=True)),
        (v2.Grayscale(3), lambda x: v2.functional.rgb_to_grayscale(x, 3)),
        (v2.ToDtype(torch.float64), lambda x: x),
    ],
    ids=lambda one: type(one).__name__,
)
def test_other_transforms_act_too(transform, change, body, x):
    plain = Code(body, lambda y: y).eval()
    model = nn.Sequential(transform, plain).eval()
    got = run_masked(model, x, VISIBLE, lm.MaskingOptions())
    everything = torch.ones_like(VISIBLE)
    torch.testing.assert_close(run_masked(model, x, everything, lm.MaskingOptions()), plain(change(x)))
    # What is hidden cannot matter, and something is different from what is shown.
    other = torch.where(VISIBLE[:, None], x, torch.rand_like(x))
    torch.testing.assert_close(run_masked(model, other, VISIBLE, lm.MaskingOptions()), got)
    assert not torch.allclose(got, plain(change(x)))


def test_a_transform_without_a_rule_is_refused(body, x):
    with pytest.raises(errors.UnsupportedOperatorError, match=r"torch\.erfinv"):
        lm.LayerMasked(nn.Sequential(v2.Lambda(torch.erfinv), body).eval())(x / 10, VISIBLE)


def test_skip_connections_that_ask_for_a_tensor(body, x):
    # As MONAI's networks do: a skip that is no tensor is left out.
    def skip(y):
        skips = [y.relu(), None]
        return torch.cat([y, *(one for one in skips if isinstance(one, Tensor))], 1)

    torch.testing.assert_close(answer(body, skip, x), answer(body, lambda y: torch.cat([y, y.relu()], 1), x))


# ---- assignment, functions that work in place ------------------------------------------------------------------------------

MASK = torch.rand(4, 1, 1, dtype=torch.float64) < 0.5


def assigned(index, value):
    def function(y):
        y = y.clone()
        y[index] = value
        return y

    return function


def through_a_view(view, change):
    def function(y):
        y = y.clone()
        change(view(y))
        return y

    return function


IN_PLACE = {
    "one channel": (assigned((slice(None), 0), 0.0), lambda y: torch.cat([0 * y[:, :1], y[:, 1:]], 1)),
    "channels": (assigned((slice(None), slice(2, 4)), 2.0), lambda y: torch.cat([y[:, :2], 0 * y[:, 2:] + 2], 1)),
    "ellipsis": (assigned((slice(None), 1, ...), 0.0), lambda y: torch.cat([y[:, :1], 0 * y[:, 1:2], y[:, 2:]], 1)),
    "a list of channels": (
        assigned((slice(None), [0, 2]), 0.0),
        lambda y: torch.cat([0 * y[:, :1], y[:, 1:2], 0 * y[:, 2:3], y[:, 3:]], 1),
    ),
    "a tensor of channels": (
        assigned((slice(None), torch.tensor([0, 2])), 0.0),
        lambda y: torch.cat([0 * y[:, :1], y[:, 1:2], 0 * y[:, 2:3], y[:, 3:]], 1),
    ),
    "permuted": (
        through_a_view(lambda y: y.permute(0, 2, 3, 1), lambda v: v.__setitem__((..., 0), 0.0)),
        lambda y: torch.cat([0 * y[:, :1], y[:, 1:]], 1),
    ),
    "flattened, multiplied": (through_a_view(lambda y: y.flatten(2), lambda v: v.mul_(2)), lambda y: 2 * y),
    "viewed, activated": (through_a_view(lambda y: y.view(2, 2, 2, H, W), lambda v: v.relu_()), lambda y: y.relu()),
    "a part, zeroed": (
        through_a_view(lambda y: y[:, 2:], lambda v: v.zero_()),
        lambda y: torch.cat([y[:, :2], 0 * y[:, 2:]], 1),
    ),
    "a part, scaled": (
        through_a_view(lambda y: y.narrow(1, 2, 2), lambda v: v.mul_(3)),
        lambda y: torch.cat([y[:, :2], 3 * y[:, 2:]], 1),
    ),
    "added to": (
        through_a_view(lambda y: y[:, 1:3], lambda v: v.add_(1)),
        lambda y: y + torch.tensor([0, 1, 1, 0.0]).double()[:, None, None],
    ),
    "a channel by another": (
        lambda y: through_a_view(lambda z: z, lambda z: z.__setitem__((slice(None), 0), y[:, 1]))(y),
        lambda y: torch.cat([y[:, 1:2], y[:, 1:]], 1),
    ),
    "masked": (through_a_view(lambda y: y, lambda v: v.masked_fill_(MASK, 0.0)), lambda y: y * ~MASK),
    "out": (lambda y: torch.add(y, 1, out=y.clone()), lambda y: y + 1),
    "out, itself": (through_a_view(lambda y: y, lambda v: torch.mul(v, 2, out=v)), lambda y: 2 * y),
}


@pytest.mark.parametrize("options", samples.OPTIONS, ids=samples.OPTION_NAMES)
@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("with_gradients", [False, True])
def test_what_is_written_arrives(name, options, with_gradients, body, x):
    write, expected = IN_PLACE[name]
    with torch.set_grad_enabled(with_gradients):
        # Without the check: the engine itself has to be right.
        got = answer(body, write, x, options=options, verify=False)
        torch.testing.assert_close(got, answer(body, expected, x, options=options))


@pytest.mark.parametrize("tokens", ["drop", "mask"])
def test_tokens_are_written_or_the_write_is_refused(tokens, x):
    def model(function):
        class Tokens(nn.Module):
            def __init__(self):
                super().__init__()
                torch.manual_seed(0)
                self.embed = nn.Conv2d(3, 4, 2, 2)

            def forward(self, x):
                return function(self.embed(x).flatten(2).transpose(1, 2)).mean(1)

        return lm.LayerMasked(Tokens().double().eval(), lm.MaskingOptions(tokens=tokens), verify=False)

    def with_view(t):
        view = t.transpose(1, 2)
        view.mul_(2)
        return t

    def part(t):
        t[..., :2] = t[..., 2:]
        return t

    torch.testing.assert_close(model(with_view)(x, VISIBLE), model(lambda t: 2 * t)(x, VISIBLE))
    torch.testing.assert_close(
        model(part)(x, VISIBLE), model(lambda t: torch.cat([t[..., 2:], t[..., 2:]], -1))(x, VISIBLE)
    )


@pytest.mark.parametrize("with_gradients", [False, True])
@pytest.mark.parametrize(
    "write",
    [
        lambda y: (y.flatten(1).mul_(2), y.mean((2, 3)))[1],
        lambda y: (y.view(len(y), -1).sub_(1), y)[1],
        lambda y: (y.relu()[:, :, :1, :1].squeeze(2).mul_(2), y)[1],  # of another one
        lambda y: (v := y.permute(0, 2, 3, 1), y.flatten(1).mul_(2), v)[2].mean((1, 2)),
    ],
    ids=["read", "returned", "another", "view"],
)
def test_features_that_are_written_into_are_refused_if_their_map_is_read_afterwards(
    write, with_gradients, request, body, x
):
    class Writing(nn.Module):
        def forward(self, x):
            return write(body(x))

    model = Writing().eval()
    with torch.set_grad_enabled(with_gradients):
        if "another" in request.node.callspec.id:
            assert torch.isfinite(lm.LayerMasked(model)(x, VISIBLE)).all()
            return
        with pytest.raises(errors.UnsupportedOperatorError, match=r"whose features the model has written in place"):
            lm.LayerMasked(model)(x, VISIBLE)


def test_features_may_be_written_into_if_nobody_reads_their_map(body, x):
    heads = [
        nn.Sequential(body, nn.Flatten(), nn.ReLU(inplace=kind), nn.Linear(4 * H * W, 2)) for kind in (True, False)
    ]
    heads[1][3] = heads[0][3]
    got, expected = (lm.LayerMasked(head.double().eval())(x, VISIBLE) for head in heads)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    "function",
    [
        lambda y: (z := y.permute(0, 2, 3, 1).contiguous(), z.mul_(2), y.mean((2, 3)) + z.mean((1, 2)))[2],
        lambda y: (z := y.permute(0, 2, 3, 1).reshape(len(y), H * W, 4), z.add_(1), y.mean((2, 3)) + z.mean(1))[2],
    ],
    ids=["contiguous", "reshape"],
)
@pytest.mark.parametrize("tokens", ["drop", "mask"])
def test_a_write_into_what_the_memory_format_makes_a_view_is_refused(function, tokens, body, x):
    # The engine has maps channels-last, where these are views; the plain model copies.
    class Permuted(nn.Module):
        def forward(self, x):
            return function(body(x))

    with pytest.raises(errors.UnsupportedOperatorError, match="writes into"):
        lm.LayerMasked(Permuted().eval(), lm.MaskingOptions(tokens=tokens), verify=False)(x, VISIBLE)


def test_a_write_that_another_view_would_miss_is_refused(x):
    class Parted(nn.Module):
        def forward(self, x):
            view = x[:, :, 1:]  # of the same memory
            x += x.roll(1, 0) if False else self.other(x)
            return view.mean((2, 3))

        def other(self, x):
            return F.max_pool2d(x, 3, 1, 1)  # of which more is visible

    with pytest.raises(errors.UnsupportedOperatorError, match=r"another view that would not see it.*x\.clone\(\)"):
        lm.LayerMasked(Parted().eval(), verify=False)(x, VISIBLE)


def test_ordinary_tensors_take_no_activation(body, x):
    def into_ordinary(y):
        canvas = torch.zeros(2, 4, H, W, dtype=torch.float64)
        canvas[:, :] = y
        return canvas

    with pytest.raises(errors.UnsupportedOperatorError, match="into an ordinary tensor"):
        answer(body, into_ordinary, x)


# ---- below torch's functions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda y: torch.ops.aten.relu(y), "aten.*relu"),
        (lambda y: y.as_subclass(Tensor), "below torch's functions"),
        (torch.vmap(lambda one: one * 2), "below torch's functions|no masking rule"),
        (lambda y: torch.tensor(y), "below torch's functions"),
        (lambda y: torch.from_numpy(y.numpy()), "numpy"),
        (lambda y: torch.as_tensor(np.asarray(y)), "no masking rule"),
        (lambda y: torch.tensor(y.tolist()), "tolist"),
        (lambda y: copy.deepcopy(y), "deepcopy"),
        (lambda y: y * y.sum().item() if y.sum() > 0 else y, "sum|gt"),
        (lambda y: y.apply_(lambda v: v * 2), "apply_"),
        (lambda y: torch.Tensor.__dlpack__(y), "dlpack"),
    ],
)
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")
def test_what_computes_below_is_refused_by_the_name_of_its_module(function, text, body, x):
    with torch.no_grad(), pytest.raises(errors.UnsupportedOperatorError, match=text) as caught:
        answer(body, function, x, verify=False)
    assert "Code" in str(caught.value)


def test_operators_of_extensions_are_refused(body, x):
    library = torch.library.Library("lm_plugins_test", "DEF")
    try:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")
        with pytest.raises(errors.UnsupportedOperatorError, match=r"lm_plugins_test.*twice"):
            answer(body, torch.ops.lm_plugins_test.twice, x)
    finally:
        library._destroy()


# ---- training mode that nobody can see ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer", [nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout(), nn.FeatureAlphaDropout(), nn.RReLU()]
)
def test_a_layer_that_trains_within_a_function_is_refused(layer, body, x):
    model = Code(body, lambda y: layer(y)).eval()
    with pytest.raises(errors.UnsupportedOperatorError, match=r"training=True.*eval"):
        lm.LayerMasked(model, verify=False)(x, VISIBLE)
    with pytest.raises(errors.LMPluginsError):
        lm.LayerMasked(model)(x, VISIBLE)
    layer.eval()
    assert torch.isfinite(lm.LayerMasked(model)(x, VISIBLE)).all()
    layer.train()


# ---- hooks --------------------------------------------------------------------------------------------------------------


def test_what_a_hook_keeps_reads_like_a_tensor_afterwards(body, x):
    kept = []
    handle = body[0].register_forward_hook(lambda module, inputs, output: kept.append(output.cpu().detach()))
    model, visible = Code(body, lambda y: y).eval(), torch.zeros_like(VISIBLE)
    visible[:, :, : W // 2] = True
    try:
        lm.LayerMasked(model)(x, visible)
    finally:
        handle.remove()
    activation = kept[-1]
    expected = body[0](x)
    assert activation.shape == expected.shape
    array = activation.numpy()
    assert isinstance(array, np.ndarray)
    hidden = activation.is_hidden(activation.visibility.visible).expand(expected.shape)
    assert bool(hidden.any())
    assert (array[hidden.numpy()] == 0).all()
    assert (array[~hidden.numpy()] != 0).all()
    assert (activation * 2 + 1).sum().item() == pytest.approx(2 * array.sum() + array.size)
    assert torch.equal(torch.from_numpy(array), activation.clone())
    assert type(activation * 1) is Tensor


def test_gradients_of_hooked_activations(body, x):
    found = {}

    def keep(module, inputs, output):
        found["activation"] = output
        output.register_hook(lambda gradient: found.setdefault("gradient", gradient))

    model = lm.LayerMasked(Code(body, lambda y: y.square()).eval(), verify=False)
    handle = body[0].register_forward_hook(keep)
    try:
        output = model(x.requires_grad_(), VISIBLE)
    finally:
        handle.remove()
    again = torch.autograd.grad(output[:, 0].sum(), found["activation"], retain_graph=True)[0]
    output[:, 0].sum().backward()
    assert found["gradient"].shape == found["activation"].shape == again.shape
    torch.testing.assert_close(found["gradient"], again)
    assert bool((again != 0).any())


def test_an_activation_of_an_earlier_call_is_refused(body, x):
    class Remembering(nn.Module):
        before = None

        def forward(self, x):
            y = body(x)
            result = y if self.before is None else y + self.before
            self.before = y
            return result.mean((2, 3))

    masked = lm.LayerMasked(Remembering().eval(), verify=False)
    masked(x, VISIBLE)
    with pytest.raises(errors.UnsupportedOperatorError, match="two calls of a model"):
        masked(x, VISIBLE)


def test_a_backward_hook_of_a_module_is_refused_where_it_would_lose_gradients(body, x):
    handle = body[2].register_full_backward_hook(lambda module, one, other: None)
    model = lm.LayerMasked(Code(body, lambda y: y).eval(), verify=False)
    try:
        with torch.no_grad():
            assert torch.isfinite(model(x, VISIBLE)).all()
        with pytest.raises(errors.UnsupportedOperatorError, match=r"BackwardHookFunction would lose the gradients"):
            model(x.requires_grad_(), VISIBLE)
    finally:
        handle.remove()


def test_images_of_a_batch_may_be_taken_apart(body, x):
    def apart(y):
        return torch.stack([one * 2 for one in y])

    torch.testing.assert_close(answer(body, apart, x), answer(body, lambda y: 2 * y, x))


def test_a_masked_model_in_a_masked_model_is_refused(body, x):
    with pytest.raises(errors.InputTypeError, match="wrap the model once"):
        lm.LayerMasked(nn.Sequential(lm.LayerMasked(body)).eval())(x, VISIBLE)


# ---- memory that activations share: hidden positions of one may be visible in another --------------------

SPARSE = torch.zeros(2, H, W, dtype=torch.bool)
SPARSE[0, 3:8:2, 1:6:2] = SPARSE[1, 6:, 4:] = True
POINTWISE = nn.Conv2d(3, 4, 1).double().eval()


CONVOLUTION = nn.Conv2d(4, 4, 3, padding=1).double().eval()


def through_tokens(layer):
    def function(y, copied=False):
        z = y.flatten(2)
        z = (z.clone() if copied else z).unflatten(2, y.shape[2:])
        z = layer(z).mean((2, 3), keepdim=True)
        return CONVOLUTION(y) + z

    return function


def samples_beside_a_pool(y, copied=False):
    y = POINTWISE(y)
    z = (y.clone() if copied else y)[:, :, ::2, ::2]
    return z + F.max_pool2d(y, 2)


@pytest.mark.parametrize(
    "function",
    [
        through_tokens(lambda y: F.max_pool2d(y, 3, 1, 1)),
        through_tokens(CONVOLUTION),
        samples_beside_a_pool,
    ],
    ids=["tokens, pooled", "tokens, convolved", "samples"],
)
@pytest.mark.parametrize("tokens", ["drop", "mask"])
def test_what_is_hidden_here_and_visible_in_another_view_is_not_written_to(function, tokens, body, x):
    options = lm.MaskingOptions(tokens=tokens, stem="coverage")
    body = nn.Identity() if function is samples_beside_a_pool else body
    with torch.no_grad():
        expected = answer(body, lambda y: function(y, copied=True), x, SPARSE, options=options)
        torch.testing.assert_close(answer(body, function, x, SPARSE, options=options), expected)


def test_a_part_without_autograd_leaves_alone_what_autograd_has_saved(body, x):
    def gated(y):
        y = F.max_pool2d(y, 2)
        z = y * y
        with torch.no_grad():
            gate = F.max_pool2d(y, 3, 1, 1).mean((2, 3), keepdim=True)
        return z * gate

    given = x.clone().requires_grad_()
    answer(body, gated, given, SPARSE).sum().backward()
    same = x.clone().requires_grad_()

    def expected(y):
        y = F.max_pool2d(y, 2)
        return y * y * F.max_pool2d(y.detach(), 3, 1, 1).mean((2, 3), keepdim=True)

    answer(body, expected, same, SPARSE).sum().backward()
    torch.testing.assert_close(given.grad, same.grad)


@pytest.mark.parametrize("with_gradients", [False, True])
def test_what_is_written_in_steps_arrives(with_gradients, body, x):
    chosen = torch.zeros(H, W, dtype=x.dtype)
    chosen[::2, ::2] = 1
    with torch.set_grad_enabled(with_gradients):
        got = answer(body, assigned((..., slice(None, None, 2), slice(None, None, 2)), 7.0), x, SPARSE)
        torch.testing.assert_close(got, answer(body, lambda y: y * (1 - chosen) + 7 * chosen, x, SPARSE))


# ---- after the model has returned --------------------


@pytest.mark.parametrize(
    "write",
    [
        lambda y: y.mul_(2),
        lambda y: y.__setitem__((slice(None), 0), 0.0),
        lambda y: F.relu(y, inplace=True),
        lambda y: torch.add(torch.ones(2, 4, H, W), 1, out=y),
    ],
    ids=["mul_", "setitem", "inplace", "out"],
)
def test_a_write_into_a_kept_activation_is_refused(write, body, x):
    kept = []
    body[0].register_forward_hook(lambda module, inputs, output: kept.append(output.detach()))
    answer(body, lambda y: y, x)
    with pytest.raises(errors.UnsupportedOperatorError, match=r"kept until after the call.*x\.clone\(\)"):
        write(kept[-1])
    weighted = kept[-1].clone()
    weighted[:, 0] *= 0  # as Grad-CAM does by hand
    torch.testing.assert_close(weighted[:, 1:], kept[-1][:, 1:])


def test_an_activation_of_an_earlier_call_is_refused_also_alone(body, x):
    class Smoothed(nn.Module):
        before = None

        def forward(self, x):
            y, before = body(x), self.before
            self.before = y
            return (y if before is None else y + before * 0.5).mean((2, 3))

    masked = lm.LayerMasked(Smoothed().eval(), verify=False)
    masked(x, VISIBLE)
    with pytest.raises(errors.UnsupportedOperatorError, match="two calls of a model"):
        masked(x, VISIBLE)


def test_a_hook_may_read_what_another_masked_model_has_left(body, x):
    kept, read = [], []
    other = copy.deepcopy(body)
    other[0].register_forward_hook(lambda module, inputs, output: kept.append(output))
    masked = lm.LayerMasked(other)

    def explain(module, inputs, output):
        masked(x, VISIBLE)
        read.append((kept[-1] * 2).sum())

    body[0].register_forward_hook(explain)
    answer(body, lambda y: y, x)
    torch.testing.assert_close(read[-1], kept[-1].sum() * 2)


POOL = concurrent.futures.ThreadPoolExecutor(1)


def mean(y):
    return F.adaptive_avg_pool2d(y, 1).flatten(1)


class Awaited:
    """As what a coroutine function returns."""

    def __init__(self, y):
        self.y = y

    def __await__(self):
        yield mean(self.y)


@pytest.mark.parametrize(
    "defer",
    [
        lambda y: (mean(one) for one in [y]),
        lambda y: map(mean, [y]),
        lambda y: {"later": lambda: mean(y)},
        lambda y: [partial(mean, y)],
        lambda y: POOL.submit(mean, y),
        Awaited,
    ],
    ids=["generator", "map", "function", "partial", "concurrent.futures", "awaitable"],
)
@pytest.mark.parametrize("verify", [True, False])
def test_what_would_compute_after_the_call_is_refused(defer, verify, body, x):
    class Later(nn.Module):
        def forward(self, x):
            return defer(body(x))

    with pytest.raises(errors.UnsupportedOperatorError, match="compute after the call"):
        lm.LayerMasked(Later().eval(), verify=verify)(x, VISIBLE)


@pytest.mark.parametrize("verify", [True, False])
def test_a_thread_that_fulfils_a_future_computes_with_masks(verify, body, x):
    kept = []

    class Promised(nn.Module):
        def forward(self, x):
            y, future, start = body(x), torch.futures.Future(), threading.Event()
            kept.append((y, start))

            def work():
                start.wait()
                with torch.no_grad():
                    future.set_result(mean(body[2](y)))

            threading.Thread(target=work).start()
            return future

    masked = lm.LayerMasked(Promised().eval(), verify=verify)
    with torch.no_grad():
        expected = answer(body, body[2], x, SPARSE)
        for _ in range(3):
            future = masked(x, SPARSE)
            for _, start in kept:
                start.set()
            torch.testing.assert_close(future.wait(), expected)
            assert type(kept[-1][0] * 1) is Tensor  # once it is done, what was kept reads like an ordinary tensor


def test_a_kept_activation_reads_the_same_during_a_backward_pass_and_after_it(body, x):
    found = {}

    def weigh(module, inputs, output):
        def see(gradient):
            found["during"] = (output * gradient).mean((2, 3))

        if output.requires_grad:  # the check needs none
            output.register_hook(see)
        found["activation"] = output

    body[0].register_forward_hook(weigh)
    output = answer(body, lambda y: y.square(), x.requires_grad_(), SPARSE)
    activation = found["activation"]
    gradient = torch.autograd.grad(output.sum(), activation)[0]
    torch.testing.assert_close(found["during"], (activation * gradient).mean((2, 3)))


def test_a_kept_activation_may_be_detached_later(body, x):
    """As pytorch-grad-cam does once it has read what its hook kept."""
    kept = []
    handle = body[0].register_forward_hook(lambda module, args, output: kept.append(output))
    lm.LayerMasked(body, verify=False)(x.clone().requires_grad_(), VISIBLE)
    handle.remove()
    before = kept[0].clone().detach()
    assert kept[0].requires_grad
    assert kept[0].detach_() is kept[0]
    assert not kept[0].requires_grad
    assert torch.equal(kept[0], before)
