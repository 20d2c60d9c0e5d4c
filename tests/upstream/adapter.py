"""Upstream's tests of vectors and small maps, as questions about images: what they call becomes one of our classes.

The first input becomes an image of two channels, its values and the baseline's, of which a removal paints one over the
other. So nothing but our way of perturbing what is present is between upstream's numbers and ours. Further inputs stay what
they are.
"""

from functools import partial
from inspect import signature

import torch
from captum.attr._utils.attribution import PerturbationAttribution
from torch import Tensor

from lm_plugins.checks import modules_of
from lm_plugins.errors import InputTypeError, MaskValueError, OptionError, ShapeError
from lm_plugins.removal.protocol import PixelRemoval

#: What upstream asserts, we say in errors of our own.
REFUSALS = (InputTypeError, MaskValueError, OptionError, ShapeError)


class Painted(PixelRemoval):
    """Hidden pixels of the first channel show the second."""

    def replaced(self, x: Tensor, visible: Tensor) -> Tensor:
        values, baseline = x[:, :1], x[:, 1:]
        return torch.cat([torch.where(visible[:, None], values, baseline), baseline], 1)


class Shape:
    """What an input of upstream's is without its first dimension, and what we make of it."""

    def __init__(self, tensor: Tensor, baseline: object, is_image: bool) -> None:
        self.sizes, self.is_image = tuple(tensor.shape[1:]), is_image
        self.dtype = tensor.dtype if baseline is None else torch.result_type(tensor, baseline)
        first, *rest = self.sizes if len(self.sizes) == 3 else (1, *self.sizes)
        assert first == 1 or not is_image, "adapter: a pixel is visible or hidden as a whole"
        # Two dimensions for an image; for anything else that looks like one, the same without channels.
        self.made = (1,) * (2 - len(rest)) + tuple(rest) if is_image else tuple(rest) if first == 1 else self.sizes
        if len(self.sizes) < 3 and not is_image:
            self.made = self.sizes

    def shaped(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(*tensor.shape[: tensor.ndim - len(self.sizes)], *self.made)

    def made_of(self, tensor: Tensor, baseline: object) -> Tensor:
        if not self.is_image:
            return self.shaped(tensor)
        dtype = self.dtype if self.dtype.is_floating_point else torch.float64
        colour = torch.as_tensor(0 if baseline is None else baseline).broadcast_to(tensor.shape)
        return torch.stack([self.shaped(one.detach().to(dtype)) for one in (tensor, colour)], 1)

    def undone(self, made: Tensor) -> Tensor:
        values = made[:, 0].to(self.dtype) if self.is_image else made
        return values.reshape(len(made), *self.sizes)

    def feature_mask(self, mask: Tensor) -> Tensor:
        rows = mask.shape[0] if mask.ndim == len(self.sizes) + 1 else 1
        shaped = self.shaped(mask.broadcast_to(rows, *self.sizes))
        return shaped[:, None] if self.is_image else shaped

    def window(self, window: object, channels: int) -> object:
        """A window or a stride, of which those with another number of dimensions stay as wrong as they are."""
        if not isinstance(window, tuple) or len(window) != len(self.sizes):
            return window
        cut = window[len(window) - len(self.made) :] if len(self.sizes) == 3 else window
        return (channels, *(1,) * (2 - len(cut)), *cut) if self.is_image else cut

    def attribution(self, values: Tensor) -> Tensor:
        if not self.is_image:
            return values.reshape(*values.shape[: values.ndim - len(self.made)], *self.sizes)
        return values[..., 0, :, :].reshape(*values.shape[:-3], *self.sizes)


class Adapted(PerturbationAttribution):
    """One of our classes under upstream's questions. Subclasses say which."""

    ours: type

    def __init__(self, forward_func, *args, **kwargs) -> None:
        for _, module in modules_of(forward_func):
            module.eval()
        self.forward_func, self._arguments, self._further = forward_func, args, kwargs

    def attribute(self, *args, **kwargs):
        return self._asked("attribute", args, kwargs)

    def attribute_future(self, *args, **kwargs):
        if not args and not kwargs:
            return self.ours(self.forward_func).attribute_future()
        return self._asked("attribute_future", args, kwargs)

    def _asked(self, method: str, args: tuple, kwargs: dict, is_wrapped: bool = False):
        asked = signature(getattr(self.ours, "attribute")).bind(self, *args, **kwargs).arguments  # noqa: B009
        asked = {**asked, **asked.pop("kwargs", {})}
        del asked["self"]
        inputs, baselines = asked.pop("inputs"), asked.pop("baselines", None)
        tensors = inputs if isinstance(inputs, tuple) else (inputs,)
        colours = baselines if isinstance(baselines, tuple) else (baselines,) * len(tensors)
        pairs = list(zip(tensors, colours, strict=True))
        shapes = [Shape(one, colour, i == 0) for i, (one, colour) in enumerate(pairs)]
        for name in ("sliding_window_shapes", "strides"):
            if asked.get(name) is not None:
                asked[name] = self._windows(asked[name], shapes, isinstance(inputs, tuple), name)
        if asked.get("feature_mask") is not None:
            masks = asked["feature_mask"]
            masks = masks if isinstance(masks, tuple) else (masks,)
            asked["feature_mask"] = tuple(shape.feature_mask(one) for shape, one in zip(shapes, masks, strict=True))

        def forward(*values):
            count = len(shapes)
            given = (shape.undone(value) for shape, value in zip(shapes, values[:count], strict=True))
            return self.forward_func(*given, *values[count:])

        explainer = self.ours(forward, *self._arguments, removal=Painted(), **self._further)
        if "use_weights" in vars(self):
            explainer.use_weights = self.use_weights
        made = tuple(shape.made_of(one, colour) for shape, (one, colour) in zip(shapes, pairs, strict=True))
        call = getattr(explainer, method)
        call = partial(call.__wrapped__, explainer) if is_wrapped else call
        try:
            result = call(made, baselines=(None, *colours[1:]), **asked)
        except REFUSALS as error:
            raise AssertionError(str(error)) from error

        def undone(values):
            if not asked.get("return_input_shape", True):
                return values
            maps = tuple(shape.attribution(one) for shape, one in zip(shapes, values, strict=True))
            return maps if isinstance(inputs, tuple) else maps[0]

        return result.then(lambda done: undone(done.value())) if isinstance(result, torch._C.Future) else undone(result)

    def _windows(self, given: object, shapes: list[Shape], is_tuple: bool, name: str) -> object:
        channels = 2 if name == "sliding_window_shapes" else 1
        if not is_tuple:
            single = given[0] if isinstance(given, tuple) and given and isinstance(given[0], tuple) else given
            return shapes[0].window(single, channels)
        if not isinstance(given, tuple):
            return given
        made = [shape.window(one, channels) for shape, one in zip(shapes, given, strict=False)]
        return (*made, *given[len(made) :])


# NoiseTunnel calls what is beneath the decorator; here, what is beneath ours.
Adapted.attribute.__wrapped__ = lambda self, *args, **kwargs: self._asked("attribute", args, kwargs, is_wrapped=True)


def adapted(ours: type) -> type:
    """Our class, as upstream's tests call it."""
    return type(ours.__name__, (Adapted,), {"ours": ours})
