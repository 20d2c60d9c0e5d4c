"""Types of options that several commands take, and the options that choose a model."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import click
import torch
from torch import nn

from lm_plugins.cli.loading_models import DEFAULT_MODEL, LoadedModel, load_model
from lm_plugins.cli.preprocessing import INTERPOLATIONS, Preprocessing
from lm_plugins.errors import OptionError
from lm_plugins.features import Features
from lm_plugins.masking import Calibration
from lm_plugins.removal import REMOVALS, LayerMasking, PixelColour, Removal, as_removal

__all__ = [
    "CALIBRATED", "FEATURES", "NUMBERS", "REMOVAL_NAMES", "SEED", "Names", "built_removals", "calibration_option", "loaded",
    "loaded_calibration", "model_options",
]  # fmt: skip

Command = TypeVar("Command", bound=Callable[..., Any])


class Names(click.ParamType):  # type: ignore[type-arg]
    """Names from a list, separated by commas.

    Args:
        kind: What they name, for messages.
        known: Those there are, or a function that returns them when they are needed.
    """

    name = "names"

    def __init__(self, kind: str, known: Sequence[str] | Callable[[], Iterable[str]]) -> None:
        self.kind, self._known = kind, known

    @property
    def known(self) -> tuple[str, ...]:
        """The names there are."""
        return tuple(self._known() if callable(self._known) else self._known)

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> tuple[str, ...]:
        """From ``"a,b"``; ``"all"`` means every one."""
        if isinstance(value, tuple):
            return value
        names = list(dict.fromkeys(one.strip() for one in str(value).split(",") if one.strip()))
        if names == ["all"]:
            return self.known
        for one in names:
            if one not in self.known:
                near = get_close_matches(one, self.known, 1)
                hint = f" Did you mean {near[0]}?" if near else ""
                self.fail(
                    f"no {self.kind} is called {one!r}; there are {', '.join(self.known)}.{hint}", parameter, context
                )
        if not names:
            self.fail(f"name at least one {self.kind}: {', '.join(self.known)}.", parameter, context)
        return tuple(names)


class _Numbers(click.ParamType):  # type: ignore[type-arg]
    name = "numbers"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """From ``"0.5"`` or ``"0.5,0.4,0.3"``."""
        if isinstance(value, tuple):
            return value
        texts = [one.strip() for one in str(value).split(",")]
        # Python's own numbers would take 1_0, nan and infinity.
        if not all(re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?", one, re.ASCII) for one in texts):
            self.fail(f"{value!r} is not a number, or several with commas between them.", parameter, context)
        return tuple(float(one) for one in texts)


class _Features(click.ParamType):  # type: ignore[type-arg]
    name = "grid:N|slic:N"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Features:
        """From ``"grid:16"`` or ``"slic:100"``."""
        if isinstance(value, Features):
            return value
        try:
            return Features.of(str(value))
        except OptionError as error:
            self.fail(str(error), parameter, context)


#: What every library that draws takes as a seed.
SEED = click.IntRange(0, 2**32 - 1)
REMOVAL_NAMES = Names("removal", tuple(REMOVALS))
NUMBERS = _Numbers()
FEATURES = _Features()


#: The name of layer masking with the calibration of ``--calibration``.
CALIBRATED = "layer_masking_calibrated"


def calibration_option(command: Command) -> Command:
    """The option that adds calibrated layer masking to the removals; `built_removals` takes its value."""
    return click.option(
        "--calibration",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help=f"A file of `lm-plugins calibrate`: adds the removal {CALIBRATED}.",
    )(command)


def loaded_calibration(options: dict[str, Any], module: nn.Module) -> Calibration | None:
    """The calibration that `calibration_option` names, if it names one.

    Args:
        options: Values of all options of the command.
        module: The model.

    Returns:
        The calibration, or None.

    Raises:
        CalibrationError: The file holds none, or one of another model.
    """
    if options["calibration"] is None:
        return None
    calibration = Calibration.load(options["calibration"])
    calibration.check_model(module)
    return calibration


def model_options(command: Command) -> Command:
    """The options that choose a model and prepare its images; `loaded` takes their values."""
    options = (
        click.option(
            "--model", default=DEFAULT_MODEL, show_default=True, metavar="MODEL",
            help="efficientnet-lite0, torchvision:NAME[@WEIGHTS], timm:NAME or package.module:factory.",
        ),
        click.option(
            "--checkpoint", type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="A state dict for the model, read with weights_only=True.",
        ),
        click.option("--size", type=click.IntRange(1), help="Height and width of the model's images."),
        click.option("--mean", type=NUMBERS, help="Mean of the normalisation, on [0, 1]; one number or three."),
        click.option("--std", type=NUMBERS, help="Standard deviation of the normalisation."),
        click.option("--interpolation", type=click.Choice(list(INTERPOLATIONS)), help="For resizing."),
        click.option("--device", default="cpu", show_default=True, help="Where torch runs the model: cpu, cuda, mps."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def loaded(options: dict[str, Any], pretrained: bool = True) -> tuple[LoadedModel, Preprocessing]:
    """Load the model that `model_options` describe.

    Args:
        options: Values of all options of the command; those of `model_options` are looked at.
        pretrained: Fetch pretrained weights where there is no checkpoint.

    Returns:
        The model, on its device, and the preprocessing of its images.

    Raises:
        OptionError: There is no such model, device or preprocessing.
        ModelLoadingError: Weights cannot be fetched, or a checkpoint does not fit or is refused.
    """
    model = load_model(options["model"], options["checkpoint"], pretrained)
    try:
        torch.zeros(1, device=options["device"]).cpu()  # of the device "meta", nothing comes back
        model.module.to(torch.device(options["device"]))
    except (RuntimeError, AssertionError, ImportError) as error:
        raise OptionError(f"device {options['device']!r} cannot be used: {str(error).splitlines()[0]}") from error
    preprocessing = (model.preprocessing or Preprocessing()).changed(
        **{name: options[name] for name in ("size", "mean", "std", "interpolation")}
    )
    return model, preprocessing


def built_removals(
    names: Sequence[str], preprocessing: Preprocessing, calibration: Calibration | None = None
) -> dict[str, Removal]:
    """Removals by name, for images of a preprocessing.

    Args:
        names: Keys of `lm_plugins.removal.REMOVALS`.
        preprocessing: Its normalisation says where black and white are.
        calibration: Adds calibrated layer masking.

    Returns:
        The removals.
    """
    built = {name: as_removal(name) for name in names}
    if calibration is not None:
        built[CALIBRATED] = LayerMasking(calibration=calibration)
    return {
        name: replace(one, mean=preprocessing.mean, std=preprocessing.std) if isinstance(one, PixelColour) else one
        for name, one in built.items()
    }
