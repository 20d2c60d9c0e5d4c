"""Regions taken from others: cuts, copies and windows know where they come from."""

import torch

from lm_plugins.masking import Mask, Window
from lm_plugins.masking.part import are_cuts_of_same, cut, numbers_of, on_its_own, taken


def test_a_sparse_cut_knows_its_origin():
    mask = Mask(torch.rand(2, 6, 8) > 0.5)
    whole, numbers = numbers_of(mask)
    assert whole is mask
    assert torch.equal(numbers.flatten(), torch.arange(96))
    rows, columns = slice(1, None, 2), slice(None, None, 2)
    part = cut(mask, rows, columns)
    assert numbers_of(part)[0] is mask
    assert torch.equal(numbers_of(part)[1], numbers[:, rows, columns])
    assert are_cuts_of_same(part, cut(mask, slice(0, None, 2), columns))
    assert not are_cuts_of_same(part, part)
    assert not are_cuts_of_same(part, mask)
    assert numbers_of(cut(mask, slice(1, 4), slice(None)))[0] is not mask  # a region of its own


def test_a_sparse_cut_may_stand_for_more_than_it_holds():
    mask = Mask(torch.rand(2, 6, 8) > 0.5)
    rows, columns = slice(1, None, 2), slice(None, None, 2)
    wide = Mask(torch.rand(2, 3, 4) > 0.5)
    part = cut(mask, rows, columns, wide)
    assert torch.equal(part.positions, wide.positions)
    assert numbers_of(part)[0] is mask
    assert torch.equal(numbers_of(part)[1], numbers_of(mask)[1][:, rows, columns])
    assert on_its_own(part) is wide
    assert cut(mask, rows, columns) is not part is cut(mask, rows, columns, wide)
    assert on_its_own(cut(mask, rows, columns)) is cut(mask, rows, columns)


def test_images_repeated_pass_windows_as_the_images_do():
    mask = Mask(torch.rand(2, 6, 8) > 0.5)
    repeated = taken(mask, numbers_of(mask)[1].repeat_interleave(3, 0))
    assert taken(mask, numbers_of(mask)[1].repeat_interleave(3, 0)) is repeated
    window = Window((3, 3), (2, 2), (1, 0, 1, 0), (1, 1))
    for operation in (lambda one: one.any_in(window), lambda one: one.resampled(window, 0.4)):
        after, expected = operation(repeated), operation(mask)
        assert torch.equal(after.positions, expected.positions.repeat_interleave(3, 0))
        assert numbers_of(after)[0] is expected


def test_windows_as_images():
    mask = Mask(torch.rand(1, 4, 6) > 0.5)
    numbers = numbers_of(mask)[1].reshape(2, 2, 2, 3).permute(0, 2, 1, 3).reshape(4, 2, 3)
    windows = taken(mask, numbers)
    assert torch.equal(windows.positions, mask.positions.flatten()[numbers])
    window = Window((2, 2), (1, 1), (1, 0, 1, 0), (1, 1))
    assert torch.equal(windows.any_in(window).positions, Mask(windows.positions).any_in(window).positions)
