"""Nothing is believed unchecked: the first masked answer of a model, and the first after a change, is verified."""

import copy
import functools
import logging
import types
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import lm_plugins as lm
from lm_plugins import errors
from tests.masking import samples

VISIBLE = samples.region(4, 10, 12, density=0.6, seed=5)


class Net(nn.Module):
    """A small network that counts its passes, and holds what people put into modules."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        self.scale = 1.0
        self.steps = [2.0, 3.0]
        self.config = types.SimpleNamespace(use_bias=False)

    def forward(self, x):
        passes.append(len(x))
        y = self.body(x) * self.scale * self.steps[0]
        return self.head(y + 1 if self.config.use_bias else y)

    def head(self, y):
        return y.mean((2, 3))


passes = []


@pytest.fixture
def net():
    passes.clear()
    return Net().eval()


@pytest.fixture
def x():
    return torch.rand(4, 3, 10, 12)


def passes_of(masked, x, visible=VISIBLE):
    """The sizes of the batches that the model was given in one call."""
    passes.clear()
    masked(x, visible)
    return list(passes)


# ---- what is refused -------------------------------------------------------------------------------------------------------


class AsksForExactType(nn.Module):
    def forward(self, y):
        return 2 * y if type(y) is torch.Tensor else y


class AsksForAMethod(nn.Module):
    def forward(self, y):
        return y if hasattr(y, "visibility") else y + 1


class FirstCallDiffers(nn.Module):
    """Takes another way in every second call."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, y):
        self.calls += 1
        return y * (1 + self.calls % 2)


@pytest.mark.parametrize("culprit", [AsksForExactType, AsksForAMethod])
def test_a_model_that_steps_outside_is_refused_and_the_module_named(culprit, net, x):
    model = nn.Sequential(net.body, culprit(), nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1))).eval()
    with pytest.raises(errors.VerificationError) as caught:
        lm.LayerMasked(model)(x, VISIBLE)
    text = str(caught.value)
    for part in ("with every pixel visible", f"'1' ({culprit.__name__})", "what kind of tensor", "verify=False"):
        assert part in text
    assert torch.isfinite(lm.LayerMasked(model, verify=False)(x, VISIBLE)).all()
    assert torch.equal(lm.LayerMasked(model)(x), model(x))  # all visible needs no engine


def test_code_outside_of_modules_is_told(net, x):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = net.body

        def forward(self, x):
            y = self.body(x)
            return (2 * y if type(y) is torch.Tensor else y).mean((2, 3))

    with pytest.raises(errors.VerificationError, match=r"first module that differs is '\(the model itself\)' \(Own\)"):
        lm.LayerMasked(Own().eval())(x, VISIBLE)


def test_another_way_through_the_modules_is_told(net, x):
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.one, self.other = net.body, nn.ReLU(), nn.Tanh()

        def forward(self, x):
            y = self.body(x)
            return (self.one(y) if type(y) is torch.Tensor else self.other(y)).mean((2, 3))

    with pytest.raises(errors.VerificationError, match=r"take different ways: the plain model calls 'one' \(ReLU\)"):
        lm.LayerMasked(Branching().eval())(x, VISIBLE)


@pytest.mark.parametrize("part", [FirstCallDiffers(), lambda y: nn.functional.dropout(y.mean((2, 3)), 0.5)])
def test_a_model_that_answers_differently_every_time_is_refused(part, net, x):
    class Random(nn.Module):
        def forward(self, x):
            y = part(net.body(x))
            return y if y.ndim == 2 else y.mean((2, 3))

    with pytest.raises(errors.VerificationError, match="another answer to the same image every time"):
        lm.LayerMasked(Random().eval())(x, VISIBLE)


@dataclass
class Output:
    logits: torch.Tensor
    name: str = "net"


