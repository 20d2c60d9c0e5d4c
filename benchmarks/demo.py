"""Explain two photographs with Captum's own Occlusion, with and without paint, and see what survives removal.

A pretrained EfficientNet-Lite0; the only change to the Captum code is the model that it is given and the baseline:

    Occlusion(lm.LayerMasked(model)).attribute(x, baselines=lm.MASKED, ...)
"""

import argparse
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from captum.attr import Occlusion
from matplotlib import pyplot as plt
from models import Subject, load, photographs
from torch import Tensor, nn
from tqdm import tqdm

import lm_plugins as lm

PHOTOGRAPHS = ("chelsea", "coffee")
FRACTIONS = np.linspace(0.1, 0.9, 9)
DRAWS = 8
COLOURS = {"layer masking": "#0072b2", "grey": "0.5", "black": "black"}


def class_names() -> list[str]:
    """The names of the ImageNet classes."""
    from torchvision.models import get_model_weights

    names: list[str] = get_model_weights("efficientnet_b0")["DEFAULT"].meta["categories"]
    return names


def roads(subject: Subject) -> dict[str, tuple[nn.Module, float | Tensor]]:
    """What Captum is given for each way of removing pixels: a model and a baseline."""
    probabilities = nn.Sequential(subject.model, nn.Softmax(1)).eval()
    black = torch.tensor(subject.colour(0.0))[None, :, None, None]
    return {
        "layer masking": (lm.LayerMasked(probabilities), lm.MASKED),
        "grey": (probabilities, 0.0),
        "black": (probabilities, black),
    }


def occlude(subject: Subject, x: Tensor, target: int) -> dict[str, np.ndarray]:
    """Captum's Occlusion with each removal: the probability that a 48 x 48 window takes away, ``(H, W)`` each."""
    maps = {}
    for name, (model, baseline) in tqdm(roads(subject).items(), desc="  occlusion     "):
        attributions = Occlusion(model).attribute(
            x,
            sliding_window_shapes=(3, 48, 48),
            strides=(3, 16, 16),
            baselines=baseline,
            target=target,
            perturbations_per_eval=16,  # no show_progress: Captum's bar counts pixels, not windows, and stops at 0 %
        )
        maps[name] = attributions[0, 0].numpy()
    return maps


def survival(subject: Subject, x: Tensor, target: int, seed: int) -> dict[str, np.ndarray]:
    """Probability of the target when random 16 x 16 patches are removed, ``(fractions, draws)`` for each removal."""
    random = np.random.default_rng(seed)
    grid = -(-x.shape[-1] // 16)
    order = np.stack([random.permutation(grid * grid) for _ in range(DRAWS)])  # the same patches for every removal
    kept: dict[str, list[np.ndarray]] = {name: [] for name in roads(subject)}
    for fraction in tqdm(FRACTIONS, desc="  random removal"):
        hidden = (order.argsort(1) < round(fraction * grid * grid)).reshape(DRAWS, 1, grid, grid)
        hidden = (
            torch.from_numpy(hidden).repeat_interleave(16, 2).repeat_interleave(16, 3)[..., : x.shape[2], : x.shape[3]]
        )
        for name, (model, baseline) in roads(subject).items():
            painted = torch.where(hidden, torch.as_tensor(baseline, dtype=x.dtype), x)
            with torch.inference_mode():
                kept[name].append(model(painted)[:, target].numpy())
    return {name: np.stack(values) for name, values in kept.items()}


def draw_maps(results: list[dict], file: Path) -> None:
    """Photographs and heat maps, one scale for all of them."""
    limit = max(np.abs(one).max() for result in results for one in result["maps"].values())
    fig, axes = plt.subplots(len(results), 4, figsize=(14, 3.7 * len(results)), layout="constrained")
    for row, result in zip(axes, results, strict=True):
        row[0].imshow(result["image"])
        row[0].set_title(f"{result['class']}\n{result['probability']:.0%} sure", fontsize=11)
        for axis, (name, values) in zip(row[1:], result["maps"].items(), strict=True):
            axis.imshow(result["image"].mean(2), cmap="gray", vmin=0, vmax=1.6)
            drawn = axis.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=0.65)
            axis.set_title(f"{name}\nlargest drop {values.max():.2f}", fontsize=11)
        for axis in row:
            axis.axis("off")
    fig.colorbar(drawn, ax=axes, shrink=0.7, label="probability lost when a 48 x 48 window is removed")
    fig.suptitle("Captum's Occlusion on EfficientNet-Lite0: the same code, three ways to remove a window", fontsize=13)
    fig.savefig(file, dpi=150)
    plt.close(fig)


def draw_survival(results: list[dict], file: Path) -> None:
    """Probability of the class over the removed fraction: mean and range of the draws."""
    fig, axes = plt.subplots(1, len(results), figsize=(5.5 * len(results), 4), sharey=True, layout="constrained")
    for axis, result in zip(axes, results, strict=True):
        for name, values in result["survival"].items():
            mean = np.concatenate([[result["probability"]], values.mean(1)])
            axis.plot([0, *FRACTIONS], mean, color=COLOURS[name], lw=2, label=name)
            axis.fill_between(FRACTIONS, values.min(1), values.max(1), color=COLOURS[name], alpha=0.12, lw=0)
        axis.set(title=result["class"], xlabel="share of 16 x 16 patches removed at random")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("probability of the class (mean and range)")
    axes[0].legend(frameon=False)
    fig.suptitle(f"How far does the prediction survive? {DRAWS} random draws", fontsize=13)
    fig.savefig(file, dpi=150)
    plt.close(fig)


def explain(subject: Subject, name: str, names: list[str], seed: int) -> dict:
    """Everything that is shown of one photograph."""
    x = subject.preprocess(photographs()[name])[None]
    with torch.inference_mode():
        probabilities = subject.model(x).softmax(1)[0]
    target = int(probabilities.argmax())
    std, mean = (torch.tensor(one)[:, None, None] for one in (subject.std, subject.mean))
    return {
        "class": names[target],
        "probability": float(probabilities[target]),
        "image": (x[0] * std + mean).clamp(0, 1).permute(1, 2, 0).numpy(),
        "maps": occlude(subject, x, target),
        "survival": survival(subject, x, target, seed),
    }


def main() -> None:
    """Run the demo and say where its figures are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()

    subject, names, results = load("lite0"), class_names(), []
    for i, name in enumerate(PHOTOGRAPHS, 1):
        print(f"photograph {i} of {len(PHOTOGRAPHS)}: {name}")
        results.append(explain(subject, name, names, options.seed))
    draw_maps(results, options.out / "occlusion.png")
    draw_survival(results, options.out / "survival.png")

    print("\nprobability of the class that is left when random patches are removed (mean of the draws)")
    print(f"{'':26}" + "".join(f"{fraction:>8.0%}" for fraction in FRACTIONS[[2, 4, 6]]))
    for result in results:
        for name, values in result["survival"].items():
            shares = "".join(f"{value:>8.2f}" for value in values.mean(1)[[2, 4, 6]])
            print(f"{result['class'][:12]:12}{name:14}{shares}")
    print(f"\ndone in {time.perf_counter() - start:.0f} s. Look at {options.out}/occlusion.png and survival.png.")
    print("Next: notebooks/01_quickstart.ipynb does this on your own image; docs/layer_masking.md says how it works.")


if __name__ == "__main__":
    main()
