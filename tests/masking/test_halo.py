"""What nobody looks at is left out, and nothing that anybody sees changes by it."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import lm_plugins as lm
from lm_plugins.masking import Run, Visibility, run_masked
from lm_plugins.masking.halo import Halo, HaloLeftOutError, run_with_halo
from tests.masking import samples

# Under the default, a second convolution in a row computes no halo that could be left out.
ANY = lm.MaskingOptions(computed="any")


class Residual(nn.Module):
    """Two convolutions and an addition: the halo of the first is looked at, that of the second is not."""

    def __init__(self, channels=4, kernel=3):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
        self.second = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)

    def forward(self, x):
        return x + self.second(self.first(x).relu())


class Branching(nn.Module):
    """Looks at the halo of its first convolution only when told to."""

    def __init__(self, swallow=False):
        super().__init__()
        self.stem, self.first, self.second = (nn.Conv2d(a, 4, 3, padding=1) for a in (3, 4, 4))
        self.is_long = False
        self.swallow = swallow

    def forward(self, x):
        x = self.first(nn.functional.max_pool2d(self.stem(x), 2))
        if self.is_long:
            try:
                x = self.second(x)
            except Exception:
                if not self.swallow:
                    raise
        return x.mean((2, 3))


def residual_net():
    torch.manual_seed(0)
    blocks = [Residual(), nn.MaxPool2d(2), Residual(kernel=5)]
    return (
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), *blocks, nn.AdaptiveAvgPool2d(1)).double().eval()
    )


def images(n=2, size=32):
    torch.manual_seed(1)
    visible = (torch.rand(n, size // 8, size // 8) < 0.5).repeat_interleave(8, 1).repeat_interleave(8, 2)
    visible[:, :3, :5] = True
    return torch.rand(n, 3, size, size, dtype=torch.float64), visible


class PaddedPositions(TorchDispatchMode):
    """Counts the positions that neighbour padding writes within the block."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function._schema.name.startswith("aten::index_copy"):
            self.count += args[2].numel()
        return function(*args, **(kwargs or {}))


def padded_positions(call):
    with PaddedPositions() as padded:
        call()
    return padded.count


def test_a_later_run_leaves_out_what_the_first_did_not_look_at():
    model, (x, visible) = residual_net(), images()
    masked = lm.LayerMasked(model, ANY)
    with torch.no_grad():
        everything = padded_positions(lambda: run_masked(model, x, visible, ANY))
        assert padded_positions(lambda: masked(x, visible)) == everything
        for _ in range(2):
            assert padded_positions(lambda: masked(x, visible)) < 0.9 * everything


def test_by_default_the_second_convolution_of_a_block_pads_half_a_kernel_from_the_start():
    model, (x, visible) = residual_net(), images()
    with torch.no_grad():
        masked = lm.LayerMasked(model)
        first, later = (padded_positions(lambda: masked(x, visible)) for _ in range(2))
        assert first == later < padded_positions(lambda: run_masked(model, x, visible, ANY))


@pytest.mark.parametrize("with_gradients", [True, False])
def test_what_is_left_out_changes_nothing(with_gradients):
    model, (x, visible) = residual_net(), images()
    masked = lm.LayerMasked(model, ANY)
    expected = run_masked(model, x, visible, ANY)
    with torch.set_grad_enabled(with_gradients):
        for _ in range(3):
            given = x.clone().requires_grad_(with_gradients)
            torch.testing.assert_close(masked(given, visible), expected, rtol=1e-12, atol=1e-12)
    if with_gradients:
        masked(given, visible).sum().backward()
        sparing, given.grad = given.grad, None
        run_masked(model, given, visible, ANY).sum().backward()
        torch.testing.assert_close(sparing, given.grad, rtol=1e-10, atol=1e-12)


def test_hidden_pixels_cannot_matter_in_a_sparing_run():
    model, (x, visible) = residual_net(), images()
    masked = lm.LayerMasked(model, ANY)
    with torch.no_grad():
        masked(x, visible)
        expected = masked(x, visible)
        for value in (1e30, torch.nan, torch.inf):
            assert torch.equal(masked(x.masked_fill(~visible[:, None], value), visible), expected)


def test_a_map_that_is_returned_has_its_halo():
    torch.manual_seed(0)
    model, (x, visible) = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Residual().first).double().eval(), images()
    masked = lm.LayerMasked(model, ANY)
    with torch.no_grad():
        first = masked(x, visible)
        assert torch.equal(masked(x, visible), first)
    assert torch.equal(run_masked(model, x, visible, ANY), first)


@pytest.mark.parametrize("swallow", [False, True])
def test_a_branch_that_looks_at_what_was_left_out_is_noticed(swallow):
    torch.manual_seed(0)
    model, (x, visible) = Branching(swallow).double().eval(), images()
    masked = lm.LayerMasked(model, ANY)
    with torch.no_grad():
        for is_long in (False, False, True, True, False):
            model.is_long = is_long
            expected = run_masked(model, x, visible, ANY)
            torch.testing.assert_close(masked(x, visible), expected, rtol=1e-12, atol=1e-12)


