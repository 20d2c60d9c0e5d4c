"""shapiq's approximators play the game of an image: exact interactions come back, whatever the removal."""

import itertools

import numpy as np
import pytest
import shapiq
import torch
from torch import Tensor, nn

import lm_plugins as lm
from lm_plugins.captum import ShapleyValues
from lm_plugins.errors import InputTypeError, OptionError, ShapeError, TrainingModeError
from lm_plugins.features import Features, grid
from lm_plugins.shapiq import ImageGame

SINGLE = torch.tensor([0.5, -1.0, 2.0, 0.25, 0.0, 1.5], dtype=torch.float64)
PAIRS = {(0, 1): 3.0, (2, 5): -2.0, (3, 4): 0.7}
FEATURES = torch.arange(6).repeat_interleave(2).repeat(4, 1)  # six columns of pixels


class Known(nn.Module):
    """A polynomial of how visible each of six features is, of an image of ones on black: class 1 is its negative."""

    def forward(self, x: Tensor) -> Tensor:
        z = torch.stack([x[:, 0, :, 2 * i : 2 * i + 2].mean((1, 2)) for i in range(6)], 1)
        value = z @ SINGLE.to(z) + sum(b * z[:, i] * z[:, j] for (i, j), b in PAIRS.items()) + 0.3
        return torch.stack([value, -value], 1)


@pytest.fixture
def known() -> ImageGame:
    return ImageGame(Known().eval(), torch.ones(1, 1, 4, 12).double(), FEATURES, target=0, removal="grey")


def cnn() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ).double().eval()  # fmt: skip


X = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def check_interactions(values: shapiq.InteractionValues, tolerance: float = 1e-6) -> None:
    """Those of a polynomial of degree 2: the pairs have their coefficients, and share them between their players."""
    for pair in itertools.combinations(range(6), 2):
        assert values[pair] == pytest.approx(PAIRS.get(pair, 0.0), abs=tolerance)


def test_exact_interactions_of_a_known_function(known: ImageGame) -> None:
    computer = shapiq.ExactComputer(game=known, n_players=6)
    check_interactions(computer("k-SII", 2))
    shapley = computer("SV", 1)
    for player in range(6):
        shared = sum(b / 2 for pair, b in PAIRS.items() if player in pair)
        assert shapley[(player,)] == pytest.approx(float(SINGLE[player]) + shared, abs=1e-6)


@pytest.mark.parametrize(
    ("approximator", "index"),
    [
        (lambda: shapiq.KernelSHAPIQ(n=6, max_order=2, index="k-SII", random_state=0), "k-SII"),
        (lambda: shapiq.SVARMIQ(n=6, max_order=2, index="SII", random_state=0), "SII"),
        (lambda: shapiq.SHAPIQ(n=6, max_order=2, index="SII", random_state=0), "SII"),
        (lambda: shapiq.RegressionFSII(n=6, max_order=2, random_state=0), "FSII"),
        (lambda: shapiq.PermutationSamplingSII(n=6, max_order=2, index="SII", random_state=0), "SII"),
    ],
)
def test_approximators_find_them(known: ImageGame, approximator, index: str) -> None:
    """With a budget for all coalitions; permutations are sampled all the same."""
    budget = 40_000 if "Permutation" in type(approximator()).__name__ else 64
    values = approximator().approximate(budget, known)
    assert values.index == index
    check_interactions(values, 1e-6 if budget == 64 else 1e-3)


def test_values_of_layer_masking_are_those_of_the_masked_model() -> None:
    model, features = cnn(), grid((16, 16), 8)
    game = ImageGame(model, X, features, target=2)
    coalitions = np.array(list(itertools.product([False, True], repeat=4)))
    masked = lm.LayerMasked(model)
    expected = [float(masked(X, torch.from_numpy(one)[features])[0, 2].detach()) for one in coalitions]
    np.testing.assert_allclose(game(coalitions) + game.normalization_value, expected, atol=1e-12)
    assert game.normalization_value == pytest.approx(expected[0])
    assert game(coalitions)[0] == pytest.approx(0.0, abs=1e-12)


def test_shapley_values_are_those_of_captums_class() -> None:
    model, features = cnn(), grid((16, 16), 8)
    game = ImageGame(model, X, "grid:8", target=1)
    ours = game.attribution(shapiq.ExactComputer(game=game, n_players=4)("SV", 1))
    captums = ShapleyValues(model).attribute(X, target=1, feature_mask=features[None, None])
    torch.testing.assert_close(ours, captums[0, 0].detach())