@pytest.mark.parametrize(
    "pack",
    [lambda y: {"logits": y}, lambda y: [None, y], lambda y: Output(y), lambda y: types.SimpleNamespace(logits=y)],
    ids=["dict", "list", "dataclass", "object"],
)
def test_whatever_a_model_returns_is_compared(pack, net, x):
    class Packed(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def forward(self, x):
            y = net.body(x).mean((2, 3))
            return pack(y * self.factor if type(x) is torch.Tensor else y)

    lm.LayerMasked(Packed(1.0).eval())(x, VISIBLE)
    with pytest.raises(errors.VerificationError, match="output"):
        lm.LayerMasked(Packed(1.1).eval())(x, VISIBLE)


def test_an_answer_of_other_parts_is_refused(net, x):
    class Parts(nn.Module):
        def forward(self, x):
            y = net.body(x).mean((2, 3))
            return (y, y) if type(x) is torch.Tensor else (y,)

    with pytest.raises(errors.VerificationError, match="output has 1 parts, not 2"):
        lm.LayerMasked(Parts().eval())(x, VISIBLE)


def test_futures_that_are_done_are_compared(net, x):
    class Promised(nn.Module):
        def forward(self, x):
            future = torch.futures.Future()
            y = net.body(x).mean((2, 3))
            future.set_result(y + 1 if type(x) is torch.Tensor else y)
            return future

    with pytest.raises(errors.VerificationError, match="differs by"):
        lm.LayerMasked(Promised().eval())(x, VISIBLE)


# ---- when it is checked, and what that costs ----------------------------------------------------------------------


def test_one_image_in_two_passes_once(net, x):
    masked = lm.LayerMasked(net)
    assert passes_of(masked, x) == [1, 1, 4]
    for _ in range(3):
        assert passes_of(masked, x) == [4]
    assert passes_of(lm.LayerMasked(net, verify=False), x) == [4]


def rule(input):
    return input.like(torch.erfinv(input.values))


CHANGES = {
    "an attribute": lambda net: setattr(net, "scale", 1.5),
    "an attribute of a part": lambda net: setattr(net.body[0], "note", "new"),
    "in a list": lambda net: net.steps.__setitem__(0, 4.0),
    "in a configuration": lambda net: setattr(net.config, "use_bias", True),
    "a module": lambda net: net.body.__setitem__(1, nn.Tanh().eval()),
    "a parameter": lambda net: setattr(net.body[0], "weight", nn.Parameter(net.body[0].weight * 2)),
    "a hook": lambda net: net.body[1].register_forward_hook(lambda module, inputs, output: output),
    "a hook before": lambda net: net.body[1].register_forward_pre_hook(lambda module, inputs: inputs),
    "a forward of its own": lambda net: setattr(net, "forward", types.MethodType(Net.forward, net)),
    "a rule": lambda net: lm.register_rule(torch.erfinv)(rule),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed(change, net, x):
    masked = lm.LayerMasked(net)
    masked(x, VISIBLE)
    CHANGES[change](net)
    try:
        # Where there are hooks, what they see first belongs to the answer as well.
        assert passes_of(masked, x) == ([4, 1, 1, 4] if "hook" in change else [1, 1, 4])
        assert passes_of(masked, x) == [4]
    finally:
        if change == "a rule":
            lm.unregister_rule(torch.erfinv)


def test_changed_code_is_noticed(net, x, monkeypatch):
    masked = lm.LayerMasked(net)
    masked(x, VISIBLE)
    monkeypatch.setattr(Net, "head", lambda self, y: y.amax((2, 3)))
    assert passes_of(masked, x) == [1, 1, 4]

    def other(self, y):
        return y.amin((2, 3))

    # As an editor does that reloads code while it runs.
    monkeypatch.setattr(Net.head, "__code__", other.__code__)
    assert passes_of(masked, x) == [1, 1, 4]


def test_a_global_hook_is_noticed(net, x):
    masked = lm.LayerMasked(net)
    masked(x, VISIBLE)
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, inputs, output: None)
    try:
        assert passes_of(masked, x) == [4, 1, 1, 4]
    finally:
        handle.remove()


def test_a_hook_that_steps_outside_is_refused(net, x):
    masked = lm.LayerMasked(net)
    masked(x, VISIBLE)
    net.body[1].register_forward_hook(
        lambda module, inputs, output: 2 * output if type(output) is torch.Tensor else None
    )
    with pytest.raises(errors.VerificationError, match=r"'body\.1' \(ReLU\)"):
        masked(x, VISIBLE)


def test_another_size_or_dtype_is_checked(net, x):
    masked = lm.LayerMasked(net)
    masked(x, VISIBLE)
    larger = torch.rand(4, 3, 14, 12)
    assert passes_of(masked, larger, torch.rand(14, 12) < 0.5) == [1, 1, 4]
    assert passes_of(masked, x[:2], VISIBLE[:2]) == [2]  # a batch of another size is the same kind of images
    net.double()
    assert passes_of(masked, x.double()) == [1, 1, 4]


def test_training_mode_is_noticed_in_every_call(net, x):
    masked = lm.LayerMasked(net)
    masked(x, VISIBLE)
    net.body[1].train()
    with pytest.raises(errors.TrainingModeError, match=r"body\.1"):
        masked(x, VISIBLE)


def test_weights_that_learn_are_no_change(net, x):
    masked = lm.LayerMasked(net)
    masked(x, VISIBLE)
    with torch.no_grad():
        net.body[0].weight.mul_(2)
    net.load_state_dict(copy.deepcopy(net.state_dict()))
    assert passes_of(masked, x) == [4]


def test_what_changes_in_every_call_is_left_out(net, x):
    net.body[1].register_forward_hook(
        lambda module, inputs, output: setattr(module, "seen", getattr(module, "seen", 0) + 1000)
    )
    masked = lm.LayerMasked(net)
    assert passes_of(masked, x) == [4, 1, 1, 4]
    for _ in range(3):
        assert passes_of(masked, x) == [4]
    net.scale = 0.5  # others are still noticed
    assert passes_of(masked, x) == [4, 1, 1, 4]


def test_a_model_that_knows_its_batch_is_checked_on_all_of_it(net, x):
    class Fixed(nn.Module):
        def forward(self, x):
            return net(x.reshape(4, 3, 10, 12))

    assert passes_of(lm.LayerMasked(Fixed().eval()), x) == [4, 4, 4]


def test_hidden_pixels_are_not_shown_to_the_check(net, x):
    seen = []

    class Watching(nn.Module):
        def forward(self, x):
            if type(x) is torch.Tensor:  # of the plain model
                seen.append(x)
            return net(x)

    lm.LayerMasked(Watching().eval())(torch.where(VISIBLE[:, None], x, torch.nan), VISIBLE)
    assert torch.equal(seen[0], torch.where(VISIBLE[:1, None], x[:1], 0.0))


def test_the_image_is_left_alone_by_the_check(x):
    model = nn.Sequential(nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)).eval()
    before = x.clone()
    lm.LayerMasked(model)(x - 0.5, VISIBLE)
    assert torch.equal(x, before)


