"""What an audit is given: checked, and brought to one form."""

import hashlib
import platform
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

import lm_plugins
from lm_plugins.audit.audited_image import FEATURES, WHAT, AuditedImage, FeatureMaker, checked_image
from lm_plugins.audit.audited_model import AuditedModel
from lm_plugins.audit.digests import digest, seed_from
from lm_plugins.audit.measures import Prepared
from lm_plugins.audit.tables import pd
from lm_plugins.checks import check_evaluation_mode
from lm_plugins.errors import (
    InputTypeError,
    LMPluginsError,
    OptionError,
    UnsupportedOperatorError,
)
from lm_plugins.features import Features
from lm_plugins.removal import Removal, as_removal

__all__ = ["Images", "check_model", "named_features", "named_removals"]


class Images:
    """The images, with what belongs to each of them; made into audited images one at a time."""

    def __init__(
        self, images: Iterable[Tensor], labels: Sequence[int | None] | Tensor | None, names: Sequence[str] | None,
        regions: Sequence[Tensor | None] | None, model: AuditedModel, makers: Mapping[str, FeatureMaker],
    ) -> None:  # fmt: skip
        can_be_indexed = hasattr(images, "__len__") and hasattr(images, "__getitem__")
        if isinstance(images, (str, bytes, Mapping)) or not (can_be_indexed or isinstance(images, Iterable)):
            raise InputTypeError(f"images are tensors (C, H, W), one after the other; got {type(images).__name__}.")
        # A data set is read image by image; what can only be walked through once is kept.
        self._images = cast(Any, images if can_be_indexed else list(images))
        count = len(self._images)
        if not count:
            raise OptionError("there are no images to audit with.")
        given = labels.tolist() if isinstance(labels, Tensor) else labels
        for what, values in (("labels", given), ("names", names), ("regions", regions)):
            if values is not None and len(values) != count:
                raise OptionError(f"there are {len(values)} {what} for {count} images: pass one for each.")
        self.names = _names(self._images) if names is None else [str(name) for name in names]
        twice = [name for name, times in Counter(self.names).items() if times > 1]
        if twice:
            raise OptionError(f"names of images are different; {', '.join(map(repr, twice[:3]))} came more than once.")
        self._labels = [None] * count if given is None else [_label(one) for one in given]
        self._regions = (
            [None] * count if regions is None else [None if one is None else _region(one) for one in regions]
        )
        self._model, self._makers = model, makers
        self.labelled = sum(label is not None for label in self._labels)
        self.has_regions = any(region is not None for region in self._regions)

    def __len__(self) -> int:
        return len(self._images)

    def pool(self, count: int, seed: int) -> tuple[AuditedImage, ...]:
        """Some images, whatever their order."""
        chosen = sorted(range(len(self)), key=lambda i: seed_from(seed, "pool", self.names[i]))[:count]
        return tuple(self.image(i) for i in chosen)

    def image(self, index: int) -> AuditedImage:
        """The image at a place."""
        image = checked_image(self.names[index], self._images[index])
        label, region = self._labels[index], self._regions[index]
        return AuditedImage(self.names[index], image, self._model, self._makers, label, region)


def _names(images: Any) -> list[str]:
    seen: dict[str, int] = {}
    names = []
    for i in range(len(images)):
        name = digest(checked_image(str(i), images[i]))
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return names


def _label(label: Any) -> int | None:
    if label is None:
        return None
    if isinstance(label, bool) or not isinstance(label, (int, np.integer)):
        raise InputTypeError(f"labels are class indices (int) or None, got {label!r}.")
    return int(label)


def _region(region: Any) -> Tensor:
    if not isinstance(region, Tensor) or not bool(((region == 0) | (region == 1)).all()):
        got = f"a tensor of {region.dtype}" if isinstance(region, Tensor) else type(region).__name__
        raise InputTypeError(f"regions are tensors (H, W) of bool or 0 and 1, or None; got {got} with other values.")
    return region == 1


def check_model(model: nn.Module) -> None:
    """Refuse what is no model in evaluation mode."""
    if not isinstance(model, nn.Module):
        raise InputTypeError(f"model is a torch.nn.Module, got {type(model).__name__}.")
    check_evaluation_mode(model, WHAT)


