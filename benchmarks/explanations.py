"""Whether a removal makes explanations better: how stable, how few samples, how faithful by removals that take no part.

The score is the logit of the class that the model gives the whole image. For each image and each removal, KernelSHAP and LIME
are fitted by least squares to the same sampled coalitions of patches. Calibrations are fitted on every second image; the
others are explained.

    python benchmarks/explanations.py --images PHOTOS --model lite0 --count 24 --out explanations
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from models import Subject, images_from, load
from retention import feature_masks
from scipy.stats import spearmanr
from torch import Tensor
from tqdm import tqdm

import lm_plugins as lm
from lm_plugins.removal import Blur, Colour, Inpainting, LayerMasking, NoisyLinear, Removal

Values = Callable[[np.ndarray], np.ndarray]
FRACTIONS = np.linspace(0, 1, 11)


def removals(subject: Subject, fit_on: Tensor) -> dict[str, Removal]:
    """What is compared."""
    return {
        "published": LayerMasking(lm.published("resnet50")),
        "layer masking": LayerMasking(),
        "layer masking, calibrated": LayerMasking(calibration=lm.calibrate(subject.model, fit_on).calibration),
        "grey": Colour(0.0),
        "blur": Blur(8.0 * fit_on.shape[-1] / 224),
    }


def shapley_coalitions(features: int, count: int, random: np.random.Generator) -> np.ndarray:
    """Coalitions ``(count, features)`` by the Shapley kernel, each followed by its complement."""
    sizes = np.arange(1, features)
    kernel = 1 / (sizes * (features - sizes))
    drawn = random.choice(sizes, (count + 1) // 2, p=kernel / kernel.sum())
    kept = np.stack([random.permutation(features) < size for size in drawn])
    return np.stack([kept, ~kept], 1).reshape(-1, features)[:count]


def kernel_shap(kept: np.ndarray, values: np.ndarray, empty: float, whole: float) -> np.ndarray:
    """Shapley values by least squares; they add up to what the whole image gains over nothing."""
    z, y = kept.astype(float), values - empty
    gain = whole - empty
    reduced, rest = z[:, :-1] - z[:, -1:], y - z[:, -1] * gain
    first = np.linalg.lstsq(reduced, rest, rcond=None)[0]
    return np.append(first, gain - first.sum())


def lime(kept: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Coefficients of LIME's ridge regression (penalty 1, cosine kernel of width 0.25), as the package has them."""
    from sklearn.linear_model import Ridge

    distance = 1 - np.sqrt(kept.mean(1))
    weight = np.sqrt(np.exp(-(distance**2) / 0.25**2))
    return np.asarray(Ridge(1.0).fit(kept.astype(float), values, weight).coef_)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's; 0 where one of them is constant."""
    found = spearmanr(a, b).statistic
    return float(np.nan_to_num(found))


def coalition_values(forward: Callable[[Tensor, Tensor], Tensor], x: Tensor, mask: np.ndarray, target: int) -> Values:
    """The score for coalitions of one image's features."""

    def values(kept: np.ndarray) -> np.ndarray:
        seen = torch.from_numpy(kept[:, mask])
        parts = [forward(x.expand(len(part), -1, -1, -1), part)[:, target] for part in seen.split(50)]
        return torch.cat(parts).double().numpy()

    return values


def area(
    forward: Callable[[Tensor, Tensor], Tensor], x: Tensor, mask: np.ndarray, order: np.ndarray, target: int
) -> float:
    """Mean probability of the class while features go in this order, all of them in ten steps."""
    kept = np.ones((len(FRACTIONS), len(order)), bool)
    for row, fraction in zip(kept, FRACTIONS, strict=True):
        row[order[: round(fraction * len(order))]] = False
    seen = torch.from_numpy(kept[:, mask])
    return float(forward(x.expand(len(seen), -1, -1, -1), seen).softmax(1)[:, target].mean())


