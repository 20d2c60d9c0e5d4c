"""Draw how a visible region travels through a network: the figure of docs/layer_masking.md."""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import ListedColormap
from models import load

import lm_plugins as lm
from lm_plugins.masking import observing, run_masked


def regions(options: lm.MaskingOptions, visible: torch.Tensor) -> list[tuple[str, np.ndarray]]:
    """The regions after the stem and at the end of each resolution of EfficientNet-Lite0.

    0 = hidden, 1 = computed only, 2 = visible.
    """
    subject = load("lite0")
    seen: dict[int, np.ndarray] = {}

    def record(function, args, kwargs, act):  # type: ignore[no-untyped-def]
        result = act()
        visibility = getattr(result, "visibility", None)
        if visibility is not None and result.shape[-1] == result.shape[-2]:
            state = visibility.computed.positions[0].int() + visibility.visible.positions[0].int()
            if visibility.visible.inside is None:
                seen[state.shape[-1]] = state.numpy()
        return result

    with torch.inference_mode(), observing(record):
        run_masked(subject.model, torch.zeros(1, 3, 224, 224), visible[None], options)
    return [(f"{size} x {size}", seen[size]) for size in (112, 56, 28, 14, 7)]


def main() -> None:
    """Draw the published rule above the default one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/figures/regions.png"))
    options = parser.parse_args()

    visible = torch.ones(224, 224, dtype=torch.bool)
    visible[48:176, 80:144] = False
    visible[80:144, 48:176] = False
    rows = {"published": lm.published("efficientnet_b0"), "default": lm.MaskingOptions()}
    fig, axes = plt.subplots(2, 6, figsize=(12, 4.4), layout="constrained")
    colours = ListedColormap(["#333333", "#9ecae1", "#ffffff"])
    for row, (name, semantics) in zip(axes, rows.items(), strict=True):
        for axis, (title, state) in zip(
            row, [("image", visible.int().numpy() * 2), *regions(semantics, visible)], strict=True
        ):
            axis.imshow(state, cmap=colours, vmin=0, vmax=2, interpolation="nearest")
            axis.set(title=title, xticks=[], yticks=[])
        row[0].set_ylabel(name, fontsize=12)
    fig.suptitle(
        "EfficientNet-Lite0: hidden (dark), computed only (blue), visible (white), at the end of each resolution"
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
