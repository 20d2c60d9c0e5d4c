"""Draw what `calibration.py` measured: accuracy over the removed share, a panel for each network.

python benchmarks/draw_calibration.py calibration/*.json --features 16 --out docs/figures/calibration.png
"""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

STYLES = {
    "layer masking, calibrated": ("#0072b2", "-", 2.5),
    "layer masking": ("#0072b2", "--", 1.8),
    "published": ("#d55e00", "-", 1.8),
    "blur, calibrated": ("#009e73", "--", 1.5),
    "grey, calibrated": ("0.5", "--", 1.5),
}


def main() -> None:
    """Read the command line and the files, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--features", nargs="+", default=["16"], help="of each network, the first that it has")
    parser.add_argument("--out", type=Path, default=Path("calibration.png"))
    options = parser.parse_args()
    fig, axes = plt.subplots(
        1, len(options.files), figsize=(3.1 * len(options.files), 3.3), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, file in zip(axes[0], options.files, strict=True):
        record = json.loads(file.read_text())
        measured = {tuple(key.split()) for key in record["right"]["published"]}
        kind = next(one for one in options.features if any(one == known for known, _ in measured))
        fractions = sorted({fraction for known, fraction in measured if known == kind}, key=float)
        for name, (colour, line, width) in STYLES.items():
            values = [np.mean(record["right"][name][f"{kind} {one}"]) for one in fractions]
            axis.plot([float(one) for one in fractions], values, line, c=colour, lw=width, label=name)
        title = "superpixels" if kind == "superpixels" else f"{kind} x {kind} patches"
        axis.set(title=f"{record['model']}, {title}", xlabel="removed fraction", ylim=(0, None))
        axis.title.set_fontsize(9)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.2)
    axes[0, 0].set_ylabel("accuracy")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(STYLES), frameon=False)
    fig.savefig(options.out, dpi=150)


if __name__ == "__main__":
    main()
