"""Maps that are sampled at the places of a grid, and maps whose rows and columns are put in another order."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2.functional import affine

import lm_plugins as lm
from lm_plugins.masking import Mask, MaskedActivation
from lm_plugins.testing import check_model, check_rule
from tests.masking import samples

X = samples.values(2, 3, 8, 8)
VISIBLE = samples.region(2, 8, 8, density=0.6)


def grid(turn=0.2, size=(8, 8)):
    matrix = torch.tensor([[0.9, turn, 0.0], [-turn, 0.9, 0.1]], dtype=torch.float64).expand(2, -1, -1)
    return F.affine_grid(matrix, [2, 3, *size], align_corners=False)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
def test_the_laws_hold(mode: str, padding_mode: str) -> None:
    def sampled(x):
        matrix = torch.tensor([[0.9, 0.2, 0.0], [-0.2, 0.9, 0.1]]).to(x.dtype).expand(x.shape[0], -1, -1)
        places = F.affine_grid(matrix, [x.shape[0], 1, 5, 6], align_corners=False)
        return F.grid_sample(x, places, mode, padding_mode, align_corners=False).square().mean((2, 3))

    check_rule(sampled, X)


def test_the_identity_changes_nothing() -> None:
    same = F.affine_grid(torch.eye(2, 3).double().expand(2, -1, -1), [2, 3, 8, 8], align_corners=False)
    found = F.grid_sample(samples.activation(X, VISIBLE), same, align_corners=False)
    assert torch.equal(found.visibility.visible.positions, VISIBLE)
    samples.assert_equal_where_computed(found, X)


def test_visible_is_what_is_sampled_from_visible_positions() -> None:
    """Each sample is mixed from up to four positions; the visible ones of them have at least the weight `coverage`."""
    found = F.grid_sample(samples.activation(X, VISIBLE), grid(), align_corners=False)
    share = F.grid_sample(VISIBLE[:, None].double(), grid(), align_corners=False)[:, 0]
    inside = F.grid_sample(torch.ones(2, 1, 8, 8).double(), grid(), align_corners=False)[:, 0]
    expected = share >= lm.MaskingOptions().coverage * inside - 1e-5
    expected &= (share > 0) | (inside <= 0)
    assert torch.equal(found.visibility.visible.positions, expected)
    pure = (share == inside) & (inside > 0)
    plain = F.grid_sample(X, grid(), align_corners=False)
    torch.testing.assert_close(found.values.where(pure[:, None], 0.0), plain.where(pure[:, None], 0.0))


class Deformable(nn.Module):
    """Attention to places that every query computes, of two scales and two heads, as in Deformable DETR."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.places, self.weights, self.value = nn.Linear(8, 2 * 2 * 3 * 2), nn.Linear(8, 2 * 2 * 3), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.stem(x).relu()]
        maps.append(F.avg_pool2d(maps[0], 2))
        queries = torch.cat([one.flatten(2).transpose(1, 2) for one in maps], 1)  # (N, L, 8)
        n, count = queries.shape[:2]
        values = self.value(queries).view(n, count, 2, 4)
        places = self.places(queries).tanh().view(n, count, 2, 2, 3, 2)  # heads, scales, points
        weights = self.weights(queries).view(n, count, 2, 6).softmax(-1)
        samples = []
        of_scales = values.split([one.shape[2] * one.shape[3] for one in maps], 1)
        for scale, (value, one) in enumerate(zip(of_scales, maps, strict=True)):
            as_map = value.flatten(2).transpose(1, 2).reshape(n * 2, 4, one.shape[2], one.shape[3])
            grid = places[:, :, :, scale].transpose(1, 2).flatten(0, 1)
            samples.append(F.grid_sample(as_map, grid, align_corners=False))  # (N * heads, 4, L, points)
        weights = weights.transpose(1, 2).reshape(n * 2, 1, count, 6)
        found = (torch.stack(samples, -2).flatten(-2) * weights).sum(-1).view(n, 8, count)
        return found.transpose(1, 2).mean(1)


def test_attention_at_computed_places_keeps_the_laws() -> None:
    check_model(Deformable().eval(), samples.values(2, 3, 8, 8).float())
    check_model(Deformable().double().eval(), samples.values(2, 3, 8, 8))


def test_a_sample_at_a_hidden_place_reads_what_neighbour_padding_puts_there() -> None:
    x = samples.activation(X, VISIBLE)
    places = samples.values(2, 2, 8, 8, seed=3).tanh()
    grid = samples.activation(places, VISIBLE).permute(0, 2, 3, 1).flatten(1, 2)[:, :, None]  # (N, L, 1, 2)
    found = F.grid_sample(x, grid, align_corners=False).squeeze(3).unflatten(2, (8, 8))
    assert torch.equal(found.visibility.visible.positions, VISIBLE)
    everything = Mask(torch.ones_like(VISIBLE))
    filled = samples.activation(X, VISIBLE).completed_to(everything)
    expected = F.grid_sample(filled, places.permute(0, 2, 3, 1), align_corners=False)
    samples.assert_equal_where_computed(found, expected)