def named_removals(removals: Iterable[Removal | str] | Mapping[str, Removal | str]) -> dict[str, Removal]:
    """Removals by the name to show."""
    if isinstance(removals, str):
        raise OptionError(f"removals is a sequence, got the name {removals!r} alone: pass ({removals!r},).")
    if isinstance(removals, Mapping):
        named = {str(name): as_removal(removal) for name, removal in removals.items()}
    else:
        listed = [(one if isinstance(one, str) else described_as(one), as_removal(one)) for one in removals]
        named = dict(listed)
        if len(named) < len(listed):
            raise OptionError(f"removals come once each, got {', '.join(name for name, _ in listed)}.")
    if not named:
        raise OptionError("there are no removals to audit.")
    return named


def described_as(removal: Any) -> str:
    """The text of a removal by which parts on disk know it: without addresses, which are others the next time."""
    text = repr(removal)
    without = without_addresses(text)
    return without if without == text else f"{without} {described_as(getattr(removal, '__dict__', {}))}"


def without_addresses(text: str) -> str:
    """A text of objects without the addresses that Python puts into it."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def named_features(features: Iterable[str] | Mapping[str, FeatureMaker]) -> dict[str, FeatureMaker]:
    """Makers of feature masks by name."""
    if isinstance(features, Mapping):
        return dict(features)
    names = (features,) if isinstance(features, str) else tuple(dict.fromkeys(features))
    if not names:
        raise OptionError(
            f"a kind of features is missing: pass some of {', '.join(map(repr, FEATURES))}, 'grid:N', 'slic:N'."
        )
    return {name: _maker(name) for name in names}


def _maker(name: Any) -> FeatureMaker:
    if name in FEATURES:
        return FEATURES[name]
    try:
        return Features.of(name)
    except OptionError as error:
        raise OptionError(
            f"a kind of features is one of {', '.join(map(repr, FEATURES))}, 'grid:N', 'slic:N'; got {name!r}."
        ) from error


def known(given: Iterable[Any], known: tuple[str, ...], what: str) -> tuple[Any, ...]:
    """The names that were given, each once, if all of them are known; `what` says what they name."""
    names = (given,) if isinstance(given, str) else tuple(dict.fromkeys(given))
    for name in names:
        if name not in known:
            raise OptionError(f"{what} is one of {', '.join(map(repr, known))}; got {name!r}.")
    if not names:
        raise OptionError(f"{what} is missing: pass some of {', '.join(map(repr, known))}.")
    return names


def checked_fractions(fractions: Iterable[float]) -> tuple[float, ...]:
    """Removed fractions in order, without 0, which is the unmasked model."""
    numbers = tuple(sorted({float(one) for one in fractions} - {0.0}))
    if not numbers or not all(0 < one <= 1 for one in numbers):
        raise OptionError(f"removed fractions are in (0, 1], got {numbers}.")
    return numbers


def prepared_forwards(
    removals: Mapping[str, Removal], model: AuditedModel, first: AuditedImage
) -> tuple[dict[str, Prepared], dict[str, str]]:
    """The removals that work with a model, tried on one image with a corner hidden; and why the others do not."""
    visible = torch.ones(1, *first.x.shape[2:], dtype=torch.bool)
    visible[0, : max(1, visible.shape[1] // 4), : max(1, visible.shape[2] // 4)] = False
    prepared: dict[str, Prepared] = {}
    left_out: dict[str, str] = {}
    _ = first.plain  # what is wrong with the model itself is not put down to a removal
    for name, removal in removals.items():
        try:
            forward = removal(model.model)
            model.answers(forward, first.x, visible)
        except LMPluginsError as error:
            left_out[name] = str(error)
        else:
            prepared[name] = Prepared(removal, forward)
    if not prepared:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise UnsupportedOperatorError(f"no removal works with this model. {reasons}")
    return prepared, left_out


def model_digest(model: nn.Module) -> str:
    """The class of a model and a hash of its weights: the same for the same network."""
    state = [f"{key} {digest(value)}" for key, value in sorted(model.state_dict().items()) if isinstance(value, Tensor)]
    return f"{type(model).__name__} {hashlib.sha256(chr(10).join(state).encode()).hexdigest()[:16]}"


def versions() -> dict[str, str]:
    """The versions that the numbers of an audit depend on."""
    return {
        "lm_plugins": lm_plugins.__version__, "torch": torch.__version__, "numpy": np.__version__,
        "pandas": pd.__version__, "python": platform.python_version(),
    }  # fmt: skip
