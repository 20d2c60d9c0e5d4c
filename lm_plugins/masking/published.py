"""The options that reproduce the published layer masking code, architecture by architecture."""

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from torch import nn
from torch.nn.modules.conv import _ConvNd

from lm_plugins.errors import ArchitectureError, InputTypeError, PublishedCodeWarning
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
    padding_gradient="detached",
    average="visible",
    global_average="visible",
    flatten="zero",
    pointwise_ring=False,
)

# Modules that the published code runs in every family.
_PARTS = frozenset("Sequential Conv2d BatchNorm2d ReLU Linear Dropout Identity AdaptiveAvgPool2d".split())
_OF_EFFICIENTNET = "Conv2dNormActivation SqueezeExcitation StochasticDepth"


@dataclass(frozen=True)
class _Family:
    """Architectures that share one published model file.

    Args:
        name: What we call it.
        networks: The classes that it is a copy of.
        parts: Names of the module classes that the copy runs, beside `_PARTS`.
        runs: The names of architectures that it runs, as a regular expression.
        fails: Those that it does not.
        options: Its semantics.
        attributes: What the copy takes for granted of a network.
        absent: Names of modules that the copy cannot run unless they are identities.
    """

    name: str
    networks: tuple[str, ...]
    parts: str
    runs: str
    fails: str
    options: MaskingOptions
    attributes: Mapping[str, object] = field(default_factory=dict)
    absent: tuple[str, ...] = ()

    def lacks(self, network: nn.Module) -> list[str]:
        """What of a network the published copy does not run, in words."""
        known = {*_PARTS, *self.parts.split(), type(network).__name__}
        found = set()
        for path, one in network.named_modules():
            found |= {type(one).__name__} - known
            if isinstance(one, _ConvNd) and set(one.dilation) != {1}:
                found.add("dilated convolutions")
            if path.rpartition(".")[2] in self.absent and type(one) is not nn.Identity:
                found.add(path)
        values = {name: getattr(network, name, wanted) for name, wanted in self.attributes.items()}
        found |= {f"{name}={value!r}" for name, value in values.items() if value != self.attributes[name]}
        return sorted(found)


_FAMILIES = (
    _Family(
        "ResNet",
        ("torchvision.models.resnet.ResNet",),
        "Bottleneck MaxPool2d",
        r"(wide_)?resnet(50|101|152)(_2)?|resnext\d+_\d+x\d+d",
        r"resnet(18|34)",
        _COMMON,
    ),
    _Family(
        "EfficientNet",
        ("torchvision.models.efficientnet.EfficientNet",),
        f"MBConv SiLU Sigmoid {_OF_EFFICIENTNET}",
        r"efficientnet_b[0-7]",
        r"efficientnet_v2_[sml]",
        _COMMON,
    ),
    _Family(
        "MobileNet",
        ("torchvision.models.mobilenetv3.MobileNetV3", "torchvision.models.mobilenetv2.MobileNetV2"),
        f"InvertedResidual Hardswish Hardsigmoid {_OF_EFFICIENTNET}",
        r"mobilenet_v3_(small|large)",
        r"mobilenet_v2",
        _COMMON,
    ),
    # Masks joined by majority; channels without a value stay zero; no pool is renormalised.
    _Family(
        "DenseNet",
        ("torchvision.models.densenet.DenseNet",),
        "_DenseBlock _DenseLayer _Transition MaxPool2d AvgPool2d",
        r"densenet\d+",
        r"(?!)",
        replace(_COMMON, concatenation="majority", missing="zero", average="all", global_average="all"),
    ),
    _Family(
        "AlexNet",
        ("torchvision.models.alexnet.AlexNet",),
        "MaxPool2d",
        r"alexnet",
        r"(?!)",
        replace(_COMMON, average="all", global_average="all"),
    ),
    # Its private convolutions fill one ring for 1x1 kernels too, and a union shows it beside the 3x3 branch.
    _Family(
        "SqueezeNet",
        ("torchvision.models.squeezenet.SqueezeNet",),
        "Fire MaxPool2d",
        r"squeezenet1_[01]",
        r"(?!)",
        replace(_COMMON, average="all", global_average="all", pointwise_ring=True),
    ),
    # A second copy beside that of torchvision's, in which no pool is renormalised.
    _Family(
        "timm ResNet",
        ("timm.models.resnet.ResNet",),
        "Bottleneck MaxPool2d AvgPool2d SelectAdaptivePool2d FastAdaptiveAvgPool Flatten DropPath",
        r"timm/(tv_)?(wide_resnet\d+_2|resnet(14|26|50|101|152|200)[cdst]?|resnext\d+d?_\d+x\d+d)(\.\w+)?",
        r"timm/(se|eca)?resnex?t(aa|blur|rs)?\d+[a-z_0-9]*(\.\w+)?",
        replace(_COMMON, average="all", global_average="all"),
        absent=("aa",),
    ),
    _Family(
        "ViT and DeiT",
        ("torchvision.models.vision_transformer.VisionTransformer", "timm.models.vision_transformer.VisionTransformer"),
        "Encoder EncoderBlock MultiheadAttention NonDynamicallyQuantizableLinear MLPBlock "
        "PatchEmbed Block Attention Mlp DropPath LayerNorm GELU",
        r"vit_([bl]_(16|32)|h_14)|timm/(vit_(tiny|small|base|large|huge)|deit_(tiny|small|base))_patch\d+_\d+(\.\w+)?",
        r"(?!)",
        replace(_COMMON, patches="all"),
        {"global_pool": "token", "num_prefix_tokens": 1},
        ("norm_pre", "fc_norm"),
    ),
)
_OF_NETWORK = {network: family for family in _FAMILIES for network in family.networks}