def test_tokens_in_no_order_are_no_map_to_sample() -> None:
    shuffled = samples.activation(X).flatten(2)[:, :, torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    with pytest.raises(lm.errors.UnsupportedOperatorError, match="no map in order"):
        F.grid_sample(shuffled.unflatten(2, (8, 8)), grid(), align_corners=False)


def test_rotations_of_torchvision_run() -> None:
    check_rule(lambda x: affine(x, 30.0, [1, 0], 1.0, [0.0]).mean((2, 3)), X)


ORDERS = {
    "swapped": lambda x: x.transpose(2, 3),
    "a quarter": lambda x: torch.rot90(x, 1, (2, 3)),
    "half": lambda x: x.rot90(2, (2, 3)),
    "three quarters": lambda x: torch.rot90(x, -1, [2, 3]),
    "not at all": lambda x: torch.rot90(x, 4, (2, 3)),
    "mirrored": lambda x: x.flip(3),
    "rolled": lambda x: x.roll((2, -3), (2, 3)),
    "repeated": lambda x: x.repeat_interleave(2, 2).repeat_interleave(3, 3),
    "tiled": lambda x: x.tile(1, 1, 2, 1),
    "rows chosen": lambda x: x.index_select(2, torch.tensor([0, 2, 5])),
}


@pytest.mark.parametrize("name", ORDERS)
def test_rows_and_columns_in_another_order_are_a_map(name: str) -> None:
    """What the model makes of the map, it makes of the region."""
    order = ORDERS[name]
    found = order(samples.activation(X, VISIBLE))
    assert isinstance(found, MaskedActivation)
    assert torch.equal(found.visibility.visible.positions, order(VISIBLE[:, None])[:, 0])
    samples.assert_equal_where_computed(found, order(X))
    weight = samples.values(4, 3, 3, 3, seed=1)
    direct = F.conv2d(samples.activation(order(X).contiguous(), order(VISIBLE[:, None])[:, 0]), weight, padding=1)
    convolved = F.conv2d(found, weight, padding=1)
    shown = direct.visibility.visible.positions[:, None]
    torch.testing.assert_close(convolved.values.where(shown, 0.0), direct.values.where(shown, 0.0))


class Ordered(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.stem, self.behind, self.name = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), name

    def forward(self, x):
        return self.behind(ORDERS[self.name](self.stem(x).relu())).mean((2, 3))


@pytest.mark.parametrize("name", ORDERS)
def test_an_order_keeps_the_laws(name: str) -> None:
    check_model(Ordered(name).eval(), samples.values(2, 3, 10, 8).float())


def test_positions_in_no_order_are_no_map() -> None:
    shuffled = samples.activation(X).flatten(2)[:, :, torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    with pytest.raises(lm.errors.UnsupportedOperatorError, match="no map in order"):
        F.conv2d(shuffled.unflatten(2, (8, 8)), samples.values(4, 3, 3, 3))


# ---- complex numbers -------------------------------------------------------------------------------------------------------


def complex_convolution(x):
    weight = torch.complex(samples.values(2, 3, 3, 3), samples.values(2, 3, 3, 3, seed=1)).to(x.dtype.to_complex())
    return F.conv2d(x.to(weight.dtype), weight, padding=1)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: complex_convolution(x).abs().mean((2, 3)),
        lambda x: complex_convolution(x).real.mean((2, 3)),
        lambda x: torch.view_as_real(complex_convolution(x)).square().sum(-1).mean((2, 3)),
        lambda x: torch.complex(x, 2 * x).angle().cos().mean((2, 3)),
        lambda x: torch.polar(x.abs(), x).imag.mean((2, 3)),
        lambda x: torch.view_as_complex(torch.stack([x, -x], -1)).conj().resolve_conj().imag.mean((2, 3)),
    ],
)
def test_complex_numbers_keep_the_laws(call) -> None:
    check_rule(call, X)


def test_a_complex_convolution_pads_both_parts() -> None:
    found = complex_convolution(samples.activation(X, VISIBLE))
    weight = torch.complex(samples.values(2, 3, 3, 3), samples.values(2, 3, 3, 3, seed=1))
    parts = [F.conv2d(samples.activation(X, VISIBLE), one, padding=1) for one in (weight.real, weight.imag)]
    shown = VISIBLE[:, None]
    for part, expected in zip((found.real, found.imag), parts, strict=True):
        torch.testing.assert_close(part.values.where(shown, 0.0), expected.values.where(shown, 0.0))
