"""The algebra of regions, against loops over positions."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from lm_plugins.masking import Mask, Window
from lm_plugins.masking.geometry import Resizing
from tests.references import windows


def random_mask(size=(6, 7), n=2, density=0.5, seed=0, border=False):
    """A region, with constants around the image if `border`."""
    positions = torch.rand(n, *size, generator=torch.Generator().manual_seed(seed)) < density
    if not border:
        return Mask(positions)
    inside = torch.ones(size, dtype=torch.bool)
    inside[0], inside[:, -2:] = False, False
    return Mask(positions & inside, inside)


def inside_of(mask):
    return torch.ones(mask.size, dtype=torch.bool) if mask.inside is None else mask.inside


sizes = st.tuples(st.integers(3, 8), st.integers(3, 8))
masks = st.builds(
    random_mask,
    size=sizes,
    n=st.just(2),
    density=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 99),
    border=st.booleans(),
)
geometries = st.builds(
    Window,
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(*[st.integers(0, 2)] * 4),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
)


def taps(mask, window):
    padded = mask.size[0] + sum(window.padding[2:]), mask.size[1] + sum(window.padding[:2])
    spans = [(k - 1) * d + 1 for k, d in zip(window.kernel, window.dilation, strict=True)]
    assume(all(have >= span for have, span in zip(padded, spans, strict=True)))
    return windows.taps(mask.size, window.kernel, window.stride, window.padding, window.dilation)


# ---- one region ------------------------------------------------------------------------------------------------------


def test_hidden_is_what_is_inside_but_not_in_the_region():
    mask = random_mask(border=True)
    assert torch.equal(mask.hidden, ~mask.positions & mask.inside)
    assert not (mask.hidden & mask.positions).any()
    assert torch.equal(random_mask().hidden, ~random_mask().positions)


def test_is_full():
    assert random_mask(density=1).is_full
    assert random_mask(density=1, border=True).is_full  # constants are not hidden
    assert not random_mask(density=0.9).is_full
    one_image = torch.ones(2, 3, 3, dtype=torch.bool)
    one_image[1, 0, 0] = False
    assert not Mask(one_image).is_full


# ---- windows ---------------------------------------------------------------------------------------------------------


@given(mask=masks, window=geometries)
def test_any_in(mask, window):
    expected = windows.any_in(mask.positions, taps(mask, window))
    result = mask.any_in(window)
    assert torch.equal(result.positions, expected)


@given(mask=masks, window=geometries)
def test_a_window_that_sees_nothing_of_the_image_is_no_part_of_it(mask, window):
    expected = windows.any_in(inside_of(mask)[None], taps(mask, window))[0]
    assume(not all(p == 0 for p in window.padding) or mask.inside is not None)
    result = mask.any_in(window)
    assert torch.equal(inside_of(result), expected)
    assert not (result.positions & ~expected).any()


@given(mask=masks, window=geometries, threshold=st.sampled_from([0.1, 0.3, 0.5, 1.0]))
def test_resampled(mask, window, threshold):
    assume(not (window.keeps_grid and mask.inside is None))
    taps(mask, window)
    visible = windows.resampled(
        mask.positions, inside_of(mask), threshold, window.kernel, window.stride, window.padding, window.dilation
    )
    assert torch.equal(mask.resampled(window, threshold).positions, visible)


@given(window=geometries, threshold=st.sampled_from([0.1, 0.3, 1.0]))
def test_resampling_a_full_region_keeps_it_full(window, threshold):
    mask = random_mask(density=1)
    taps(mask, window)
    assert mask.resampled(window, threshold).is_full


@pytest.mark.parametrize("dilation", [(1, 1), (2, 3)])
def test_resampling_on_the_same_grid_changes_nothing(dilation):
    mask = random_mask()
    window = Window((3, 3), (1, 1), (dilation[1], dilation[1], dilation[0], dilation[0]), dilation)
    assert mask.resampled(window, 0.3) is mask


def test_resampling_never_loses_an_image():
    positions = torch.zeros(1, 9, 9, dtype=torch.bool)
    positions[0, 4, 5] = True
    result = Mask(positions).resampled(Window((3, 3), (3, 3), (0, 0, 0, 0), (1, 1)), 1.0)
    assert result.positions.nonzero().tolist() == [[0, 1, 1]]
    assert (
        not Mask(torch.zeros_like(positions)).resampled(Window((3, 3), (3, 3), (0,) * 4, (1, 1)), 0.1).positions.any()
    )


@given(mask=masks, window=geometries)
def test_mean_correction(mask, window):
    assume(window.dilation == (1, 1))
    of_window = taps(mask, window)
    got = mask.mean_correction(window, torch.float64)
    for (i, j), found in of_window.items():
        for n in range(2):
            count = sum(bool(inside_of(mask)[y, x]) for _, _, y, x in found)
            seen = sum(bool(mask.positions[n, y, x]) for _, _, y, x in found)
            assert float(got[n, 0, i, j]) == pytest.approx(count / seen if seen else float(not count), rel=1e-5)


@given(mask=masks, output=st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_adaptive_windows(mask, output):
    assume(output != mask.size)
    of_window = windows.adaptive_taps(mask.size, output)
    assert torch.equal(mask.any_in_adaptive(output).positions, windows.any_in(mask.positions, of_window))
    got = mask.mean_correction_adaptive(output, torch.float64)
    for (i, j), found in of_window.items():
        for n in range(2):
            count = sum(bool(inside_of(mask)[y, x]) for _, _, y, x in found)
            seen = sum(bool(mask.positions[n, y, x]) for _, _, y, x in found)
            assert float(got[n, 0, i, j]) == pytest.approx(count / seen if seen else float(not count), rel=1e-5)


# ---- merges ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["intersection", "union", "majority"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_merged(how, count):
    operands = [random_mask(seed=seed) for seed in range(count)]
    result = operands[0].merged(operands[1:], how)
    for n, y, x in torch.ones(2, 6, 7).nonzero().tolist():
        votes = [bool(one.positions[n, y, x]) for one in operands]
        expected = {"intersection": all(votes), "union": any(votes), "majority": sum(votes) * 2 > count}[how]
        assert bool(result.positions[n, y, x]) == expected


@pytest.mark.parametrize("how", ["intersection", "majority"])
def test_a_merge_may_keep_the_last_position_of_each_image(how):
    one, other = (torch.zeros(3, 4, 5, dtype=torch.bool) for _ in range(2))
    one[0, 0, 0] = other[0, 3, 3] = True  # nothing in common
    one[1, 0, :2] = other[1, 0, 1:] = True  # one position
    result = Mask(one).merged([Mask(other)], how, keep_last=True)
    assert result.positions.nonzero().tolist() == [[0, 0, 0], [0, 3, 3], [1, 0, 1]]
    first = Mask(one)
    assert first.merged([Mask(other)], how).positions.nonzero().tolist() == [[1, 0, 1]]
    assert not first.covers(first.merged([Mask(other)], how, keep_last=True))


def test_a_majority_counts_repeated_operands():
    one, other = random_mask(seed=1), random_mask(seed=2)
    assert torch.equal(one.merged([one, other], "majority").positions, one.positions)


def test_merging_a_region_with_itself_is_itself():
    mask = random_mask()
    for how in ("intersection", "union", "majority"):
        assert mask.merged([mask], how) is mask


def test_constants_of_one_operand_do_not_hide_the_other():
    whole, framed = random_mask(density=0.5, seed=3), random_mask(density=0.5, seed=4, border=True)
    outside = ~framed.inside.expand(2, -1, -1)
    for how in ("intersection", "union"):
        result = whole.merged([framed], how)
        assert result.inside is None
        assert torch.equal(result.positions[outside], whole.positions[outside])
    both = framed.merged([random_mask(seed=5, border=True)], "intersection")
    assert torch.equal(both.inside, framed.inside)


# ---- cuts and pads ---------------------------------------------------------------------------------------------------

CUTS = [
    (slice(None), slice(1, None)),
    (slice(1, -1), slice(None)),
    (slice(None, None, 2), slice(1, None, 3)),
    (slice(-3, None), slice(0, 5)),
]


@pytest.mark.parametrize(("rows", "columns"), CUTS)
@pytest.mark.parametrize("border", [False, True])
def test_cut(rows, columns, border):
    mask = random_mask(border=border)
    result = mask.cut(rows, columns)
    assert torch.equal(result.positions, mask.positions[:, rows, columns])
    assert torch.equal(inside_of(result), inside_of(mask)[rows, columns])


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [(1, 2, 0, 3), (2, 2, 2, 2), (0, 0, 1, 0)])
@pytest.mark.parametrize("border", [False, True])
def test_padded(mode, padding, border):
    mask = random_mask(border=border)
    result = mask.padded(padding, mode)

    def pad(signal, value=0.0):
        return F.pad(signal[:, None].float(), padding, mode, **({"value": value} if mode == "constant" else {}))[:, 0]

    assert torch.equal(result.positions.float(), pad(mask.positions))
    assert torch.equal(inside_of(result).float()[None], pad(inside_of(mask)[None]))


def test_negative_padding_crops():
    mask = random_mask()
    result = mask.padded((-1, 0, 0, -2), "constant")
    assert torch.equal(result.positions, mask.positions[:, :-2, 1:])
    assert result.inside is None


# ---- sharing ---------------------------------------------------------------------------------------------------------


def test_every_result_is_computed_once():
    mask, other = random_mask(), random_mask(seed=1)

    def window():
        return Window((3, 3), (2, 2), (1, 1, 1, 1), (1, 1))

    for compute in (
        lambda: mask.hidden,
        lambda: mask.any_in(window()),
        lambda: mask.resampled(window(), 0.3),
        lambda: mask.any_in_adaptive((2, 2)),
        lambda: mask.mean_correction(window(), torch.float32),
        lambda: mask.mean_correction_adaptive((1, 1), torch.float32),
        lambda: mask.merged([other], "union"),
        lambda: mask.cut(slice(1, None), slice(None)),
        lambda: mask.padded([1, 1, 1, 1], "constant"),
        lambda: mask.fill_plan(0.3, 0.0),
        lambda: mask.resized(Resizing((4, 4), None, "nearest", None, None, torch.float32), None),
        lambda: mask.enlarged(2),
    ):
        assert compute() is compute()


def test_different_questions_have_different_answers():
    mask, other = random_mask(), random_mask(seed=1)
    window = Window((3, 3), (2, 2), (1, 1, 1, 1), (1, 1))
    assert mask.resampled(window, 0.3) is not mask.resampled(window, 0.9)
    assert mask.merged([other], "union") is not mask.merged([other], "intersection")
    assert mask.fill_plan(0.3, 0.0) is not mask.fill_plan(1.0, 0.0)
    assert mask.mean_correction(window, torch.float32).dtype != mask.mean_correction(window, torch.float64).dtype
    assert mask.padded([1, 1, 1, 1], "constant") is not mask.padded([1, 1, 1, 1], "reflect")
