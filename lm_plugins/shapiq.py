"""shapiq's interactions between the parts of an image, with any removal.

An image is a game: its features are the players, and the value of a coalition is what the model says when only these are
visible. `ImageGame` is a `shapiq.Game`, so that every approximator and plot of shapiq takes it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lm_plugins.checks import check_evaluation_mode, check_finite, check_images, check_target
from lm_plugins.errors import InputTypeError, MissingDependencyError, OptionError, ShapeError
from lm_plugins.features import CoalitionEvaluator, Features, relabelled
from lm_plugins.features.score import selected
from lm_plugins.outputs.words import Output
from lm_plugins.removal import Removal, as_removal

try:
    import shapiq
except ImportError as error:
    raise MissingDependencyError("lm_plugins.shapiq needs shapiq: pip install 'lm_plugins[shapiq]'.") from error

__all__ = ["ImageGame"]

_WHAT = "ImageGame"


class ImageGame(shapiq.Game):
    """What a model says of an image of which some features are visible, as a game for shapiq.

    Coalitions are evaluated in batches, equal ones once.

    Args:
        model: A model of images ``(N, C, H, W)``, in evaluation mode.
        x: One image ``(1, C, H, W)``, floating point, preprocessed for the model.
        features: The players: an integer feature mask ``(H, W)``, or a word for one, ``"grid:56"`` (patches of 56 pixels) or
            ``"slic:12"`` (about 12 superpixels, which need scikit-image). Exact values need 2 to the power of the players.
        target: The class, as in Captum: an index, or one for each dimension behind the batch. None: the one that the model
            predicts for the whole image, which `ImageGame.target` then names.
        removal: How features are removed: an object or a name of `lm_plugins.removal`; layer masking by default.
        output: A word for what the model returns, for the probabilities that it means (see `lm_plugins.outputs.words`), a
            function that chooses from it, or both. None takes what it returns.
        normalize: Subtract what the model says when nothing is visible, as shapiq's own games do.
        batch_size: Coalitions in one forward pass; None chooses.
        verbose: Show a progress bar (needs tqdm).
        player_names: A name for each feature, in the order of the ids of the feature mask.

    Attributes:
        feature_mask: Int64 ``(H, W)`` with ids from 0: the player of each pixel.
        target: The class that is explained: an index for each dimension behind the batch; None for one number.

    Raises:
        ShapeError: `x` is not one image, or the feature mask does not fit it.
        InputTypeError: Something is of the wrong type.
        OptionError: A word is unknown, or the model has no such target.
        TrainingModeError: The model or a part of it is in training mode.
        UnsupportedOperatorError: Layer masking lacks a rule for the model.

    Example:
        >>> import torch
        >>> import shapiq
        >>> from lm_plugins.shapiq import ImageGame
        >>> model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
        >>> game = ImageGame(model, torch.ones(1, 2, 4, 4), "grid:2", target=0, removal="grey")
        >>> game.n_players
        4
        >>> game([(0,), (0, 1, 2, 3)]).tolist()
        [0.25, 1.0]
        >>> values = shapiq.ExactComputer(game=game, n_players=4)("SV", 1)
        >>> game.attribution(values)[0, 0].item()
        0.25

    References:
        Muschalik, Baniecki, Fumagalli, Kolpaczki, Hammer and Hüllermeier, NeurIPS 2024 Datasets and Benchmarks, "shapiq".
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        features: Tensor | NDArray[Any] | str | Features,
        target: int | tuple[int, ...] | None = None,
        removal: Removal | str | None = None,
        output: Output | None = None,
        normalize: bool = True,
        batch_size: int | None = None,
        verbose: bool = False,
        player_names: Sequence[str] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InputTypeError(f"model is a torch.nn.Module of images (N, C, H, W), got {type(model).__name__}.")
        check_evaluation_mode(model, _WHAT)
        check_images(x, _WHAT)
        check_finite(x, _WHAT)
        if len(x) != 1:
            raise ShapeError(f"a game is about one image (1, C, H, W), got shape {tuple(x.shape)}.")
        if isinstance(features, (str, Features)):
            features = (features if isinstance(features, Features) else Features.of(features))(x[0])
        self.feature_mask = relabelled(features)
        self._values = CoalitionEvaluator(
            as_removal(removal)(model), x, self.feature_mask, batch_size, output, progress=verbose
        )
        players = int(self.feature_mask.max()) + 1
        if player_names is not None and len(player_names) != players:
            raise OptionError(f"there are {len(player_names)} player_names for {players} features: pass one for each.")
        both = self._values(torch.tensor([[False], [True]]).expand(2, players))
        self.target = _target_of(both[1], target)
        empty = float(selected(both[:1], [self.target])[0])
        super().__init__(
            n_players=players,
            normalize=normalize,
            normalization_value=empty if normalize else None,
            player_names=None if player_names is None else list(player_names),
        )

    def value_function(self, coalitions: NDArray[np.bool_]) -> NDArray[np.float64]:
        """What the model says of the target for each coalition.

        Args:
            coalitions: Bool ``(K, players)``, True = the feature is visible.

        Returns:
            Float64 ``(K,)``, not normalized.
        """
        rows = self._values(torch.from_numpy(np.ascontiguousarray(coalitions, dtype=np.bool_)))
        result: NDArray[np.float64] = selected(rows, [self.target] * len(rows)).double().cpu().numpy()
        return result

    def attribution(self, values: Any) -> Tensor:
        """The values of single players as a map of the image.

        Args:
            values: `shapiq.InteractionValues` of this game; those of order 1 are shown.

        Returns:
            Float64 ``(H, W)``.

        Raises:
            OptionError: They are of a game with another number of players, or have no values of order 1.
        """
        if values.n_players != self.n_players or values.min_order > 1 or values.max_order < 1:
            raise OptionError(
                f"values of order 1 of {self.n_players} players are shown as a map; got orders {values.min_order} to "
                f"{values.max_order} of {values.n_players} players."
            )
        of_players = torch.tensor([float(values[(player,)]) for player in range(self.n_players)], dtype=torch.float64)
        return of_players[self.feature_mask.cpu()]


def _target_of(row: Tensor, target: int | tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The target, checked against what the model returns for the whole image; None where it returns one number."""
    if target is not None:
        return check_target(target, tuple(row.shape))
    if row.ndim > 1:
        raise OptionError(
            f"the model returns {tuple(row.shape)} for an image: pass target=, one index for each dimension, or choose with "
            "output="
        )
    return (int(row.argmax()),) if row.ndim else None
