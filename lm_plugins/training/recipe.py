"""Recipes: one training run from one set of options, with checkpoints, that goes on where it stopped."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch import nn

import lm_plugins
from lm_plugins.atomic_write import written
from lm_plugins.errors import MissingDependencyError, OptionError
from lm_plugins.removal import LayerMasking, as_removal
from lm_plugins.training.classification import Classification
from lm_plugins.training.contrastive import Contrastive
from lm_plugins.training.edda import ExplanationDrivenAugmentation
from lm_plugins.training.excon import ExConViews
from lm_plugins.training.explainers import Explainer, GradCam
from lm_plugins.training.image_data import ImageData, Labelled, datasets_of
from lm_plugins.training.networks import ContrastiveNetwork, classifier
from lm_plugins.training.schedule import Schedule

__all__ = ["Method", "Recipe", "TrainedModel", "train"]

#: Cross-entropy, alone and with EDDA; supervised contrastive learning, alone and with ExCon and ExConB; SimCLR with ExCon.
Method = Literal["ce", "edda", "supcon", "excon", "exconb", "exsimclr"]

#: Where the last whole epoch lies, in the folder of a run.
_LAST = "last.ckpt"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run.

    Args:
        method: See `Method`.
        data: See `datasets_of`.
        classes: How many classes there are.
        model: See `classifier`.
        small_stem: See `classifier`.
        layer: Name of the layer that Grad-CAM explains, as in the model.
        size: Height and width of the images.
        mean: Of the normalisation, on [0, 1].
        std: Of the normalisation.
        epochs: Through the training images; with contrastive learning of the encoder, and as many of the classifier.
        batch_size: Images in a batch.
        learning_rate: The largest one.
        warm_up: Epochs until the learning rate is reached.
        weight_decay: Of SGD.
        validation: Share of the training images that is held out.
        smallest_crop: See `ImageData`.
        colour_jitter: See `ImageData`; None for contrastive methods only.
        removal: How regions are hidden; ``"layer_masking"`` trains with frozen batch norm.
        threshold: Of the salient region.
        start: Epochs before explanations begin.
        refresh: EDDA: epochs for which regions are kept.
        probability: EDDA: with which an image gets its views.
        low_confidence: EDDA: target of images without their salient region; ``"none"`` leaves them out.
        only_supported: EDDA: keep views that the model supports.
        max_background: ExConB: images of background in a batch, at most.
        temperature: Of the contrastive loss.
        initial: A state dict of the model to start from, such as an earlier run's ``model.pt``.
        workers: Processes that decode images.
        precision: As Lightning takes it: ``"32-true"``, ``"bf16-mixed"``.
        seed: Of everything that is drawn.

    Raises:
        OptionError: The method is unknown, or a number is out of range.
    """

    method: Method
    data: str
    classes: int
    model: str = "small_resnet"
    small_stem: bool = False
    layer: str = "layer3"
    size: int = 32
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 0.1
    warm_up: int = 1
    weight_decay: float = 1e-4
    validation: float = 0.1
    smallest_crop: float = 0.2
    colour_jitter: bool | None = None
    removal: str = "grey"
    threshold: float = 0.5
    start: int = 0
    refresh: int | None = None
    probability: float = 1.0
    low_confidence: str = "background"
    only_supported: bool = False
    max_background: int | None = None
    temperature: float = 0.1
    initial: str | None = None
    workers: int = 0
    precision: str = "32-true"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise OptionError(f"method is one of {', '.join(get_args(Method))}; got {self.method!r}.")
        for name in ("classes", "size", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} is above 0, got {getattr(self, name)!r}.")
        if not self.learning_rate > 0:
            raise OptionError(f"learning_rate is above 0, got {self.learning_rate!r}.")

    @property
    def is_contrastive(self) -> bool:
        """Whether an encoder is trained with the contrastive loss."""
        return self.method not in ("ce", "edda")

    @property
    def freezes_batch_norm(self) -> bool:
        """Whether the model trains in evaluation mode, as layer masking needs it."""
        return self.method not in ("ce", "supcon") and isinstance(as_removal(self.removal), LayerMasking)


@dataclass(frozen=True)
class TrainedModel:
    """What a training run gave.

    Args:
        model: The classifier, in evaluation mode.
        validation_accuracy: On the images that were held out, at the end.
        data: Its data.
        out: The folder of the run.
    """

    model: nn.Module
    validation_accuracy: float
    data: ImageData = field(repr=False)
    out: Path


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    datasets: tuple[Labelled, Labelled] | None = None,
    explainer: Explainer | None = None,
    logger: Literal["csv", "tensorboard"] = "csv",
    resume: bool = True,
    show_progress: bool = True,
    **trainer: Any,
) -> TrainedModel:
    """Train a model by a recipe.

    Args:
        recipe: What is trained, and how.
        out: Folder for ``recipe.json``, checkpoints, logs and ``model.pt``, the model's state dict.
        datasets: Training and test set, in the place of those that the recipe names.
        explainer: In the place of Grad-CAM at the recipe's layer.
        logger: Writes losses and accuracies, each epoch.
        resume: Go on after the last whole epoch of an interrupted run in `out`. It equals a run that never stopped.
        show_progress: Lightning's bar.
        trainer: Further arguments of Lightning's ``Trainer``, such as ``accelerator="gpu"`` and ``devices=4``.

    Returns:
        The trained model.

    Raises:
        OptionError: An option is out of range, or `out` holds a run of another recipe.
        LayerError: The model has no such layer.
        ModelLoadingError: There is no such model.
    """
    out = Path(out)
    _begin(recipe, out, resume)
    lightning.seed_everything(recipe.seed, verbose=False)
    data = _data(recipe, datasets or datasets_of(recipe.data))
    module = _module(recipe, explainer)
    last = out / _LAST
    run = lightning.Trainer(
        max_epochs=recipe.epochs * (2 if recipe.is_contrastive else 1),
        default_root_dir=out,
        logger=_logger(logger, out),
        callbacks=[_LastCheckpoint(last)],
        enable_progress_bar=show_progress,
        enable_model_summary=False,
        precision=recipe.precision,  # type: ignore[arg-type]  # Lightning checks the word
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        **trainer,
    )
    run.fit(module, data, ckpt_path=last if last.is_file() else None)
    accuracy = float(run.callback_metrics["validation_accuracy"]) if run.callback_metrics else float("nan")
    model = module.model.eval()
    if run.is_global_zero:
        written(out / "model.pt", lambda file: torch.save(model.state_dict(), file))
    return TrainedModel(model, accuracy, data, out)


