"""Supervised contrastive learning, alone or with ExCon and ExConB, on Lightning."""

from typing import Any, cast

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from lm_plugins.training.contrastive_loss import supervised_contrastive_loss
from lm_plugins.training.excon import ExConViews
from lm_plugins.training.image_data import Batch
from lm_plugins.training.networks import ContrastiveNetwork
from lm_plugins.training.schedule import Schedule

__all__ = ["Contrastive"]


class Contrastive(lightning.LightningModule):
    """Epochs of the encoder with the contrastive loss, and of the classifier on frozen features, in turns.

    Explanations need a classifier from the start, so that the two take turns: Lightning's even epochs train the encoder
    and the projector, the odd ones the classifier.

    Args:
        network: Encoder, projector and classifier.
        classes: How many classes there are.
        schedule: Learning rates of both; its epochs count the encoder's.
        views: ExCon or ExConB, or None for supervised contrastive learning alone.
        temperature: Of the loss.
        with_labels: Other images of a class are positives. Without, as in SimCLR, only the other view of the image is.
        freeze_batch_norm: Train with running statistics, the whole model in evaluation mode; layer masking needs it.
        seed: Of what the model itself draws.

    References:
        The code of Zhang et al., "ExCon", arXiv 2111.14271 (2021).
    """

    def __init__(
        self,
        network: ContrastiveNetwork,
        classes: int,
        schedule: Schedule,
        views: ExConViews | None = None,
        temperature: float = 0.1,
        *,
        with_labels: bool = True,
        freeze_batch_norm: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = network
        self.classes = classes
        self.schedule = schedule
        self.views = views
        self.temperature = temperature
        self.with_labels = with_labels
        self.freeze_batch_norm = freeze_batch_norm
        self.seed = seed
        self.accuracy = MulticlassAccuracy(classes, average="micro")

    @property
    def trains_encoder(self) -> bool:
        """Whose turn it is in this epoch."""
        return self.current_epoch % 2 == 0

    def on_train_epoch_start(self) -> None:
        """Everything that is drawn in an epoch depends on its number: a run that goes on equals one that never stopped."""
        torch.manual_seed(self.seed + 1_000_003 * (self.current_epoch + 1))
        if self.freeze_batch_norm or not self.trains_encoder:
            self.model.encoder.eval()
        else:
            self.model.encoder.train()
        if self.views is not None:
            self.views.epoch = self.current_epoch // 2

    def training_step(self, batch: Batch, index: int) -> None:
        """One step of whose turn it is."""
        optimizer = cast(list[LightningOptimizer], self.optimizers())[0 if self.trains_encoder else 1]
        name = "contrastive_loss" if self.trains_encoder else "classifier_loss"
        loss = self._contrastive(batch) if self.trains_encoder else self._classification(batch)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.log(name, loss, on_step=False, on_epoch=True, prog_bar=True)

    def _contrastive(self, batch: Batch) -> Tensor:
        labels = batch["label"]
        if self.views is None:
            features = self.model.encoder(torch.cat([batch["view"], batch["other"]]))
            targets, background = labels.repeat(2), None
            sources = torch.arange(len(labels), device=labels.device).repeat(2)
        else:
            views = self.views(self.model, batch["whole"], batch["view"], batch["other"], labels)
            features = views.outputs(self.model.encoder)
            targets, background, sources = views.targets, views.background, views.sources
            self.log("background", float(background.sum()), on_step=False, on_epoch=True)
        if not self.with_labels:
            targets = sources
        return supervised_contrastive_loss(
            self.model.projected(features).float(), targets, background, self.temperature
        )

    def _classification(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            features = self.model.encoder(batch["view"])
        return F.cross_entropy(self.model.classifier(features), batch["label"])

    def on_train_epoch_end(self) -> None:
        """The learning rate of whose turn it was goes on."""
        schedulers = self.lr_schedulers()
        schedulers[0 if self.trains_encoder else 1].step()  # type: ignore[index]

    def validation_step(self, batch: Batch, index: int) -> None:
        """Accuracy on images that were held out."""
        self.accuracy(self.model(batch["whole"]), batch["label"])
        self.log("validation_accuracy", self.accuracy, prog_bar=True)

    def configure_optimizers(self) -> Any:
        """An optimiser for encoder and projector, and one for the classifier."""
        embedding = [*self.model.encoder.parameters(), *self.model.projector.parameters()]
        made = [self.schedule.optimizer(one) for one in (embedding, self.model.classifier.parameters())]
        return [one["optimizer"] for one in made], [one["lr_scheduler"] for one in made]
