"""A classifier trained with cross-entropy, alone or with EDDA, on Lightning."""

from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lm_plugins.training.edda import ExplanationDrivenAugmentation
from lm_plugins.training.image_data import Batch
from lm_plugins.training.schedule import Schedule

__all__ = ["Classification"]


class Classification(lightning.LightningModule):
    """Cross-entropy on a random view of each image and, with EDDA, on what its explanation leaves and hides of it.

    Args:
        model: The classifier; with EDDA it has as many outputs as that says.
        classes: How many classes there are. Outputs beyond them are no answers.
        schedule: Learning rates.
        augmentation: EDDA, or None.
        freeze_batch_norm: Train with running statistics, the whole model in evaluation mode; layer masking needs it.
        seed: Of what the model itself draws.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: int,
        schedule: Schedule,
        augmentation: ExplanationDrivenAugmentation | None = None,
        *,
        freeze_batch_norm: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        self.classes = classes
        self.schedule = schedule
        self.augmentation = augmentation
        self.freeze_batch_norm = freeze_batch_norm
        self.seed = seed
        self.accuracy = MulticlassAccuracy(classes, average="micro")

    def on_train_epoch_start(self) -> None:
        """Everything that is drawn in an epoch depends on its number: a run that goes on equals one that never stopped."""
        torch.manual_seed(self.seed + 1_000_003 * (self.current_epoch + 1))
        if self.freeze_batch_norm:
            self.model.eval()
        if self.augmentation is not None:
            self.augmentation.epoch = self.current_epoch

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The loss of a batch."""
        x, labels = batch["view"], batch["label"]
        if self.augmentation is None:
            loss = F.cross_entropy(self.model(x), labels)
        else:
            # Regions that are kept from epoch to epoch belong to the whole image, others to the view itself.
            kept = self.augmentation.keeps_regions
            views = self.augmentation(self.model, batch["whole"] if kept else x, labels, batch["index"])
            if kept:
                views = views.with_images(x)
            loss = F.cross_entropy(views.logits(self.model), views.targets)
            self.log("views", float(len(views) - len(x)), on_step=False, on_epoch=True)
        self.log("loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        """Accuracy on images that were held out."""
        self.accuracy(self.model(batch["whole"])[:, : self.classes], batch["label"])
        self.log("validation_accuracy", self.accuracy, prog_bar=True)

    def configure_optimizers(self) -> Any:
        """SGD with momentum, warm-up and cosine, stepped once an epoch."""
        return self.schedule.optimizer(self.model.parameters())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Regions that are kept belong to the run."""
        if self.augmentation is not None:
            checkpoint["regions"] = self.augmentation.regions()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them up again."""
        if self.augmentation is not None:
            self.augmentation.take_up(checkpoint.get("regions", {}))
