"""What calibration gains, for layer masking and for paint: accuracy kept under removal, with paired standard errors.

Images are halved: what is fitted on one half is scored on the other, and the other way round, so that every image is scored,
and none by a fit that has seen it. `--fit` gives other images to fit on; then all of `--images` are scored.

    python benchmarks/calibration.py --images PHOTOS --model lite0 --out calibration
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from models import Subject, images_from, load
from retention import feature_masks, visible_after
from torch import Tensor, nn

import lm_plugins as lm
from lm_plugins.masking.arguments import Arguments
from lm_plugins.masking.calibrate import mixture
from lm_plugins.masking.forward import send
from lm_plugins.masking.moment_matching import MomentFit, MomentMatching, Moments, hidden_share
from lm_plugins.masking.run import Run
from lm_plugins.removal import Blur, Colour, PixelRemoval

Forward = Callable[[Tensor, Tensor], Tensor]
Fit = Callable[[nn.Module, Tensor], Forward]


def plain(removal: PixelRemoval) -> Fit:
    """A way to paint, without any fit."""
    return lambda model, x: removal(model)


def calibrated_paint(removal: PixelRemoval) -> Fit:
    """Moment matching for painted images: the same fit, of all positions, by the share of pixels that is painted."""

    def fit(model: nn.Module, x: Tensor) -> Forward:
        random, moments = np.random.default_rng(0), list[Moments | None]()
        for part in x.split(20):
            size = (int(part.shape[2]), int(part.shape[3]))
            whole = torch.ones(len(part), *size, dtype=torch.bool)
            visible = torch.cat([whole, *(mixture(len(part), size, random) for _ in range(4))]).to(x.device)
            painted = removal.replaced(part.repeat(5, 1, 1, 1), visible)
            matching = MomentFit(moments, len(part), hidden_share(visible), {})
            run = Run(lm.MaskingOptions(), calibrated=matching)
            send(model, painted, torch.ones_like(visible), run, Arguments(()))
        corrections = [None if one is None else one.correction() for one in moments]

        def forward(x: Tensor, visible: Tensor) -> Tensor:
            run = Run(lm.MaskingOptions(), calibrated=MomentMatching(corrections, hidden_share(visible), {}))
            return send(model, removal.replaced(x, visible), torch.ones_like(visible), run, Arguments(()))

        return forward

    return fit


def with_head(before: Fit) -> Fit:
    """MCal as we read it (arXiv 2603.04831): an affine map of the logits, fitted to the model's own clean predictions."""

    def fit(model: nn.Module, x: Tensor) -> Forward:
        forward, random = before(model, x), np.random.default_rng(0)
        logits, target = [], []
        for part in x.split(50):
            for _ in range(4):
                logits.append(forward(part, mixture(len(part), tuple(x.shape[2:]), random).to(x.device)))
                target.append(model(part).argmax(1))
        z, y = torch.cat(logits).clone(), torch.cat(target).clone()
        with torch.inference_mode(False), torch.enable_grad():
            z, y = z.clone(), y.clone()
            head = nn.Linear(z.shape[1], z.shape[1], device=z.device)
            with torch.no_grad():
                head.weight.copy_(torch.eye(z.shape[1]))
                head.bias.zero_()
            optimizer = torch.optim.Adam(head.parameters(), 1e-3)
            for _ in range(300):
                optimizer.zero_grad()
                F.cross_entropy(head(z), y).backward()
                optimizer.step()
        return lambda x, visible: head(forward(x, visible))

    return fit


def calibrated(model: nn.Module, x: Tensor) -> Forward:
    """Layer masking, calibrated."""
    return lm.calibrate(model, x)


REMOVALS: dict[str, Fit] = {
    "published": lambda model, x: lm.LayerMasked(model, lm.published("resnet50")),
    "layer masking": lambda model, x: lm.LayerMasked(model),
    "layer masking, calibrated": calibrated,
    "grey": plain(Colour(0.0)),
    "grey, calibrated": calibrated_paint(Colour(0.0)),
    "blur": plain(Blur(8.0)),
    "blur, calibrated": calibrated_paint(Blur(8.0)),
    "grey, affine head": with_head(plain(Colour(0.0))),
    "layer masking, affine head": with_head(lambda model, x: lm.LayerMasked(model)),
}


