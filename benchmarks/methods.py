"""Explanation methods on the same images and model: faithfulness, localisation, forward passes and time.

SISE, Ada-SISE, Integrated Grad-CAM and RISE beside Captum's Grad-CAM, Occlusion and Integrated Gradients, and Grad-CAM++
and Score-CAM of pytorch-grad-cam. Writes a table (Markdown), JSON and a figure. What --out already holds is not
run again, so that images, methods and shares can be added.

    python benchmarks/methods.py --images PHOTOS --model lite0 --out methods
    python benchmarks/methods.py --images PHOTOS --methods grad-cam sise ada-sise --limit 40 --shares 0.15 0.3 0.5

The class that the model predicts is explained. Boxes, where there are some, come as a CSV file with the columns file, x0,
y0, x1, y1 in pixels of the image as the model gets it.
"""

import argparse
import csv
import json
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam, Occlusion
from models import Subject, images_from, load
from torch import Tensor, nn
from tqdm import tqdm

import lm_plugins as lm
from lm_plugins.attribution import RISE, SISE, AdaSISE, IntegratedGradCam, layers_before_downsampling
from lm_plugins.audit import (
    BlurredCopy,
    bbox,
    confidence_in_top,
    deletion,
    drop_in_confidence,
    energy_pointing_game,
    increase_in_confidence,
    insertion,
    measured_cost,
    top_iou,
)
from lm_plugins.removal import Colour, as_removal

Explain = Callable[[Tensor, int], Tensor]
Row = dict[str, object]


def methods(subject: Subject, layer: str, masks: int, batch: int) -> dict[str, Explain]:
    """Every method as a function of one image ``(1, C, H, W)`` and a class, which returns a map ``(1, 1, H, W)``."""
    model, black = subject.model, Colour(subject.colour(0.0))
    path, _, number = layer.partition("@")
    module = model.get_submodule(path)
    size = {"interpolate_mode": "bilinear"}

    def grad_cam(x: Tensor, target: int) -> Tensor:
        maps = LayerGradCam(model, module).attribute(x, target, relu_attributions=True)
        return LayerAttribution.interpolate(maps, x.shape[2:], **size)

    def integrated(x: Tensor, target: int) -> Tensor:
        cam = IntegratedGradCam(model, layer)
        return cam.interpolate(cam.attribute(x, target, internal_batch_size=batch), x.shape[2:], **size)

    def occlusion(x: Tensor, target: int) -> Tensor:
        explainer = Occlusion(nn.Sequential(model, nn.Softmax(1)))
        window, step = (
            (x.shape[1], round(x.shape[2] * share), round(x.shape[3] * share)) for share in (3 / 14, 1 / 14)
        )
        values = explainer.attribute(x, window, step, target=target, baselines=0.0, perturbations_per_eval=batch)
        return values[:, :1]

    def integrated_gradients(x: Tensor, target: int) -> Tensor:
        values = IntegratedGradients(model).attribute(x, target=target, n_steps=50, internal_batch_size=batch)
        return values.abs().sum(1, keepdim=True)

    def pytorch_grad_cam(name: str, x: Tensor, target: int) -> Tensor:
        import pytorch_grad_cam as other
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        with tapped(model, module, int(number or 1)) as tap, getattr(other, name)(model, [tap]) as cam:
            cam.batch_size = batch
            return torch.from_numpy(cam(input_tensor=x, targets=[ClassifierOutputTarget(target)]))[:, None]

    def ours(method: type, x: Tensor, target: int, **settings: object) -> Tensor:
        return method(model, output="logits", batch_size=batch, **settings).attribute(x, target)

    def rise(x: Tensor, target: int) -> Tensor:
        return RISE(model, output="logits", batch_size=batch).attribute(x, target, n_masks=masks, seed=0)

    return {
        "grad-cam": grad_cam,
        "grad-cam++": partial(pytorch_grad_cam, "GradCAMPlusPlus"),
        "score-cam": partial(pytorch_grad_cam, "ScoreCAM"),
        "integrated grad-cam": integrated,
        "sise": partial(ours, SISE, removal=black),
        "ada-sise": partial(ours, AdaSISE, removal=black),
        "sise, otsu factor 1.5": partial(ours, SISE, removal=black, otsu_factor=1.5),
        "ada-sise, otsu factor 1.5": partial(ours, AdaSISE, removal=black, otsu_factor=1.5),
        "ada-sise, simple fusion": partial(ours, AdaSISE, removal=black, fusion="simple"),
        "ada-sise, hard fusion": partial(ours, AdaSISE, removal=black, fusion="hard"),
        "ada-sise, layer masking": partial(ours, AdaSISE, removal=None),
        "rise": rise,
        "occlusion": occlusion,
        "integrated gradients": integrated_gradients,
    }