class _LastCheckpoint(Checkpoint):
    """Writes a checkpoint after each epoch, as a whole or not at all, also where temporary files lie on another disk."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        partial = self._file.with_name(f".{self._file.name}.partial")
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            partial.replace(self._file)


def _begin(recipe: Recipe, out: Path, resume: bool) -> None:
    """Note the recipe in the folder of the run, or see that it is the one noted there."""
    out.mkdir(parents=True, exist_ok=True)
    file, said = out / "recipe.json", {**asdict(recipe), "lm_plugins": lm_plugins.__version__}
    said = json.loads(json.dumps(said))
    last = out / _LAST
    if not resume:
        last.unlink(missing_ok=True)
    if last.is_file() and file.is_file():
        known = json.loads(file.read_text())
        different = [
            f"{name}={known.get(name)!r}, not {said[name]!r}" for name in said if known.get(name) != said[name]
        ]
        if different:
            raise OptionError(
                f"{out} holds a run with {', '.join(different)}: choose another folder, or start anew with resume=False."
            )
    written(file, lambda path: path.write_text(json.dumps(said, indent=1)))


def _data(recipe: Recipe, datasets: tuple[Labelled, Labelled]) -> ImageData:
    jitter = recipe.is_contrastive if recipe.colour_jitter is None else recipe.colour_jitter
    return ImageData(
        *datasets,
        recipe.classes,
        recipe.size,
        recipe.mean,
        recipe.std,
        recipe.batch_size,
        recipe.validation,
        recipe.smallest_crop,
        jitter,
        recipe.is_contrastive,
        recipe.workers,
        recipe.seed,
    )


def _module(recipe: Recipe, explainer: Explainer | None) -> Classification | Contrastive:
    schedule = Schedule(recipe.learning_rate, recipe.epochs, recipe.warm_up, weight_decay=recipe.weight_decay)
    frozen = recipe.freezes_batch_norm
    if not recipe.is_contrastive:
        augmentation = None
        if recipe.method == "edda":
            low: Any = None if recipe.low_confidence == "none" else recipe.low_confidence
            augmentation = ExplanationDrivenAugmentation(
                explainer or GradCam(recipe.layer),
                recipe.classes,
                removal=recipe.removal,
                threshold=recipe.threshold,
                low_confidence=low,
                probability=recipe.probability,
                only_supported=recipe.only_supported,
                warm_up=recipe.start,
                refresh=recipe.refresh,
                seed=recipe.seed,
            )
        outputs = recipe.classes if augmentation is None else augmentation.outputs
        model = _started(classifier(recipe.model, outputs, small_stem=recipe.small_stem), recipe)
        return Classification(model, recipe.classes, schedule, augmentation, freeze_batch_norm=frozen, seed=recipe.seed)
    network = ContrastiveNetwork(classifier(recipe.model, recipe.classes, small_stem=recipe.small_stem))
    network = _started(network, recipe)
    views = None
    if recipe.method != "supcon":
        views = ExConViews(
            explainer or GradCam(f"encoder.{recipe.layer}"),
            recipe.classes,
            removal=recipe.removal,
            threshold=recipe.threshold,
            background=recipe.method != "excon",
            max_background=recipe.max_background,
            start=recipe.start,
            seed=recipe.seed,
        )
    return Contrastive(
        network,
        recipe.classes,
        schedule,
        views,
        recipe.temperature,
        with_labels=recipe.method != "exsimclr",
        freeze_batch_norm=frozen,
        seed=recipe.seed,
    )


def _started(model: Any, recipe: Recipe) -> Any:
    """The model with the weights that the recipe starts from."""
    if recipe.initial is not None:
        try:
            weights = torch.load(recipe.initial, map_location="cpu", weights_only=True)
            model.load_state_dict(weights)
        except (OSError, RuntimeError) as error:
            raise OptionError(f"{recipe.initial} holds no weights of this model: {error}.") from error
    return model


def _logger(name: str, out: Path) -> Logger:
    if name == "csv":
        return CSVLogger(out, name="log")
    try:
        return TensorBoardLogger(str(out), name="log")
    except ModuleNotFoundError as error:
        raise MissingDependencyError("logger='tensorboard' needs it: pip install tensorboard.") from error
