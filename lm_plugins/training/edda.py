"""EDDA: augmentation by what an explanation says matters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import default_collate

from lm_plugins.errors import InputTypeError, OptionError
from lm_plugins.removal import Removal
from lm_plugins.training.explainers import Explainer
from lm_plugins.training.explaining import check_labels, check_share
from lm_plugins.training.explanation_driven import ExplanationDriven, check_counts
from lm_plugins.training.region_cache import RegionCache
from lm_plugins.training.views import Views

__all__ = ["ExplanationDrivenAugmentation", "LowConfidence"]

#: What an image without its salient region is trained towards.
LowConfidence = Literal["background", "negative", "uniform"]


class ExplanationDrivenAugmentation(ExplanationDriven):
    """Explanation-driven data augmentation (EDDA), a callable for one's own training loop.

    An image whose label is y, with its salient region S (the map spread over [0, 1], above a threshold), gives two views:

    - only S is left: the answer must stay y;
    - S is hidden: the answer must no longer be y. `low_confidence` says what it must be.

    Args:
        explainer: Such as ``GradCam("layer3")``; see `Explainer`.
        classes: How many classes there are.
        removal: How regions are hidden. ``"grey"``, the data set's mean colour, is the published one. Layer masking (None)
            needs the model in evaluation mode: freeze batch norm and fine-tune.
        threshold: Of the salient region, in [0, 1).
        low_confidence: Target of the view without S: ``"background"``, an additional class with index `classes`;
            ``"negative"``, class ``classes + y``, one for each class; ``"uniform"``, all classes alike, which makes every
            target a distribution; None leaves these views out.
        probability: With which an image gets its views.
        only_supported: Keep a view only where the model agrees already: it answers y to S alone; it is less sure of y
            without S.
        warm_up: Epochs without views; set `epoch` at the start of each.
        refresh: Explain an image anew after so many epochs, and use its region until then; calls then need `index`. The
            images must be the same in every epoch: crop and flip the views, not what is explained. None explains in every
            call.
        batch_size: Images that are explained at once.
        training_mode: Explain in the mode that the model has (see `explained`).
        seed: For `probability`; the draws of an epoch depend on it and on the number of the epoch.

    Raises:
        OptionError: An option is out of range or unknown.

    Example:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> from torch import nn
        >>> from lm_plugins.training import ExplanationDrivenAugmentation, GradCam
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 11))
        >>> augment = ExplanationDrivenAugmentation(GradCam("0"), classes=10)
        >>> views = augment(model, torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 3]))
        >>> F.cross_entropy(views.logits(model), views.targets).backward()
        >>> len(views)
        12

    References:
        Li, Zhang et al., "EDDA: Explanation-driven data augmentation to improve explanation faithfulness", arXiv
        2105.14162. No code was published: what goes beyond the abstract is reconstructed from the code of the same
        authors' ExCon (threshold, removal, a class for background, negative classes); docs/edda.md says which.
    """

    def __init__(
        self,
        explainer: Explainer,
        classes: int,
        *,
        removal: Removal | str | None = "grey",
        threshold: float = 0.5,
        low_confidence: LowConfidence | None = "background",
        probability: float = 1.0,
        only_supported: bool = False,
        warm_up: int = 0,
        refresh: int | None = None,
        batch_size: int = 64,
        training_mode: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(explainer, classes, removal, threshold, batch_size, training_mode, seed)
        check_share(probability, "probability")
        check_counts({"warm_up": (warm_up, 0)})
        if low_confidence is not None and low_confidence not in get_args(LowConfidence):
            raise OptionError(f"low_confidence is one of {get_args(LowConfidence)} or None, got {low_confidence!r}.")
        self.low_confidence = low_confidence
        self.probability = probability
        self.only_supported = only_supported
        self.warm_up = warm_up
        self._cache = None if refresh is None else RegionCache(refresh)

    @property
    def outputs(self) -> int:
        """How many outputs the model needs."""
        return {"background": self.classes + 1, "negative": 2 * self.classes}.get(
            str(self.low_confidence), self.classes
        )

    @property
    def keeps_regions(self) -> bool:
        """Whether regions are used for several epochs (`refresh`)."""
        return self._cache is not None

    def regions(self) -> dict[int, Any]:
        """The regions that are kept, for a checkpoint."""
        return {} if self._cache is None else self._cache.state()

    def take_up(self, regions: dict[int, Any]) -> None:
        """Go on with the regions of a checkpoint."""
        if self._cache is not None:
            self._cache.take_up(regions)

    def __call__(
        self, model: nn.Module, x: Tensor, labels: Tensor, index: Tensor | Sequence[int] | None = None
    ) -> Views:
        """The images and their views.

        Args:
            model: The classifier that is trained; left with the mode and the gradients that it had.
            x: Images ``(N, C, H, W)``, normalised.
            labels: Int64 ``(N,)``.
            index: Number of each image in the data set, ``(N,)``; for `refresh`.

        Returns:
            The images, then what is left of them, then what is left without the salient region. An image whose map is
            constant or holds NaN has no views.

        Raises:
            InputTypeError: An argument has the wrong type, or `refresh` is set and `index` is missing.
            ShapeError: Labels or index do not fit the images.
            OptionError: A label is not among the classes.
            NonFiniteError: A pixel is infinite or NaN.
        """
        check_labels(x, labels, self.classes, "EDDA")
        labels = labels.long()
        every = torch.arange(len(x), device=x.device)
        whole = torch.ones(len(x), *x.shape[2:], dtype=torch.bool, device=x.device)
        parts = [_Part(every, whole, labels)]
        drawn = torch.from_numpy(self._random.random(len(x)) < self.probability).to(x.device)
        if self.epoch >= self.warm_up and bool(drawn.any()):
            parts += self._parts(model, x, labels, every[drawn], index)
        sources = torch.cat([one.sources for one in parts])
        visible = torch.cat([one.visible for one in parts])
        targets = torch.cat([one.targets for one in parts])
        if self.low_confidence == "uniform":
            targets = _distributions(targets, self.classes)
        return Views(
            self._hiding.painted(x[sources], visible),
            visible,
            targets,
            torch.cat([torch.full_like(one.targets, one.is_background, dtype=torch.bool) for one in parts]),
            sources,
            self._hiding.run,
        )

    def _parts(
        self, model: nn.Module, x: Tensor, labels: Tensor, chosen: Tensor, index: Tensor | Sequence[int] | None
    ) -> list["_Part"]:
        images, its_labels = x[chosen], labels[chosen]

        def regions(of: Tensor) -> Tensor:
            return self._salient(model, images[of], its_labels[of])[0]

        everything = torch.arange(len(images), device=x.device)
        if self._cache is None:
            salient = regions(everything)
        else:
            salient = self._cache.regions(_numbers(index, len(x), chosen), self.epoch, regions, images)
        # A region that is empty or everything would say nothing, or the contrary of what is meant.
        usable = salient.flatten(1).any(1) & ~salient.flatten(1).all(1)
        chosen, salient, its_labels = chosen[usable], salient[usable], its_labels[usable]
        kept = _Part(chosen, salient, its_labels)
        removed = _Part(chosen, ~salient, self._low(its_labels), is_background=True)
        if self.only_supported and len(chosen):
            of_whole, of_kept, of_removed = (
                self._answers(model, x[chosen], one).softmax(1) for one in (torch.ones_like(salient), salient, ~salient)
            )
            own = its_labels[:, None]
            kept = kept.only(of_kept.argmax(1) == its_labels)
            removed = removed.only((of_removed.gather(1, own) < of_whole.gather(1, own))[:, 0])
        return [kept, *([] if self.low_confidence is None else [removed])]

    def _low(self, labels: Tensor) -> Tensor:
        """Targets of images without their salient region; -1 for the uniform distribution."""
        if self.low_confidence == "negative":
            return labels + self.classes
        return torch.full_like(labels, -1 if self.low_confidence == "uniform" else self.classes)

    def collate(self, model: nn.Module) -> Callable[[list[Any]], tuple[Tensor, Tensor]]:
        """A ``collate_fn`` for a DataLoader of ``(image, label)`` that augments each batch.

        Args:
            model: The classifier that is trained; images are explained where it is.

        Returns:
            A function that gives images and targets, on the model's device. Use it with ``num_workers=0``: a worker would
            explain a copy of the model that learns nothing.

        Raises:
            OptionError: The removal is layer masking, which needs the mask beside the image; or `refresh` is set.
        """
        if not self._hiding.paints:
            raise OptionError(
                "a collate function gives images alone, and layer masking needs their masks too: call the augmentation in "
                "your loop, views = augment(model, x, y), or choose a removal that paints."
            )
        if self._cache is not None:
            raise OptionError(
                "a collate function knows no index of an image, which refresh needs: call it in your loop."
            )

        def collate(samples: list[Any]) -> tuple[Tensor, Tensor]:
            if torch.utils.data.get_worker_info() is not None:
                raise OptionError("a worker explains a copy of the model that learns nothing: use num_workers=0.")
            batch = default_collate(samples)
            if not isinstance(batch, (list, tuple)) or len(batch) != 2:
                raise InputTypeError("EDDA's collate function is for data sets of pairs (image, label).")
            device = next((one.device for one in model.parameters()), batch[0].device)
            views = self(model, batch[0].to(device), batch[1].to(device))
            return views.images, views.targets

        return collate


@dataclass(frozen=True)
class _Part:
    """Views of one kind."""

    sources: Tensor
    visible: Tensor
    targets: Tensor
    is_background: bool = False

    def only(self, these: Tensor) -> "_Part":
        return _Part(self.sources[these], self.visible[these], self.targets[these], self.is_background)


def _distributions(targets: Tensor, classes: int) -> Tensor:
    """One-hot rows; a uniform one for -1."""
    rows = F.one_hot(targets.clamp(min=0), classes).float()
    return torch.where((targets < 0)[:, None], 1 / classes, rows)


def _numbers(index: Tensor | Sequence[int] | None, count: int, chosen: Tensor) -> list[int]:
    if index is None:
        raise InputTypeError(
            "refresh keeps regions from epoch to epoch, and needs to know the images: pass index, the number of each in the "
            "data set."
        )
    numbers = index.tolist() if isinstance(index, Tensor) else list(index)
    if len(numbers) != count:
        raise OptionError(f"index has {len(numbers)} numbers for {count} images.")
    return [numbers[i] for i in chosen.tolist()]
