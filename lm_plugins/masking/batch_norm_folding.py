"""An inference copy of a model: batch norm folded into the convolutions, weights channels-last."""

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode

__all__ = ["Folds", "prepared"]


#: For each weight that has taken up a batch norm, by name: what its output is multiplied by, and what is added, ``(C,)``.
Folds = dict[str, tuple[Tensor, Tensor]]


def prepared(model: nn.Module, x: Tensor, dtype: torch.dtype | None = None) -> tuple[nn.Module, Folds]:
    """Copy a model for inference.

    A batch norm is folded into the convolution before it where nothing else uses the output of that convolution, as one run
    on `x` tells. Modules with hooks are left alone, so that the hooks go on seeing what they saw.

    Args:
        model: A model in evaluation mode. It is not changed.
        x: Images ``(N, C, H, W)`` that it takes; the first is used.
        dtype: Of the copy's floating-point weights; None leaves them.

    Returns:
        The copy, the same function up to rounding, and what was folded into its weights.

    Warns:
        RuntimeWarning: Folding changed the output by more than rounding, so that it was left out.
    """
    with torch.inference_mode():
        expected = model(x[:1])
    ready, folds = _folded(copy.deepcopy(model), x[:1])
    with torch.inference_mode():
        found = ready(x[:1])
    if not _agree(expected, found):
        warnings.warn(
            "folding batch norm into convolutions changed the output of this model; it is prepared without. The model "
            "probably reads its own weights.",
            RuntimeWarning,
            stacklevel=3,
        )
        ready, folds = copy.deepcopy(model), {}
    ready.requires_grad_(False)
    return ready.to(dtype=dtype).to(memory_format=torch.channels_last), folds  # type: ignore[call-overload]


def _folded(model: nn.Module, x: Tensor) -> tuple[nn.Module, Folds]:
    parents = {id(child): (parent, name) for parent in model.modules() for name, child in parent.named_children()}
    recorder = _Recorder(model)
    with torch.inference_mode(), recorder:
        model(x)
    names = {id(one): name for name, one in model.named_parameters()}
    folds: Folds = {}
    for convolution, norm in recorder.pairs():
        folds[names[id(convolution.weight)]] = _affine(norm)
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight,
            convolution.bias,
            cast(Tensor, norm.running_mean),
            cast(Tensor, norm.running_var),
            norm.eps,
            norm.weight,
            norm.bias,
        )
        parent, name = parents[id(norm)]
        setattr(parent, name, _rest_of(norm).eval())
    return model, folds


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What a batch norm multiplies by and what it adds, ``(C,)``."""
    mean, variance = cast(Tensor, norm.running_mean).detach(), cast(Tensor, norm.running_var).detach()
    scale = (variance + norm.eps).rsqrt() * (1.0 if norm.weight is None else norm.weight.detach())
    return scale, (0.0 if norm.bias is None else norm.bias.detach()) - mean * scale


def _rest_of(norm: nn.BatchNorm2d) -> nn.Module:
    """What a layer does beside normalising: timm's batch norm brings its activation along."""
    if type(norm) is nn.BatchNorm2d:
        return nn.Identity()
    return nn.Sequential(norm.drop, norm.act)  # type: ignore[arg-type]


def _is_known(norm: nn.Module) -> bool:
    if type(norm) is nn.BatchNorm2d:
        return True
    is_act = type(norm).__name__ == "BatchNormAct2d" and isinstance(norm, nn.BatchNorm2d)
    return (
        is_act
        and isinstance(getattr(norm, "drop", None), nn.Module)
        and isinstance(getattr(norm, "act", None), nn.Module)
    )


class _Recorder(TorchFunctionMode):
    """Watches which convolution feeds which batch norm, and whether anything else looks in between."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        modules = list(model.modules())
        self._convolutions = _owners(modules, nn.Conv2d, "weight")
        self._norms = _owners([one for one in modules if _is_known(one)], nn.BatchNorm2d, "running_mean")
        self._calls: Counter[nn.Module] = Counter()
        self._outputs: dict[int, tuple[Tensor, nn.Module]] = {}  # holding the tensors keeps their ids theirs
        self._uses: Counter[nn.Module] = Counter()
        self._feeds: dict[nn.Module, nn.Module] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if getattr(func, "__name__", "") in ("__get__", "size", "dim"):
            return result
        sources = [self._outputs[id(one)][1] for one in _tensors((args, kwargs)) if id(one) in self._outputs]
        self._uses.update(sources)
        if func is F.batch_norm:
            mean = args[1] if len(args) > 1 else kwargs.get("running_mean")
            norm = self._norms.get(id(mean))
            if norm is not None:
                self._calls[norm] += 1
                if len(sources) == 1:
                    self._feeds[norm] = sources[0]
        elif func is F.conv2d:
            weight = args[1] if len(args) > 1 else kwargs.get("weight")
            convolution = self._convolutions.get(id(weight))
            if convolution is not None:
                self._calls[convolution] += 1
                self._outputs[id(result)] = (result, convolution)
        return result

    def pairs(self) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        """Each convolution and the batch norm that alone uses what it gives."""
        for norm, convolution in self._feeds.items():
            once = self._calls[norm] == 1 == self._calls[convolution] == self._uses[convolution]
            if once and not _has_hooks(norm) and not _has_hooks(convolution):
                yield convolution, norm  # type: ignore[misc]


def _owners(modules: list[nn.Module], kind: type[nn.Module], name: str) -> dict[int, nn.Module]:
    """The module that a tensor belongs to, by its id; none for a tensor that several share."""
    found: dict[int, list[nn.Module]] = {}
    for module in modules:
        tensor = getattr(module, name, None)
        if isinstance(module, kind) and isinstance(tensor, Tensor):
            found.setdefault(id(tensor), []).append(module)
    return {key: owners[0] for key, owners in found.items() if len(owners) == 1}


def _has_hooks(module: nn.Module) -> bool:
    names = "_forward_hooks _forward_pre_hooks _backward_hooks _backward_pre_hooks"
    return any(getattr(module, name) for name in names.split())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)


def _agree(expected: Any, found: Any) -> bool:
    pairs = list(zip(_tensors(expected), _tensors(found), strict=True))
    return all(bool((one - other).abs().max() <= 1e-3 * one.abs().max().clamp(min=1e-6)) for one, other in pairs)