def test_a_run_that_is_made_again_starts_from_the_same_pixels():
    class InPlace(Branching):
        def forward(self, x):
            return super().forward(x.mul_(2).sub_(1))  # as a model that normalises its input itself

    torch.manual_seed(0)
    model, (x, visible) = InPlace().double().eval(), images()
    masked, before = lm.LayerMasked(model, ANY), x.clone()
    with torch.no_grad():
        for is_long in (False, True):
            model.is_long = is_long
            expected = run_masked(model, x, visible, ANY)
            torch.testing.assert_close(masked(x, visible), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(x, before)


def test_an_error_of_the_model_is_its_own_and_not_tried_again():
    calls = []

    class Failing(nn.Module):
        def forward(self, x):
            calls.append(x)
            if len(calls) > 1:
                raise RuntimeError("on purpose")
            return x.mean((2, 3))

    masked, (x, visible) = lm.LayerMasked(Failing().eval(), verify=False), images()
    masked(x, visible)
    with pytest.raises(RuntimeError, match="on purpose"):
        masked(x, visible)
    assert len(calls) == 2


def test_another_image_size_and_other_masks_share_what_was_learned():
    model = residual_net()
    masked = lm.LayerMasked(model, ANY)
    with torch.no_grad():
        masked(*images())
        for n, size in ((1, 48), (3, 40), (2, 32)):
            x, visible = images(n, size)
            expected = run_masked(model, x, visible, ANY)
            torch.testing.assert_close(masked(x, visible), expected, rtol=1e-12, atol=1e-12)


def test_copies_and_pickles_learn_anew():
    masked, (x, visible) = lm.LayerMasked(residual_net()), images()
    with torch.no_grad():
        first = padded_positions(lambda: masked(x, visible))
        expected = masked(x, visible)
        for other in (copy.deepcopy(masked), pickle.loads(pickle.dumps(masked))):
            assert padded_positions(lambda other=other: other(x, visible)) == first
            torch.testing.assert_close(other(x, visible), expected, rtol=1e-12, atol=1e-12)


def test_a_checkpoint_computes_again_what_was_computed():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = residual_net()

        def forward(self, x):
            return checkpoint(self.body, x, use_reentrant=False)

    model, (x, visible) = Checkpointed().eval(), images()
    masked = lm.LayerMasked(model, ANY)
    for _ in range(3):
        given, same = x.clone().requires_grad_(), x.clone().requires_grad_()
        masked(given, visible).square().sum().backward()
        run_masked(model.body, same, visible, ANY).square().sum().backward()
        torch.testing.assert_close(given.grad, same.grad, rtol=1e-9, atol=1e-12)


def shared_weights(segment):
    """One convolution in two segments: at the halo of the first something looks, at that of the second nothing."""
    stem, one, other = (nn.Conv2d(c, 4, 3, padding=1).double() for c in (3, 4, 4))

    def forward(x):
        x = stem(x)
        return segment(lambda y: other(one(y)), x) + segment(lambda y: nn.functional.max_pool2d(one(y), 3, 1, 1), x)

    return forward


def standardized_weights(segment):
    """Weights that are made in every call."""
    convolutions = [nn.Conv2d(c, 4, 3, padding=1).double() for c in (3, 4, 4, 4)]

    def layer(x, i):
        weight = convolutions[i].weight
        x = nn.functional.conv2d(x, weight - weight.mean((1, 2, 3), keepdim=True), padding=1)
        return nn.functional.max_pool2d(x, 2) if i > 1 else x

    def forward(x):
        for i in range(4):
            x = segment(layer, x, i)
        return x

    return forward


@pytest.mark.parametrize("network", [shared_weights, standardized_weights])
def test_a_checkpoint_need_not_know_a_convolution_by_its_weight(network):
    class Network(nn.Module):
        def __init__(self, segment):
            super().__init__()
            torch.manual_seed(0)
            self.function = network(segment)

        def forward(self, x):
            return self.function(x).mean((2, 3))

    x, visible = images()
    masked = lm.LayerMasked(Network(lambda *args: checkpoint(*args, use_reentrant=False)).eval())
    plain = Network(lambda function, *args: function(*args)).eval()
    for with_gradients in (True, False, True, True):
        with torch.set_grad_enabled(with_gradients):
            given, same = x.clone().requires_grad_(with_gradients), x.clone().requires_grad_(with_gradients)
            output, expected = masked(given, visible), run_masked(plain, same, visible, ANY)
            torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-12)
        if with_gradients:
            output.square().sum().backward()
            expected.square().sum().backward()
            torch.testing.assert_close(given.grad, same.grad, rtol=1e-9, atol=1e-12)


def test_threads_share_one_masked_model():
    model, (x, visible) = residual_net(), images()
    masked, results = lm.LayerMasked(model, ANY), []
    expected = run_masked(model, x, visible, ANY)

    def work():
        with torch.no_grad():
            results.extend(masked(x, visible) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 15
    for result in results:
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


def test_published_semantics_have_no_halo():
    masked, (x, visible) = lm.LayerMasked(residual_net(), samples.PUBLISHED), images()
    with torch.no_grad():
        first = padded_positions(lambda: masked(x, visible))
        assert padded_positions(lambda: masked(x, visible)) == first


def test_a_region_reports_whoever_looks_at_it():
    made = []
    region = samples.activation().visibility.visible

    def looking(halo):
        number = halo.next()
        visibility = Visibility(region, lambda: made.append("made") or region, Run(ANY, halo), halo=number)
        assert not made or halo.leaves_out(number)
        assert visibility.computed is visibility.computed is region
        return halo

    halo, needed = run_with_halo(looking, None)
    assert made == ["made"]
    assert needed == halo.looked_at == {1}
    assert not Halo(needed).leaves_out(1)  # the look was noted, so that later runs compute it

    _, needed = run_with_halo(lambda halo: halo.next(), None)  # nobody looks
    made.clear()
    with pytest.raises(HaloLeftOutError):
        looking(Halo(needed))
    _, needed = run_with_halo(looking, needed)  # run again, with all
    assert needed == {1}
