"""RISE: randomised input sampling for explanation."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from captum.attr import PerturbationAttribution
from torch import Tensor

from lm_plugins.attribution.arguments import arguments_of, checked_images
from lm_plugins.attribution.soft_masks import SoftMasks
from lm_plugins.captum.noise_tunnel import for_noise_tunnel
from lm_plugins.checks import check_evaluation_mode, targets_for
from lm_plugins.errors import OptionError
from lm_plugins.features.score import selected
from lm_plugins.outputs.words import Output, as_probabilities, parted
from lm_plugins.progress import progress
from lm_plugins.removal import Removal
from lm_plugins.removal.model_call import ModelCall

__all__ = ["RISE", "Coverage", "random_masks"]

Coverage = Literal["expected", "observed"]


class RISE(PerturbationAttribution):  # type: ignore[misc]
    r"""Randomised input sampling for explanation: the mean of random masks, weighed by what the model says behind them.

    .. math::
        S(\lambda) = \frac{1}{\mathbb{E}[M] \, N} \sum_{i=1}^N \Psi(I \odot M_i) \, M_i(\lambda)

    with the score :math:`\Psi` of the target and `random_masks` M of mean :math:`\mathbb{E}[M]`. S estimates the expected
    score given that a pixel is visible.

    Args:
        forward_func: A model of images, or a function of them.
        removal: What happens where a mask is dark: a removal, the name of one, or None for layer masking. Colours fade in
            as published; other removals see the regions above `thresholds`, which then take the place of the masks in the
            formula. ``"grey"`` is 0 in the space of the model's input, as in the published code.
        thresholds: For removals that know visible and hidden only; see `SoftMasks`. With 0.5 and 0.5 as `probability`,
            half of the image is visible on average, as in the masks themselves.
        coverage: What stands for :math:`\mathbb{E}[M]`. ``"expected"``: the `probability` of a cell, as published, or of
            regions their mean share of the image. ``"observed"``: at each pixel, how visible it was on average in these
            masks; S is then the mean score over the masks that show a pixel, with much less noise where few masks were
            drawn. None: ``"expected"`` for colours, ``"observed"`` for regions.
        batch_size: Masks in one forward pass; the result does not depend on it. Small batches are fastest on a CPU; a
            GPU wants more.
        output: A word for what the model returns (see `lm_plugins.outputs.words`), a function that turns it into a tensor
            ``(K, ...)``, or ``(function, word)``. Without a word it is checked to be probabilities; of a single one,
            `target` is None or 0, as in Captum.

    Raises:
        OptionError: An option is not one of these.

    Example:
        >>> import torch
        >>> from lm_plugins.attribution import RISE
        >>> corner = lambda x: x[:, 0, :4, :4].mean((1, 2))  # a model that looks at one corner
        >>> rise = RISE(corner, removal="grey")
        >>> attribution = rise.attribute(torch.ones(1, 1, 16, 16), n_masks=200, seed=0)
        >>> bool(attribution[0, 0, :4, :4].mean() > attribution[0, 0, 8:, 8:].mean() + 0.05)
        True

    References:
        Petsiuk, Das and Saenko, "RISE: randomized input sampling for explanation of black-box models", BMVC 2018. The
        published code up-samples with scikit-image, which treats borders differently in the outermost half cell.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        removal: Removal | str | None = "grey",
        thresholds: Sequence[float] = (0.5,),
        coverage: Coverage | None = None,
        output: Output | None = None,
        batch_size: int = 8,
    ) -> None:
        if batch_size < 1:
            raise OptionError(f"batch_size is at least 1, got {batch_size!r}.")
        if coverage is not None and coverage not in get_args(Coverage):
            raise OptionError(f"coverage is 'expected', 'observed' or None, got {coverage!r}.")
        choose, word = parted(output)
        super().__init__(forward_func)
        self._soft_masks = SoftMasks(ModelCall(forward_func), removal, thresholds, choose)
        self._is_observed = coverage == "observed" or (coverage is None and not self._soft_masks.fades)
        self._word, self._batch_size = word, batch_size

    @for_noise_tunnel
    def attribute(
        self,
        inputs: Tensor,
        target: Any = None,
        additional_forward_args: Any = None,
        n_masks: int = 4000,
        cells: int = 7,
        probability: float = 0.5,
        seed: int | None = None,
        return_standard_error: bool = False,
        show_progress: bool = False,
    ) -> Any:
        """Attribute the score of the target to pixels.

        Args:
            inputs: Images ``(N, C, H, W)``. All of them see the same masks.
            target: A class, or one for each image, as in Captum.
            additional_forward_args: What else the model takes; tensors with N rows are meant one row an image.
            n_masks: Random masks, at least 1 (at least 2 for a standard error). Published: 4,000 for VGG16, 8,000 for
                ResNet-50.
            cells: Cells of the grid along each side, at least 1.
            probability: That a cell is visible, above 0, at most 1.
            seed: Of the masks; None draws one from torch's global generator.
            return_standard_error: Return the map of standard errors as well: the standard deviation over masks of what
                is averaged, divided by the root of their number.
            show_progress: Show a bar that counts masks (needs tqdm).

        Returns:
            ``(N, 1, H, W)``, or two of these. A pixel that no mask shows gets 0.

        Raises:
            OptionError: An option is out of its range, or the model has no such target.
            ProbabilityError: The model does not return probabilities and `output` says that it does.
            TrainingModeError: The model or a part of it is in training mode.
        """
        check_evaluation_mode(self.forward_func, type(self).__name__)
        x = checked_images(inputs, type(self).__name__)
        targets = targets_for(target, len(x))
        if not isinstance(n_masks, int) or n_masks < 1 + return_standard_error:
            raise OptionError(f"n_masks is at least {1 + return_standard_error}, got {n_masks!r}.")
        regions = self._soft_masks.regions_per_mask
        size = (x.shape[2], x.shape[3])
        masks = random_masks(size, n_masks, cells, probability, seed, max(1, self._batch_size // regions), x.device)
        # Sums over masks of a draw f M, of the mask M, and of their products: (N, H * W) and (H * W).
        pixels = size[0] * size[1]
        drawn, drawn_squared, product = torch.zeros(3, len(x), pixels, dtype=torch.float64, device=x.device)
        covered, covered_squared = torch.zeros(2, pixels, dtype=torch.float64, device=x.device)
        with progress(n_masks * len(x), "RISE", show_progress) as done:
            for part in masks:
                seen = self._soft_masks.seen(part.to(x.dtype))
                # The regions of one mask are not independent: their mean is one draw.
                flat = seen.flatten(1).double().reshape(regions, len(part), pixels)
                cover = flat.mean(0)
                covered += cover.sum(0)
                covered_squared += (cover**2).sum(0)
                for i, one in enumerate(x):
                    arguments = arguments_of(additional_forward_args, x, torch.full((len(seen),), i))
                    output = self._soft_masks.outputs(one[None], seen, arguments)
                    scores = selected(as_probabilities(output, self._word), [targets[i]] * len(seen)).double()
                    draws = (scores.reshape(regions, -1, 1) * flat).mean(0)
                    drawn[i] += draws.sum(0)
                    drawn_squared[i] += (draws**2).sum(0)
                    product[i] += (draws * cover).sum(0)
                    done(len(part))
        if not bool(covered.any()):
            raise OptionError(f"the {n_masks} masks show nothing of the image: raise probability or n_masks.")
        shape = (len(x), 1, *size)
        if self._is_observed:
            share = covered / n_masks
            never = share == 0
            share = share.masked_fill(never, 1.0)
            mean = drawn / n_masks / share
            # Of a ratio of means: the spread of f M - S M.
            spread = drawn_squared - 2 * mean * product + mean**2 * covered_squared
        else:
            share = torch.as_tensor(probability) if self._soft_masks.fades else covered.mean() / n_masks
            mean = drawn / n_masks / share
            spread = drawn_squared - n_masks * (mean * share) ** 2
        attribution = mean.to(x.dtype).reshape(shape)
        if not return_standard_error:
            return attribution
        error = (spread.clamp(min=0) / (n_masks - 1) / n_masks).sqrt() / share
        return attribution, error.to(x.dtype).reshape(shape)


def random_masks(
    size: tuple[int, int],
    n_masks: int,
    cells: int = 7,
    probability: float = 0.5,
    seed: int | None = None,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
) -> Iterator[Tensor]:
    r"""The masks of RISE: random grids, up-sampled bilinearly and shifted by less than a cell.

    A grid of `cells` x `cells` visible or hidden cells becomes :math:`(s + 1) \lceil H / s \rceil` x
    :math:`(s + 1) \lceil W / s \rceil` pixels, from which H x W are cut, starting at random within the first cell.

    Args:
        size: Height and width.
        n_masks: How many.
        cells: s, at least 1.
        probability: That a cell is visible, above 0, at most 1.
        seed: Of the draws, which depend neither on the batch size nor on the device; None draws one from torch's global
            generator.
        batch_size: Masks at a time.
        device: Where they are made.

    Returns:
        An iterator over masks ``(batch, H, W)`` in [0, 1], float32.

    Raises:
        OptionError: An option is out of its range.

    Example:
        >>> from lm_plugins.attribution import random_masks
        >>> [tuple(part.shape) for part in random_masks((32, 48), 5, seed=0, batch_size=3)]
        [(3, 32, 48), (2, 32, 48)]
    """
    if not isinstance(cells, int) or cells < 1:
        raise OptionError(f"cells is a whole number of at least 1, got {cells!r}.")
    if not 0 < probability <= 1:
        raise OptionError(f"probability is above 0 and at most 1, got {probability!r}.")
    generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())) if seed is None else seed)
    height, width = (-(-side // cells) for side in size)
    grids = (torch.rand(n_masks, cells, cells, generator=generator) < probability).float()
    down = torch.randint(height, (n_masks,), generator=generator).tolist()
    across = torch.randint(width, (n_masks,), generator=generator).tolist()

    def batches() -> Iterator[Tensor]:
        for start in range(0, n_masks, batch_size):
            grown = F.interpolate(
                grids[start : start + batch_size, None].to(device),
                ((cells + 1) * height, (cells + 1) * width),
                mode="bilinear",
                align_corners=False,
            )[:, 0]
            corners = zip(down[start : start + batch_size], across[start : start + batch_size], strict=True)
            yield torch.stack(
                [one[i : i + size[0], j : j + size[1]] for one, (i, j) in zip(grown, corners, strict=True)]
            )

    return batches()
