"""The audit: every removal, on somebody's own model and images."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from torch import Tensor, nn

import lm_plugins
from lm_plugins.audit.audited_image import AuditedImage, FeatureMaker
from lm_plugins.audit.audited_model import AuditedModel
from lm_plugins.audit.checkpoints import Checkpoints, Row
from lm_plugins.audit.inputs import (
    Images,
    check_model,
    checked_fractions,
    described_as,
    known,
    model_digest,
    named_features,
    named_removals,
    prepared_forwards,
    versions,
    without_addresses,
)
from lm_plugins.audit.measure_table import Plan, measures_for
from lm_plugins.audit.measures import Measure, Number, Prepared
from lm_plugins.audit.measures.missingness import similarities
from lm_plugins.audit.missingness import ClassSimilarity
from lm_plugins.audit.model_answers import ModelAnswers
from lm_plugins.audit.recommendation import cost_of
from lm_plugins.audit.removal_order import Order
from lm_plugins.audit.result import AuditResult
from lm_plugins.audit.tables import COLUMNS, pd
from lm_plugins.outputs.words import Output
from lm_plugins.progress import Progress
from lm_plugins.progress import progress as progress_bar
from lm_plugins.removal import Removal

__all__ = ["run_audit"]

DEFAULT_REMOVALS = ("layer_masking", "grey", "black", "blur")
DEFAULT_MEASURES = ("missingness", "hidden_pixels", "colour_bias")


def run_audit(
    model: nn.Module,
    images: Iterable[Tensor],
    labels: Sequence[int | None] | Tensor | None = None,
    removals: Iterable[Removal | str] | Mapping[str, Removal | str] = DEFAULT_REMOVALS,
    features: Iterable[str] | Mapping[str, FeatureMaker] = ("patches", "superpixels"),
    orders: Iterable[Order] = get_args(Order),
    fractions: Iterable[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
    measures: Iterable[str] = DEFAULT_MEASURES,
    seed: int = 0,
    batch_size: int | None = None,
    out: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
    names: Sequence[str] | None = None,
    provenance: Mapping[str, Any] | None = None,
    regions: Sequence[Tensor | None] | None = None,
    class_similarity: ClassSimilarity | None = None,
    lime_samples: int = 512,
    output: Output | None = None,
) -> AuditResult:
    """Measure how much each removal distorts a model, on images of one's own.

    What is drawn at random depends on the seed and on the name of an image alone, so that neither the order of images nor
    the batch size matter. A removal that does not work with the model, because layer masking lacks a rule or a package is
    missing, is left out; `AuditResult.left_out` says why.

    Args:
        model: A classifier of images ``(N, C, H, W)``, in evaluation mode.
        images: Floating point ``(C, H, W)`` each, preprocessed for the model. A data set that can be indexed is read image
            by image.
        labels: The class of each image, None for those that have none. Needed for accuracy only.
        removals: Names or objects (see `lm_plugins.removal`), or a dict of them by the name to show. Parts in `out` know
            them by that name and their ``repr``.
        features: ``"patches"`` (14 along the shorter side: 16 x 16 pixels at 224), ``"superpixels"`` (about 196 by SLIC),
            ``"grid:N"`` and ``"slic:N"`` (see `lm_plugins.features.Features`); or a dict of functions ``image
            (C, H, W) -> feature mask (H, W)`` by name.
        orders: ``"random"``, ``"most_salient_first"``, ``"least_salient_first"``; saliency is `gradient_saliency`.
        fractions: Of the features that are removed, in [0, 1].
        measures: See `lm_plugins.audit.MEASURES`.
        seed: Of everything that is drawn.
        batch_size: Masked copies of an image in one forward pass; None takes what fits.
        out: A folder that keeps every finished part, so that an audit that was interrupted goes on where it stopped, and the
            result. It belongs to one process at a time. None keeps nothing.
        resume: Whether parts that are in `out` count. They are used for what is asked for now; images, removals and
            measures may be added. What is audited must still answer as it did: the model with and without half of the
            patches, under each removal, on one image that `out` keeps.
        progress: Show a progress bar with an estimate of the time left.
        names: Of the images, all different; by default made from their pixels.
        provenance: Whatever shall be kept with the result, such as the command or the name of the model.
        regions: The object in each image, bool ``(H, W)``, for ``"shape_bias"``, ``"shape_leakage"`` and ``"alignment"``.
        class_similarity: A matrix or function; adds ``class_similarity`` to the curves. See `wordnet_similarity`.
        lime_samples: Coalitions for each explanation by LIME.
        output: A word for what the model returns (``"logits"``, ``"probabilities"``, ``"sigmoid"``, ``"single_logit"``; see
            `lm_plugins.outputs.words`), a function that turns it into a tensor ``(N, classes)``, or ``(function, word)``.
            Without a word it is taken for logits, and refused if it looks like probabilities.

    Returns:
        The result; also in `out`, if that is given.

    Raises:
        InputTypeError: Something is of the wrong type.
        OptionError: An option is not among the known ones, there are no images, names are not unique, labels do not match,
            or `out` holds an audit with other settings, or of a model or removal that answers otherwise, or another process
            is writing to it.
        TrainingModeError: The model or a part of it is in training mode.
        UnsupportedOperatorError: No removal works with the model.
        MissingDependencyError: A measure or kind of features needs a package that is not installed.

    Example:
        >>> import torch
        >>> from lm_plugins.audit import run_audit
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
        >>> result = run_audit(
        ...     model, torch.rand(4, 3, 28, 28), removals=("grey", "blur"), features=("patches",), orders=("random",),
        ...     fractions=(0.3, 0.6), progress=False,
        ... )
        >>> result.summary[result.summary.measure == "agreement"].shape
        (6, 9)
        >>> result.recommendation.removal in ("grey", "blur")
        True
    """
    check_model(model)
    audited = AuditedModel(model, output, batch_size)
    chosen = named_removals(removals)
    makers = named_features(features)
    given = Images(images, labels, names, regions, audited, makers)
    plan = Plan(
        features=tuple(makers), orders=known(orders, get_args(Order), "an order of removal"),
        fractions=checked_fractions(fractions), seed=seed, lime_samples=lime_samples, has_regions=given.has_regions,
        pool=lambda count: given.pool(count, seed),
    )  # fmt: skip
    chosen_measures = measures_for(measures, plan)
    described = {name: described_as(removal) for name, removal in chosen.items()}
    settings = {
        "model": model_digest(model), "fractions": plan.fractions, "seed": seed, "output": audited.word,
        "lime_samples": lime_samples, "lm_plugins": lm_plugins.__version__,
    }  # fmt: skip
    folder = None if out is None else Path(out)
    with Checkpoints(folder, {**settings, "modules": without_addresses(repr(model))}, resume) as checkpoints:
        first = given.image(0)
        prepared, left_out = prepared_forwards(chosen, audited, first)
        texts = {name: f"{name!r}, {described[name]}" for name in prepared}  # by what parts know a removal
        if folder is not None:
            _confirm(checkpoints, first, audited, {texts[name]: one for name, one in prepared.items()},
                     any(measure.needs_saliency for measure in chosen_measures))  # fmt: skip
        rows: list[Row] = []
        with progress_bar(len(given) * len(chosen_measures) * len(prepared), "audit", progress) as done:
            for image in map(given.image, range(len(given))):
                for measure in chosen_measures:
                    found = _numbers(measure, image, prepared, texts, checkpoints, seed, done)
                    rows += found
                    if class_similarity is not None and measure.measure == "missingness":
                        numbers = [
                            Number(row["removal"], row["measure"], row["fraction"], row["value"]) for row in found
                        ]
                        alike = similarities(numbers, image.label, class_similarity, len(first.plain))
                        rows += [_row(number, measure, image, seed) for number in alike]
        record = {
            **settings, "images": len(given), "labelled": given.labelled, "features": list(plan.features),
            "orders": list(plan.orders), "measures": list(dict.fromkeys(one.measure for one in chosen_measures)),
            "removals": described, "costs": {name: cost_of(removal) for name, removal in chosen.items()},
            "left_out": left_out, "versions": versions(), **(provenance or {}),
        }  # fmt: skip
        result = AuditResult(pd.DataFrame(rows, columns=list(COLUMNS)), record)
        if folder is not None:
            result.save(folder)
        return result


def _numbers(
    measure: Measure, image: AuditedImage, removals: Mapping[str, Prepared], texts: Mapping[str, str],
    checkpoints: Checkpoints, seed: int, done: Progress,
) -> list[Row]:  # fmt: skip
    """The rows of a measure for an image, from disk where they are there."""
    rows: list[Row] = []
    groups = [list(removals)] if measure.together else [[name] for name in removals]
    for group in groups:
        key = _key(measure, image, [texts[name] for name in group])
        found = checkpoints.load(*key)
        if found is None:
            measured = measure(image, {name: removals[name] for name in group})
            found = [_row(number, measure, image, seed) for number in measured]
            checkpoints.save(found, *key)
            done(len(group))
        else:
            done.skip(len(group))
        rows += found
    return rows


def _confirm(
    checkpoints: Checkpoints, first: AuditedImage, model: AuditedModel, removals: Mapping[str, Prepared], saliency: bool
) -> None:
    """Refuse to go on with numbers of something that answers otherwise."""
    kept = checkpoints.answers()
    image = first.x if kept is None else kept.image
    checkpoints.confirm(kept, ModelAnswers.of(image, model, removals, saliency))


def _key(measure: Measure, image: AuditedImage, removals: list[str]) -> tuple[str, ...]:
    """All that the numbers of a part depend on, beside the settings of the audit and what the model answers."""
    return (
        measure.measure, image.features_key(measure.features), measure.order, measure.key, "; ".join(removals), image.key
    )  # fmt: skip


def _row(number: Number, measure: Measure, image: AuditedImage, seed: int) -> Row:
    return {
        "measure": number.measure, "removal": number.removal, "features": measure.features, "order": measure.order,
        "fraction": number.fraction, "image": image.name, "value": number.value, "seed": seed,
    }  # fmt: skip
