"""Layers of a model: found by name, and chosen automatically before each down-sampling."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from lm_plugins.checks import check_evaluation_mode
from lm_plugins.errors import LayerError

__all__ = ["layers_before_downsampling", "named_layers"]

Size = tuple[int, int]


def named_layers(model: nn.Module, layers: Sequence[nn.Module | str]) -> dict[str, nn.Module]:
    """Layers of a model with their names.

    Args:
        model: The model.
        layers: Modules of it, or their names as in ``model.named_modules()``. A module that is called several times
            stands for its last call, as in Captum; ``"relu@1"`` for its first one.

    Returns:
        Modules by name, in the order given.

    Raises:
        LayerError: A layer is not in the model, or is given twice, or none is given.

    Example:
        >>> from torch import nn
        >>> from lm_plugins.attribution import named_layers
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        >>> list(named_layers(model, [model[0], "1"]))
        ['0', '1']
    """
    names = {module: name for name, module in reversed(list(model.named_modules()))}
    modules = dict(model.named_modules())
    found: dict[str, nn.Module] = {}
    for layer in layers:
        if isinstance(layer, str):
            path, _, number = layer.partition("@")
            if path not in modules or ("@" in layer and not (number.isdecimal() and int(number) > 0)):
                raise LayerError(
                    f"the model has no layer {layer!r}; its layers are listed by model.named_modules(), the first of them "
                    f"are {', '.join(list(modules)[1:6])}."
                )
            name, module = layer, modules[path]
        elif isinstance(layer, nn.Module):
            if layer not in names:
                raise LayerError(
                    f"the layer {type(layer).__name__} is not a part of the model; pass one of its modules."
                )
            name, module = names[layer], layer
        else:
            raise LayerError(f"a layer is a module or the name of one, got {type(layer).__name__}.")
        if name in found:
            raise LayerError(f"the layer {name} is given twice.")
        found[name] = module
    if not found:
        raise LayerError("no layer is given; pass None for an automatic choice.")
    return found


def layers_before_downsampling(model: nn.Module, x: Tensor, *arguments: Any) -> list[str]:
    """The last layer of every convolutional block: what each down-sampling gets, and the pooling of the head.

    SISE's rule, motivated by residual networks, where a down-sampling layer cannot be left out while most others can.
    The model runs once. What it calls is read as a sequence of units: a unit is a module that contains at most one
    down-sampling, such as a residual block, and containers of more are looked into. A unit counts as down-sampling
    where height or width are at least halved, so that convolutions without padding do not.

    Before a block that down-samples, the layer before the block is chosen. Inverted residual blocks (MobileNet,
    EfficientNet) are the exception: before them comes a linear bottleneck, whose maps are not rectified and make masks
    that show half of everything. There it is what the strided depthwise convolution within the block gets, the expanded
    maps behind their activation.

    Args:
        model: A model of images, in evaluation mode.
        x: Images ``(N, C, H, W)``; the first is used.
        arguments: What else the model takes.

    Returns:
        Names from shallow to deep, as `named_layers` reads them. Where several modules give the same tensor, the
        outermost.

    Raises:
        LayerError: The model has no down-sampling layer with maps before it.
        TrainingModeError: The model or a part of it is in training mode.

    References:
        Sattarzadeh et al., "Explaining convolutional neural networks through attribution-based input sampling and
        block-wise feature aggregation", AAAI 2021: inputs of the pooling layers, for VGG16 the five ReLU before the
        pools, for ResNet-50 the stem and the outputs of the four stages. Inverted residual blocks are not treated there.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lm_plugins.attribution import layers_before_downsampling
        >>> first, second = (nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()), (nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
        >>> model = nn.Sequential(*first, nn.MaxPool2d(2), *second, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> layers_before_downsampling(model.eval(), torch.rand(1, 3, 8, 8))
        ['1', '4']
    """
    check_evaluation_mode(model, "the choice of layers")
    root = _recorded(model, lambda: model(x[:1], *arguments))
    calls = list(root.calls_inside())
    chosen: list[_Call] = []
    last: _Call | None = None
    # Whether a layer with parameters came since the last choice: the output of a mere pooling layer is no new block.
    learnt = False
    for unit in _units(root):
        before, after = unit.input_size, unit.output_size
        shrinks = before is not None and after is not None and _halved(before, after)
        # A functional pooling between two modules shows in what the second is given.
        shrunk = last is not None and before is not None and _halved(last.size, before)
        if last is not None and learnt and (shrinks or shrunk or after is None):
            chosen.append((_expansion(unit) if shrinks else None) or last)
            learnt = False
        if after is not None:
            learnt = learnt or any(True for _ in unit.module.parameters())
            last = unit
    if last is not None and learnt:
        chosen.append(last)
    if not chosen:
        raise LayerError(
            "no layer of the model comes before a down-sampling: it has no convolutional layers with maps larger than "
            "1 x 1, or all of them are inside of one module without sub-modules. Pass layers=."
        )
    names = {id(module): name for name, module in reversed(list(model.named_modules()))}
    counts = Counter(id(call.module) for call in calls)

    def named(call: _Call) -> str:
        # The last to end with this tensor, so the outermost, and behind a change in place.
        outermost = next(one for one in reversed(calls) if one.output is call.output)
        name = names[id(outermost.module)]
        return f"{name}@{outermost.number}" if counts[id(outermost.module)] > 1 else name

    return list(dict.fromkeys(named(call) for call in chosen))


@dataclass
class _Call:
    """One call of a module, and the calls within it."""

    module: nn.Module
    input: Any = None
    output: Any = None
    number: int = 1
    """Of the calls of this module, from 1."""
    children: "list[_Call]" = field(default_factory=list)

    @property
    def input_size(self) -> Size | None:
        return _size(self.input)

    @property
    def output_size(self) -> Size | None:
        return _size(self.output)

    @property
    def size(self) -> Size:
        return self.output_size or (1, 1)

    def calls_inside(self) -> "Iterator[_Call]":
        """In the order in which they end."""
        for child in self.children:
            yield from child.calls_inside()
            yield child

    def sizes_inside(self) -> set[Size]:
        """All sizes of maps within that are at most half of what comes in, and larger than 1 x 1."""
        sizes = {self.output_size, *(call.output_size for call in self.calls_inside())}
        return {one for one in sizes if one and self.input_size and _halved(self.input_size, one)}

    def halves(self) -> bool:
        return (
            self.input_size is not None and self.output_size is not None and _halved(self.input_size, self.output_size)
        )


def _halved(before: Size, after: Size) -> bool:
    return any(2 * b <= a + 1 and b < a for a, b in zip(before, after, strict=True))


def _size(value: Any) -> Size | None:
    """Height and width of a batch of maps; None for anything else, 1 x 1 included."""
    value = value[0] if isinstance(value, (tuple, list)) and value else value
    if not isinstance(value, Tensor) or value.ndim != 4 or value.shape[2] * value.shape[3] == 1:
        return None
    return (value.shape[2], value.shape[3])


def _recorded(model: nn.Module, run: Callable[[], Any]) -> _Call:
    root = _Call(nn.Identity())
    stack = [root]
    counts: Counter[int] = Counter()
    handles = []

    # Another thread may be running the same model.
    thread = get_ident()

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if get_ident() != thread:
            return
        counts[id(module)] += 1
        call = _Call(module, next(iter((*args, *kwargs.values())), None), number=counts[id(module)])
        stack[-1].children.append(call)
        stack.append(call)

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if get_ident() != thread:
            return
        stack.pop().output = output

    try:
        for module in model.modules():
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(leave))
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return root


def _units(call: _Call) -> Iterator[_Call]:
    for child in call.children:
        # The model itself comes with an image and leaves without maps: always looked into.
        is_container = isinstance(child.module, nn.Sequential) and child.output_size != child.input_size
        ends = child.output_size is None and child.input_size is not None
        if child.children and (is_container or ends or len(child.sizes_inside()) > 1):
            yield from _units(child)
        else:
            yield child


def _expansion(unit: _Call) -> _Call | None:
    """The call within an inverted residual block that its strided depthwise convolution gets its input from."""
    strided = next((one for one in unit.calls_inside() if one.halves()), None)
    if strided is None or not 1 < getattr(strided.module, "groups", 1) == getattr(strided.module, "in_channels", 0):
        return None
    return next((call for call in unit.calls_inside() if call.output is strided.input), None)
