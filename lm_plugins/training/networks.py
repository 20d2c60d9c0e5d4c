"""Networks for the recipes: timm's, with a stem for small images; and encoder, projector and classifier of ExCon."""

import importlib
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from lm_plugins.errors import MissingDependencyError, ModelLoadingError

__all__ = ["ContrastiveNetwork", "classifier"]


def classifier(name: str, outputs: int, *, small_stem: bool = False) -> nn.Module:
    """A network that is to be trained.

    Args:
        name: ``"small_resnet"``, ten layers of 16 to 128 channels for images of 32 pixels; ``"timm:NAME"``; or
            ``"package.module:factory"``, called as ``factory(outputs)``.
        outputs: How many logits it has.
        small_stem: Of a timm ResNet: begin with one 3 x 3 convolution, without pooling, as for CIFAR.

    Returns:
        The network, with random weights.

    Raises:
        ModelLoadingError: There is no such network.
        MissingDependencyError: timm is not installed.
    """
    kind, _, rest = name.partition(":")
    if name == "small_resnet":
        resnet = _timm().models.resnet
        model = resnet.ResNet(resnet.BasicBlock, (1, 1, 1, 1), num_classes=outputs, channels=(16, 32, 64, 128))
        return _with_small_stem(model)
    if kind == "timm":
        try:
            model = _timm().create_model(rest, num_classes=outputs)
        except RuntimeError as error:
            raise ModelLoadingError(f"timm has no model {rest!r}: {error}.") from error
        if small_stem:
            convolution = getattr(model, "conv1", None)
            if not isinstance(convolution, nn.Conv2d) or not hasattr(model, "maxpool"):
                raise ModelLoadingError(f"small_stem is for timm's ResNets, and {rest} begins in another way.")
            model = _with_small_stem(model)
        return model  # type: ignore[no-any-return]
    try:
        made = getattr(importlib.import_module(kind), rest)(outputs)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelLoadingError(
            f"no network is called {name!r} ({error}): small_resnet, timm:NAME or package.module:factory."
        ) from error
    if not isinstance(made, nn.Module):
        raise ModelLoadingError(f"{name} returned {type(made).__name__}, not a torch module.")
    return made


class ContrastiveNetwork(nn.Module):
    """An encoder, a projector for the contrastive loss, and a linear classifier.

    Args:
        model: A classifier whose last linear layer takes the features; the encoder is what is before it.
        size: Of the projector's output.

    Raises:
        ModelLoadingError: The model has no linear layer.

    References:
        Khosla et al., "Supervised contrastive learning", NeurIPS 2020: two linear layers with a ReLU between them.
    """

    def __init__(self, model: nn.Module, size: int = 128) -> None:
        super().__init__()
        heads = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        if not heads:
            raise ModelLoadingError(
                f"{type(model).__name__} has no linear layer at its end, before which features are taken."
            )
        parent, _, last = heads[-1].rpartition(".")
        self.classifier: nn.Linear = getattr(model.get_submodule(parent), last)
        setattr(model.get_submodule(parent), last, nn.Identity())
        self.encoder = model
        width = self.classifier.in_features
        self.projector = nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, size))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of images ``(N, C, H, W)``."""
        logits: Tensor = self.classifier(self.encoder(x))
        return logits

    def projected(self, features: Tensor) -> Tensor:
        """Embeddings ``(N, D)`` of length 1, of the encoder's features."""
        return F.normalize(self.projector(features), dim=1)


def _with_small_stem(model: Any) -> nn.Module:
    convolution = model.conv1
    model.conv1 = nn.Conv2d(convolution.in_channels, convolution.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return cast(nn.Module, model)


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise MissingDependencyError("this network needs timm: pip install 'lm_plugins[training]'.") from error
    return timm
