"""What the model of a command says: ``--output``, and its answers by that word."""

from collections.abc import Callable
from typing import Any, TypeVar, cast, get_args

import click
import torch
from torch import Tensor, nn

from lm_plugins.checks import check_evaluation_mode
from lm_plugins.cli.exit_codes import is_out_of_memory
from lm_plugins.errors import LMPluginsError, ModelLoadingError, OptionError
from lm_plugins.outputs import Detection, Segmentation
from lm_plugins.outputs.words import OutputIs, as_probabilities, chosen_by, guessed, parted

__all__ = ["answered", "of_image", "output_option", "with_field"]

Command = TypeVar("Command", bound=Callable[..., Any])


#: What is asked of models that classify no images, each image for itself.
_OF_IMAGE = ("segmentation", "detection", "detection_sigmoid")


class _Word(click.ParamType):  # type: ignore[type-arg]
    name = "|".join((*get_args(OutputIs), *_OF_IMAGE, "field:NAME[,WORD]"))

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> str | None:
        """From a word, with or without an underscore; or a field, and a word for what it holds."""
        text = str(value)
        field, _, word = text.partition(",") if text.startswith("field:") else ("", "", text)
        try:
            if field:
                parted(field)
            word = word.replace(" ", "_").replace("-", "_")
            known_word = word if word in _OF_IMAGE or not word else parted(word)[1]
            return ",".join(one for one in (field, known_word) if one)
        except LMPluginsError:
            known = ", ".join((*get_args(OutputIs), *_OF_IMAGE))
            self.fail(f"{value!r} is not one of {known}, field:NAME or field:NAME,WORD.", parameter, context)


class _Chosen(nn.Module):
    """A model of which a part of what it returns is looked at, or a number made of that."""

    def __init__(self, model: nn.Module, choose: Callable[[Any], Any]) -> None:
        super().__init__()
        self.model, self._choose = model, choose

    def forward(self, *args: Any, **named: Any) -> Any:
        """What is chosen."""
        return self._choose(self.model(*args, **named))


def with_field(model: nn.Module, output: str | None) -> tuple[nn.Module, str | None]:
    """A model that returns the field that ``--output`` names, if it names one; and the word.

    Args:
        model: As it was loaded.
        output: As the option gives it.
    """
    if output is None or not output.startswith("field:"):
        return model, output
    field, _, word = output.removeprefix("field:").partition(",")
    return _Chosen(model, chosen_by(field)).eval(), word or None


def of_image(model: nn.Module, x: Tensor, output: str | None) -> tuple[nn.Module, str | None]:
    """A model that returns numbers about one image, where ``--output`` asks for its segmentation or its best detection.

    Args:
        model: Of segmentation, or a detector; any other stays as it is.
        x: The image ``(1, C, H, W)``, preprocessed.
        output: The word.

    Returns:
        The model, and the word for what it returns now.

    Raises:
        InputTypeError: The model returns no segmentation or no detections.
    """
    if output not in _OF_IMAGE:
        return model, output
    choose: Callable[[Any], Any]
    if output == "segmentation":
        choose = Segmentation.of_prediction(model, x)
    else:
        choose = Detection.of_prediction(model, x, scores="sigmoid" if output.endswith("sigmoid") else "softmax")
    return _Chosen(model, choose).eval(), "regression"


def output_option(command: Command) -> Command:
    """The option ``--output``."""
    return click.option(
        "--output",
        type=_Word(),
        help="What the model returns. By default logits: an error if they look like probabilities.",
    )(command)


@torch.inference_mode()
def answered(model: nn.Module, x: Tensor, output: str | None) -> tuple[Tensor, OutputIs]:
    """What a model says about whole images, and the word for what it returns.

    Args:
        model: A classifier, or a regression of one number.
        x: Images ``(N, C, H, W)``, preprocessed.
        output: The word; None to find out.

    Returns:
        Probabilities ``(N, classes)`` on the CPU, or the values ``(N, outputs)`` of a regression; and the word.

    Raises:
        ModelLoadingError: The model fails.
        OptionError: It returns something else; or what may be probabilities, and there is no word.
        TrainingModeError: The model or a part of it is in training mode.
        LMPluginsError: The word does not fit; see `lm_plugins.outputs.words.as_probabilities`.
    """
    check_evaluation_mode(model, "the command line")
    device = next((one.device for one in model.parameters()), torch.device("cpu"))
    try:
        result = model(x.to(device))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ModelLoadingError(
            f"the model fails on an image of shape {tuple(x.shape)} and {x.dtype} with {type(error).__name__}: {error}."
        ) from error
    if output in _OF_IMAGE:
        raise OptionError(
            f"--output {output} is for `lm-plugins explain`: an audit compares the classes of a classifier."
        )
    if not isinstance(result, Tensor) or result.ndim not in (1, 2) or len(result) != len(x):
        got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise OptionError(
            f"a model that returns a tensor (N, classes), or (N,) for one number, is needed, got {got}; name a field of what "
            "it returns, --output field:logits, or wrap the model in a factory."
        )
    word = guessed(result) if output is None else cast(OutputIs, output)
    rows = as_probabilities(result, word).cpu()
    return rows[:, None] if rows.ndim == 1 else rows, word
