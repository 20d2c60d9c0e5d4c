"""What one data set is explained with, and what tells it from other runs."""

import hashlib
import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

import lm_plugins
from lm_plugins.errors import ImageFileError, InputTypeError, LMPluginsError, ModelLoadingError, OptionError
from lm_plugins.features import Features
from lm_plugins.masking.calibration import digests_of
from lm_plugins.outputs.words import OutputIs
from lm_plugins.removal import Removal, as_removal
from lm_plugins.scale.methods import METHODS
from lm_plugins.scale.sources import ImageSource

__all__ = ["Preprocess", "Task"]

#: From what a source reads to ``(C, H, W)``; or to that and the pixels on [0, 1] that superpixels are made from.
Preprocess = Callable[[Any], Tensor | tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Task:
    """Everything that results depend on. It is sent to workers as it is.

    Args:
        source: The images.
        model: A module in evaluation mode, ``"package.module:factory"``, or a factory, called without arguments.
        preprocess: Of the images; None for sources of tensors.
        method: A key of `lm_plugins.scale.methods.METHODS`.
        removal: How pixels are removed.
        features: Which pixels are removed together; None for the method's own.
        target: A class for all images, or None for the one that the model says.
        output: What the model returns, in a word.
        of: ``"probability"`` or ``"output"`` is explained.
        samples: For methods that draw.
        layer: For methods that look at layers.
        seed: Each image has a seed of its own, from this and its key.
        batch_size: Rows of a model batch.
        shard: Images that are explained and stored together.
        device: Where the model runs.
    """

    source: ImageSource
    model: nn.Module | str | Callable[[], nn.Module]
    preprocess: Preprocess | None = None
    method: str = "kernelshap"
    removal: Removal | str | None = None
    features: Features | str | None = None
    target: int | None = None
    output: OutputIs = "logits"
    of: str = "probability"
    samples: int = 500
    layer: str | None = None
    seed: int = 0
    batch_size: int = 32
    shard: int = 16
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise OptionError(f"no method is called {self.method!r}; there are {', '.join(METHODS)}.")
        for name in ("samples", "batch_size", "shard"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise OptionError(f"{name} is a whole number above 0, got {value!r}.")
        as_removal(self.removal)
        self.chosen_features()

    def chosen_features(self) -> Features:
        """Which pixels are removed together."""
        if self.features is None:
            return METHODS[self.method].features
        return self.features if isinstance(self.features, Features) else Features.of(self.features)

    def loaded_model(self) -> nn.Module:
        """The model, on its device.

        Raises:
            ModelLoadingError: A factory cannot be imported or fails.
            InputTypeError: It gives no module.
        """
        model: Any = self.model
        try:
            if isinstance(model, str):
                module, _, name = model.partition(":")
                model = getattr(importlib.import_module(module), name)
            if not isinstance(model, nn.Module):
                model = model()
        except Exception as error:  # of anybody's code
            raise ModelLoadingError(
                f"the model {self.model!r} cannot be made here ({type(error).__name__}: {error}). On a worker it is imported "
                "anew: pass 'package.module:factory' of a package that is installed there."
            ) from error
        if not isinstance(model, nn.Module):
            raise InputTypeError(
                f"the model is a torch module, or a factory that returns one; got {type(model).__name__}."
            )
        return model.to(self.device).eval() if not isinstance(self.model, nn.Module) else model.to(self.device)

    def prepared(self, image: Any) -> tuple[Tensor, Tensor]:
        """An image as the model takes it, ``(C, H, W)``, and its pixels on [0, 1].

        Raises:
            ImageFileError: `preprocess` fails.
            InputTypeError: Without `preprocess` it is no tensor; or `preprocess` gives something else.
        """
        if self.preprocess is not None:
            try:
                image = self.preprocess(image)
            except (LMPluginsError, MemoryError):
                raise
            except Exception as error:  # of anybody's code
                raise ImageFileError(f"preprocess fails with {type(error).__name__}: {error}") from error
        elif isinstance(image, Image.Image):
            raise InputTypeError("images are pictures, and a model takes tensors: pass preprocess=.")
        x, pixels = image if isinstance(image, tuple) else (image, None)
        if not isinstance(x, Tensor) or x.ndim != 3 or not x.is_floating_point():
            got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise InputTypeError(f"preprocess gives a floating-point tensor (C, H, W), got {got}.")
        if pixels is None:
            low, high = x.amin(), x.amax()
            pixels = (x - low) / (high - low).clamp(min=1e-12)
        return x, pixels

    def seed_of(self, key: str) -> int:
        """The seed of one image: it knows nothing of workers and of other images."""
        digest = hashlib.sha256(f"{self.seed}\n{key}".encode(errors="surrogateescape")).digest()
        return int.from_bytes(digest[:4], "big")

    def described(self, model: nn.Module) -> dict[str, Any]:
        """What is written down: two runs with the same description have the same results."""
        keys = hashlib.sha256("\n".join(self.source.keys).encode(errors="surrogateescape")).hexdigest()
        weights = hashlib.sha256(json.dumps(digests_of(model)).encode())
        return {
            "images": len(self.source.keys),
            "keys": keys[:16],
            "model": weights.hexdigest()[:16],
            "method": self.method,
            "removal": repr(as_removal(self.removal)),
            "features": str(self.chosen_features()),
            "target": self.target,
            "output": self.output,
            "of": self.of,
            "samples": self.samples,
            "layer": self.layer,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "shard": self.shard,
            "versions": {"lm_plugins": lm_plugins.__version__, "torch": torch.__version__},
        }
