"""Layer masking of ResNet-50 as it was first published: whole maps are filled, as often as kernels are wide.

Written from the description of the method: slow, and obvious.

References:
    Balasubramanian and Feizi, "Towards Improved Input Masking for Convolutional Neural Networks", ICCV 2023.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-5


class PublishedStyle(nn.Module):
    """A torchvision ResNet with bottleneck blocks, masked as the published code does.

    Args:
        model: The ResNet, in evaluation mode. It is not changed.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """Logits of images ``(N, 3, H, W)``, of which `visible`, bool ``(N, H, W)``, may be seen."""
        model, mask = self.model, visible[:, None].to(x.dtype)
        x, mask = _convolution(model.conv1, x, mask)
        x = F.relu(_normalisation(model.bn1, x, mask)) * mask
        x, mask = model.maxpool(x), model.maxpool(mask)
        x = x * mask
        for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
            for block in stage:
                x, mask = _bottleneck(block, x, mask)
        mean = (x * mask).mean((2, 3)) / (mask.mean((2, 3)) + 1e-8)
        logits: Tensor = model.fc(mean)
        return logits


def filled(x: Tensor, mask: Tensor, iterations: int) -> Tensor:
    """Give hidden positions the mean of their known neighbours, ring after ring.

    Args:
        x: ``(N, C, H, W)``.
        mask: ``(N, 1, H, W)``, 1 = known.
        iterations: The number of rings; positions further away become 0.
    """
    box = torch.ones(x.shape[1], 1, 3, 3, dtype=x.dtype, device=x.device)
    x = x * mask
    for _ in range(iterations):
        total = F.conv2d(x, box, padding=1, groups=x.shape[1])
        known = F.conv2d(mask, box[:1], padding=1)
        x = x + (1 - mask) * total / (known + EPSILON)
        mask = (mask + known).clamp(max=1)
    return x


def _convolution(layer: nn.Conv2d, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    new = F.max_pool2d(mask, layer.kernel_size, layer.stride, layer.padding)  # type: ignore[arg-type]
    return layer(filled(x, mask, layer.kernel_size[0])) * new, new


def _normalisation(layer: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    normalised: Tensor = layer(x * mask) * mask
    return normalised


def _bottleneck(block: nn.Module, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    skip, skip_mask = x, mask
    out, out_mask = x, mask
    for number in (1, 2, 3):
        out, out_mask = _convolution(getattr(block, f"conv{number}"), out, out_mask)
        out = _normalisation(getattr(block, f"bn{number}"), out, out_mask)
        if number < 3:
            out = F.relu(out) * out_mask
    if block.downsample is not None:
        skip, skip_mask = _convolution(block.downsample[0], x, mask)
        skip = _normalisation(block.downsample[1], skip, skip_mask)
    both = out_mask * skip_mask
    return F.relu((out + skip) * both) * both, both
