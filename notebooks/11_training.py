# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Training with explanations: EDDA and ExCon
#
# If an explanation says that a region matters, then the answer should survive when only this region is left, and should not
# when it is hidden. EDDA trains a classifier so; ExCon uses the same idea for the views of contrastive learning. Here:
# a small CNN on scikit-learn's digits, in a loop of one's own.
#
# Runs in about two minutes on two CPU cores, without downloads (`pip install 'lm_plugins[demo,training]'`).

# %%
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from lm_plugins.audit import confidence_in_top, drop_in_confidence, increase_in_confidence
from lm_plugins.removal import as_removal
from lm_plugins.training import (
    ExConViews,
    ExplanationDrivenAugmentation,
    GradCam,
    explained,
    supervised_contrastive_loss,
)

digits = load_digits()
images = torch.from_numpy(digits.images).float()[:, None] / 16
images = F.interpolate(images, size=(32, 32), mode="bilinear") - 0.3  # 0 is about the mean colour
labels = torch.from_numpy(digits.target)
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
train, test = order[:1200], order[1200:]
LAYER = GradCam("1.0")


def block(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


def network(outputs: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        block(1, 16, 2), block(16, 32, 1), block(32, 64, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, outputs)
    )  # fmt: skip


# %% [markdown]
# ## EDDA in a training loop
#
# `augment(model, x, y)` gives the batch and up to two views of each image. The view without the salient region is trained
# towards an extra class, background, so that the network has eleven outputs.


# %%
def trained(augment: ExplanationDrivenAugmentation | None, epochs: int = 12) -> nn.Sequential:
    model = network(11)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, epochs=epochs, steps_per_epoch=19)
    for epoch in range(epochs):
        model.train()
        if augment is not None:
            augment.epoch = epoch
        for part in train[torch.randperm(len(train), generator=torch.Generator().manual_seed(epoch))].split(64):
            x, y = images[part], labels[part]
            if augment is None:
                loss = F.cross_entropy(model(x), y)
            else:
                views = augment(model, x, y)
                loss = F.cross_entropy(views.logits(model), views.targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


edda = ExplanationDrivenAugmentation(LAYER, classes=10, warm_up=3)
models = {"plain": trained(None), "EDDA": trained(edda)}

# %% [markdown]
# What the network is shown, at the end of training: whole images, what their explanation leaves, what it hides.

# %%
x, y = images[test[:6]], labels[test[:6]]
views = edda(models["EDDA"], x, y)
figure, axes = plt.subplots(3, 6, figsize=(9, 4.6))
for ax in axes.flat:
    ax.set_axis_off()
for image, source, kind in zip(views.images, views.sources, torch.arange(len(views)) // len(x), strict=True):
    axes[min(int(kind), 2), int(source)].imshow(image[0], cmap="gray", vmin=-0.3, vmax=0.7)
for row, name in enumerate(("whole", "salient region left", "salient region hidden")):
    axes[row, 0].set_title(name, loc="left", fontsize=9)
plt.show()

# %% [markdown]
# ## What it changed
#
# Accuracy, and drop and increase in confidence when only the 15 % of the pixels that the explanation ranks highest are left.


# %%
def measured(model: nn.Module) -> dict[str, float]:
    x, y = images[test], labels[test]
    with torch.inference_mode():
        predicted = model(x)[:, :10].argmax(1)
    maps = explained(model, LAYER, x, predicted)
    before, after = confidence_in_top(as_removal("grey")(model), x, maps, predicted, 0.15, output="logits")
    return {
        "accuracy %": 100 * float((predicted == y).double().mean()),
        "drop %": float(drop_in_confidence(before, after).mean()),
        "increase %": float(increase_in_confidence(before, after).mean()),
    }


for name, model in models.items():
    print(f"{name:6}", {measure: round(value, 1) for measure, value in measured(model).items()})

# %% [markdown]
# The network that was trained with EDDA is surer of what its explanations leave. Its accuracy pays for that: a digit is not
# in its salient half alone.
#
# ## ExCon: views for contrastive learning
#
# The first view of an image is its salient region, if the model recognises the image from that; the second is an ordinary
# augmentation. Images that fail become background, which only pushes away. Encoder and classifier train in turns.

# %%
torch.manual_seed(0)
model = network(10)
encoder, classifier = model[:5], model[5]
projector = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
make_views = ExConViews(LAYER, classes=10, start=1, max_background=16)
embedding = torch.optim.AdamW([*encoder.parameters(), *projector.parameters()], 3e-3)
classifying = torch.optim.AdamW(classifier.parameters(), 1e-2)


def shifted(x: torch.Tensor) -> torch.Tensor:
    by = torch.randint(-3, 4, (len(x), 2)).tolist()
    return torch.stack([image.roll(one, (1, 2)) for image, one in zip(x, by, strict=True)])


for epoch in range(6):
    make_views.epoch = epoch
    counts = torch.zeros(2)
    for part in train[torch.randperm(len(train))].split(64):
        x, y = images[part], labels[part]
        model.train()
        views = make_views(model, x, shifted(x), shifted(x), y)
        counts += torch.tensor([float((~views.visible[: len(x)].flatten(1).all(1)).sum()), len(x)])
        z = projector(views.outputs(encoder))
        loss = supervised_contrastive_loss(z, views.targets, views.background)
        embedding.zero_grad()
        loss.backward()
        embedding.step()
    encoder.eval()
    for part in train.split(64):
        with torch.no_grad():
            features = encoder(images[part])
        classifying.zero_grad()
        F.cross_entropy(classifier(features), labels[part]).backward()
        classifying.step()
    print(f"epoch {epoch}: {counts[0] / counts[1]:.0%} of the images were recognised from their explanation")
print({measure: round(value, 1) for measure, value in measured(model.eval()).items()})

# %% [markdown]
# For whole runs, with checkpoints, logging and several devices, there is `lm-plugins train --method edda|excon|exconb ...`.
# One network, one seed and easy images show how it works, not whether it helps: the pages `docs/edda.md` and
# `docs/excon.md` have what was measured.
