# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # One mask, several architectures: CNN and ViT
#
# `lm.LayerMasked(model)(x, visible)` is the same call for both. A CNN computes on visible positions and pads their borders; a
# transformer drops hidden tokens. Part one shows what each keeps of one photograph. Part two trains a small CNN and a small
# ViT, removes a part of every image, and counts how many predictions survive.
#
# Runs in about two minutes on two CPU cores, without downloads (`pip install 'lm_plugins[demo]'`).

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from skimage import data
from sklearn.datasets import load_digits
from torch import nn
from torchvision import models
from torchvision.models.vision_transformer import VisionTransformer

import lm_plugins as lm
from lm_plugins.features import grid, visible_from
from lm_plugins.removal import as_removal

torch.manual_seed(0)
photograph = Image.fromarray(data.chelsea()).resize((337, 224), Image.Resampling.BICUBIC).crop((40, 0, 264, 224))
x = (torch.from_numpy(np.asarray(photograph, np.float32)) / 255).permute(2, 0, 1)[None]
# In another memory layout, torch rounds differently: `masked_fill` below keeps this one.
x = ((x - 0.45) / 0.225).contiguous()
visible = torch.zeros(224, 224, dtype=torch.bool)
visible[40:168, 56:216] = True  # not aligned with patches of 16 or 32

# %% [markdown]
# ## What is visible to each
#
# Architectures of torchvision, with random weights: no weights of theirs come with a package, and what is visible does not
# depend on weights. The options decide when a patch counts as visible; by default, when 30 % of its pixels are. That holds
# for the patches of a ViT and for the later layers of a CNN alike.

# %%
architectures = {
    "ResNet-18": models.resnet18(),
    "ConvNeXt-T": models.convnext_tiny(),
    "ViT-B/32": models.vit_b_32(),
    "Swin-T": models.swin_t(),
}
for name, model in architectures.items():
    masked = lm.LayerMasked(model.eval())
    with torch.inference_mode():
        plain = model(x)
        everything = masked(x, torch.ones(224, 224))
        output = masked(x, visible)
        garbage = masked(x.masked_fill(~visible, torch.nan), visible)
    assert torch.equal(everything, plain)
    assert torch.equal(garbage, output)
    print(f"{name:11} all visible = the plain model: yes; hidden pixels matter: no")

# %%
fig, axes = plt.subplots(1, 4, figsize=(10, 2.8), layout="constrained")
axes[0].imshow(np.where(visible[..., None], np.asarray(photograph), 255))
axes[0].set_title("visible pixels")
for axis, patch in zip(axes[1:], (16, 32, 32), strict=True):
    share = visible.float().reshape(224 // patch, patch, 224 // patch, patch).mean((1, 3))
    kept = share >= 0.3 if axis is not axes[3] else share >= 1
    axis.imshow(kept, cmap="Greys_r", vmin=0, vmax=1)
    rule = "coverage 0.3" if axis is not axes[3] else "all"
    axis.set_title(f"{patch} x {patch} tokens,\n{rule}")
for axis in axes:
    axis.axis("off")
plt.show()

# %% [markdown]
# ## What hiding costs
#
# A ViT gets shorter sequences: hidden tokens are really dropped. A CNN computes whole maps, so that its time stays.


# %%
def seconds(function, *inputs) -> float:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        function(*inputs)
        times.append(time.perf_counter() - start)
    return sorted(times)[2]


batch = x.expand(4, -1, -1, -1).contiguous()
with torch.inference_mode():
    for name in ("ResNet-18", "ViT-B/32"):
        model, masked = architectures[name], lm.LayerMasked(architectures[name])
        ratios = [seconds(masked, batch, visible) / seconds(model, batch) for _ in range(3)]
        print(f"{name:9} {float(visible.float().mean()):.0%} visible: {sorted(ratios)[1]:.2f} times the plain model")

# %% [markdown]
# ## Which predictions survive
#
# Two small networks, trained on scikit-learn's digits (8 x 8 pixels, enlarged to 32 x 32). Then random 4 x 4 patches of the
# test images are removed: layer-masked (for the ViT, dropped tokens), or painted.

# %%
digits = load_digits()
images = torch.from_numpy(digits.images).float()[:, None] / 8 - 1
images = torch.nn.functional.interpolate(images, size=(32, 32), mode="bilinear")
labels = torch.from_numpy(digits.target)
torch.manual_seed(0)
order = torch.randperm(len(images))
train, test = order[:1200], order[1200:]

cnn = nn.Sequential(
    nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(24, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(48, 96, 3, padding=1), nn.BatchNorm2d(96), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10),
)  # fmt: skip


class Repeated(nn.Module):
    """Grey images for a network of colour images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x.repeat(1, 3, 1, 1))


vit = Repeated(
    VisionTransformer(
        image_size=32, patch_size=4, num_layers=3, num_heads=4, hidden_dim=64, mlp_dim=128, num_classes=10
    )
)
for name, model, epochs, rate in (("CNN", cnn, 8, 3e-3), ("ViT", vit, 20, 2e-3)):
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, epochs=epochs, steps_per_epoch=19)
    for _ in range(epochs):
        model.train()
        for part in train[torch.randperm(len(train))].split(64):
            loss = nn.functional.cross_entropy(model(images[part]), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.inference_mode():
        accuracy = float((model.eval()(images[test]).argmax(1) == labels[test]).float().mean())
    print(f"{name}: {accuracy:.1%} of the test images right")
    assert accuracy > 0.9

# %%
features = grid((32, 32), 4)
fractions = (0.1, 0.3, 0.5, 0.7)
removals = ("layer_masking", "grey", "black", "blur")
removed_order = torch.stack([torch.randperm(64) for _ in test])
kept: dict[tuple[str, str], list[float]] = {}
for name, model in (("CNN", cnn), ("ViT", vit)):
    for removal in removals:
        # The pixels' own black is -1 here, the mean of the images 0.
        forward = as_removal(lm.removal.Colour(-1.0) if removal == "black" else removal)(model)
        for fraction in fractions:
            present = torch.ones(len(test), 64, dtype=torch.bool)
            present.scatter_(1, removed_order[:, : round(fraction * 64)], False)
            with torch.inference_mode():
                found = forward(images[test], visible_from(present, features)).argmax(1)
            kept.setdefault((name, removal), []).append(float((found == labels[test]).float().mean()))

fig, axes = plt.subplots(1, 2, figsize=(10, 3.2), sharey=True, layout="constrained")
for axis, name in zip(axes, ("CNN", "ViT"), strict=True):
    for removal, marker in zip(removals, "osD^", strict=True):
        axis.plot(fractions, kept[name, removal], marker=marker, label=removal.replace("_", " "))
    axis.set_title(name)
    axis.set_xlabel("share of patches removed")
axes[0].set_ylabel("accuracy")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
plt.show()
for key, values in kept.items():
    print(f"{key[0]} {key[1]:13} " + "  ".join(f"{value:.2f}" for value in values))

# %% [markdown]
# Layer masking keeps most predictions in both. Black, the digits' own background, does least harm of the paints for the
# ViT; the CNN reacts to it like to any other. Which paint is harmless depends on the model and the images. Measure it on
# yours.