@torch.inference_mode()
def study(
    subject: Subject, folds: list[tuple[Tensor, Tensor, Tensor]], kinds: list[str], fractions: list[float], batch: int,
    names: list[str],
) -> dict[str, dict[str, list[int]]]:  # fmt: skip
    """Whether each image is classified rightly, by removal and by kind and fraction."""
    right: dict[str, dict[str, list[int]]] = {name: {} for name in names}
    for fit_on, x, labels in folds:
        visible = {}
        for kind in kinds:
            features = feature_masks(kind, x.cpu())
            visible |= {(kind, one): visible_after(features, one, 0).to(x.device) for one in fractions}
        for name in names:
            start = time.perf_counter()
            forward = REMOVALS[name](subject.model, fit_on)
            fitted = time.perf_counter() - start
            for (kind, fraction), mask in visible.items():
                found = torch.cat(
                    [
                        forward(part, seen).argmax(1)
                        for part, seen in zip(x.split(batch), mask.split(batch), strict=True)
                    ]
                )
                right[name].setdefault(f"{kind} {fraction}", []).extend((found == labels).int().tolist())
            print(f"{subject.name} {name}: {fitted:.1f} + {time.perf_counter() - start - fitted:.1f} s", flush=True)
    return right


def table(right: dict[str, dict[str, list[int]]], kind: str, fractions: list[float]) -> str:
    """Accuracies, their mean, and how far the mean lies from that of layer masking, with its paired standard error."""
    lines = [
        f"| accuracy, {kind} | " + " | ".join(f"{one:.0%}" for one in fractions) + " | mean | less layer masking |"
    ]
    lines.append("|---|" + "---|" * (len(fractions) + 2))

    def rows(name: str) -> np.ndarray:
        return np.array([right[name][f"{kind} {one}"] for one in fractions], float)  # (fractions, images)

    for name in right:
        mine = rows(name)
        difference = (mine - rows("layer masking")).mean(0)
        error = difference.std(ddof=1) / len(difference) ** 0.5
        cells = [
            *(f"{one:.3f}" for one in mine.mean(1)),
            f"{mine.mean():.3f}",
            f"{100 * difference.mean():+.1f} ± {100 * error:.1f}",
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Read the command line, run the study, write tables and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder with labels.csv, or .npz")
    parser.add_argument("--fit", type=Path, help="other images to fit on; by default the two halves of --images")
    parser.add_argument("--count", type=int, default=100, help="how many of --fit")
    parser.add_argument("--model", nargs="+", default=["lite0"], help="as in retention.py, or loader:FILE?...")
    parser.add_argument("--features", nargs="+", default=["16", "32", "superpixels"])
    parser.add_argument("--fractions", nargs="+", type=float, default=[i / 10 for i in range(1, 10)])
    parser.add_argument("--removals", nargs="+", default=list(REMOVALS), choices=list(REMOVALS))
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("calibration"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.model:
        subject = load(name)
        subject.model.to(options.device)
        images, labels = images_from(options.images)
        x = torch.stack([subject.preprocess(image) for image in images]).to(options.device)
        labels = labels.to(options.device)
        if options.fit:
            others = images_from(options.fit)[0][: options.count]
            folds = [(torch.stack([subject.preprocess(image) for image in others]).to(options.device), x, labels)]
        else:
            even, odd = slice(0, None, 2), slice(1, None, 2)
            folds = [(x[even], x[odd], labels[odd]), (x[odd], x[even], labels[even])]
        right = study(subject, folds, options.features, options.fractions, options.batch, options.removals)
        text = "\n\n".join(table(right, kind, options.fractions) for kind in options.features)
        record = {
            "model": subject.name, "images": len(x), "right": right, "device": options.device,
            "versions": {"lm_plugins": lm.__version__, "torch": torch.__version__, "python": platform.python_version()},
        }  # fmt: skip
        (options.out / f"{subject.name}.json").write_text(json.dumps(record))
        (options.out / f"{subject.name}.md").write_text(text + "\n")
        print(f"{subject.name}\n\n{text}\n", flush=True)


if __name__ == "__main__":
    main()
