"""What a model answers to one image, plain and masked: whether it is the one that numbers on disk are of."""

import json
import platform
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lm_plugins.audit.audited_model import AuditedModel
from lm_plugins.audit.measures import Prepared
from lm_plugins.audit.removal_order import coalitions_after, removal_order
from lm_plugins.audit.saliency import gradient_saliency
from lm_plugins.errors import LMPluginsError, OptionError
from lm_plugins.features import grid, visible_from

__all__ = ["ModelAnswers", "changed_answers"]

#: Of all the answers, this one comes first, and explains the others.
MODEL = "the model"


@dataclass(frozen=True)
class ModelAnswers:
    """The answers to one image, and where they were computed.

    Args:
        image: ``(1, C, H, W)`` on the CPU.
        values: What was returned, float64, by who answers: the model, its gradient, each removal with half of the patches
            hidden.
        tolerance: What rounding may change, as a share of the range of an answer.
        environment: Versions, device and settings that rounding depends on.
    """

    image: Tensor
    values: Mapping[str, Tensor]
    tolerance: float
    environment: Mapping[str, str]

    @classmethod
    def of(
        cls, image: Tensor, model: AuditedModel, removals: Mapping[str, Prepared], with_saliency: bool
    ) -> "ModelAnswers":
        """Ask a model.

        Args:
            image: ``(1, C, H, W)``.
            model: The model.
            removals: By the text that each is known by.
            with_saliency: Whether the gradient is asked for, too.

        Returns:
            The answers.

        Raises:
            OptionError: The model, or a removal, fails with this image.
        """
        x = image.to(model.device)
        try:
            plain = model.plain_output(x)
            values = {MODEL: plain}
            if with_saliency:
                target = int(plain[0].argmax())
                values["the gradient of the model"] = gradient_saliency(model.model, x, target, model.output)
            feature_mask = grid((x.shape[2], x.shape[3]), max(1, round(min(x.shape[2:]) / 14)))
            half = coalitions_after(removal_order(feature_mask, "random", seed=0), [0.5])
            visible = visible_from(half, feature_mask).to(x.device)
            for name, prepared in removals.items():
                values[f"the removal {name}"] = model.outputs_for(prepared.forward, x, visible)
        except (LMPluginsError, RuntimeError) as error:
            raise OptionError(
                f"the model fails on the image {tuple(x.shape)} by which an interrupted audit knows it: {error}"
            ) from error
        eps = torch.finfo(plain.dtype).eps if plain.is_floating_point() else torch.finfo(torch.float32).eps
        kept = {name: value.detach().double().cpu() for name, value in values.items()}
        return cls(image.detach().cpu(), kept, eps**0.5, _environment(x))

    def with_more(self, other: "ModelAnswers") -> "ModelAnswers":
        """These answers, and those of `other` that are not among them."""
        return replace(self, values={**other.values, **self.values})

    def save(self, path: Path) -> None:
        """Write an ``.npz`` file, whatever its name."""
        about = {
            "names": list(self.values), "tolerance": self.tolerance, "environment": dict(self.environment),
            "dtype": str(self.image.dtype).removeprefix("torch."),
        }  # fmt: skip
        arrays: dict[str, Any] = {f"value_{i}": value.numpy() for i, value in enumerate(self.values.values())}
        with path.open("wb") as file:
            np.savez(file, image=self.image.double().numpy(), about=np.array(json.dumps(about)), **arrays)

    @classmethod
    def load(cls, path: Path) -> "ModelAnswers":
        """Read what `save` wrote.

        Args:
            path: The file.

        Returns:
            The answers.

        Raises:
            OptionError: The file cannot be read.
        """
        try:
            with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
                about = json.loads(str(file["about"]))
                image = torch.from_numpy(file["image"]).to(getattr(torch, about["dtype"]))
                values = {name: torch.from_numpy(file[f"value_{i}"]) for i, name in enumerate(about["names"])}
                return cls(image, values, float(about["tolerance"]), dict(about["environment"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
            raise OptionError(
                f"{path} cannot be read ({error}). Take another folder, or begin anew (resume=False, or --no-resume)."
            ) from error


def changed_answers(before: ModelAnswers, now: ModelAnswers) -> str:
    """What answers otherwise than before.

    Args:
        before: The answers that are kept.
        now: Those of today, to the same image. Only what is in both is compared.

    Returns:
        A sentence or two; empty if nothing changed by more than rounding explains.
    """
    tolerance = max(before.tolerance, now.tolerance)
    found = []
    for name in now.values:
        if name in before.values:
            difference = _difference(before.values[name], now.values[name], tolerance)
            found += [f"{name} ({difference})"] if difference else []
    if not found:
        return ""
    # Where the model is another, so is everything.
    named = found[:1] if found[0].startswith(f"{MODEL} (") else found
    other = [
        f"{key} was {before.environment.get(key)}, is {now.environment.get(key)}"
        for key in sorted({*before.environment, *now.environment})
        if before.environment.get(key) != now.environment.get(key)
    ]
    text = f"on the image that is kept there, {', '.join(named)}."
    if other:
        return f"{text} The environment is another: {'; '.join(other)}."
    if named[0].startswith(f"{MODEL} ("):
        return f"{text} Modules, weights and environment are the same, so that its code or output= has changed."
    return f"{text} The model answers as before, so that what these are made of has changed."


def _difference(before: Tensor, now: Tensor, tolerance: float) -> str:
    if before.shape != now.shape:
        return f"shape {tuple(now.shape)} where it was {tuple(before.shape)}"
    if not before.numel() or bool(torch.equal(before, now)):
        return ""
    eps = tolerance**2
    span, size = float(before.max() - before.min()), float(before.abs().max())
    # A common offset of all outputs carries its own rounding, and no more.
    allowed = tolerance * span + 64 * eps * size
    largest = float((before - now).abs().max())
    if largest <= allowed:  # NaN is no reason to go on
        return ""
    return f"a difference of {largest:.3g}, where rounding explains {allowed:.3g}"


def _environment(x: Tensor) -> dict[str, str]:
    found: dict[str, Any] = {
        "torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version(),
        "device": torch.cuda.get_device_name(x.device) if x.is_cuda else f"{x.device.type} {platform.machine()}",
        "dtype": str(x.dtype), "threads": torch.get_num_threads(), "instructions": torch.backends.cpu.get_cpu_capability(),
        "tf32": torch.backends.cudnn.allow_tf32,
    }  # fmt: skip
    return {key: str(value) for key, value in found.items()}
