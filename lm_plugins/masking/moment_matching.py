"""Moment matching: what a layer gives under a mask gets the mean and spread that it has for whole images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lm_plugins.errors import CalibrationError
from lm_plugins.masking.activation import MaskedActivation
from lm_plugins.masking.carrier import Carrier
from lm_plugins.masking.halo import are_saves_hooked
from lm_plugins.masking.mask import Mask
from lm_plugins.masking.tokens import MaskedTokens

__all__ = ["Correction", "MomentFit", "MomentMatching", "Moments", "hidden_share"]

# How much the standard deviation of a channel is changed at most, by this factor up or down.
_LARGEST_SCALE = 2.0
# Shrinks the coefficients a little: the two shares that they belong to say almost the same.
_RIDGE = 0.1


def hidden_share(visible: Tensor) -> Tensor:
    """Share of the pixels that is hidden, ``(N,)``, of bool ``(N, H, W)``."""
    return (~visible).flatten(1).sum(1).float() / visible[0].numel()


@dataclass(frozen=True, eq=False)
class Correction:
    """What is done to one layer's output: for every channel, a shift and a scale around its mean over whole images.

    Both are linear in two shares, that of hidden positions at this resolution and that of hidden pixels in the image, without
    an intercept: nothing hidden, nothing corrected.

    Args:
        weight: Name of the layer's weight in the model; empty if it is no parameter.
        mean: ``(C,)``: the mean of whole images.
        shift: ``(2, C)``: how far masked means lie from it, for each share.
        spread: ``(2, C)``: how far the second moment lies from that of whole images, relative to it, for each share.
    """

    weight: str
    mean: Tensor
    shift: Tensor
    spread: Tensor

    def of(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        """What is multiplied by and what is added for images with these `shares` ``(N, 2)``: both ``(N, C)``."""
        # Not a matrix product: that may round by the size of the batch.
        shift = shares[:, :1] * self.shift[0] + shares[:, 1:] * self.shift[1]
        ratio = 1 + shares[:, :1] * self.spread[0] + shares[:, 1:] * self.spread[1]
        scale = ratio.clamp(_LARGEST_SCALE**-2, _LARGEST_SCALE**2).rsqrt()
        return scale, self.mean - (self.mean + shift) * scale

    def to(self, device: torch.device) -> "Correction":
        """The same on another device."""
        return Correction(self.weight, self.mean.to(device), self.shift.to(device), self.spread.to(device))

    def folded(self, scale: Tensor, shift: Tensor) -> "Correction":
        """The same for a layer whose output is multiplied by `scale` and shifted, both ``(C,)``, as by a batch norm."""
        return Correction(self.weight, self.mean * scale + shift, self.shift * scale, self.spread)


class MomentMatching:
    """The corrections in one run of a model. Layers that mix channels ask for theirs, in the order of their calls.

    Args:
        corrections: One for each such call; None where nothing is corrected.
        hidden: Share of the pixels that is hidden, ``(N,)``.
        names: The name of each parameter, by its id.
    """

    def __init__(self, corrections: Sequence[Correction | None], hidden: Tensor, names: Mapping[int, str]) -> None:
        self._corrections = corrections
        self._hidden = hidden
        self._names = names
        self._count = 0

    def __call__(self, result: Any, weight: Tensor) -> Any:
        """The output of a layer with this weight, corrected.

        Raises:
            CalibrationError: The model takes another way than the one that was calibrated, or a checkpoint computes a layer
                again that shares its weight with others.
        """
        if not isinstance(result, Carrier):
            return result
        if result.run.is_over:
            index = self._number(weight)
            return result if index is None else self._corrected(index, result, weight)
        if are_saves_hooked():
            self._number(weight)  # or computing it again would fail, deep within a backward pass
        index, self._count = self._count, self._count + 1
        return self._corrected(index, result, weight)

    def _number(self, weight: Tensor) -> int | None:
        """The number of the call in which a layer has this weight, for what is computed again; None if none is corrected."""
        name = self._names.get(id(weight), "")
        found = [i for i, one in enumerate(self._corrections) if one is not None and one.weight == name]
        if len(found) > 1:
            raise CalibrationError(
                f"a checkpoint computes {name or 'unnamed layers'} again in the backward pass, and nothing tells which of "
                f"{len(found)} corrections belongs there: explain it without checkpoints, or without a calibration."
            )
        return found[0] if found else None

    def _corrected(self, index: int, result: Carrier, weight: Tensor) -> Any:
        if index >= len(self._corrections):
            raise CalibrationError(
                f"{_OTHER_WAY}: it calls more layers than the {len(self._corrections)} calibrated ones."
            )
        correction = self._corrections[index]
        if correction is None:
            return result
        layout = _layout(result, len(self._hidden))
        name = self._names.get(id(weight), correction.weight)
        if layout is None or len(correction.mean) != result.values.shape[layout.channels] or name != correction.weight:
            raise CalibrationError(
                f"{_OTHER_WAY}: layer {index + 1} is {name or 'unnamed'} with output {tuple(result.shape)}, and "
                f"{correction.weight or 'unnamed'} with {len(correction.mean)} channels was calibrated there."
            )
        return layout.applied(result, *correction.of(self._shares(layout)))

    def _shares(self, layout: "_Layout") -> Tensor:
        return torch.stack([layout.hidden_share, self._hidden], 1)


_OTHER_WAY = "the model takes another way through its layers than it did when it was calibrated"


@dataclass(frozen=True)
class _Layout:
    """Where images and channels of a layer's output are, and what of it is hidden."""

    channels: int
    region: Mask

    @property
    def hidden_share(self) -> Tensor:
        """Share of the positions that is hidden, ``(N,)``."""

        def count() -> Tensor:
            hidden, visible = (one.flatten(1).sum(1) for one in (self.region.hidden, self.region.positions))
            return hidden.float() / (hidden + visible).clamp(min=1)

        return self.region.once("hidden share", count)

    def _broadcast(self, per_channel: Tensor, values: Tensor) -> Tensor:
        shape = [1] * values.ndim
        shape[0], shape[self.channels] = per_channel.shape
        return per_channel.to(values.dtype).reshape(shape)

    def applied(self, result: Carrier, scale: Tensor, shift: Tensor) -> Any:
        """The output times `scale` plus `shift`, both ``(N, C)``."""
        values = result.values
        scale, shift = self._broadcast(scale, values), self._broadcast(shift, values)
        if values.requires_grad:
            return result.like(torch.addcmul(shift, values, scale))
        # Nobody else has seen what a layer has just computed, and a map of its own would cost as much as a layer.
        torch.addcmul(shift, values, scale, out=values)
        return result

    def moments(self, result: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and mean square of what is visible, ``(N, C)`` in float64; and whether anything is, ``(N,)``."""
        hidden = result.is_hidden(self.region) if isinstance(result, MaskedActivation) else result.is_hidden()
        over = [dim for dim in range(1, result.values.ndim) if dim != self.channels]
        count = (~hidden).expand(*result.values.shape[: self.channels], 1, *result.values.shape[self.channels + 1 :])
        count = count.sum(over).double()  # (N, 1)
        values = result.values.masked_fill(hidden, 0.0)
        sums = [part.sum(over, dtype=torch.float64) / count.clamp(min=1) for part in (values, values.square())]
        return sums[0], sums[1], count[:, 0] > 0


def _layout(result: Carrier, images: int) -> _Layout | None:
    """The layout of a layer's output; None if its first dimension is not that of images, or channels are in several."""
    values = result.values
    if values.ndim < 3 or len(values) != images or not values.is_floating_point():
        return None
    if isinstance(result, MaskedActivation):
        dims = result.dims
        is_simple = dims[0] == "N" and dims.count("C") == 1 and len(dims) == 4
        return _Layout(dims.index("C"), result.visibility.visible) if is_simple else None
    if not isinstance(result, MaskedTokens) or len(result.positions) != 1 or result.image_count() != images:
        return None
    last = values.ndim - 1
    return _Layout(last, result.positions[0].visibility.visible) if result.is_channels(last) else None


@dataclass
class Moments:
    """What is known of one layer's moments so far: sums over images, so that any number of images needs the same memory."""

    weight: str
    count: float = 0.0
    sums: dict[str, Tensor] = field(default_factory=dict)

    def add(self, whole: tuple[Tensor, Tensor], masked: tuple[Tensor, Tensor], shares: Tensor, counted: Tensor) -> None:
        """Add images, under as many masks each.

        Args:
            whole: Mean and mean square of the whole images, ``(M, C)``.
            masked: The same under masks, ``(K * M, C)``.
            shares: What is hidden, ``(K * M, 2)``.
            counted: Whether anything is visible, ``(K * M,)``.
        """
        times = len(shares) // len(whole[0])
        f = shares.double() * counted[:, None]
        difference, difference_of_squares = (
            one - other.repeat(times, 1) for one, other in zip(masked, whole, strict=True)
        )
        self.count += len(whole[0])
        for name, value in {
            "mean": whole[0].sum(0),
            "square": whole[1].sum(0),
            "ff": f.T @ f,
            "fd": f.T @ difference,
            "fq": f.T @ difference_of_squares,
            "ffv": torch.einsum("ni,nj,nc->ijc", f, f, masked[0]),
            "fff": torch.einsum("ni,nj,nk->ijk", f, f, f),
        }.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def correction(self) -> Correction:
        """The least-squares fit of both moments on the shares."""
        sums = self.sums
        mean = sums["mean"] / self.count
        variance = (sums["square"] / self.count - mean**2).clamp(min=0)
        ff = sums["ff"]
        shrunk = ff + _RIDGE * torch.diag(ff.diagonal()) + 1e-9 * torch.eye(2, dtype=ff.dtype, device=ff.device)
        shift = torch.linalg.solve(shrunk, sums["fd"])
        # The second moment about `mean` of what is left after the shift, less that of whole images.
        left = sums["fq"] - 2 * mean * sums["fd"]
        left = left - 2 * torch.einsum("jc,ijc->ic", shift, sums["ffv"] - mean * ff[:, :, None])
        left = left + torch.einsum("jc,kc,ijk->ic", shift, shift, sums["fff"])
        # A channel that never changes has no spread that could be matched.
        varies = variance > 1e-12 * (1 + mean**2)
        relative = torch.where(varies, left / variance.where(varies, torch.ones_like(variance)), 0.0)
        spread = torch.linalg.solve(shrunk, relative)
        return Correction(self.weight, *(one.float() for one in (mean, shift, spread)))


class MomentFit(MomentMatching):
    """Fits the corrections while a model runs: each layer is corrected before the next one is looked at.

    Args:
        moments: What is known of each layer; enlarged in place, with None for layers that cannot be corrected.
        whole: The first so many images of the batch are whole; the others are the same ones under masks.
        hidden: Share of the pixels that is hidden, ``(N,)``.
        names: The name of each parameter, by its id.
    """

    def __init__(self, moments: list[Moments | None], whole: int, hidden: Tensor, names: Mapping[int, str]) -> None:
        super().__init__((), hidden, names)
        self._moments = moments
        self._whole = whole

    def _corrected(self, index: int, result: Carrier, weight: Tensor) -> Any:
        layout, name = _layout(result, len(self._hidden)), self._names.get(id(weight), "")
        if index == len(self._moments):
            self._moments.append(None if layout is None else Moments(name))
        moments = self._moments[index]
        if moments is None or layout is None:
            self._moments[index] = None
            return result
        if moments.weight != name:
            raise CalibrationError(
                f"the model takes different ways for different images: layer {index + 1} is {moments.weight or 'unnamed'} "
                f"for the first and {name or 'unnamed'} for later ones. It cannot be calibrated."
            )
        mean, square, counted = layout.moments(result)
        shares, m = self._shares(layout), self._whole
        moments.add((mean[:m], square[:m]), (mean[m:], square[m:]), shares[m:], counted[m:])
        return layout.applied(result, *moments.correction().of(shares))
