"""The audit of a packaged model on photographs: the ordering of removals, beside the published one.

    python benchmarks/audit.py --images PHOTOS --model lite0 --out audit-lite0

PHOTOS is a folder of images; the class of each is in ``labels.csv`` (columns ``file``, ``class_index``) or in its file name
(``0207_golden_retriever.jpg``). Can be interrupted: the same command goes on where it stopped.
"""

import argparse
import re
import sys
from pathlib import Path

from models import images_from, load

from lm_plugins.audit import AuditResult, run_audit
from lm_plugins.removal import PixelColour

SUFFIXES = (".jpg", ".jpeg", ".png")


def labels_in_names(files: list[Path]) -> list[int | None]:
    """Class indices that file names begin with."""
    found = [re.match(r"(\d+)_", file.name) for file in files]
    return [None if match is None else int(match[1]) for match in found]


def markdown(result: AuditResult, measure: str, features: str, order: str) -> str:
    """A table of one measure: a line for each removal, a column for each removed fraction."""
    curves = result.curves(measure, features, order)
    titles = ["mean" if one == "mean" else f"{one:.0%}" for one in curves.columns]
    lines = [f"| {measure}, {features}, {order} | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for name, row in zip(curves.index, curves.to_numpy(), strict=True):
        lines.append(f"| {name} | " + " | ".join(f"{value:.3f}" for value in row) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, run the audit, print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--model", default="lite0", help="lite0, lite1, lite2, torchvision:NAME@WEIGHTS, cifar:56:FILE")
    parser.add_argument("--removals", nargs="+", default=["layer_masking", "blur", "grey", "black"])
    parser.add_argument("--features", nargs="+", default=["patches", "superpixels"])
    parser.add_argument("--orders", nargs="+", default=["random", "most_salient_first", "least_salient_first"])
    parser.add_argument("--fractions", nargs="+", type=float, default=[i / 10 for i in range(1, 7)])
    parser.add_argument("--measures", nargs="+", default=["missingness", "hidden_pixels", "colour_bias", "shape_bias"])
    parser.add_argument("--limit", type=int, help="take that many images, spread evenly over the folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("audit"))
    options = parser.parse_args(arguments)

    subject = load(options.model)
    images, labels = images_from(options.images)
    files = [Path(getattr(image, "filename", f"{i:05d}")) for i, image in enumerate(images)]
    known = labels_in_names(files) if labels is None else labels.tolist()
    step = max(1, len(images) // (options.limit or len(images)))
    chosen = range(0, len(images), step)[: options.limit]
    removals = {name: name for name in options.removals}
    for name, value in {"black": 0.0, "white": 1.0}.items():
        if name in removals:
            removals[name] = PixelColour(value, subject.mean, subject.std)
    result = run_audit(
        subject.model,
        [subject.preprocess(images[i]) for i in chosen],
        labels=[known[i] for i in chosen],
        removals=removals,
        features=options.features,
        orders=options.orders,
        fractions=options.fractions,
        measures=options.measures,
        seed=options.seed,
        out=options.out,
        names=[files[i].name for i in chosen],
        provenance={"command": " ".join(["python", *sys.argv]), "name": subject.name},
    )
    measure = "accuracy" if any(known[i] is not None for i in chosen) else "agreement"
    for features in options.features:
        for order in options.orders if "missingness" in options.measures else []:
            print(markdown(result, measure, features, order), end="\n\n")
    print(result.recommendation.reason)
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
