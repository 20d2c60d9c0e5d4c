"""A calibration: the corrections that fit one model under one set of options, saved and read back."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lm_plugins.atomic_write import written
from lm_plugins.errors import CalibrationError, CalibrationWarning, InputTypeError, MissingDependencyError, OptionError
from lm_plugins.masking.moment_matching import Correction, MomentMatching, hidden_share
from lm_plugins.masking.options import MaskingOptions

__all__ = ["Calibration", "ImageStatistics", "digests_of"]

_FORMAT = 1
_PARTS = ("mean", "shift", "spread")
# How many standard deviations the images may lie from those of the calibration.
_FAR = 5.0


@dataclass(frozen=True)
class ImageStatistics:
    """Brightness and contrast of the images of a calibration: they tell a forgotten normalisation.

    Args:
        count: How many images there were.
        size: Their height and width.
        brightness: Mean of an image: its average over the images, and its standard deviation.
        contrast: Logarithm of the standard deviation of an image, likewise.
    """

    count: int
    size: tuple[int, int]
    brightness: tuple[float, float]
    contrast: tuple[float, float]

    @staticmethod
    def measured(x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Brightness and contrast of images ``(N, C, H, W)``, over what is visible ``(N, H, W)``: ``(N, 2)``."""
        counted = torch.ones_like(x[:, 0], dtype=torch.bool) if visible is None else visible
        pixels = x.detach().double().mean(1).masked_fill(~counted, 0.0).flatten(1)
        weight = counted.flatten(1) / counted.flatten(1).sum(1, keepdim=True).clamp(min=1)
        mean = (pixels * weight).sum(1)
        variance = ((pixels - mean[:, None]) ** 2 * weight).sum(1)
        return torch.stack([mean, variance.clamp(min=1e-12).log() / 2], 1).cpu()

    @classmethod
    def of(cls, measured: Tensor, size: tuple[int, int]) -> "ImageStatistics":
        """What `measured` gave for all images together."""
        spread = measured.std(0, correction=0)
        (brightness, contrast) = zip(measured.mean(0).tolist(), spread.tolist(), strict=True)
        return cls(len(measured), size, brightness, contrast)

    def check(self, x: Tensor, visible: Tensor) -> None:
        """Warn if images are unlike those of the calibration; only what is visible is looked at.

        Warns:
            CalibrationWarning: They are of another size or far from them in brightness or contrast.
        """
        if tuple(x.shape[2:]) != self.size:
            self._warn(f"images of {x.shape[2]} x {x.shape[3]}, and {self.size[0]} x {self.size[1]} were calibrated")
        enough = visible.flatten(1).float().mean(1).cpu() > 0.3
        if not bool(enough.any()):
            return
        found = self.measured(x, visible)[enough].mean(0).tolist()
        for name, value, (mean, spread) in zip(
            ("brightness", "log contrast"), found, (self.brightness, self.contrast), strict=True
        ):
            if abs(value - mean) > _FAR * max(spread, 0.05):
                self._warn(
                    f"images with a {name} of {value:.2f}; those of the calibration have {mean:.2f} +- {spread:.2f}. "
                    "Probably one of the two was normalised in another way"
                )
                return

    @staticmethod
    def _warn(what: str) -> None:
        warnings.warn(
            f"this model came with {what}: calibrate with images like those that are explained.",
            CalibrationWarning,
            stacklevel=2,
        )


