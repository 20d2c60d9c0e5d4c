# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Calibration: layer masking fitted to a model
#
# Under a mask, activations have other moments than those that the weights behind them were trained on. `lm.calibrate` puts
# them back, from unlabelled images and without training. Here: a small CNN on scikit-learn's digits, what masks do to the
# moments of its layers, and what remains of its accuracy before and after.
#
# Runs in about a minute on two CPU cores, without downloads (`pip install 'lm_plugins[demo,calibration]'`).

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

import lm_plugins as lm
from lm_plugins.features import grid, visible_from

torch.manual_seed(0)
digits = load_digits()
images = torch.from_numpy(digits.images).float()[:, None] / 8 - 1
images = nn.functional.interpolate(images, size=(32, 32), mode="bilinear")
labels = torch.from_numpy(digits.target)
order = torch.randperm(len(images))
train, test = order[:1200], order[1200:]


def block(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


model = nn.Sequential(
    block(1, 16), block(16, 16), block(16, 32, 2), block(32, 32), block(32, 64, 2), block(64, 64),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
)  # fmt: skip
epochs = 6
optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, epochs=epochs, steps_per_epoch=19)
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
print(f"{accuracy:.1%} of the test images right")
assert accuracy > 0.9

# %% [markdown]
# ## Calibrate
#
# A hundred training images, without their labels.

# %%
plain = lm.LayerMasked(model)
calibrated = lm.calibrate(plain, images[train[:100]])
print(calibrated.calibration)

# %% [markdown]
# ## Moments
#
# The mean of every channel of the last convolution, over what is visible, against that of whole images. On the diagonal, a
# mask changes nothing. A hook sees what a layer gives.

# %%
features = grid((32, 32), 4)
present = torch.ones(len(test), 64, dtype=torch.bool)
removed_order = torch.stack([torch.randperm(64) for _ in test])
present.scatter_(1, removed_order[:, :38], False)
visible = visible_from(present, features)


def channel_means(masked: lm.LayerMasked, visible: torch.Tensor) -> torch.Tensor:
    kept = []
    hook = model[5][0].register_forward_hook(lambda module, args, output: kept.append(output))
    with torch.inference_mode():
        masked(images[test], visible)
    hook.remove()
    return torch.as_tensor(kept[-1].sum((0, 2, 3)) / (kept[-1] != 0).any(1).sum())


with torch.inference_mode():
    whole = channel_means(plain, torch.ones(32, 32))
fig, axes = plt.subplots(1, 2, figsize=(7, 3.4), sharex=True, sharey=True, layout="constrained")
for axis, masked, title in zip(axes, (plain, calibrated), ("layer masking", "calibrated"), strict=True):
    means = channel_means(masked, visible)
    axis.plot([whole.min(), whole.max()], [whole.min(), whole.max()], c="0.7", lw=1)
    axis.plot(whole, means, ".")
    axis.set(title=f"{title}: off by {float((means - whole).abs().mean()):.3f}", xlabel="mean, whole images")
axes[0].set_ylabel("mean, 60 % removed")
plt.show()

# %% [markdown]
# ## What remains of the accuracy

# %%
fractions = (0.1, 0.3, 0.5, 0.7, 0.8)
removals = {
    "published": lm.LayerMasked(model, lm.published("resnet50")),
    "layer masking": plain,
    "calibrated": calibrated,
}
kept: dict[str, list[float]] = {name: [] for name in removals}
for fraction in fractions:
    present = torch.ones(len(test), 64, dtype=torch.bool)
    present.scatter_(1, removed_order[:, : round(fraction * 64)], False)
    for name, forward in removals.items():
        with torch.inference_mode():
            found = forward(images[test], visible_from(present, features)).argmax(1)
        kept[name].append(float((found == labels[test]).float().mean()))

fig, axis = plt.subplots(figsize=(5, 3.2), layout="constrained")
for (name, values), marker in zip(kept.items(), "Dso", strict=True):
    axis.plot(fractions, values, marker=marker, label=name)
    print(f"{name:13} " + "  ".join(f"{value:.2f}" for value in values))
axis.set(xlabel="share of patches removed", ylabel="accuracy")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Keep it
#
# A file belongs to this very model. On another one, loading is an error that says what differs.

# %%
file = Path(tempfile.mkdtemp()) / "digits.safetensors"
calibrated.calibration.save(file)
again = lm.LayerMasked(model, calibration=lm.Calibration.load(file))
with torch.inference_mode():
    assert torch.equal(again(images[test], visible), calibrated(images[test], visible))

other = nn.Sequential(*model[:-1], nn.Linear(64, 10)).eval()
try:
    lm.LayerMasked(other, calibration=lm.Calibration.load(file))
except lm.errors.CalibrationError as error:
    print(error)

# %% [markdown]
# Whole images never see a correction: the plain model's answers stay, bit for bit.

# %%
with torch.inference_mode():
    assert torch.equal(calibrated(images[test], torch.ones(32, 32)), model(images[test]))