def explained(
    values: Values, whole_first: np.ndarray, samples: int, seed: int
) -> tuple[dict[str, float], np.ndarray]:  # fmt: skip
    """Measures of one image's explanations by one removal, and its Shapley values from all samples."""
    features = len(whole_first)
    whole, empty = values(np.stack([whole_first, ~whole_first]))
    pools = [shapley_coalitions(features, samples, np.random.default_rng([seed, one])) for one in (0, 1)]
    known = [values(pool) for pool in pools]
    halves = [kernel_shap(pool, value, empty, whole) for pool, value in zip(pools, known, strict=True)]
    best = kernel_shap(np.concatenate(pools), np.concatenate(known), empty, whole)
    random = np.random.default_rng([seed, 2])
    binomial = random.random((samples, features)) < 0.5
    alone = whole - values(~np.eye(features, dtype=bool))
    z = np.concatenate(pools).astype(float)
    measured = {
        "seeds agree": rank_correlation(*halves),
        "LIME agrees": rank_correlation(lime(binomial, values(binomial)), best),
        "occlusion agrees": rank_correlation(alone, best),
        "explained variance": float(
            1 - np.var(np.concatenate(known) - empty - z @ best) / max(np.var(np.concatenate(known)), 1e-12)
        ),
    }
    for count in (75, 125, 250):
        few = kernel_shap(pools[0][:count], known[0][:count], empty, whole)
        measured[f"{count} samples agree"] = rank_correlation(few, halves[1])
    return measured, best


@torch.inference_mode()
def study(subject: Subject, x: Tensor, fit_on: Tensor, patch: int, samples: int) -> list[dict[str, object]]:
    """One row for each image and removal."""
    rows: list[dict[str, object]] = []
    candidates = {name: one(subject.model) for name, one in removals(subject, fit_on).items()}
    judges = {name: one(subject.model) for name, one in {"ROAD": NoisyLinear(), "inpainting": Inpainting()}.items()}
    patches = feature_masks(str(patch), x)
    superpixels = feature_masks("superpixels", x)
    with tqdm(total=len(x) * len(candidates), desc=subject.name) as progress:
        for i, image in enumerate(x.split(1)):
            target = int(subject.model(image).argmax())
            mask = patches[i]
            other = np.unique(superpixels[i], return_inverse=True)[1].reshape(mask.shape)
            for name, forward in candidates.items():
                measured, best = explained(
                    coalition_values(forward, image, mask, target), np.ones(mask.max() + 1, bool), samples, i
                )
                values = coalition_values(forward, image, other, target)
                pool = shapley_coalitions(other.max() + 1, samples, np.random.default_rng([i, 3]))
                ends = values(np.stack([np.zeros(other.max() + 1, bool), np.ones(other.max() + 1, bool)]))
                segments = kernel_shap(pool, values(pool), *ends)
                # Per pixel: features differ in size.
                area_of = np.bincount(mask.ravel()), np.bincount(other.ravel())
                measured["superpixels agree"] = rank_correlation(
                    (best / area_of[0])[mask].ravel()[::7], (segments / area_of[1])[other].ravel()[::7]
                )
                order = np.argsort(-best, kind="stable")
                for judge, judged in judges.items():
                    first = area(judged, image, mask, order, target)
                    last = area(judged, image, mask, order[::-1], target)
                    measured |= {f"deletion by {judge}": first, f"least first less deletion, {judge}": last - first}
                rows.append({"image": i, "removal": name} | measured)
                progress.update()
    return rows


def table(rows: list[dict[str, object]]) -> str:
    """Means by removal, and how far they lie from those of layer masking, with paired standard errors."""
    names = list(dict.fromkeys(str(row["removal"]) for row in rows))
    lines = ["| measure | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for measure in [one for one in rows[0] if one not in ("image", "removal")]:
        of = {name: np.array([row[measure] for row in rows if row["removal"] == name], float) for name in names}
        cells = []
        for name in names:
            less = of[name] - of["layer masking"]
            error = less.std(ddof=1) / len(less) ** 0.5
            cells.append(
                f"{of[name].mean():.3f}" + ("" if name == "layer masking" else f" ({less.mean():+.3f} ± {error:.3f})")
            )
        lines.append(f"| {measure} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Read the command line, run the study, write table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder with labels.csv, or .npz")
    parser.add_argument("--model", nargs="+", default=["lite0"], help="as in retention.py, or loader:FILE?...")
    parser.add_argument("--patch", type=int, default=32, help="side of a patch, in pixels")
    parser.add_argument("--samples", type=int, default=500, help="coalitions in each of four pools")
    parser.add_argument("--count", type=int, default=24, help="how many images are explained")
    parser.add_argument("--out", type=Path, default=Path("explanations"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.model:
        subject = load(name)
        x = torch.stack([subject.preprocess(image) for image in images_from(options.images)[0][: 8 * options.count]])
        with torch.inference_mode():
            rows = study(subject, x[1::2][: options.count], x[::2][:100], options.patch, options.samples)
        text = table(rows)
        (options.out / f"{subject.name}.json").write_text(
            json.dumps({"model": subject.name, "rows": rows}, default=float)
        )
        (options.out / f"{subject.name}.md").write_text(text + "\n")
        print(f"{subject.name}, {len(rows)} rows\n\n{text}\n", flush=True)


if __name__ == "__main__":
    main()
