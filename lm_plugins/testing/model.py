"""A whole model put to the test: `check_model`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lm_plugins.checks import as_visible, check_evaluation_mode, check_images
from lm_plugins.errors import ConformanceError, UnsupportedOperatorError
from lm_plugins.masking import LayerMasked, MaskingOptions, coverage, observing, run_masked
from lm_plugins.masking.registry import function_name
from lm_plugins.testing.case import tensors
from lm_plugins.testing.comparison import difference, first_nonfinite, image_of
from lm_plugins.testing.garbage import carriers, overwrite, overwrite_hidden

__all__ = ["check_model"]


def check_model(
    model: nn.Module,
    x: Tensor,
    visible: Tensor | None = None,
    *,
    options: MaskingOptions | None = None,
    tolerance: float = 1e-5,
    gradients: bool = True,
) -> None:
    """Check that a model keeps the laws of layer masking.

    - Every function that it calls has a rule.
    - All visible is the plain model, bit for bit.
    - Hidden pixels may hold anything: 1e30, infinities, NaN.
    - An image of a batch gives what it gives alone.
    - Nothing visible gives finite numbers that do not depend on the image.
    - Garbage that is written to all hidden positions after every operation never surfaces.
    - Gradients of hidden pixels are zero, those of visible ones are finite and exist.

    Args:
        model: A model of images in evaluation mode.
        x: Images ``(N, C, H, W)`` that it takes; a single one is used twice.
        visible: Masks, as for `lm_plugins.LayerMasked`; by default a different one for every image.
        options: The semantics; by default those of `lm_plugins.MaskingOptions`.
        tolerance: Of numbers, relative to the largest one of the output. Rounding in very deep models with random
            weights may need more.
        gradients: Whether to check gradients, which takes the memory of a training step.

    Raises:
        ConformanceError: A law is broken. The message says which, and where.
        UnsupportedOperatorError: The model calls functions that have no rule; all are listed.

    Example:
        >>> import torch
        >>> from lm_plugins.testing import check_model
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
        >>> check_model(model.eval(), torch.randn(2, 3, 32, 32))
    """
    options = MaskingOptions() if options is None else options
    check_images(x, "check_model")
    check_evaluation_mode(model, "check_model")
    if len(x) == 1:
        x = torch.cat([x, x])
        visible = visible if visible is None or visible.ndim < 3 else visible.expand(2, *visible.shape[1:])
    region = _masks(x) if visible is None else as_visible(visible, x)
    check = _Check(model, x, region, options, tolerance)
    with torch.no_grad():
        found = coverage(model, x[:1], options)
        if not found:
            raise UnsupportedOperatorError(f"{type(model).__name__} calls functions without a rule. {found.advice()}")
        expected = check.run(x, region)
        check.all_visible()
        check.hidden_pixels(expected)
        check.batch(expected)
        check.nothing_visible()
        check.garbage(expected)
    if gradients:
        check.gradients()


def _masks(x: Tensor) -> Tensor:
    """Half of the patches of an eighth of the image; the middle; all but the middle; in turn."""
    n, _, h, w = x.shape
    patch = max(1, h // 8), max(1, w // 8)
    rows, columns = torch.arange(h) // patch[0], torch.arange(w) // patch[1]
    chosen = torch.rand(int(rows[-1]) + 1, int(columns[-1]) + 1, generator=torch.Generator().manual_seed(0)) < 0.5
    middle = torch.zeros(h, w, dtype=torch.bool)
    middle[h // 4 : h - h // 4, w // 4 : w - w // 4] = True
    masks = [chosen[rows][:, columns], middle, ~middle]
    return torch.stack([masks[i % 3] for i in range(n)]).to(x.device)


class _Check:
    """The laws, for one model, batch and semantics."""

    def __init__(self, model: nn.Module, x: Tensor, visible: Tensor, options: MaskingOptions, tolerance: float) -> None:
        self.model, self.x, self.visible = model, x, visible
        self.options, self.tolerance = options, tolerance

    def run(self, x: Tensor, visible: Tensor) -> Any:
        return run_masked(self.model, x, visible, self.options)

    def require(self, law: str, problem: str | None) -> None:
        if problem is not None:
            raise ConformanceError(law, f"{type(self.model).__name__} breaks a law: {law}.\n  {problem}")

    def all_visible(self) -> None:
        everything = torch.ones_like(self.visible)
        self.require(
            "all visible is the plain model, bit for bit",
            difference(self.run(self.x, everything), self.model(self.x), tolerance=0),
        )

    def hidden_pixels(self, expected: Any) -> None:
        masked = LayerMasked(self.model, self.options)
        for value in (0.0, 1e30, torch.inf, torch.nan):
            x = torch.where(self.visible[:, None], self.x, value)
            found = difference(masked(x, self.visible), expected, tolerance=0)
            self.require(
                "hidden pixels may hold anything",
                None if found is None else f"with {value:g} in hidden pixels, {found}",
            )

    def batch(self, expected: Any) -> None:
        law, count = "an image of a batch gives what it gives alone", len(self.x)
        for i in range(count):
            alone = self.run(self.x[i : i + 1], self.visible[i : i + 1])
            try:
                found = difference(image_of(expected, i, count), image_of(alone, 0, 1), self.tolerance)
            except ValueError as error:
                found = str(error)
            self.require(law, None if found is None else f"image {i} of the batch, {found} alone")

    def nothing_visible(self) -> None:
        law = "nothing visible gives finite numbers that do not depend on the image"
        nothing = torch.zeros_like(self.visible[:2])
        output = self.run(torch.stack([self.x[0], self.x[1] * 1e6]), nothing)
        self.require(law, first_nonfinite(output))
        self.require(law, difference(image_of(output, 0, 2), image_of(output, 1, 2), tolerance=0))

    def garbage(self, expected: Any) -> None:
        law = "garbage at hidden positions never surfaces"
        with observing(overwrite_hidden()):
            found = difference(self.run(self.x, self.visible), expected, self.tolerance)
        if found is not None:
            self.require(law, f"{self._culprit(expected)}{found}")

    def _culprit(self, expected: Any) -> str:
        """The first call after which garbage in its result alone surfaces."""
        last = 1
        call = 0
        while call < last:
            calls: list[str] = []

            def overwrite_one(
                function: Callable[..., Any],
                args: tuple[Any, ...],
                kwargs: dict[str, Any],
                act: Callable[[], Any],
                calls: list[str] = calls,
                chosen: int = call,
            ) -> Any:
                result = act()
                calls.append(function_name(function))
                for one in carriers(result) if len(calls) == chosen + 1 else []:
                    overwrite(one, None, torch.Generator().manual_seed(0))
                return result

            with observing(overwrite_one):
                output = self.run(self.x, self.visible)
            if difference(output, expected, self.tolerance) is not None:
                readers = ", ".join(dict.fromkeys(calls[call + 1 : call + 4])) or "the output"
                return f"garbage in the result of {calls[call]} (call {call}; next come {readers}) reaches the output: "
            last, call = len(calls), call + 1
        return "garbage in the results of several calls reaches the output: "

    def gradients(self) -> None:
        law = "gradients of hidden pixels are zero, those of visible ones exist"
        x = self.x.detach().clone().requires_grad_()
        with torch.enable_grad():
            outputs = [one for one in tensors(self.run(x, self.visible)) if one.requires_grad]
            total = sum((one.square().sum() for one in outputs), torch.zeros((), device=x.device))
        self.require(law, None if outputs else "no output has a gradient")
        gradient = torch.autograd.grad(total, x, allow_unused=True, materialize_grads=True)[0]
        hidden = ~self.visible[:, None].expand_as(gradient)
        for wrong, text in ((hidden & (gradient != 0), "a hidden pixel"), (~gradient.isfinite(), "a pixel")):
            if bool(wrong.any()):
                where = tuple(int(one) for one in wrong.nonzero()[0])
                self.require(law, f"the gradient of {text}, at {where}, is {gradient[where].item():g}")
        seen = self.visible.flatten(1).any(1)
        lost = seen & (gradient == 0).flatten(1).all(1)
        self.require(law, f"image {int(lost.nonzero()[0])} has no gradient at all" if bool(lost.any()) else None)