@contextmanager
def tapped(model: nn.Module, module: nn.Module, number: int) -> Iterator[nn.Module]:
    """A layer that is called once, with the output of one call of a module; for packages that cannot choose a call."""
    tap, calls = nn.Identity(), [0]

    def start(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        calls[0] = 0

    def through(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        calls[0] += 1
        return tap(output) if calls[0] == number else None

    handles = model.register_forward_pre_hook(start), module.register_forward_hook(through)
    try:
        yield tap
    finally:
        for handle in handles:
            handle.remove()


def measured(
    subject: Subject,
    x: Tensor,
    target: int,
    attribution: Tensor,
    region: Tensor | None,
    steps: int,
    shares: list[float],
    known: Row,
) -> Row:
    """What one map is worth; `known` holds what need not be measured again."""
    row: Row = {}
    for share in shares:
        for name in ("grey", "layer_masking"):
            about = f"{name}, {share:g}"
            if f"drop, {about}" in known:
                continue
            forward = as_removal(name)(subject.model)
            before, after = confidence_in_top(forward, x, attribution, target, share=share, output="logits")
            row[f"drop, {about}"] = float(drop_in_confidence(before, after))
            row[f"increase, {about}"] = float(increase_in_confidence(before, after))
    grey, blurred = as_removal("grey")(subject.model), BlurredCopy()(subject.model)
    curves = {
        "deletion": (deletion, grey), "insertion": (insertion, grey), "insertion, blurred copy": (insertion, blurred)
    }  # fmt: skip
    for name, (curve, forward) in curves.items():
        if name not in known:
            row[name] = float(curve(forward, x, attribution, target, steps, output="logits", batch_size=8).auc)
    if region is not None and "mIoU" not in known:
        row["energy pointing game"] = 100 * float(energy_pointing_game(attribution, region))
        row["mIoU"] = 100 * float(top_iou(attribution, region))
        row["bbox"] = 100 * float(bbox(attribution, region))
    return row


def kept_rows(store: Path, about: Row) -> list[Row]:
    """What an earlier run measured, if it is about the same model and settings; an error says what is other."""
    if not store.exists():
        return []
    kept = json.loads(store.read_text())
    other = [f"{key} was {kept['about'].get(key)}, is {value}" for key, value in about.items()
             if kept["about"].get(key) != value]  # fmt: skip
    if other:
        raise SystemExit(f"{store.parent} holds other numbers ({'; '.join(other)}): take another folder with --out.")
    return list(kept["rows"])


def boxes_from(file: Path | None, size: tuple[int, int]) -> dict[str, Tensor]:
    """Bool ``(H, W)`` for each file name: the union of its boxes."""
    found: dict[str, Tensor] = {}
    if file is not None:
        with file.open(newline="") as table:
            for row in csv.DictReader(table):
                x0, y0, x1, y1 = (round(float(row[one])) for one in ("x0", "y0", "x1", "y1"))
                found.setdefault(row["file"], torch.zeros(size, dtype=torch.bool))[y0:y1, x0:x1] = True
    return found


def table(rows: list[Row]) -> str:
    """A Markdown table: a line for each method, means over images; of seconds medians."""
    kinds = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in ("image", "method")]
    lines = ["| method | images | " + " | ".join(_heading(name) for name in kinds) + " |"]
    lines += ["|---|---|" + "---|" * len(kinds)]
    for method in dict.fromkeys(row["method"] for row in rows):
        part = [row for row in rows if row["method"] == method]
        digits = {"deletion": 3, "insertion": 3, "insertion, blurred copy": 3, "passes": 0}
        cells = []
        for name in kinds:
            values = [float(row[name]) for row in part if name in row]  # type: ignore[arg-type]
            # On a shared machine single times are far off.
            middle = np.median if name == "seconds" else np.mean
            mean = f"{middle(values):.{digits.get(name, 1)}f}" if values else ""
            cells.append(mean if len(values) in (0, len(part)) else f"{mean} ({len(values)})")
        lines += [f"| {method} | {len(part)} | " + " | ".join(cells) + " |"]
    return "\n".join(lines) + "\n"


def _heading(kind: str) -> str:
    if kind.startswith(("drop", "increase")):
        what, removal, share = kind.split(", ")
        masked = ", masked" if removal == "layer_masking" else ""
        return f"{what} %, {float(share):.0%}{masked} {'↓' if what == 'drop' else '↑'}"
    return {
        "deletion": "deletion, grey ↓",
        "insertion": "insertion, grey ↑",
        "insertion, blurred copy": "insertion, blurred copy ↑",
        "passes": "images run",
        "seconds": "seconds, median",
    }.get(kind, kind)


def figure(subject: Subject, images: dict[str, Tensor], maps: dict[str, dict[str, Tensor]], file: Path) -> None:
    """Some images and all maps, each spread over [0, 1], on one colour scale."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(next(iter(maps.values())))
    fig, axes = plt.subplots(
        len(maps),
        len(names) + 1,
        figsize=(1.9 * (len(names) + 1), 2.1 * len(maps)),
        squeeze=False,
        layout="constrained",
    )
    std, mean = (torch.tensor(one)[:, None, None] for one in (subject.std, subject.mean))
    for row, (image, found) in zip(axes, maps.items(), strict=True):
        row[0].imshow((images[image][0] * std + mean).clamp(0, 1).permute(1, 2, 0))
        for axis, name in zip(row[1:], names, strict=True):
            axis.imshow(found[name][0, 0], vmin=0, vmax=1, cmap="magma")
    for axis, name in zip(axes[0], ["image", *names], strict=True):
        axis.set_title(name.replace(", ", ",\n"), fontsize=9)
    for axis in axes.flat:
        axis.axis("off")
    fig.savefig(file, dpi=110)
    plt.close(fig)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, run the methods, write table, JSON and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder or .npz; default: the packaged photographs")
    parser.add_argument("--boxes", type=Path, help="CSV file with the columns file, x0, y0, x1, y1")
    parser.add_argument("--model", default="lite0", help="lite0, lite1, lite2, torchvision:NAME@WEIGHTS, cifar:56:FILE")
    parser.add_argument("--methods", nargs="+", help="names of some methods only")
    parser.add_argument("--limit", type=int, help="use LIMIT images, evenly spread over the folder")
    parser.add_argument("--masks", type=int, default=1000, help="random masks of RISE")
    parser.add_argument(
        "--shares", type=float, nargs="+", default=[0.15], help="of pixels visible for drop and increase"
    )
    parser.add_argument("--steps", type=int, default=16, help="steps of insertion and deletion")
    parser.add_argument("--batch", type=int, default=8, help="images in one forward pass; 8 is fastest on most CPUs")
    parser.add_argument("--drawn", type=int, default=3, help="images in the figure")
    parser.add_argument("--out", type=Path, default=Path("methods"))
    options = parser.parse_args(arguments)
    (options.out / "maps").mkdir(parents=True, exist_ok=True)
    store = options.out / "methods.json"
    subject = load(options.model)
    subject.model.to(memory_format=torch.channels_last)
    every, _ = images_from(options.images)
    count = min(options.limit or len(every), len(every))
    chosen = [every[i * len(every) // count] for i in range(count)]
    images = {str(i * len(every) // count): subject.preprocess(one)[None] for i, one in enumerate(chosen)}
    names = {key: Path(getattr(one, "filename", key)).name for key, one in zip(images, chosen, strict=True)}
    first = next(iter(images.values()))
    layers = layers_before_downsampling(subject.model, first)
    known = methods(subject, layers[-1], options.masks, options.batch)
    unknown = set(options.methods or ()) - set(known)
    if unknown:
        raise SystemExit(f"unknown methods {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    boxes = boxes_from(options.boxes, (first.shape[2], first.shape[3]))
    with torch.no_grad():
        answer = subject.model(first)[0, :8].tolist()
    about = {"model": subject.name, "layers": layers, "masks of rise": options.masks, "steps": options.steps,
             "answer": [round(one, 2) for one in answer],
             "torch": torch.__version__, "lm_plugins": lm.__version__, "machine": platform.machine()}  # fmt: skip
    rows = kept_rows(store, about)
    maps: dict[str, dict[str, Tensor]] = {}
    by_key = {(row["image"], row["method"]): row for row in rows}
    for i, (key, x) in enumerate(tqdm(images.items(), desc=subject.name)):
        with torch.no_grad():
            target = int(subject.model(x).argmax())
        region = boxes.get(names[key])
        if boxes and region is None:
            continue
        for name in options.methods or known:
            row, kept = by_key.get((names[key], name)), options.out / "maps" / f"{Path(names[key]).stem}-{name}.npy"
            if row is None or not kept.exists():
                with measured_cost(subject.model) as cost:
                    attribution = known[name](x, target).detach()
                np.save(kept, attribution.numpy().astype(np.float32))
                row = {"image": names[key], "method": name, "passes": cost.images, "seconds": cost.seconds}
                rows[:] = [one for one in rows if (one["image"], one["method"]) != (names[key], name)] + [row]
            attribution = torch.from_numpy(np.load(kept))
            row |= measured(subject, x, target, attribution, region, options.steps, options.shares, row)
            if i < options.drawn:
                maps.setdefault(key, {})[name] = _spread(attribution)
        store.write_text(json.dumps({"about": about, "rows": rows}, indent=1))
    text = table(rows)
    (options.out / "methods.md").write_text(text)
    if maps:
        figure(subject, images, maps, options.out / "methods.png")
    print(f"\n{text}\ntable, JSON and figure are in {options.out}")


def _spread(value: Tensor) -> Tensor:

    low, high = value.min(), value.max()
    return (value - low) / (high - low).clamp(min=1e-12)


if __name__ == "__main__":
    main()