def test_equal_coalitions_run_once_and_in_batches() -> None:
    sizes = []
    model = cnn()
    game = ImageGame(model, X, Features.of("grid:4"), target=0, removal="black", batch_size=4)
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    rows = np.zeros((10, 16), dtype=bool)
    rows[5:, 0] = True
    values = game(rows)
    assert sizes == [2]
    assert len(set(values.tolist())) == 2


def test_the_target_is_what_the_model_predicts() -> None:
    model = cnn()
    game = ImageGame(model, X, "grid:8", removal="grey")
    assert game.target == (int(model(X).argmax()),)
    single = ImageGame(
        nn.Sequential(model, nn.Linear(4, 1).double(), nn.Flatten(0)).eval(), X, "grid:8", removal="grey"
    )
    assert single.target is None
    words = ImageGame(model, X, "grid:8", target=0, removal="grey", output="logits", normalize=False)
    assert words([(0, 1, 2, 3)])[0] == pytest.approx(float(model(X).softmax(1)[0, 0].detach()))
    chosen = ImageGame(model, X, "grid:8", target=0, output=lambda y: y[:, None].repeat(1, 2, 1)[:, 1], removal="grey")
    assert chosen.n_players == 4


def test_players_have_names(known: ImageGame) -> None:
    named = ImageGame(
        Known().eval(),
        torch.ones(1, 1, 4, 12).double(),
        FEATURES,
        target=0,
        removal="grey",
        player_names=list("abcdef"),
    )
    assert named([("a", "c")]) == known([(0, 2)])


def test_a_game_is_saved_and_read_by_shapiq(known: ImageGame, tmp_path) -> None:
    known.precompute()
    known.to_json_file(tmp_path / "game.json")
    again = shapiq.Game.from_json_file(tmp_path / "game.json")
    assert again([(0, 1), (2,)]).tolist() == known([(0, 1), (2,)]).tolist()


def test_shapiqs_own_example_with_the_changed_line() -> None:
    """README of shapiq: an approximator, a game, a plot; the game is the line that changes."""
    import matplotlib

    matplotlib.use("Agg")
    game = ImageGame(cnn(), X, "grid:8", target=0)
    approximator = shapiq.KernelSHAPIQ(n=game.n_players, index="k-SII", max_order=2, random_state=42)
    values = approximator.approximate(budget=16, game=game)
    exact = shapiq.ExactComputer(game=game, n_players=4)("k-SII", 2)
    np.testing.assert_allclose(
        [values[one] for one in exact.interaction_lookup], [exact[one] for one in exact.interaction_lookup], atol=1e-6
    )
    figure = values.plot_network(show=False)
    assert figure is not None


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: ImageGame(lambda x: x, X, "grid:8"), InputTypeError, "torch.nn.Module"),
        (lambda: ImageGame(cnn(), X[0], "grid:8"), ShapeError, r"\(N, C, H, W\)"),
        (lambda: ImageGame(cnn(), X.repeat(2, 1, 1, 1), "grid:8"), ShapeError, "one image"),
        (lambda: ImageGame(cnn(), X, "patches"), OptionError, "neither grid:N"),
        (lambda: ImageGame(cnn(), X, torch.zeros(4, 4)), ShapeError, "feature mask has shape"),
        (lambda: ImageGame(cnn(), X, "grid:8", target=4), OptionError, "4"),
        (lambda: ImageGame(cnn(), X, "grid:8", removal="pink"), OptionError, "pink"),
        (lambda: ImageGame(cnn(), X, "grid:8", output="odds"), OptionError, "odds"),
        (lambda: ImageGame(cnn(), X, "grid:8", player_names=["a"]), OptionError, "1 player_names for 4"),
        (lambda: ImageGame(cnn().train(), X, "grid:8"), TrainingModeError, "eval"),
        (lambda: ImageGame(nn.Conv2d(3, 2, 1).double().eval(), X, "grid:8"), OptionError, "pass target="),
    ],
)
def test_mistakes_are_named(make, error, text: str) -> None:
    with pytest.raises(error, match=text):
        make()


def test_values_of_another_game_are_no_map(known: ImageGame) -> None:
    values = shapiq.ExactComputer(game=known, n_players=6)("k-SII", 2)
    assert known.attribution(values).shape == (4, 12)
    other = ImageGame(cnn(), X, "grid:8", target=0, removal="grey")
    with pytest.raises(OptionError, match="of order 1 of 4 players"):
        other.attribution(values)
