"""The options that reproduce the published layer masking code, architecture by architecture."""

import re
import warnings
from dataclasses import dataclass, replace

from lm_plugins.errors import ArchitectureError, PublishedCodeWarning
from lm_plugins.masking.options import MaskingOptions

__all__ = ["published"]

_COMMON = MaskingOptions(
    visible="any",
    sampling="point",
    stem="any",
    patches="any",
    tokens="drop",
    computed="visible",
    addition="intersection",
    concatenation="union",
    missing="neighbours",
    diagonal=1.0,
    padding_epsilon=1e-5,
    average="visible",
    global_average="visible",
    flatten="zero",
    pointwise_ring=False,
)


@dataclass(frozen=True)
class _Family:
    """Architectures that share one published model file: names it runs, names it does not, and its semantics."""

    name: str
    runs: str
    fails: str
    options: MaskingOptions


_FAMILIES = (
    _Family("ResNet", r"(wide_)?resnet(50|101|152)(_2)?|resnext\d+_\d+x\d+d", r"resnet(18|34)", _COMMON),
    _Family("EfficientNet", r"efficientnet_b[0-7]", r"efficientnet_v2_[sml]", _COMMON),
    _Family("MobileNet", r"mobilenet_v3_(small|large)", r"mobilenet_v2", _COMMON),
    # Masks joined by majority; channels without a value stay zero; no pool is renormalised.
    _Family(
        "DenseNet",
        r"densenet\d+",
        r"(?!)",
        replace(_COMMON, concatenation="majority", missing="zero", average="all", global_average="all"),
    ),
    _Family("AlexNet", r"alexnet", r"(?!)", replace(_COMMON, average="all", global_average="all")),
    # Its private convolutions fill one ring for 1x1 kernels too, and a union shows it beside the 3x3 branch.
    _Family(
        "SqueezeNet",
        r"squeezenet1_[01]",
        r"(?!)",
        replace(_COMMON, average="all", global_average="all", pointwise_ring=True),
    ),
)


def published(architecture: str) -> MaskingOptions:
    """The options that reproduce the authors' code for a torchvision architecture.

    Args:
        architecture: A torchvision name, such as ``"resnet50"``.

    Returns:
        Options with which the layer-masked logits agree with those of the published code (tested to 1e-4 of the largest
        logit for six architectures). Where that code cannot run the architecture (ResNet-18 and 34, MobileNet v2) or
        has no copy of it (EfficientNet v2), the options of its family, with a `PublishedCodeWarning`.

    Raises:
        ArchitectureError: The published code has no model of that family.

    Example:
        >>> import lm_plugins as lm
        >>> lm.published("densenet121").concatenation
        'majority'

    References:
        Balasubramanian and Feizi, "Towards Improved Input Masking for Convolutional Neural Networks", ICCV 2023.
    """
    for family in _FAMILIES:
        if re.fullmatch(family.runs, architecture):
            return family.options
        if re.fullmatch(family.fails, architecture):
            warnings.warn(
                f"the published code does not run {architecture}; these are the options of its {family.name} family, "
                "what it would have computed.",
                PublishedCodeWarning,
                stacklevel=2,
            )
            return family.options
    raise ArchitectureError(
        f"the published code has no model like {architecture!r}; it covers the torchvision names of "
        f"{', '.join(family.name for family in _FAMILIES)}. Use lm_plugins.MaskingOptions() for other models."
    )
