"""Every exception and warning of lm_plugins: each says what was expected, what came, and what to do."""

__all__ = [
    "ArchitectureError",
    "CalibrationError",
    "CalibrationWarning",
    "ConformanceError",
    "DuplicateRuleError",
    "ExplanationWarning",
    "ImageFileError",
    "InputTypeError",
    "LMPluginsError",
    "LabelFileError",
    "LayerError",
    "MaskValueError",
    "MissingDependencyError",
    "ModelLoadingError",
    "NonFiniteError",
    "NotOfferedError",
    "OptionError",
    "OutputWarning",
    "PluginWarning",
    "ProbabilityError",
    "PublishedCodeWarning",
    "RuleError",
    "ShapeError",
    "SkippedLayerWarning",
    "TrainingModeError",
    "UnsupportedOperatorError",
    "VerificationError",
]


class LMPluginsError(Exception):
    """Base class of every error that lm_plugins raises on purpose."""


class ShapeError(LMPluginsError, ValueError):
    """A tensor has another shape than the one that is needed; the message names both."""


class InputTypeError(LMPluginsError, TypeError):
    """An argument has the wrong type or dtype, such as an integer image."""


class MaskValueError(LMPluginsError, ValueError):
    """A mask holds something other than 0 and 1, or a pixel is masked in only some of its channels."""


class NonFiniteError(LMPluginsError, ValueError):
    """A visible pixel is infinite or NaN."""


class TrainingModeError(LMPluginsError, RuntimeError):
    """The model, or a part of it, is in training mode."""


class OptionError(LMPluginsError, ValueError):
    """An option has a value that is not among the known ones; the message lists them."""


class LayerError(LMPluginsError, ValueError):
    """A layer is not part of the model, is not called, or does not give maps; the message says which and why."""


class ProbabilityError(LMPluginsError, ValueError):
    """Probabilities are needed and the model returns something else, logits most likely."""


class ArchitectureError(LMPluginsError, ValueError):
    """The published code knows no architecture of that name or class; the message lists the families."""


class CalibrationError(LMPluginsError, ValueError):
    """A calibration belongs to another model, other options or another way through the model; the message says which."""


class RuleError(LMPluginsError, TypeError):
    """Something that cannot be given a rule was passed to `register_rule`, or a rule returned nonsense."""


class DuplicateRuleError(LMPluginsError, ValueError):
    """A torch function already has a rule."""


class UnsupportedOperatorError(LMPluginsError, NotImplementedError):
    """A model calls a torch function that has no masking rule, or one in a way its rule does not cover."""


class VerificationError(LMPluginsError, RuntimeError):
    """With everything visible, layer masking gives another answer than the model; the message says where they part."""


class ConformanceError(LMPluginsError, AssertionError):
    """A rule or a model breaks a law of layer masking; the message holds the smallest failing example.

    An ``AssertionError`` too, so that test runners count it as a failed test.

    Args:
        law: The law, in words.
        message: The whole story.
    """

    def __init__(self, law: str, message: str) -> None:
        super().__init__(law, message)
        self.law = law
        self.message = message

    def __str__(self) -> str:
        return self.message


class MissingDependencyError(LMPluginsError, ImportError):
    """An optional package is not installed; the message names the extra that installs it."""


class NotOfferedError(LMPluginsError, ImportError):
    """A name was asked for that is found in another library; the message says where."""


class ModelLoadingError(LMPluginsError, ValueError):
    """A model cannot be built or fetched, or a checkpoint does not fit it or was refused."""


class ImageFileError(LMPluginsError, ValueError):
    """A folder or file holds no image that could be read; the message lists the files and why."""


class LabelFileError(LMPluginsError, ValueError):
    """A table of labels does not fit the images or the model; the message names the first rows that do not."""


class CalibrationWarning(UserWarning):
    """A calibration rests on little, or on images unlike those that it is used for."""


class PublishedCodeWarning(UserWarning):
    """The published layer masking code cannot run what was asked for; options were derived from its rules."""


class PluginWarning(UserWarning):
    """The rules of another package could not be loaded; the message names the package."""


class SkippedLayerWarning(UserWarning):
    """A layer has nothing to say about the target and was left out of an attribution."""


class OutputWarning(UserWarning):
    """What a model returns had to be guessed, or says nothing; the message names the word for ``output=``."""


class ExplanationWarning(UserWarning):
    """An explanation says little or nothing, such as 0 everywhere; the message names the reason and the remedy."""
