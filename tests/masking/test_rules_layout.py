"""Views: what is hidden moves with the values. The reference applies the same view to a map of what is hidden."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lm_plugins as lm
from lm_plugins.masking import MaskedActivation, MaskingOptions, Window
from lm_plugins.masking.activation import PaddedActivation
from tests.masking import samples
from tests.references import filling


def shuffle(x):
    """Channel shuffle as ShuffleNet writes it."""
    n, c, h, w = x.size()
    return torch.transpose(x.view(n, 2, c // 2, h, w), 1, 2).contiguous().view(n, -1, h, w)


VIEWS = {
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "permute(list)": lambda x: torch.permute(x, [0, 2, 3, 1]),
    "permute(dims=)": lambda x: torch.permute(x, dims=(0, 2, 3, 1)),
    "permute back": lambda x: x.permute((0, 2, 3, 1)).permute(0, -1, 1, 2),
    "transpose": lambda x: x.transpose(0, 1).transpose(0, 1),
    "swapaxes": lambda x: x.unsqueeze(1).swapaxes(1, 2),
    "movedim": lambda x: torch.movedim(x, 1, -1),
    "swapaxes(axis0=)": lambda x: torch.swapaxes(x.unsqueeze(1), axis0=1, axis1=2),
    "movedim(tuples)": lambda x: x.movedim((2, 3), (1, 2)),
    "moveaxis": lambda x: x.moveaxis(source=1, destination=3),
    "shuffle": shuffle,
    "F.channel_shuffle": lambda x: F.channel_shuffle(x, 2),
    "view(-1)": lambda x: x.view(2, -1, 6, 7),
    "view(tuple)": lambda x: x.view((2, 2, 2, 6, 7)),
    "reshape": lambda x: torch.reshape(x, (2, 1, 4, 6, 7)),
    "reshape(shape=)": lambda x: torch.reshape(x, shape=(2, 2, 2, 6, 7)),
    "view(size=)": lambda x: x.view(size=(2, 2, 2, 6, 7)),
    "reshape with ones and back": lambda x: x.reshape(2, 1, 4, 1, 6, 7).reshape(2, 4, 6, 7),
    "unflatten": lambda x: x.unflatten(1, (2, 2)),
    "flatten channels": lambda x: x.unflatten(1, (2, 2)).flatten(1, 2),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "unsqueeze(-1)": lambda x: torch.unsqueeze(x, -1),
    "squeeze": lambda x: x.unsqueeze(2).squeeze(2),
    "squeeze beside a row": lambda x: x[:, :, 2:3].unsqueeze(2).squeeze(2),
    "squeeze()": lambda x: x.unsqueeze(1).squeeze(),
    "squeeze nothing": lambda x: x.squeeze(1),
    "chunk 0": lambda x: x.chunk(2, dim=1)[0],
    "chunk 1": lambda x: torch.chunk(x, 2, 1)[1],
    "split": lambda x: x.split(3, dim=1)[1],
    "split sections": lambda x: torch.split(x, [1, 3], 1)[1],
    "split_with_sizes": lambda x: x.split_with_sizes([1, 3], 1)[0],
    "narrow channels": lambda x: x.narrow(1, 1, 2),
    "narrow rows": lambda x: torch.narrow(x, 2, 1, 4),
    "narrow columns": lambda x: x.narrow(dim=-1, start=2, length=3),
    "one channel": lambda x: x[:, 0],
    "one channel, kept": lambda x: torch.unsqueeze(x[:, 1], 1),
    "channels": lambda x: x[:, 1:3],
    "crop": lambda x: x[:, :, 1:-1, 2:],
    "ellipsis": lambda x: x[..., 1:],
    "ellipsis in front": lambda x: x[..., 2, :, :][:, None],
    "None": lambda x: x[:, None, :, ::2],
    "stride": lambda x: x[:, :, ::2, ::3],
    "all": lambda x: x[:],
    "expand": lambda x: x[:, :1].expand(-1, 3, -1, -1),
    "expand(size=)": lambda x: x[:, 1:2].expand(size=(2, 3, 6, 7)),
    "expand_as": lambda x: x[:, :1].expand_as(x),
    "pad channels": lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)),
    "crop by pad": lambda x: F.pad(x, (-1, 0, -2, 0)),
}


IN_STEPS = {"None", "stride"}  # samples: those count for the positions between them as well


@pytest.mark.parametrize("name", VIEWS)
def test_regions_move_with_the_values(name):
    x, visible = samples.values(), samples.region(density=0.4)
    computed = visible | samples.region(seed=1, density=0.3)
    options = MaskingOptions(sampling="point" if name in IN_STEPS else "part")
    result = VIEWS[name](samples.activation(x, visible, options, computed))
    assert isinstance(result, MaskedActivation)
    assert [letter for letter in result.dims if letter != "C"] == ["N", "H", "W"]
    expected = VIEWS[name](x)
    assert result.shape == expected.shape
    samples.assert_equal_where_computed(result, expected)
    for region, source in ((result.visibility.computed, computed), (result.visibility.visible, visible)):
        moved = VIEWS[name](source[:, None].expand(x.shape).double())
        hidden = (moved == 0) if "pad channels" not in name else (moved[:, 1:-2] == 0)
        assert torch.equal(result.is_hidden(region).expand(hidden.shape), hidden)


@pytest.mark.parametrize("rows", [slice(None), slice(1, None), slice(None, None, 2), slice(1, 5, 2), slice(2, None, 3)])
@pytest.mark.parametrize("columns", [slice(None, None, 2), slice(-5, None, 3), slice(None, None, 100)])
@pytest.mark.parametrize("density", [0.03, 0.3, 1.0])
@pytest.mark.parametrize("last", [False, True])
def test_a_slice_in_steps_counts_for_what_lies_between(rows, columns, density, last):
    # What it keeps is what a convolution with a kernel of 1 and that stride would keep.
    x, visible = samples.values(), samples.region(density=density, seed=3)
    given = samples.activation(x, visible)
    sides = [range(size)[one] for size, one in zip((6, 7), (rows, columns), strict=True)]
    padding = [amount for side in reversed(sides) for amount in (-side.start, 0)]
    for axis, side in enumerate(sides):
        padding[3 - 2 * axis] = side[-1] + 1 - (6, 7)[axis]
    stride = tuple(side.step for side in sides)
    window = Window((1, 1), stride, tuple(padding), (1, 1))
    expected = given.visibility.after_convolution(window)
    result = given.permute(0, 2, 3, 1)[:, rows, columns].permute(0, 3, 1, 2) if last else given[:, :, rows, columns]
    assert torch.equal(result.visibility.visible.positions, expected.visible.positions)
    assert torch.equal(result.visibility.computed.positions, expected.computed.positions)
    padded, _ = filling.fill(x, visible, None, samples.DEFAULT.diagonal)
    samples.assert_equal_where_computed(result, padded[:, :, rows, columns], rtol=1e-5, atol=1e-5)


def test_samples_that_leave_the_map_stay_visible_as_tokens():
    visible = torch.zeros(1, 6, 8, dtype=torch.bool)
    visible[0, 3, 3] = True  # between four samples
    given = samples.activation(samples.values(1, h=6, w=8), visible)
    tokens = given.permute(0, 2, 3, 1)[:, ::2, ::2].reshape(1, 12, 4).whole()
    shown = (~tokens.is_hidden()).expand_as(tokens.values)
    assert shown[0, :, 0].tolist() == [False] * 5 + [True] * 2 + [False] * 2 + [True] * 2 + [False]
    torch.testing.assert_close(tokens.values[shown].reshape(4, 4), given.values[0, :, 3, 3].expand(4, 4))


def test_stochastic_depth_and_layer_scale_in_channels_last():
    # A ConvNeXt block: to channels last, linear layers, back, times a scale for every channel.
    x, scale = samples.values(), samples.values(4, 1, 1, 1)[:, 0]
    layer = nn.Linear(4, 4).double().requires_grad_(False)
    block = lambda x: scale * layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # noqa: E731
    samples.assert_equal_where_computed(block(samples.activation(x)), block(x))


def test_an_ordinary_tensor_expands_as_an_activation():
    gate, given = samples.values(2, 4, 1, 1), samples.activation()
    for result in (gate.expand_as(given), torch.Tensor.expand_as(gate, other=given)):
        assert isinstance(result, torch.Tensor)
        assert torch.equal(result, gate.expand(2, 4, 6, 7))


# ---- the way out -----------------------------------------------------------------------------------------------------

FLATTENED = {
    "torch.flatten": lambda x: torch.flatten(x, 1),
    "flatten": lambda x: x.flatten(start_dim=1),
    "nn.Flatten": nn.Flatten(),
    "view": lambda x: x.view(x.size(0), -1),
    "view(sizes)": lambda x: x.view(x.shape[0], 4 * 6 * 7),
    "reshape": lambda x: torch.reshape(x, (2, -1)),
    "reshape with ones": lambda x: x.reshape(2, -1, 1, 1)[:, :, 0, 0],
}


@pytest.mark.parametrize("name", FLATTENED)
def test_flattening_puts_zeros_where_hidden(name):
    x, visible = samples.values(), samples.region()
    result = FLATTENED[name](samples.activation(x, visible, computed=visible | samples.region(seed=1)))
    assert isinstance(result, torch.Tensor)
    assert torch.equal(result, FLATTENED[name](torch.where(visible[:, None], x, 0.0)))


@pytest.mark.parametrize("name", FLATTENED)
def test_flattening_everything_visible_is_exact(name):
    x = samples.values().float()
    assert torch.equal(FLATTENED[name](samples.full(x)), FLATTENED[name](x))


def test_flattening_may_pad_from_neighbours():
    options = MaskingOptions(flatten="neighbours")
    x, visible = samples.values(), samples.region(density=0.2)
    visible[1] = False
    result = samples.activation(x, visible, options).flatten(1)
    expected, _ = filling.fill(x, visible, None, options.diagonal)
    expected[1] = 0  # nothing to pad from
    torch.testing.assert_close(result, expected.flatten(1), rtol=1e-5, atol=1e-6)


def test_dropping_sides_of_one_leaves_the_spatial_world():
    x = samples.values(h=1, w=1)
    for visible in (torch.ones(2, 1, 1, dtype=torch.bool), torch.tensor([True, False]).reshape(2, 1, 1)):
        given = samples.activation(x, visible)
        expected = torch.where(visible[:, 0], x[:, :, 0, 0], 0.0)
        for result in (given.squeeze(), given.squeeze(-1).squeeze(-1), torch.squeeze(given, (2, 3)), given.flatten(1)):
            assert isinstance(result, torch.Tensor)
            assert torch.equal(result, expected)


# ---- padding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("amounts", [(1, 1, 1, 1), (2, 0, 1, 3), (1, 2)])
def test_padding_the_map(mode, amounts):
    if mode != "constant" and len(amounts) == 2:
        amounts = (*amounts, 0, 0)  # these modes want both sides
    x, visible = samples.values(), samples.region()
    result = F.pad(samples.activation(x, visible), amounts, mode)
    samples.assert_equal_where_computed(result, F.pad(x, amounts, mode))
    region = F.pad(visible[:, None].double(), amounts, mode)[:, 0] > 0
    assert torch.equal(result.visibility.visible.positions, region)
    if mode == "constant":  # constants are neither visible nor hidden
        inside = F.pad(torch.ones(2, 1, 6, 7), amounts)[:, 0] > 0
        assert torch.equal(result.visibility.visible.hidden, inside & ~region)


def test_padding_layers():
    x = samples.values()
    for layer in (nn.ZeroPad2d(1), nn.ConstantPad2d((1, 2, 0, 1), 3.0), nn.ReflectionPad2d(2), nn.ReplicationPad2d(1)):
        samples.assert_equal_where_computed(layer(samples.activation(x)), layer(x))


# ---- what no layout of a map or of tokens is -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("view", "text"),
    [
        (lambda x: x[x > 0], "indexing"),
        (lambda x: x.view(torch.int64), r"view\(dtype\)"),
        (lambda x: F.pad(x.permute(0, 2, 3, 1), (1, 1, 1, 1), "reflect"), "pad of"),
        (lambda x: bool(x), "__bool__"),
        (lambda x: x.numpy(), "no masking rule for torch.Tensor.numpy"),
    ],
)
def test_is_refused(view, text):
    with pytest.raises(lm.errors.UnsupportedOperatorError, match=text):
        view(samples.activation())


# ---- zeros that are left to a convolution ------------------------------------------------------------------------------


def was_made(padded):
    return not isinstance(padded, PaddedActivation) or "_padded" in vars(padded)


@pytest.mark.parametrize("options", samples.OPTIONS, ids=samples.OPTION_NAMES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("own", [0, 1, (1, 0)])
def test_a_convolution_writes_the_zeros_of_a_pad_itself(options, stride, own):
    given, weight = samples.activation(options=options), samples.values(3, 4, 3, 3)
    padded = F.pad(given, (2, 2, 1, 1))
    assert padded.shape == (2, 4, 8, 11)
    assert (padded.dtype, padded.device, padded.requires_grad) == (given.dtype, given.device, False)
    result = F.conv2d(padded, weight, stride=stride, padding=own)
    assert not was_made(padded)
    down, across = (own, own) if isinstance(own, int) else own
    expected = F.conv2d(given, weight, stride=stride, padding=(1 + down, 2 + across))
    samples.assert_same_activation(result, expected)
    # By hand, as for anything else that reads the zeros.
    again = F.pad(samples.activation(options=options), (2, 2, 1, 1))
    assert again.values.shape == padded.shape
    samples.assert_same_activation(F.conv2d(again, weight, stride=stride, padding=own), expected)


@pytest.mark.parametrize(
    ("pad", "convolution"),
    [((0, 1, 0, 1), {}), ((1, 1, 2, 2), {"padding": "valid"}), ((1, 1, 1, 1), {"padding": "same"})],
)
def test_zeros_that_a_convolution_cannot_write_are_written(pad, convolution):
    padded = F.pad(samples.activation(), pad)
    F.conv2d(padded, samples.values(3, 4, 3, 3), **convolution)
    assert was_made(padded)


def test_zeros_are_written_for_whoever_reads_them():
    given = samples.activation()
    padded = F.pad(given, (1, 2, 1, 0))
    assert torch.equal((padded * 2).values.nan_to_num(9.0), (F.pad(given.values, (1, 2, 1, 0)) * 2).nan_to_num(9.0))
    assert padded.visibility.visible.inside is not None
    # Once they may have been written to, they are no zeros any more.
    padded = F.pad(given, (1, 1, 1, 1))
    padded.values.fill_(1.0)
    result = F.conv2d(padded, samples.values(3, 4, 3, 3))
    expected = F.conv2d(torch.ones_like(padded.values), samples.values(3, 4, 3, 3))
    torch.testing.assert_close(result.values, expected, rtol=0, atol=1e-6)  # weights of rings are float32


def size_without_values(padded):
    """As a rule may answer that needs no values."""
    with lm.override_rule(torch.Tensor.size, lambda input: input.shape):
        assert padded.size() == (2, 4, 8, 9)
    assert not was_made(padded)


@pytest.mark.parametrize("ask", [size_without_values, lambda padded: padded.shape, lambda padded: None])
@pytest.mark.parametrize("alias", [False, True])
def test_what_is_padded_may_be_overwritten_afterwards(alias, ask):
    given, weight = samples.full(samples.values()), samples.values(3, 4, 3, 3)
    expected = F.conv2d(given.values, weight, padding=1)
    with torch.inference_mode():
        given = samples.full(samples.values())
        padded = F.pad(given, (1, 1, 1, 1))
        ask(padded)
        (given.permute(0, 2, 3, 1) if alias else given).mul_(0)
        torch.testing.assert_close(F.conv2d(padded, weight).values, expected)


def test_zeros_are_written_before_anything_else_is_called():
    given = samples.activation()
    F.pad(given, (1, 1, 1, 1))
    padded = F.pad(given, (1, 1, 1, 1))
    _ = given * 2
    assert was_made(padded)


@pytest.mark.parametrize("arguments", [((1, 1, 1, 1), "constant", 2.0), ((-1, 1, 0, 0),), ((1, 1, 1, 1), "replicate")])
def test_other_pads_are_written_at_once(arguments):
    assert was_made(F.pad(samples.activation(), *arguments))


def test_strides_may_be_named_where_the_values_stay_as_they_are():
    given = samples.activation(samples.values(1).contiguous(memory_format=torch.channels_last))
    strides = list(given.values.stride())
    samples.assert_same_activation(given.as_strided(given.shape, [given.numel(), *strides[1:]]), given)
    for size, stride in (((1, 4, 7, 6), strides), (given.shape, [*strides[:2], strides[3], strides[2]])):
        with pytest.raises(lm.errors.UnsupportedOperatorError, match="leaves the values as they are"):
            given.as_strided(size, stride)


def test_an_ordinary_tensor_is_not_indexed_by_an_activation():
    with pytest.raises(lm.errors.UnsupportedOperatorError, match="indexing an ordinary tensor"):
        samples.values()[samples.activation() > 0]
