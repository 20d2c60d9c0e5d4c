"""ExCon and ExConB: contrastive views that an explanation chooses."""

import numpy as np
import torch
from torch import Tensor, nn

from lm_plugins.errors import ShapeError
from lm_plugins.removal import Removal
from lm_plugins.training.explainers import Explainer
from lm_plugins.training.explaining import check_labels
from lm_plugins.training.explanation_driven import ExplanationDriven, check_counts
from lm_plugins.training.views import Views

__all__ = ["ExConViews"]


class ExConViews(ExplanationDriven):
    """Two views of each image for supervised contrastive learning: one of them shows the explanation only.

    The salient region S of the whole image is left, and the rest is hidden. If the model still answers the label, this is
    the first view. Otherwise the first view is the back-up, an ordinary augmentation, and with `background` the image that
    failed joins the batch as a negative (ExConB).

    Args:
        explainer: Such as ``GradCam("layer2")``; see `Explainer`.
        classes: How many classes there are; background has this number as its target.
        removal: How the rest is hidden. ``"grey"``, the data set's mean colour, is the published one.
        threshold: Of the salient region, in [0, 1).
        background: Append the images that failed: ExConB. Without them it is ExCon.
        background_views: How often each is appended. The published code appends it to both views, 2.
        max_background: At most so many failed images a batch, drawn at random; None for all of them. An untrained model
            fails on nearly all images, and the batch doubles.
        start: Epochs with two ordinary views before explanations begin; set `epoch` at the start of each. (The published
            code counts epochs from 1, so that its ``exp_epochs=50`` is 49 here.)
        batch_size: Images that are explained at once.
        training_mode: Explain in the mode that the model has, as published (see `explained`).
        seed: For `max_background`.

    Raises:
        OptionError: An option is out of range.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lm_plugins.training import ExConViews, GradCam, supervised_contrastive_loss
        >>> _ = torch.manual_seed(0)
        >>> encoder = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> model = nn.Sequential(encoder, nn.Linear(8, 10))
        >>> views = ExConViews(GradCam("0.0"), classes=10)
        >>> whole, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 0, 1])
        >>> batch = views(model, whole, whole.flip(3), whole.flip(2), labels)
        >>> loss = supervised_contrastive_loss(batch.outputs(encoder), batch.targets, batch.background)

    References:
        Zhang, Jang, Trabelsi, Li, Sanner, Jeong and Shim, "ExCon: Explanation-driven supervised contrastive learning for
        image classification", arXiv 2111.14271 (2021), and its code.
    """

    def __init__(
        self,
        explainer: Explainer,
        classes: int,
        *,
        removal: Removal | str | None = "grey",
        threshold: float = 0.5,
        background: bool = True,
        background_views: int = 1,
        max_background: int | None = None,
        start: int = 0,
        batch_size: int = 64,
        training_mode: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(explainer, classes, removal, threshold, batch_size, training_mode, seed)
        limit = 0 if max_background is None else max_background
        check_counts({"background_views": (background_views, 1), "max_background": (limit, 0), "start": (start, 0)})
        self.background = background
        self.background_views = background_views
        self.max_background = max_background
        self.start = start

    def __call__(self, model: nn.Module, whole: Tensor, backup: Tensor, other: Tensor, labels: Tensor) -> Views:
        """The views of a batch.

        Args:
            model: Encoder and classifier, as the explainer needs them; left with the mode and the gradients that it had.
            whole: Images ``(N, C, H, W)`` as they are, normalised. They are explained.
            backup: An augmentation of each, of the same shape: the first view where the explanation fails.
            other: Another one: the second view.
            labels: Int64 ``(N,)``.

        Returns:
            First views, second views, and images of background.

        Raises:
            InputTypeError: An argument has the wrong type.
            ShapeError: The three do not have the same shape, or labels do not fit.
            OptionError: A label is not among the classes.
            NonFiniteError: A pixel is infinite or NaN.
        """
        check_labels(whole, labels, self.classes, "ExCon")
        if not whole.shape == backup.shape == other.shape:
            raise ShapeError(
                f"whole, backup and other have one shape, got {tuple(whole.shape)}, {tuple(backup.shape)} and "
                f"{tuple(other.shape)}."
            )
        labels = labels.long()
        every = torch.arange(len(whole), device=whole.device)
        first, seen = backup, torch.ones(len(whole), *whole.shape[2:], dtype=torch.bool, device=whole.device)
        failed = every[:0]
        salient = seen
        if self.epoch >= self.start and len(whole):
            salient, is_usable = self._salient(model, whole, labels)
            holds = is_usable & (self._answers(model, whole, salient).argmax(1) == labels)
            seen = salient | ~holds[:, None, None]
            first = torch.where(holds[:, None, None, None], self._hiding.painted(whole, salient), backup)
            # Without any region there is nothing to show, not even as background.
            failed = every[~holds & salient.flatten(1).any(1)] if self.background else failed
            failed = self._drawn(failed).repeat(self.background_views)
        rows = [every, every, failed]
        return Views(
            torch.cat([first, other, self._hiding.painted(whole[failed], salient[failed])]),
            torch.cat([seen, torch.ones_like(seen), salient[failed]]),
            torch.cat([labels, labels, torch.full_like(failed, self.classes)]),
            torch.cat([torch.full_like(one, i == 2, dtype=torch.bool) for i, one in enumerate(rows)]),
            torch.cat(rows),
            self._hiding.run,
        )

    def _drawn(self, failed: Tensor) -> Tensor:
        """As many of them as are wanted."""
        if self.max_background is None or len(failed) <= self.max_background:
            return failed
        chosen = np.sort(self._random.permutation(len(failed))[: self.max_background])
        return failed[torch.from_numpy(chosen).to(failed.device)]