# ---- what is held deeper ---------------------------------------------------------------------------------------------------


class Slotted:
    __slots__ = ("factor",)

    def __init__(self):
        self.factor = 1.0


def closing_over(value):
    held = [value]
    return held, lambda y: y * held[0]


HELD = {
    "a configuration in a configuration": (
        lambda: types.SimpleNamespace(inner=types.SimpleNamespace(factor=1.0)),
        lambda held: setattr(held.inner, "factor", 2.0),
    ),
    "a dictionary in a dictionary": (lambda: {"a": {"b": 1.0}}, lambda held: held["a"].__setitem__("b", 2.0)),
    "a list in a list": (lambda: [[1.0]], lambda held: held[0].append(2.0)),
    "slots": (Slotted, lambda held: setattr(held, "factor", 2.0)),
    "a module in a list": (lambda: [nn.ReLU().eval()], lambda held: setattr(held[0], "inplace", True)),
    "a module in a dictionary": (lambda: {"a": nn.ReLU().eval()}, lambda held: held.__setitem__("a", nn.Tanh().eval())),
    "arguments of a partial": (
        lambda: functools.partial(torch.add, alpha=[1.0]),
        lambda held: held.keywords["alpha"].append(2.0),
    ),
    "variables of a function": (
        lambda: closing_over(1.0)[1],
        lambda held: held.__closure__[0].cell_contents.append(2.0),
    ),
}


@pytest.mark.parametrize("what", HELD)
def test_a_change_of_what_an_attribute_holds_is_noticed(what, net, x):
    make, change = HELD[what]
    net.held = make()
    masked = lm.LayerMasked(net)
    masked(x, VISIBLE)
    assert passes_of(masked, x) == [4]
    change(net.held)
    assert passes_of(masked, x) == [1, 1, 4]
    assert passes_of(masked, x) == [4]


def test_a_log_that_grows_in_every_call_is_left_out(net, x):
    net.log, net.steps_of = [], {"shapes": []}

    def note(module, inputs, output):
        net.log.append(output.shape)
        net.steps_of["shapes"].append(len(net.log))

    net.body[1].register_forward_hook(note)
    masked = lm.LayerMasked(net)
    assert passes_of(masked, x) == [4, 1, 1, 4]
    for _ in range(4):
        assert passes_of(masked, x) == [4]
    net.scale = 3.0
    assert passes_of(masked, x) == [4, 1, 1, 4]


def test_large_collections_are_not_walked_through(net, x):
    net.data = [[i] for i in range(5000)]
    net.log = logging.getLogger()  # which knows all loggers of the program
    masked = lm.LayerMasked(net)
    masked(x, VISIBLE)
    assert passes_of(masked, x) == [4]
    net.data.append([1])
    assert passes_of(masked, x) == [1, 1, 4]


def test_a_hook_may_hold_the_masked_model(net, x):
    masked = lm.LayerMasked(net)
    net.body[1].register_forward_hook(lambda module, inputs, output: None if masked.training else output)
    assert passes_of(masked, x) == [4, 1, 1, 4]
    assert passes_of(masked, x) == [4]


@pytest.mark.parametrize("which", [0, -1])
def test_hooks_that_keep_the_first_or_the_last_keep_what_belongs_to_the_answer(which, net, x):
    """As libraries of class activation maps do: one keeps the first activation and the last gradient."""
    activations, gradients = [], []

    def keep(module, inputs, output):
        activations.append(output.detach())
        output.register_hook(lambda gradient: gradients.append(gradient.clone()))

    masked = lm.LayerMasked(net)
    net.body[2].register_forward_hook(keep)
    masked(x, VISIBLE)[:, 0].sum().backward()
    kept, gradient = activations[which].clone(), gradients[which]
    activations.clear(), gradients.clear()
    masked(x, VISIBLE)[:, 0].sum().backward()
    torch.testing.assert_close(kept, activations[which].clone())
    torch.testing.assert_close(gradient, gradients[which])
    assert kept.shape == gradient.shape == (4, 4, 10, 12)
