"""EDDA, ExCon and ExConB against training without explanations: accuracy, explanations, adversaries, calibration.

Every arm has the same data, network, epochs and seeds. `random` hides a region of the size and shape of EDDA's, at a random
place, and keeps the label. Choices are made on the validation split; test images are used once.

    python benchmarks/training.py --train train_20000.npz --test test_2000.npz --seeds 0 1 2 --out training
"""

import argparse
import io
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch
from models import CifarResNet
from PIL import Image
from torch import Tensor, nn

import lm_plugins
from lm_plugins.training import Explainer, GradCam, explained, salient_region
from lm_plugins.training.evaluation import evaluate
from lm_plugins.training.recipe import Recipe, TrainedModel, train

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
LAYER = "layer3"


class Jpegs:
    """Images that lie in memory, decoded once: ``(image uint8 (C, H, W), label)``."""

    def __init__(self, file: Path, count: int | None) -> None:
        stored = np.load(file)
        ends = stored["offsets"]
        self.labels = stored["labels"][:count]
        self.images = [
            torch.from_numpy(
                np.array(Image.open(io.BytesIO(stored["jpeg"][ends[i] : ends[i + 1]].tobytes())).convert("RGB"))
            ).permute(2, 0, 1)
            for i in range(len(self.labels))
        ]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


class Elsewhere:
    """Hides a region of the same size and shape at a random place: what is left of the image is called salient."""

    def __init__(self, explainer: Explainer, seed: int) -> None:
        self._explainer, self._random = explainer, np.random.default_rng(seed)

    def __call__(self, model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        """Maps of 0 and 1, ``(N, H, W)``."""
        region, _ = salient_region(explained(model, self._explainer, x, labels, len(x)))
        rolls = self._random.integers(0, x.shape[-1], (len(x), 2)).tolist()
        return 1 - torch.stack([one.roll(by, (0, 1)) for one, by in zip(region, rolls, strict=True)]).to(x.dtype)


def resnet8(outputs: int) -> nn.Module:
    """The smallest CIFAR ResNet, untrained."""
    model = CifarResNet(1)
    model.linear = nn.Linear(64, outputs)
    return model


#: How each arm differs from the others.
ARMS: dict[str, dict[str, object]] = {
    "ce": {"method": "ce"},
    "random": {"method": "edda", "low_confidence": "none"},
    "edda": {"method": "edda"},
    "edda, supported": {"method": "edda", "only_supported": True},
    "edda, kept only": {"method": "edda", "low_confidence": "none"},
    "supcon": {"method": "supcon"},
    "excon": {"method": "excon"},
    "exconb": {"method": "exconb", "max_background": 32},
    "fine-tuned": {"method": "ce"},
    "fine-tuned, edda": {"method": "edda"},
    "fine-tuned, edda by layer masking": {"method": "edda", "removal": "layer_masking"},
}


def trained(arm: str, seed: int, options: argparse.Namespace, data: tuple[Jpegs, Jpegs]) -> TrainedModel:
    """Train one arm, or go on with it."""
    given: dict[str, object] = {
        "data": str(options.train), "classes": 10, "model": "training:resnet8", "layer": LAYER, "mean": MEAN, "std": STD,
        "epochs": options.epochs,
        "batch_size": 50, "start": options.start, "learning_rate": 0.1, "colour_jitter": False, "smallest_crop": 0.5,
        "validation": 0.1, "seed": seed,
    }  # fmt: skip
    given |= ARMS[arm]
    if arm.startswith("fine-tuned"):
        first = trained("edda", seed, options, data).out / "model.pt"
        given |= {"initial": str(first), "epochs": options.fine_tuning, "learning_rate": 0.005, "start": 0}
        if given["method"] == "ce":  # the network of EDDA has a class for background
            given |= {"method": "edda", "probability": 0.0}
        given.setdefault("removal", "grey")
    explainer = Elsewhere(GradCam(LAYER), seed) if arm == "random" else None
    out = options.out / "runs" / f"{arm.replace(', ', '_').replace(' ', '_')}_{seed}"
    return train(Recipe(**given), out, datasets=data, explainer=explainer, show_progress=False)


def layer_of(model: nn.Module) -> str:
    """Where Grad-CAM looks."""
    return f"encoder.{LAYER}" if hasattr(model, "encoder") else LAYER


def main() -> None:
    """Read the command line, train what is missing, write the measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--count", type=int, default=2500, help="training images, validation included")
    parser.add_argument("--tests", type=int, default=1000, help="test images")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--fine-tuning", type=int, default=2, help="epochs of the fine-tuned arms")
    parser.add_argument("--start", type=int, default=2, help="epochs before explanations begin")
    parser.add_argument("--out", type=Path, default=Path("training"))
    options = parser.parse_args()
    data = Jpegs(options.train, options.count), Jpegs(options.test, options.tests)
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for arm in options.arms:
            file = options.out / f"{arm.replace(', ', '_').replace(' ', '_')}_{seed}.json"
            if file.is_file():
                continue
            begun = time.perf_counter()
            run = trained(arm, seed, options, data)
            took = time.perf_counter() - begun
            batches = list(run.data.test_dataloader())
            x, labels = (torch.cat([batch[key] for batch in batches]) for key in ("whole", "label"))
            found = evaluate(run.model, x, labels, 10, GradCam(layer_of(run.model)), MEAN, STD)
            record = {
                "arm": arm, "seed": seed, "seconds": took, "validation_accuracy": run.validation_accuracy,
                "options": {name: str(value) for name, value in vars(options).items()},
                "versions": {"lm_plugins": lm_plugins.__version__, "torch": torch.__version__},
                "python": platform.python_version(),
                "measures": {name: values.double().mean().item() for name, values in found.items()},
            }  # fmt: skip
            file.write_text(json.dumps(record, indent=1))
            print(f"{arm} {seed}: {took:.0f} s, {record['measures']}", flush=True)
    print(table(options.out))


def table(out: Path) -> str:
    """Means over seeds, with their standard deviations."""
    records = [json.loads(file.read_text()) for file in sorted(out.glob("*.json"))]
    measures = list(records[0]["measures"])
    lines = ["| arm | seeds | seconds | " + " | ".join(measures) + " |", "|---|---|---|" + "---|" * len(measures)]
    for arm in [one for one in ARMS if any(record["arm"] == one for record in records)]:
        rows = [one for one in records if one["arm"] == arm]
        cells = []
        for measure in measures:
            values = np.array([one["measures"][measure] for one in rows])
            cells.append(f"{values.mean():.3g} ± {values.std(ddof=min(1, len(values) - 1)):.2g}")
        seconds = np.mean([one["seconds"] for one in rows])
        lines.append(f"| {arm} | {len(rows)} | {seconds:.0f} | " + " | ".join(cells) + " |")
    text = "\n".join(lines)
    (out / "table.md").write_text(text + "\n")
    return text


if __name__ == "__main__":
    main()
