"""Draw the figures of the documentation's pages on explanation methods: one photograph, a pretrained CNN.

python benchmarks/draw_methods.py --out docs/figures
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import torch
import torch.nn.functional as F
from captum.attr import LayerAttribution, LayerGradCam
from matplotlib import pyplot as plt
from models import load, photographs
from torch import Tensor
from tqdm import tqdm

from lm_plugins.attribution import RISE, SISE, AdaSISE, IntegratedGradCam, random_masks
from lm_plugins.removal import Colour

SIDE = 128


def drawn(panels: dict[str, Tensor], file: Path) -> None:
    """One row: colour images as they are, maps from 0 to their largest value."""
    fig, axes = plt.subplots(1, len(panels), figsize=(2.1 * len(panels), 2.5), layout="constrained")
    for axis, (title, panel) in zip(axes, panels.items(), strict=True):
        panel = panel.detach().squeeze()
        axis.imshow(panel.permute(1, 2, 0) if panel.ndim == 3 else panel, cmap="magma")
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    fig.savefig(file, dpi=110)
    plt.close(fig)


def main() -> None:
    """Run the methods and write one figure each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    parser.add_argument("--masks", type=int, default=1000)
    options = parser.parse_args()
    subject = load("lite0")
    model, black = subject.model, Colour(subject.colour(0.0))
    x = F.interpolate(subject.preprocess(photographs()["chelsea"])[None], (SIDE, SIDE), mode="bilinear", antialias=True)
    std, mean = (torch.tensor(one)[:, None, None] for one in (subject.std, subject.mean))
    image = (x[0] * std + mean).clamp(0, 1)
    target = int(model(x).argmax())

    def grown(maps: Tensor) -> Tensor:
        return LayerAttribution.interpolate(maps, (SIDE, SIDE), "bilinear")

    with tqdm(total=3, desc="figures") as progress:
        cam = IntegratedGradCam(model, "_swish")
        panels = {
            "image": image,
            "Grad-CAM": grown(LayerGradCam(model, model._swish).attribute(x, target, relu_attributions=True)),
            "Integrated Grad-CAM": grown(cam.attribute(x, target)),
            "final ReLU": grown(cam.attribute(x, target, relu="final")),
            "path integral": grown(cam.attribute(x, target, integral="riemann_stieltjes")),
        }
        drawn(panels, options.out / "integrated_grad_cam.png")
        progress.update()

        settings = {"removal": black, "output": "logits"}
        layers = SISE(model).layers_for(x)
        sise = {"image": image}
        for i, layer in enumerate(layers, 1):
            sise[f"layer {i} alone"] = SISE(model, [layer], **settings).attribute(x, target)
        sise["SISE"] = SISE(model, **settings).attribute(x, target)
        sise["Ada-SISE"] = AdaSISE(model, **settings).attribute(x, target)
        drawn(sise, options.out / "sise.png")
        progress.update()

        rise = RISE(model, output="logits")
        values, error = rise.attribute(x, target, n_masks=options.masks, seed=0, return_standard_error=True)
        mask = next(random_masks((SIDE, SIDE), 1, seed=2))
        masked = RISE(model, removal=None, output="logits").attribute(x, target, n_masks=options.masks, seed=0)
        panels = {"image": image, "a mask": image * mask, "RISE": values, "standard error": error,
                  "RISE, layer masking": masked}  # fmt: skip
        drawn(panels, options.out / "rise.png")
        progress.update()


if __name__ == "__main__":
    main()