def published(model: nn.Module | str) -> MaskingOptions:
    """The options that reproduce the authors' code for a model.

    Args:
        model: The model, which tells what it is by its class: torchvision's, or timm's ResNet, ViT or DeiT. It may lie in
            a module that adds no convolution, such as a ``Sequential`` that normalises. Or the name of an
            architecture: torchvision's, such as ``"resnet50"``, or timm's after ``"timm/"``. The two libraries share
            names, and the authors treat timm's ResNets differently: pass the model where you have it.

    Returns:
        Options with which the layer-masked logits agree with those of the published code (tested to 1e-4 of the largest
        logit for one architecture of each family). Where that code cannot run the model (basic blocks, MobileNet v2,
        squeeze and excitation in a ResNet, ...), the options of its family, with a `PublishedCodeWarning`.

    Raises:
        ArchitectureError: The published code has no model of that kind, or the model holds more than one network.
        InputTypeError: `model` is neither a module nor a string.

    Example:
        >>> import lm_plugins as lm
        >>> lm.published("densenet121").concatenation
        'majority'
        >>> lm.published("timm/resnet50").global_average, lm.published("resnet50").global_average
        ('all', 'visible')

    References:
        Balasubramanian and Feizi, "Towards Improved Input Masking for Convolutional Neural Networks", ICCV 2023.
    """
    if isinstance(model, str):
        return _of_name(model)
    if not isinstance(model, nn.Module):
        raise InputTypeError(
            f"published needs a torch.nn.Module or the name of an architecture, got {type(model).__name__}."
        )
    network = _network_in(model)
    family = _OF_NETWORK[_class_name(network)]
    lacking = family.lacks(network)
    if lacking:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        _warn(f"this {type(network).__name__} ({', '.join(lacking[:3])}{more})", family, stacklevel=3)
    return family.options


def _of_name(name: str) -> MaskingOptions:
    architecture = name.removeprefix("torchvision/")
    for family in _FAMILIES:
        if re.fullmatch(family.runs, architecture):
            return family.options
        if re.fullmatch(family.fails, architecture):
            _warn(architecture, family, stacklevel=4)
            return family.options
    in_timm = any(re.fullmatch(f"{one.runs}|{one.fails}", f"timm/{name}") for one in _FAMILIES)
    hint = f"Did you mean 'timm/{name}'? " if in_timm else ""
    raise ArchitectureError(f"the published code has no model like {name!r}. {hint}{_known()}")


def _warn(what: str, family: _Family, stacklevel: int) -> None:
    warnings.warn(
        f"the published code does not run {what}; these are the options of its {family.name} family, what it would "
        "have computed.",
        PublishedCodeWarning,
        stacklevel=stacklevel,
    )


def _known() -> str:
    families = ", ".join(family.name for family in _FAMILIES)
    return (
        f"It covers {families}: torchvision's models and their names, timm's ResNets, ViT and DeiT and their names after "
        "'timm/'. Use lm_plugins.MaskingOptions() for other models."
    )


def _class_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _network_in(model: nn.Module) -> nn.Module:
    """The one network that a model is, or that it holds beside modules that look at no map."""
    networks = list(_outermost(model))
    if len(networks) != 1:
        held = " and ".join(type(one).__name__ for one in networks)
        problem = f"holds several networks ({held}); pass one of them" if networks else "is none that it covers"
        raise ArchitectureError(
            f"the published code has no model like this {_class_name(model)}: it {problem}. {_known()}"
        )
    inside = set(networks[0].modules())
    others = [name for name, one in model.named_modules() if isinstance(one, _ConvNd) and one not in inside]
    if others:
        raise ArchitectureError(
            f"the published code has no model like this {_class_name(model)}: beside a {type(networks[0]).__name__} it "
            f"has convolutions of its own ({', '.join(others[:3])}). {_known()}"
        )
    return networks[0]


def _outermost(model: nn.Module) -> Iterable[nn.Module]:
    if _class_name(model) in _OF_NETWORK:
        return [model]
    found = [one for child in model.children() for one in _outermost(child)]
    return list(dict.fromkeys(found))
