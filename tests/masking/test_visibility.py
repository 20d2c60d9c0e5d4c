"""How the options move the two regions: one place decides, so one file tests."""

import pytest
import torch

from lm_plugins.masking import Mask, MaskingOptions, Visibility, Window
from tests.masking import samples

CONV = Window((3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
STRIDED = Window((3, 3), (2, 2), (1, 1, 1, 1), (1, 1))
POINTWISE = Window((1, 1), (1, 1), (0, 0, 0, 0), (1, 1))


def visibility(options, is_image=False, seed=0):
    region = Mask(samples.region(density=0.3, seed=seed))
    return Visibility(region, region, samples.run(options), is_image)


def test_published_rule_lets_both_regions_grow():
    given = visibility(MaskingOptions(visible="any", computed="visible"))
    after = given.after_convolution(CONV)
    assert after.visible is after.computed is given.visible.any_in(CONV)


def test_coverage_keeps_the_visible_region_while_the_computed_one_grows():
    given = visibility(MaskingOptions(visible="coverage", computed="any"))
    after = given.after_convolution(CONV)
    assert after.visible is given.visible
    assert after.computed is given.visible.any_in(CONV)
    twice = after.after_convolution(CONV)
    assert twice.visible is given.visible
    assert twice.computed is after.computed.any_in(CONV)


def test_what_is_computed_reaches_the_next_convolution_only():
    given = visibility(MaskingOptions())
    once = given.after_convolution(CONV)
    assert once.computed is given.visible.any_in(CONV)
    assert once.after_convolution(POINTWISE).computed is once.computed
    twice = once.after_convolution(CONV)
    assert twice.computed is twice.visible is given.visible
    assert twice.after_convolution(CONV).computed is once.computed
    # The second convolution reads what the first one computed: a ring less has to be padded.
    assert once.padding_for(CONV)[0] is once.neighbour_plan(once.computed)
    assert once.padding_for(CONV)[1] == 1


@pytest.mark.parametrize("threshold", [0.2, 0.8])
def test_coverage_is_the_threshold(threshold):
    given = visibility(MaskingOptions(visible="coverage", coverage=threshold))
    assert given.after_convolution(STRIDED).visible is given.visible.resampled(STRIDED, threshold)
    assert given.after_pooling(STRIDED).visible is given.visible.resampled(STRIDED, threshold)


@pytest.mark.parametrize("stem", ["any", "coverage"])
@pytest.mark.parametrize("visible", ["any", "coverage"])
def test_the_stem_has_a_rule_of_its_own(stem, visible):
    given = visibility(MaskingOptions(visible=visible, stem=stem, coverage=0.5), is_image=True)
    by_rule = {"any": given.visible.any_in, "coverage": lambda window: given.visible.resampled(window, 0.5)}
    after = given.after_convolution(STRIDED)
    assert after.visible is by_rule[stem](STRIDED)
    assert not after.is_image
    by_rule = {"any": after.visible.any_in, "coverage": lambda window: after.visible.resampled(window, 0.5)}
    assert after.after_convolution(STRIDED).visible is by_rule[visible](STRIDED)


@pytest.mark.parametrize(("patches", "least"), [("any", 1), ("coverage", 0.3 * 6), ("all", 6)])
def test_patches_of_pixels_have_a_rule_of_their_own(patches, least):
    window = Window((2, 3), (2, 3), (0, -1, 0, 0), (1, 1))  # the last column is never looked at
    given = visibility(MaskingOptions(patches=patches, stem="coverage", sampling="point"), is_image=True)
    n, h, w = given.visible.positions.shape
    count = given.visible.positions[:, : h // 2 * 2, : w // 3 * 3].reshape(n, h // 2, 2, w // 3, 3).sum((2, 4))
    assert torch.equal(given.after_convolution(window).visible.positions, count >= least)
    later = Visibility(given.visible, given.computed, given.run)
    assert later.after_convolution(window).visible is later.visible.resampled(window, 0.3)


def test_a_patch_is_kept_where_none_is_covered_enough():
    positions = torch.zeros(2, 4, 4, dtype=torch.bool)
    positions[0, 0, 0] = True
    window = Window((4, 4), (4, 4), (0, 0, 0, 0), (1, 1))
    kept_by = {("any", "part"): True, ("coverage", "part"): True, ("all", "part"): True, ("all", "point"): False}
    for (patches, sampling), kept in kept_by.items():
        options = MaskingOptions(patches=patches, sampling=sampling)
        given = Visibility(Mask(positions), Mask(positions), samples.run(options), is_image=True)
        assert given.after_convolution(window).visible.positions.flatten().tolist() == [kept, False]


def test_padding_completes_patches_and_no_more():
    positions = torch.zeros(1, 8, 8, dtype=torch.bool)
    positions[0, :4, :4] = True
    window = Window((4, 4), (4, 4), (0, 0, 0, 0), (1, 1))
    aligned = Visibility(Mask(positions), Mask(positions), samples.run(), is_image=True)
    assert aligned.padding_for(window)[1] == 0
    partly = positions.clone()
    partly[0, 0, 5] = True
    beside = Visibility(Mask(partly), Mask(partly), samples.run(), is_image=True)
    assert beside.padding_for(window)[1] == 3


def test_pixels_stay_pixels_until_a_window_looks_at_them():
    given = visibility(MaskingOptions(), is_image=True)
    other = visibility(MaskingOptions(), is_image=True, seed=1)
    assert given.settled.is_image
    assert given.cut(slice(1, None), slice(None)).is_image
    assert given.padded((1, 1, 1, 1), "constant").is_image
    assert given.after_addition([other]).is_image
    assert given.after_concatenation([other]).is_image
    assert not given.after_pooling(STRIDED).is_image


def test_merges_and_pooling_fall_back_to_the_visible_region():
    options = MaskingOptions(visible="coverage", computed="any", addition="union", concatenation="majority")
    one, other = visibility(options).after_convolution(CONV), visibility(options, seed=1).after_convolution(CONV)
    assert one.computed is not one.visible
    summed = one.after_addition([other])
    assert summed.visible is summed.computed is one.visible.merged([other.visible], "union", True)
    joined = one.after_concatenation([other])
    assert joined.visible is joined.computed is one.visible.merged([other.visible], "majority", True)
    for after in (one.after_pooling(CONV), one.after_adaptive_pooling((2, 3)), one.settled):
        assert after.visible is after.computed


SHORTCUT = Window((1, 1), (2, 2), (0, 0, 0, -1), (1, 1))
BRANCH = Window((3, 3), (2, 2), (1, 1, 1, 0), (1, 1))


@pytest.mark.parametrize("rule", ["any", "coverage"])
def test_a_shortcut_of_samples_has_the_region_of_the_branch_beside_it(rule):
    given = visibility(MaskingOptions(visible=rule))
    branch = given.after_convolution(BRANCH)
    for shortcut in (given.after_convolution(SHORTCUT), given.cut(slice(None, None, 2), slice(None, None, 2))):
        assert torch.equal(shortcut.visible.positions, branch.visible.positions)
        assert torch.equal(shortcut.computed.positions, branch.computed.positions)
        assert shortcut.after_addition([branch]).visible is branch.visible  # the very same: nothing to compare
    assert given.after_pooling(SHORTCUT).visible is branch.visible
    assert given.padding_for(SHORTCUT)[1] == 1


def test_samples_count_for_themselves_only_under_the_published_rule():
    given = visibility(MaskingOptions(sampling="point"))
    assert given.after_convolution(SHORTCUT).visible is given.visible.resampled(SHORTCUT, 0.3)
    assert given.after_convolution(SHORTCUT).computed is given.visible.any_in(SHORTCUT)
    assert given.padding_for(SHORTCUT)[1] == 0
    sliced = given.cut(slice(None, None, 2), slice(None, None, 2))
    assert torch.equal(sliced.visible.positions, given.visible.positions[:, ::2, ::2])


@pytest.mark.parametrize("options", samples.OPTIONS, ids=samples.OPTION_NAMES)
@pytest.mark.parametrize("window", [CONV, STRIDED, SHORTCUT, Window((5, 3), (1, 1), (2, 2, 4, 4), (2, 1))])
def test_enough_rings_for_every_output_that_counts(options, window):
    given = visibility(options)
    plan, rings = given.padding_for(window)
    known = plan.known_after(rings)
    computed = given.after_convolution(window).computed.positions
    for n, i, j in computed.nonzero().tolist():
        for a in range(window.kernel[0]):
            for b in range(window.kernel[1]):
                y = i * window.stride[0] - window.padding[2] + a * window.dilation[0]
                x = j * window.stride[1] - window.padding[0] + b * window.dilation[1]
                if 0 <= y < 6 and 0 <= x < 7:
                    assert known[n, y, x]


def test_no_more_rings_than_a_window_reaches():
    for options in samples.OPTIONS:
        assert visibility(options).padding_for(CONV)[1] <= CONV.reach
        assert visibility(options).padding_for(POINTWISE)[1] == 0
    assert visibility(MaskingOptions(pointwise_ring=True)).padding_for(POINTWISE)[1] == 1
    # Where a window that counts has a known centre, half of it is all that it sees of the padding.
    assert visibility(samples.SPARSE).padding_for(CONV)[1] == CONV.half_reach


def test_regions_of_an_image_that_is_all_visible_stay_full():
    full = Mask(torch.ones(1, 6, 7, dtype=torch.bool))
    for options in samples.OPTIONS:
        given = Visibility(full, full, samples.run(options), is_image=True)
        for window in (CONV, STRIDED, POINTWISE):
            after = given.after_convolution(window).after_convolution(CONV).after_pooling(window)
            assert after.visible.is_full
            assert after.computed.is_full