@dataclass(frozen=True, eq=False)
class Calibration:
    """Corrections that give masked activations the moments of whole ones, for one model and one set of options.

    Made by `calibrate`, used by ``LayerMasked(model, calibration=...)``.

    Args:
        corrections: One for each layer that mixes channels, in the order of calls; None where nothing is corrected.
        options: The semantics that it was fitted under.
        weights: A digest of each parameter and buffer of the model, by name.
        images: Statistics of the images.
        settings: How it was made: seed, masks an image, versions.

    References:
        Differs from Balasubramanian and Feizi (ICCV 2023), who leave the moments as they come.
    """

    corrections: tuple[Correction | None, ...]
    options: MaskingOptions
    weights: Mapping[str, str]
    images: ImageStatistics
    settings: Mapping[str, Any]
    _copies: dict[torch.device, tuple[Correction | None, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __repr__(self) -> str:
        count = sum(one is not None for one in self.corrections)
        return f"Calibration({count} layers, {self.images.count} images, {self.digest})"

    @property
    def digest(self) -> str:
        """What tells it from others, in 16 letters: of its corrections and of the weights that they belong to."""
        found = hashlib.blake2b(json.dumps([dict(self.weights), asdict(self.options)]).encode(), digest_size=8)
        for one in self.corrections:
            for part in () if one is None else (one.mean, one.shift, one.spread):
                found.update(part.detach().cpu().numpy().tobytes())
        return found.hexdigest()

    def save(self, path: str | Path) -> None:
        """Write it to a safetensors file, as a whole or not at all.

        Args:
            path: Where to; an existing file is replaced.

        Raises:
            MissingDependencyError: safetensors is not installed.
        """
        safetensors = _safetensors()
        present = [(i, one) for i, one in enumerate(self.corrections) if one is not None]
        tensors = {
            f"{i}.{part}": getattr(one, part).detach().cpu().contiguous() for i, one in present for part in _PARTS
        }
        about = {
            "format": _FORMAT,
            "layers": [None if one is None else one.weight for one in self.corrections],
            "options": asdict(self.options),
            "weights": dict(self.weights),
            "images": asdict(self.images),
            "settings": dict(self.settings),
        }
        written(
            Path(path), lambda file: safetensors.torch.save_file(tensors, str(file), {"calibration": json.dumps(about)})
        )

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """Read a file that `save` wrote.

        Args:
            path: The file.

        Returns:
            The calibration. ``LayerMasked(model, calibration=...)`` says whether it belongs to a model.

        Raises:
            CalibrationError: The file holds none, or one of a later format.
            FileNotFoundError: There is no such file.
            MissingDependencyError: safetensors is not installed.
        """
        safetensors = _safetensors()
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no calibration file {path}.")
        try:
            with safetensors.safe_open(str(path), "pt") as file:
                about = json.loads((file.metadata() or {})["calibration"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
            if about["format"] != _FORMAT:
                raise CalibrationError(
                    f"{path} holds a calibration of format {about['format']}, and this version reads format {_FORMAT}: "
                    "update lm_plugins, or calibrate again."
                )
            corrections = tuple(
                None if name is None else Correction(name, *(tensors[f"{i}.{part}"] for part in _PARTS))
                for i, name in enumerate(about["layers"])
            )
            images: dict[str, Any] = {
                name: tuple(one) if isinstance(one, list) else one for name, one in about["images"].items()
            }
            options = MaskingOptions(**about["options"])
            return cls(corrections, options, about["weights"], ImageStatistics(**images), about["settings"])
        except CalibrationError:
            raise
        except Exception as error:  # whatever a foreign or damaged file brings up
            raise CalibrationError(
                f"{path} holds no calibration that can be read ({type(error).__name__}: {error}). Write one with "
                "lm.calibrate(...).calibration.save(path)."
            ) from error

    def checked_options(self, options: MaskingOptions | None) -> MaskingOptions:
        """The options that it was fitted under.

        Raises:
            OptionError: Others were asked for; the message names them.
        """
        if options is not None and options != self.options:
            mine, other = asdict(self.options), asdict(options)
            different = ", ".join(
                f"{name}={mine[name]!r}, not {other[name]!r}" for name in mine if mine[name] != other[name]
            )
            raise OptionError(
                f"the calibration was fitted with {different}: leave out the options, or calibrate again."
            )
        return self.options

    def check_model(self, model: nn.Module) -> str:
        """Check that it belongs to `model`, or to a part of it.

        Args:
            model: The model, or a module that wraps it.

        Returns:
            What stands before the names of its weights in `model`: empty, or such as ``"model."``.

        Raises:
            CalibrationError: It does not belong to it; the message names what differs.
        """
        found = digests_of(model)
        first = next(iter(self.weights), "")
        prefixes = [name[: -len(first)] for name in found if first and name.endswith(f".{first}")]
        prefixes = ["", *(one for one in prefixes if one.endswith("."))]
        differences = [_difference(self.weights, found, one) for one in prefixes]
        for prefix, difference in zip(prefixes, differences, strict=True):
            if difference is None:
                return prefix
        # Of a part that has all the weights, their values say most.
        told = next((one for one in differences if one and "differ" in one), differences[0])
        raise CalibrationError(
            f"this calibration belongs to another model, or the model has changed since: {told}. Calibrate it again with "
            "lm.calibrate."
        )

    def matching(self, visible: Tensor, names: Mapping[int, str]) -> MomentMatching:
        """Its corrections for one run.

        Args:
            visible: Bool ``(N, H, W)``.
            names: The name of each parameter of the model, by its id.
        """
        device = visible.device
        if device not in self._copies:
            self._copies[device] = tuple(None if one is None else one.to(device) for one in self.corrections)
        return MomentMatching(self._copies[device], hidden_share(visible), names)

    def folded(self, model: nn.Module, folds: Mapping[str, tuple[Tensor, Tensor]]) -> "Calibration":
        """The same for a copy of the model of which batch norms were folded into convolutions.

        Args:
            model: The copy.
            folds: For each weight that took up a batch norm, what its output is multiplied by and what is added, ``(C,)``.
        """
        corrections = tuple(
            one.folded(*(part.float().cpu() for part in folds[one.weight]))
            if one is not None and one.weight in folds
            else one
            for one in self.corrections
        )
        return replace(self, corrections=corrections, weights=digests_of(model))


def digests_of(model: nn.Module) -> dict[str, str]:
    """A digest of every parameter and buffer by name: shape, dtype and values."""
    found = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer)):
            raise InputTypeError(f"the model's {name} has no values yet: run the model once first.")
        values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest = hashlib.blake2b(f"{tuple(tensor.shape)} {tensor.dtype}".encode(), digest_size=8)
        digest.update(values.numpy().tobytes())
        found[name] = digest.hexdigest()
    return found


def _difference(expected: Mapping[str, str], found: Mapping[str, str], prefix: str) -> str | None:
    """What tells two models apart, in words; None if nothing does."""
    for names, verb in (
        ([name for name in expected if prefix + name not in found], "it has no"),
        (
            [name for name, digest in expected.items() if found.get(prefix + name) != digest],
            "shape or values differ of",
        ),
    ):
        if names:
            return f"{verb} {names[0]}" + (f" and {len(names) - 1} more" if names[1:] else "")
    return None


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise MissingDependencyError(
            "a calibration is saved with safetensors: pip install 'lm_plugins[calibration]'."
        ) from error
    return safetensors
