import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lm_plugins.masking.neighbour_padding import FillPlan, fill
from tests.references import filling


@given(
    n=st.integers(1, 2),
    h=st.integers(1, 7),
    w=st.integers(1, 7),
    density=st.sampled_from([0.0, 0.1, 0.4, 1.0]),
    fences=st.booleans(),
    diagonal=st.sampled_from([0.3, 1.0]),
    epsilon=st.sampled_from([0.0, 1e-5]),
    count=st.integers(0, 9),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
)
def test_equals_the_slow_reference(n, h, w, density, fences, diagonal, epsilon, count, channels, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n, channels, h, w, generator=generator, dtype=torch.float64)
    known = torch.rand(n, h, w, generator=generator) < density
    fillable = torch.rand(h, w, generator=generator) < 0.7 if fences else None
    plan = FillPlan(known, fillable, diagonal, epsilon)
    expected, expected_known = filling.fill(values, known, fillable, diagonal, epsilon, count)
    got = fill(values, plan, count, in_place=False)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)  # the plan's weights are float32
    assert torch.equal(plan.known_after(count), expected_known)
    assert torch.equal(fill(values.clone(), plan, count, in_place=True), got)


def test_a_ring_is_planned_once():
    plan = FillPlan(torch.eye(9, dtype=torch.bool)[None], None, 0.3)
    first = plan.rings(1)[0]
    assert plan.rings(3)[0] is first
    assert plan.rings(3)[2] is plan.rings(100)[2]
    assert plan.known_after(100).all()


def test_weights_of_a_position_sum_to_one():
    plan = FillPlan(torch.rand(2, 6, 6) < 0.3, None, 0.3)
    for ring in plan.rings(10):
        torch.testing.assert_close(ring.weights.sum(1), torch.ones(len(ring.targets)))


def test_rings_to_cover():
    known = torch.zeros(1, 1, 9, dtype=torch.bool)
    known[0, 0, 0] = True
    plan = FillPlan(known, None, 1.0)
    for last in range(9):
        wanted = torch.zeros_like(known)
        wanted[0, 0, last] = True
        assert plan.rings_to_cover(wanted) == last


def test_rings_to_cover_stops_where_padding_cannot_reach():
    nothing = torch.zeros(1, 4, 4, dtype=torch.bool)
    assert FillPlan(nothing, None, 1.0).rings_to_cover(~nothing) == 0
    wall = torch.ones(4, 4, dtype=torch.bool)
    wall[:, 1] = False
    left = nothing.clone()
    left[:, 0, 0] = True
    plan = FillPlan(left, wall, 1.0)
    assert plan.rings_to_cover(~nothing) == 3  # down the first column
    assert plan.known_after(9).sum() == 4


def test_nothing_to_fill_returns_the_values_themselves():
    values = torch.randn(1, 2, 3, 3)
    for known in (torch.ones(1, 3, 3, dtype=torch.bool), torch.zeros(1, 3, 3, dtype=torch.bool)):
        assert fill(values, FillPlan(known, None, 1.0), 3, in_place=False) is values


def test_values_are_left_alone_unless_in_place_is_asked_for():
    values, known = torch.randn(1, 3, 4, 4), torch.rand(1, 4, 4) < 0.5
    for memory_format in (torch.contiguous_format, torch.channels_last):
        given = values.contiguous(memory_format=memory_format)
        before = given.clone()
        fill(given, FillPlan(known, None, 1.0), 2, in_place=False)
        assert torch.equal(given, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_keeps_the_dtype(dtype):
    values, known = torch.randn(2, 3, 4, 5).to(dtype), torch.rand(2, 4, 5) < 0.5
    got = fill(values, FillPlan(known, None, 0.3), 2, in_place=False)
    assert got.dtype == dtype
    assert got.is_contiguous(memory_format=torch.channels_last)
    expected, _ = filling.fill(values, known, diagonal=0.3, count=2)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=4 * torch.finfo(dtype).eps)


def test_hidden_values_play_no_part():
    values, known = torch.randn(1, 3, 5, 5), torch.rand(1, 5, 5) < 0.4
    plan = FillPlan(known, None, 0.3)
    dirty = torch.where(known[:, None], values, torch.nan)
    assert torch.equal(fill(dirty, plan, 9, in_place=False), fill(values, plan, 9, in_place=False))


def test_gradient_flows_through_filled_positions():
    known = torch.rand(1, 4, 4) < 0.4
    plan = FillPlan(known, None, 0.3)
    values = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: fill(values, plan, 9, in_place=False), values)
    fill(values, plan, 9, in_place=False).sum().backward()
    assert (values.grad[(~known)[:, None].expand_as(values)] == 0).all()
    assert (values.grad[known[:, None].expand_as(values)] >= 1).all()
