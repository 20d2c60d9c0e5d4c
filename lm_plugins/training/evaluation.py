"""What the papers measure of a trained classifier: accuracy, explanations, adversaries, calibration under shift."""

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from captum.metrics import infidelity, sensitivity_max
from captum.robust import FGSM, PGD
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_calibration_error
from torchvision.transforms.v2.functional import adjust_contrast, gaussian_blur

from lm_plugins.audit import confidence_in_top, drop_in_confidence, increase_in_confidence
from lm_plugins.checks import check_evaluation_mode
from lm_plugins.errors import OptionError
from lm_plugins.removal import Removal, as_removal
from lm_plugins.training.explainers import Explainer
from lm_plugins.training.explaining import check_labels, explained

__all__ = ["evaluate"]

#: Of FGSM and PGD, in pixel values on [0, 1].
_EPSILON = 4 / 255
_NOISE = 0.02  # standard deviation of the changes of infidelity and sensitivity


def evaluate(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    classes: int,
    explainer: Explainer,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    share: float = 0.15,
    removal: Removal | str | None = "grey",
    explained_images: int = 200,
    batch_size: int = 100,
    seed: int = 0,
) -> dict[str, Tensor]:
    """The papers' measures, image by image.

    Args:
        model: A classifier in evaluation mode. Outputs beyond `classes` (EDDA's background) are left out: answers and
            probabilities are of the real classes.
        x: Images ``(N, C, H, W)``, normalised.
        labels: Int64 ``(N,)``.
        classes: How many classes there are.
        explainer: Explains the class that the model predicts.
        mean: Of the normalisation, on [0, 1].
        std: Of the normalisation.
        share: Of the pixels that drop and increase keep.
        removal: How they hide the others.
        explained_images: Infidelity and sensitivity are dear, and measured on the first so many.
        batch_size: Images in one forward pass.
        seed: Of noise.

    Returns:
        ``accuracy``, ``drop`` and ``increase`` (percent), ``fgsm_accuracy``, ``pgd_accuracy`` (both with epsilon 4/255), and
        ``corrupted_accuracy`` (over noise, blur and low contrast), each ``(N,)``; ``infidelity`` and ``sensitivity``, of
        fewer images; and the expected calibration errors in ten bins ``ece``, ``fgsm_ece`` and ``corrupted_ece``, one
        number each.

    Raises:
        TrainingModeError: The model is in training mode.
        OptionError: A label is out of range, or a number is not above 0.

    References:
        Drop and increase at 15 % and FGSM with 4/255 as in the code of ExCon; PGD with seven steps of epsilon / 4.
        Infidelity and sensitivity: Yeh et al., NeurIPS 2019, by Captum. How EDDA's paper measures alignment is not known.
    """
    check_evaluation_mode(model, "evaluate")
    check_labels(x, labels, classes, "evaluate")
    for name, value in (("explained_images", explained_images), ("batch_size", batch_size)):
        if value < 1:
            raise OptionError(f"{name} is above 0, got {value!r}.")
    answering = _Answering(model, classes, x.new_tensor(mean), x.new_tensor(std))
    random = torch.Generator().manual_seed(seed)
    found: dict[str, list[Tensor]] = {}
    logits: dict[str, list[Tensor]] = {"": [], "fgsm_": [], "pgd_": [], "corrupted_": []}
    left = explained_images
    for part, its_labels in zip(torch.split(x, batch_size), torch.split(labels, batch_size), strict=True):
        pixels = answering.pixels(part)
        with torch.no_grad():
            clean = answering(pixels)
        predicted = clean.argmax(1)
        maps = explained(model, explainer, part, predicted, batch_size)
        before, after = confidence_in_top(
            as_removal(removal)(_Classes(model, classes)), part, maps, predicted, share, output="logits"
        )
        shown = {"drop": drop_in_confidence(before, after), "increase": increase_in_confidence(before, after)}
        if left > 0:
            shown |= _captum(model, classes, explainer, part[:left], predicted[:left], maps[:left], seed)
            left -= len(part)
        for name, values in shown.items():
            found.setdefault(name, []).append(values.cpu())
        logits[""].append(clean)
        fgsm, pgd = (attack(answering, _loss, 0.0, 1.0) for attack in (FGSM, PGD))
        attacked = pixels.clone().requires_grad_()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Input Tensor 0 did not already require gradients")  # captum's own copy
            adversarial = {
                "fgsm_": fgsm.perturb(attacked, _EPSILON, its_labels),
                "pgd_": pgd.perturb(attacked, _EPSILON, _EPSILON / 4, 7, its_labels),
            }
        with torch.no_grad():
            for name, images in adversarial.items():
                logits[name].append(answering(images.detach()))
            logits["corrupted_"].append(torch.stack([answering(one) for one in _corrupted(pixels, random)]))
    result = {name: torch.cat(values) for name, values in found.items()}
    for name, parts in logits.items():
        joined = torch.cat(parts, -2)  # (N, classes), or (corruptions, N, classes)
        right = (joined.argmax(-1) == labels).float()
        result[f"{name}accuracy"] = (right if right.ndim == 1 else right.mean(0)).cpu()
        if name != "pgd_":
            several = joined if joined.ndim == 3 else joined[None]
            errors = [multiclass_calibration_error(one.softmax(1), labels, classes, 10) for one in several]
            result[f"{name}ece"] = torch.stack(errors).mean().cpu()
    return result


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


class _Classes(nn.Module):
    """A model's logits of the real classes."""

    def __init__(self, model: nn.Module, classes: int) -> None:
        super().__init__()
        self.model, self.classes = model, classes
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits[:, : self.classes]


class _Answering(_Classes):
    """The same for pixels on [0, 1], where adversaries live."""

    def __init__(self, model: nn.Module, classes: int, mean: Tensor, std: Tensor) -> None:
        super().__init__(model, classes)
        self.mean, self.std = mean[:, None, None], std[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x - self.mean) / self.std)

    def pixels(self, x: Tensor) -> Tensor:
        """Normalised images as pixels."""
        return x * self.std + self.mean


def _captum(
    model: nn.Module, classes: int, explainer: Explainer, x: Tensor, predicted: Tensor, maps: Tensor, seed: int
) -> dict[str, Tensor]:
    def noise(inputs: Tensor) -> tuple[Tensor, Tensor]:
        drawn = _NOISE * torch.randn_like(inputs)
        return drawn, inputs - drawn

    def explain(inputs: tuple[Tensor]) -> tuple[Tensor]:
        # Captum repeats images for its draws.
        labels = predicted.repeat_interleave(len(inputs[0]) // len(predicted))
        return (explained(model, explainer, inputs[0], labels),)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {
            "infidelity": infidelity(
                _Classes(model, classes), noise, x, maps[:, None].expand_as(x), target=predicted, n_perturb_samples=5,
                normalize=True,
            ).detach(),
            "sensitivity": sensitivity_max(explain, x, perturb_radius=_NOISE, n_perturb_samples=5).detach(),
        }  # fmt: skip


def _corrupted(pixels: Tensor, random: torch.Generator) -> list[Tensor]:
    """Noise, blur and low contrast, about severity 3 of Hendrycks and Dietterich (ICLR 2019) for small images."""
    noise = torch.randn(pixels.shape, generator=random).to(pixels)
    return [
        (pixels + 0.08 * noise).clamp(0, 1),
        gaussian_blur(pixels, [5, 5], [0.8, 0.8]),
        adjust_contrast(pixels, 0.4),
    ]
