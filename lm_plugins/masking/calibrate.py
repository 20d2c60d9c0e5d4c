"""Fit a calibration: unlabelled images, whole and under a mixture of masks, side by side through the network."""

import platform
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lm_plugins.checks import check_data, check_evaluation_mode, check_finite, check_images
from lm_plugins.errors import CalibrationError, CalibrationWarning, InputTypeError, OptionError, ShapeError
from lm_plugins.masking.arguments import Arguments
from lm_plugins.masking.calibration import Calibration, ImageStatistics, digests_of
from lm_plugins.masking.forward import send
from lm_plugins.masking.model import LayerMasked
from lm_plugins.masking.moment_matching import MomentFit, Moments, hidden_share
from lm_plugins.masking.run import Run
from lm_plugins.progress import progress

__all__ = ["calibrate", "mixture"]

_WHAT = "calibrate"
# Shares of the image that masks of the mixture hide.
_LEAST, _MOST = 0.05, 0.97
# Sides of the patches, as parts of the image's.
_PATCHES = (14, 7, 4)
_FEW = 20


def calibrate(
    masked: LayerMasked | nn.Module,
    images: Tensor | Iterable[Any],
    *,
    masks: int = 4,
    batch_size: int = 10,
    seed: int = 0,
    show_progress: bool = False,
) -> LayerMasked:
    """Fit layer masking to a model: masked activations get the mean and spread that they have for whole images.

    Each image runs once whole and under several random masks: patches of three sizes, rectangles that are hidden, and
    rectangles that are all that is visible. At every layer that mixes channels, the first two moments of each channel under a
    mask are fitted by the share that is hidden; the correction acts before the next layer is fitted. No labels are needed and
    no weight changes. A whole image gets no correction, so that the plain model stays as it is, bit for bit.

    Args:
        masked: A `LayerMasked`, whose options are kept, or a plain model.
        images: What the model is used for, in its normalisation: ``(N, C, H, W)``, or an iterable of images ``(C, H, W)``,
            of batches, or of tuples that begin with one, such as a ``DataLoader``. About 100 suffice. Choose them as
            varied as what you explain: images of one class only pull others towards it.
        masks: Masks for each image.
        batch_size: Images in one pass, which holds each of them ``1 + masks`` times. Memory does not grow with the number of
            images.
        seed: Of the masks.
        show_progress: Show a progress bar (tqdm).

    Returns:
        A `LayerMasked` around the same model, with a `Calibration`.

    Raises:
        InputTypeError: There are no images, or something is none.
        ShapeError: Images differ in size.
        NonFiniteError: An image holds NaN or infinity.
        OptionError: `masks` or `batch_size` is not above 0.
        TrainingModeError: The model or a part of it is in training mode.
        UnsupportedOperatorError: The model calls functions that have no masking rule.
        CalibrationError: The model has no layer that could be corrected.

    Warns:
        CalibrationWarning: There are fewer than 20 images.

    Example:
        >>> import torch
        >>> import lm_plugins as lm
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)).eval()
        >>> masked = lm.calibrate(lm.LayerMasked(model), torch.rand(20, 3, 16, 16))
        >>> masked.calibration.images.count
        20

    References:
        Moment matching as in Li et al., "Revisiting Batch Normalization For Practical Domain Adaptation" (2016), but for
        masks: conditioned on what is hidden, at every layer, with the weights left alone. It is ours; the published layer
        masking leaves the moments as they come.
    """
    if not isinstance(masked, LayerMasked):
        masked = LayerMasked(masked)
    for name, value in (("masks", masks), ("batch_size", batch_size)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise OptionError(f"{name} is a whole number above 0, got {value!r}.")
    check_evaluation_mode(masked.model, _WHAT)
    masked = LayerMasked(masked.model, masked.options, verify=masked.verify)
    random = np.random.default_rng(seed)
    moments: list[Moments | None] = []
    measured: list[Tensor] = []
    names = {id(one): name for name, one in masked.model.named_parameters()}
    size: tuple[int, int] | None = None
    total = len(images) if isinstance(images, Tensor) and images.ndim == 4 else None
    with progress(total or 0, _WHAT, show_progress) as done:
        for x in _batches(images, batch_size):
            size = size or (int(x.shape[2]), int(x.shape[3]))
            if tuple(x.shape[2:]) != size:
                raise ShapeError(f"calibrate needs images of one size, got {size} and {tuple(x.shape[2:])}.")
            check_data(masked.model, x, None)
            check_finite(x, _WHAT)
            visible = [torch.ones(len(x), *size, dtype=torch.bool, device=x.device)]
            visible += [mixture(len(x), size, random).to(x.device) for _ in range(masks)]
            with torch.no_grad():
                if not measured:  # nothing is believed unchecked, and of whole images nothing is checked
                    masked(x[:1], visible[0][:1].index_fill(2, torch.tensor([0], device=x.device), False))
                every = torch.cat(visible)
                fit = MomentFit(moments, len(x), hidden_share(every), names)
                send(
                    masked.model,
                    x.repeat(1 + masks, 1, 1, 1),
                    every,
                    Run(masked.options, calibrated=fit),
                    Arguments(()),
                )
            measured.append(ImageStatistics.measured(x))
            done(len(x))
    if size is None:
        raise InputTypeError(
            "calibrate needs at least one image, got none: an empty tensor, iterable or an exhausted iterator."
        )
    statistics = ImageStatistics.of(torch.cat(measured), size)
    if statistics.count < _FEW:
        warnings.warn(
            f"the calibration rests on {statistics.count} images; about 100 varied ones are better, and fewer than {_FEW} "
            "may do more harm than good. Compare with and without it.",
            CalibrationWarning,
            stacklevel=2,
        )
    corrections = tuple(None if one is None else one.correction() for one in moments)
    if all(one is None for one in corrections):
        raise CalibrationError(
            "the model has no convolution or linear layer of maps or tokens that could be corrected: use it without a "
            "calibration."
        )
    corrections = tuple(None if one is None else one.to(torch.device("cpu")) for one in corrections)
    settings = {"seed": seed, "masks": masks, "torch": torch.__version__, "python": platform.python_version()}
    calibration = Calibration(corrections, masked.options, digests_of(masked.model), statistics, settings)
    return LayerMasked(masked.model, calibration=calibration, verify=masked.verify)


def _batches(images: Any, batch_size: int) -> Iterator[Tensor]:
    """Batches of `batch_size` images, of whatever the images come in."""
    if isinstance(images, nn.Module) or not isinstance(images, Iterable):
        raise InputTypeError(
            f"calibrate needs images (N, C, H, W), or an iterable of them such as a DataLoader; got {type(images).__name__}."
        )
    if isinstance(images, Tensor):
        if images.ndim == 4 and not len(images):
            return
        check_images(images, _WHAT)
        yield from torch.split(images, batch_size)
        return
    waiting: list[Tensor] = []
    for one in images:
        x = one[0] if isinstance(one, (tuple, list)) and one else one
        if isinstance(x, Tensor) and x.ndim == 3:
            x = x[None]
        check_images(x, _WHAT)
        if waiting and x.shape[1:] != waiting[0].shape[1:]:
            raise ShapeError(
                f"calibrate needs images of one size, got {tuple(waiting[0].shape[1:])} and {tuple(x.shape[1:])}."
            )
        for part in torch.split(x, 1):
            waiting.append(part)
            if len(waiting) == batch_size:
                yield torch.cat(waiting)
                waiting = []
    if waiting:
        yield torch.cat(waiting)


def mixture(n: int, size: tuple[int, int], random: np.random.Generator) -> Tensor:
    """Random masks of the kinds that explainers ask with.

    Args:
        n: How many.
        size: Height and width.
        random: What draws.

    Returns:
        Bool ``(n, H, W)``, True = visible: patches, a hidden rectangle, or a visible one.
    """
    masks = []
    for hidden in random.permutation(_LEAST + (_MOST - _LEAST) * (np.arange(n) + random.random(n)) / n):
        kind = random.integers(len(_PATCHES) + 2)
        if kind < len(_PATCHES):
            masks.append(_patches(size, _PATCHES[kind], hidden, random))
        else:
            shows = kind > len(_PATCHES)
            masks.append(_rectangle(size, 1 - hidden if shows else hidden, random) == shows)
    return torch.from_numpy(np.stack(masks))


def _patches(size: tuple[int, int], along: int, hidden: float, random: np.random.Generator) -> np.ndarray:
    side = max(1, round(max(size) / along))
    rows, columns = (-(-length // side) for length in size)
    visible = random.permutation(rows * columns) >= round(hidden * rows * columns)
    grid = visible.reshape(rows, columns).repeat(side, 0).repeat(side, 1)
    return grid[: size[0], : size[1]]


def _rectangle(size: tuple[int, int], share: float, random: np.random.Generator) -> np.ndarray:
    """True within a rectangle of about this share of the area."""
    height = min(size[0], max(1, round(size[0] * share**0.5 * float(np.exp(random.uniform(-0.4, 0.4))))))
    width = min(size[1], max(1, round(size[1] * share * size[0] / height)))
    top, left = random.integers(size[0] - height + 1), random.integers(size[1] - width + 1)
    inside = np.zeros(size, bool)
    inside[top : top + height, left : left + width] = True
    return inside
