"""How much of a model survives removal: accuracy, unchanged predictions and class entropy over the removed fraction.

Removes random patches and superpixels from images and compares layer masking, with its options, to painting pixels.
Writes a table (Markdown), JSON and a figure.

    python benchmarks/retention.py --images PHOTOS --model lite0 --out retention
"""

import argparse
import json
import platform
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from models import Subject, images_from, load
from torch import Tensor
from tqdm import tqdm

import lm_plugins as lm
from lm_plugins.removal import Blur, Colour, Inpainting, LayerMasking, Removal

PUBLISHED = lm.published("resnet50")
DEFAULTS = lm.MaskingOptions()


def removals(subject: Subject, side: int) -> dict[str, Removal]:
    """What is compared on images of `side` pixels: ours, the published rule, steps between them, pixel baselines."""
    return {
        "layer masking": LayerMasking(),
        "published": LayerMasking(PUBLISHED),
        "published, diagonal .5": LayerMasking(replace(PUBLISHED, diagonal=0.5)),
        "visible region only": LayerMasking(lm.MaskingOptions(computed="visible", stem="coverage")),
        "stem by coverage": LayerMasking(lm.MaskingOptions(stem="coverage")),
        "samples alone": LayerMasking(lm.MaskingOptions(sampling="point")),
        "coverage .5": LayerMasking(lm.MaskingOptions(coverage=0.5)),
        "diagonal 1": LayerMasking(lm.MaskingOptions(diagonal=1.0)),
        "first convolution padded": LayerMasking(replace(PUBLISHED, padded_layers=1)),
        "first 9 convolutions padded": LayerMasking(replace(PUBLISHED, padded_layers=9)),
        "masking only": LayerMasking(replace(PUBLISHED, padding="zero")),
        "partial convolution": LayerMasking(replace(PUBLISHED, padding="partial")),
        "black": Colour(subject.colour(0.0)),
        "grey": Colour(0.0),
        "blur": Blur(sigma=8.0 * side / 224),
        "inpainting": Inpainting(),
    }


def feature_masks(kind: str, x: Tensor) -> np.ndarray:
    """Integer ``(N, H, W)`` feature masks: ``"16"`` for 16 x 16 patches, ``"superpixels"`` for about 196 SLIC segments."""
    n, _, h, w = x.shape
    if kind == "superpixels":
        from skimage.segmentation import slic

        low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        images = ((x - low) / (high - low)).permute(0, 2, 3, 1).numpy()
        return np.stack([slic(image, n_segments=196, compactness=10, start_label=0) for image in images])
    size = int(kind)
    rows, columns = np.arange(h) // size, np.arange(w) // size
    return np.broadcast_to(rows[:, None] * (columns[-1] + 1) + columns, (n, h, w))


def visible_after(features: np.ndarray, fraction: float, seed: int) -> Tensor:
    """Bool ``(N, H, W)`` with `fraction` of the features of each image removed at random."""
    random = np.random.default_rng([seed, round(fraction * 1000)])
    visible = []
    for mask in features:
        ids = random.permutation(np.unique(mask))
        visible.append(~np.isin(mask, ids[: round(fraction * len(ids))]))
    return torch.from_numpy(np.stack(visible))


def class_entropy(predicted: Tensor) -> float:
    """Entropy in nats of the distribution of predicted classes: 0 if every image gets the same one."""
    share = torch.bincount(predicted).double() / len(predicted)
    return float(-(share * (share + 1e-7).log()).sum())


def study(
    subject: Subject, x: Tensor, labels: Tensor | None, kinds: list[str], fractions: list[float], seed: int, batch: int,
    names: list[str] | None,
) -> list[dict[str, object]]:  # fmt: skip
    """Run every removal on every kind of feature and removed fraction; one row each."""
    with torch.inference_mode():
        plain = torch.cat([subject.model(part).argmax(1) for part in x.split(batch)])
    chosen = {name: one for name, one in removals(subject, x.shape[-1]).items() if names is None or name in names}
    rows: list[dict[str, object]] = []
    with tqdm(total=len(chosen) * len(kinds) * len(fractions), desc=subject.name) as progress:
        for kind in kinds:
            features = feature_masks(kind, x)
            for fraction in fractions:
                visible = visible_after(features, fraction, seed)
                for name, removal in chosen.items():
                    forward = removal(subject.model)
                    with torch.inference_mode():
                        parts = zip(x.split(batch), visible.split(batch), strict=True)
                        predicted = torch.cat([forward(part, seen).argmax(1) for part, seen in parts])
                    row: dict[str, object] = {"removal": name, "features": kind, "removed": fraction}
                    if labels is not None:
                        row["accuracy"] = float((predicted == labels).double().mean())
                    row["unchanged"] = float((predicted == plain).double().mean())
                    row["class entropy"] = class_entropy(predicted)
                    rows.append(row)
                    progress.update()
    return rows


