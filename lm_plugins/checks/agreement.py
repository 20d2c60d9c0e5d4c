"""What a model and its images have to agree on: device, dtype, channels. Torch's own errors do not say who is wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lm_plugins.checks.evaluation_mode import modules_of
from lm_plugins.errors import InputTypeError, LMPluginsError, ShapeError

__all__ = ["check_data", "explaining_mismatch"]


def check_data(model: nn.Module, x: Tensor, visible: Tensor | None = None) -> None:
    """Check that model, images and mask hold values.

    Args:
        model: The model.
        x: The images.
        visible: The mask, if there is one.

    Raises:
        InputTypeError: One of them is on the ``meta`` device, which has shapes only.
    """
    held = {"the model": next(model.parameters(), None), "the images": x, "visible": visible}
    empty = [name for name, tensor in held.items() if isinstance(tensor, Tensor) and tensor.is_meta]
    if empty:
        devices = ", ".join(f"{name} on {one.device}" for name, one in held.items() if isinstance(one, Tensor))
        raise InputTypeError(
            f"model, images and mask must be on one device that holds values, got {devices}. Tensors on 'meta' have "
            f"shapes only: load {' and '.join(empty)} on the device that you compute on."
        )


@contextmanager
def explaining_mismatch(model: Any, x: Tensor) -> Iterator[None]:
    """Turn an error of torch into one that says what to do, where model and images differ in device, dtype or channels.

    A model that fails is what counts: one that moves or converts its input by itself may differ from it.

    Args:
        model: A module, or a function that is seen to hold some.
        x: The images.

    Yields:
        Nothing.

    Raises:
        InputTypeError: The block failed, and no parameter of the model has the device or the dtype of `x`.
        ShapeError: It failed because of channels, and no convolution of the model takes as many as `x` has.
    """
    try:
        yield
    except LMPluginsError:
        raise
    except (RuntimeError, NotImplementedError, TypeError) as error:
        weights = [one for _, held in modules_of(model) for one in (*held.parameters(), *held.buffers())]
        devices = dict.fromkeys(one.device for one in weights)
        if devices and x.device not in devices:
            raise InputTypeError(
                f"the images are on {x.device}, the model on {', '.join(map(str, devices))}: move one of them, for example "
                f"x.to({str(next(iter(devices)))!r}) or model.to({str(x.device)!r}). The mask follows the images. "
                f"Torch: {error}"
            ) from error
        dtypes = dict.fromkeys(one.dtype for one in weights if one.is_floating_point())
        if dtypes and x.dtype not in dtypes and not _is_autocast(x.device.type):
            raise InputTypeError(
                f"the images are {x.dtype}, the model {', '.join(map(str, dtypes))}: convert one of them, for example "
                f"x.to({next(iter(dtypes))}) or model.to({x.dtype}), or run both under torch.autocast. Torch: "
                f"{error}"
            ) from error
        taken = [
            one.in_channels for _, held in modules_of(model) for one in held.modules() if isinstance(one, nn.Conv2d)
        ]
        if "channels" in str(error) and taken and x.ndim == 4 and x.shape[1] not in taken:
            raise ShapeError(
                f"the images have {x.shape[1]} channels, (N, C, H, W) = {tuple(x.shape)}, and no convolution of the model "
                f"takes so many; its first takes {taken[0]}. Grey images for a model of colour: x.expand(-1, 3, -1, -1). For "
                "a model of one channel keep one: x[:, :1], and in LIME pass an image (H, W, 1), since (H, W) becomes RGB. "
                f"Torch: {error}"
            ) from error
        raise


def _is_autocast(device: str) -> bool:
    try:
        return torch.is_autocast_enabled(device)
    except TypeError:  # torch 2.3
        return torch.is_autocast_enabled() or torch.is_autocast_cpu_enabled()
