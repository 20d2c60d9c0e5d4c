import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from lm_plugins.masking import Window
from tests.references import windows


def make(kernel=(3, 3), stride=(1, 1), padding=(1, 1, 1, 1), dilation=(1, 1)):
    return Window(kernel, stride, padding, dilation)


@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    ceil_mode=st.booleans(),
)
def test_between_reproduces_the_output_of_the_layer(size, kernel, stride, padding, dilation, ceil_mode):
    assume(all(p <= k // 2 for p, k in zip(padding, kernel, strict=True)))
    assume(all(s + 2 * p >= (k - 1) * d + 1 for s, p, k, d in zip(size, padding, kernel, dilation, strict=True)))
    values = torch.arange(1.0, 1 + size[0] * size[1]).reshape(1, 1, *size)
    pooled = F.max_pool2d(values, kernel, stride, padding, dilation, ceil_mode)
    window = Window.between(kernel, stride, padding, dilation, size, tuple(pooled.shape[2:]))
    taps = windows.taps(size, window.kernel, window.stride, window.padding, window.dilation)
    everything = torch.ones(1, *size, dtype=torch.bool)
    assert torch.equal(windows.maximum(values, everything, taps), pooled.double())


def test_identity():
    assert make((1, 1), padding=(0, 0, 0, 0)).is_identity
    assert not make((1, 1), stride=(2, 1), padding=(0, 0, 0, 0)).is_identity
    assert not make((1, 1), padding=(0, 1, 0, 0)).is_identity
    assert not make().is_identity


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (make(), True),
        (make((5, 1), padding=(0, 0, 2, 2)), True),
        (make((3, 3), padding=(2, 2, 2, 2), dilation=(2, 2)), True),
        (make((3, 3), padding=(1, 1, 2, 2), dilation=(2, 1)), True),
        (make(stride=(2, 1)), False),
        (make((2, 2)), False),
        (make(padding=(0, 0, 0, 0)), False),
        (make(padding=(0, 2, 1, 1)), False),
    ],
)
def test_keeps_grid(window, expected):
    assert window.keeps_grid is expected


def test_oversized_where_a_centre_lies_outside():
    assert not make().is_oversized
    assert make(padding=(2, 1, 1, 1)).is_oversized
    assert make(padding=(1, 1, 1, 2)).is_oversized
    assert not make(padding=(2, 2, 2, 2), dilation=(2, 2)).is_oversized


def test_reach():
    window = make((3, 5), dilation=(3, 1))
    assert (window.reach, window.half_reach) == (6, 3)
    assert (make((1, 1)).reach, make((1, 1)).half_reach) == (0, 0)
    assert (make((1, 7)).reach, make((1, 7)).half_reach) == (6, 3)
    assert (make((2, 2)).reach, make((2, 2)).half_reach) == (1, 1)


@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    padding=st.tuples(*[st.integers(0, 2)] * 4),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_a_window_that_skips_positions_is_widened_to_its_stride(size, kernel, stride, padding, dilation):
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    padded = size[0] + sum(padding[2:]), size[1] + sum(padding[:2])
    assume(all(have >= span for have, span in zip(padded, spans, strict=True)))
    window = Window(kernel, stride, padding, dilation)
    wide = window.widened
    got = windows.taps(size, wide.kernel, wide.stride, wide.padding, wide.dilation)
    expected = windows.parts(size, kernel, stride, padding, dilation)
    assert {key: {tap[2:] for tap in found} for key, found in got.items()} == {
        key: {tap[2:] for tap in found} for key, found in expected.items()
    }
    assert wide.widened is wide
    assert window.skips is (wide is not window)
    taps = windows.taps(size, kernel, stride, padding, dilation)
    seen = {tap[2:] for found in taps.values() for tap in found}
    assert seen <= {tap[2:] for found in expected.values() for tap in found}
    for where, found in taps.items():  # from any tap to any position that the window stands for
        for _, _, y, x in found:
            for _, _, other_y, other_x in expected[where]:
                assert max(abs(y - other_y), abs(x - other_x)) <= window.reach_of_widened


def test_a_sampling_kernel_becomes_the_window_beside_it():
    assert make((1, 1), (2, 2), (0, -1, 0, -1)).widened == make((3, 3), (2, 2), (1, 0, 1, 0))
    assert make((1, 3), (2, 1), (1, 1, 0, -1)).widened == make((3, 3), (2, 1), (1, 1, 1, 0))
    for covers in (make(), make((2, 2), (2, 2)), make((3, 3), (2, 2)), make((2, 2), (3, 3), dilation=(2, 2)).widened):
        assert covers.widened is covers
    assert make((3, 3), (2, 2), (2, 2, 2, 2), (2, 2)).skips  # a dilation of the stride's own kind


@pytest.mark.parametrize("rows", [slice(None), slice(3, None), slice(None, None, 2), slice(-4, -1, 3), slice(2, 2)])
def test_of_cut(rows):
    window = Window.of_cut(rows, slice(1, None, 2), (9, 6))
    kept = range(9)[rows]
    taps = windows.taps((9, 6), window.kernel, window.stride, window.padding, window.dilation)
    expected = {(i, j): [(0, 0, y, x)] for i, y in enumerate(kept) for j, x in enumerate(range(1, 6, 2))}
    assert taps == expected


def test_windows_are_keys():
    assert make() == make()
    assert hash(make()) == hash(make())
    assert make() != make(stride=(2, 2))