def table(rows: list[dict[str, object]], measure: str) -> str:
    """A Markdown table of one measure: a line for each removal, a column for each removed fraction, and the mean."""
    lines = []
    for kind in dict.fromkeys(row["features"] for row in rows):
        part = [row for row in rows if row["features"] == kind]
        fractions = list(dict.fromkeys(row["removed"] for row in part))
        title = "superpixels" if kind == "superpixels" else f"{kind} x {kind} patches"
        lines += [f"| {measure}, {title} | " + " | ".join(f"{one:.0%}" for one in fractions) + " | mean |"]
        lines += ["|---|" + "---|" * (len(fractions) + 1)]
        for name in dict.fromkeys(row["removal"] for row in part):
            values = [float(row[measure]) for row in part if row["removal"] == name]  # type: ignore[arg-type]
            lines += [f"| {name} | " + " | ".join(f"{one:.3f}" for one in [*values, float(np.mean(values))]) + " |"]
        lines.append("")
    return "\n".join(lines)


def figure(rows: list[dict[str, object]], measure: str, title: str, file: Path) -> None:
    """Curves of one measure over the removed fraction, one panel for each kind of feature."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    kinds = list(dict.fromkeys(row["features"] for row in rows))
    fig, axes = plt.subplots(
        1, len(kinds), figsize=(5 * len(kinds), 4), sharey=True, squeeze=False, layout="constrained"
    )
    styles = {"layer masking": ("#0072b2", "-", 2.5), "published": ("#d55e00", "-", 2), "grey": ("0.5", "--", 1.5),
              "black": ("black", "--", 1.5), "blur": ("#009e73", "--", 1.5),
              "inpainting": ("#cc79a7", "--", 1.5)}  # fmt: skip
    for axis, kind in zip(axes[0], kinds, strict=True):
        for name, (colour, line, width) in styles.items():
            part = [row for row in rows if row["features"] == kind and row["removal"] == name]
            axis.plot([r["removed"] for r in part], [r[measure] for r in part], line, c=colour, lw=width, label=name)
        axis.set(title=kind if kind == "superpixels" else f"{kind} x {kind} patches", xlabel="removed fraction")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.2)
    axes[0, 0].set_ylabel(measure)
    axes[0, -1].legend(frameon=False)
    fig.suptitle(title)
    fig.savefig(file, dpi=150)
    plt.close(fig)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, run the study, write table, JSON and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder (with labels.csv, if labelled) or .npz; default: packaged")
    parser.add_argument(
        "--model", default="lite0", help="lite0, lite1, lite2, torchvision:NAME@WEIGHTS (or a file), cifar:56:FILE"
    )
    parser.add_argument("--features", nargs="+", default=["16", "32", "superpixels"], help="patch sizes, superpixels")
    parser.add_argument("--fractions", nargs="+", type=float, default=[i / 10 for i in range(1, 10)])
    parser.add_argument("--removals", nargs="+", help="names of some removals only")
    parser.add_argument("--limit", type=int, help="use the first LIMIT images only")
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("retention"))
    options = parser.parse_args(arguments)

    subject = load(options.model)
    images, labels = images_from(options.images)
    x = torch.stack([subject.preprocess(image) for image in images[: options.limit]])
    labels = None if labels is None else labels[: options.limit]
    rows = study(subject, x, labels, options.features, options.fractions, options.seed, options.batch, options.removals)
    options.out.mkdir(parents=True, exist_ok=True)
    measure = "unchanged" if labels is None else "accuracy"
    text = table(rows, measure)
    (options.out / f"{subject.name}.md").write_text(text)
    record = {
        "model": subject.name,
        "images": len(x),
        "seed": options.seed,
        "command": " ".join(["python", *sys.argv]),
        "versions": {"lm_plugins": lm.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "defaults": vars(DEFAULTS),
        "rows": rows,
    }
    (options.out / f"{subject.name}.json").write_text(json.dumps(record, indent=1))
    figure(rows, measure, f"{subject.name}, {len(x)} images", options.out / f"{subject.name}.png")
    print(text)
    print(f"written: {options.out / subject.name}.md, .json, .png")


if __name__ == "__main__":
    main()
