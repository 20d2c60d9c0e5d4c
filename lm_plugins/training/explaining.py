"""Maps of a model that is being trained, and the salient regions in them; the model is left as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lm_plugins.attribution.normalization import is_constant, min_max
from lm_plugins.checks import check_finite, check_images
from lm_plugins.errors import InputTypeError, OptionError, ShapeError
from lm_plugins.training.explainers import Explainer

__all__ = ["check_labels", "check_share", "explained", "salient_region", "undisturbed"]


@contextmanager
def undisturbed(model: nn.Module, *, training_mode: bool = False) -> Iterator[None]:
    """A block after which the mode of every module and the gradients of every parameter are those of before.

    Args:
        model: The model; in evaluation mode within the block.
        training_mode: Leave its mode alone instead.

    Yields:
        Nothing.
    """
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(one, one.grad) for one in model.parameters()]
    try:
        if not training_mode:
            model.eval()
        for parameter, _ in gradients:
            parameter.grad = None
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, gradient in gradients:
            parameter.grad = gradient


def explained(
    model: nn.Module,
    explainer: Explainer,
    x: Tensor,
    labels: Tensor,
    batch_size: int = 64,
    *,
    training_mode: bool = False,
) -> Tensor:
    """Maps of images for their labels.

    Args:
        model: A classifier, in any mode. It is left with the mode and the gradients that it had.
        explainer: See `Explainer`.
        x: Images ``(N, C, H, W)``.
        labels: Int64 ``(N,)``.
        batch_size: Images that are explained at once.
        training_mode: Explain in the mode that the model has, as published, where batch norm mixes images and moves its
            running statistics. By default in evaluation mode.

    Returns:
        ``(N, H, W)``, detached. They may hold NaN: see `salient_region`.

    Raises:
        ShapeError: The explainer returned maps of another shape.
        InputTypeError: It returned no floating-point tensor.
    """
    found = []
    if labels.is_inference():  # the model's own answers, say; autograd takes none
        with torch.inference_mode(False):
            labels = labels.clone()
    with undisturbed(model, training_mode=training_mode):
        for part, its_labels in zip(torch.split(x.detach(), batch_size), torch.split(labels, batch_size), strict=True):
            maps = explainer(model, part, its_labels)
            if not isinstance(maps, Tensor) or not maps.is_floating_point():
                raise InputTypeError(
                    f"an explainer returns a floating-point tensor (N, H, W), {explainer!r} returned "
                    f"{maps.dtype if isinstance(maps, Tensor) else type(maps).__name__}."
                )
            if maps.shape != (len(part), *part.shape[2:]):
                raise ShapeError(
                    f"an explainer returns maps (N, H, W), here {(len(part), *part.shape[2:])}; {explainer!r} returned "
                    f"{tuple(maps.shape)}. Channels are to be added, and smaller maps to be interpolated."
                )
            found.append(maps.detach())
    return torch.cat(found) if found else x.new_zeros(0, *x.shape[2:])


def salient_region(maps: Tensor, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """Where an attribution, spread over [0, 1] image by image, lies above a threshold.

    Args:
        maps: ``(N, H, W)``, floating point.
        threshold: In [0, 1).

    Returns:
        The region, bool ``(N, H, W)``; and whether there is one, bool ``(N,)``: a map that is constant or holds NaN says
        nothing, and its region is empty.

    Raises:
        OptionError: `threshold` is out of range.

    Example:
        >>> import torch
        >>> from lm_plugins.training import salient_region
        >>> salient_region(torch.tensor([[[0.0, 1.0, 4.0]], [[2.0, 2.0, 2.0]]]))
        (tensor([[[False, False,  True]],
        <BLANKLINE>
                [[False, False, False]]]), tensor([ True, False]))

    References:
        Threshold 0.5 as in the code of ExCon, which adds 1e-8 to the denominator; here nothing is added.
    """
    check_share(threshold, "threshold", below_one=True)
    finite = maps.isfinite().all(-1).all(-1)
    maps = maps.where(finite[:, None, None], torch.zeros_like(maps))
    says_something = finite & ~is_constant(maps)
    return (min_max(maps) > threshold) & says_something[:, None, None], says_something


def check_share(value: float, name: str, *, below_one: bool = False) -> None:
    """Check that an option lies in [0, 1].

    Raises:
        OptionError: It does not.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1 or (below_one and value == 1):
        raise OptionError(f"{name} lies in [0, 1{')' if below_one else ']'}, got {value!r}.")


def check_labels(x: Tensor, labels: Tensor, classes: int, what: str) -> None:
    """Check images and their labels.

    Args:
        x: Images.
        labels: Their labels.
        classes: How many classes there are.
        what: Who asks.

    Raises:
        InputTypeError: `x` is no floating-point tensor, or `labels` no integer one.
        ShapeError: `x` is not ``(N, C, H, W)``, or `labels` not ``(N,)``.
        OptionError: A label is not in 0 .. classes - 1.
        NonFiniteError: A pixel is infinite or NaN.
    """
    check_images(x, what)
    check_finite(x, what)
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        got = f"a tensor of {labels.dtype}" if isinstance(labels, Tensor) else type(labels).__name__
        raise InputTypeError(f"labels are an integer tensor (N,), {what} got {got}.")
    if labels.shape != x.shape[:1]:
        raise ShapeError(f"labels are (N,) = ({len(x)},), {what} got {tuple(labels.shape)}.")
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise OptionError(
            f"labels are 0 .. {classes - 1}, {what} got {int(labels.min())} .. {int(labels.max())}: pass the right number "
            "of classes, or count labels from 0."
        )
