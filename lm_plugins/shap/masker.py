"""A masker that hides pixels instead of painting them, for every explainer of SHAP that takes one."""

from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from lm_plugins.errors import InputTypeError, MissingDependencyError, OptionError, ShapeError
from lm_plugins.shap.layout import Features, Layout, as_numpy, by_image, feature_mask_of
from lm_plugins.shap.migration import check_model_of_caller

try:
    import shap
    from shap._serializable import Deserializer, Serializer
except ImportError as error:
    raise MissingDependencyError("lm_plugins.shap needs SHAP: pip install 'lm_plugins[shap]'.") from error

__all__ = ["Masker"]

_FORMAT = "lm_plugins.shap.Masker"


class Masker(shap.maskers.Masker):  # type: ignore[misc]
    """Tells `lm_plugins.shap.Model` which pixels are visible; takes the place of `shap.maskers.Image`.

    The image itself is never changed nor copied: each sample is a reference to it and a pixel mask.

    Args:
        shape: ``(H, W, C)`` of an image.
        features: What is hidden together. None: every pixel on its own. An int or (height, width): patches of that size.
            ``"grid:16"`` or ``"slic:100"``: see `lm_plugins.features.Features`. A feature mask ``(H, W)``, array or tensor,
            with any ids. Or a function of an image, an array ``(H, W, C)``, that returns one, such as
            ``functools.partial(lm_plugins.features.superpixels, n_segments=100)``.
        values: What gets a SHAP value. ``"pixels"``, as with `shap.maskers.Image`: results have the shape of the images
            and go into `shap.image_plot`; for the Partition explainer. ``"features"``: results have one value for each
            feature, for the Permutation and Exact explainers; `to_pixels` prepares them for `shap.image_plot`.
        hierarchy: With ``values="features"``: give explainers the hierarchy of features. Partition needs it; the others
            then compute Owen values of it instead of Shapley values. ``"pixels"`` always has it.

    Raises:
        ShapeError: `shape` is not ``(H, W, C)``, or the feature mask has another height or width.
        InputTypeError: `features` is nothing of the above.
        OptionError: An unknown `values`, a patch size below 1, or a word that is neither ``grid:N`` nor ``slic:N``.

    Example:
        >>> import numpy as np, shap, torch
        >>> import lm_plugins.shap
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        >>> masker = lm_plugins.shap.Masker((8, 8, 3), features=4)
        >>> explainer = shap.Explainer(lm_plugins.shap.Model(model.eval()), masker, output_names=["cat", "dog"])
        >>> images = np.random.default_rng(0).random((1, 8, 8, 3))
        >>> explainer(images, max_evals=20).shape
        (1, 8, 8, 3, 2)

    References:
        Lundberg and Lee, "A Unified Approach to Interpreting Model Predictions", NeurIPS 2017. The hierarchy cuts as that
        of `shap.maskers.Image` does, but between features only: never between the channels of a pixel.
    """

    # The image travels as a reference, which no later call changes: SHAP need not copy it.
    immutable_outputs = True
    # What a model says when nothing is visible may depend on the image, through removals that look at all of it: SHAP
    # must not take the first image's base value for the second.
    fixed_background = False

    def __init__(
        self,
        shape: Sequence[int],
        features: Features = None,
        values: Literal["pixels", "features"] = "pixels",
        hierarchy: bool = False,
    ) -> None:
        self.image_shape = _image_shape(shape)
        if values not in ("pixels", "features"):
            raise OptionError(f"values is 'pixels' or 'features', got {values!r}.")
        self.features, self.values, self.hierarchy = by_image(features), values, hierarchy
        # With it, shap.Explainer chooses Partition.
        self.image_data = values == "pixels" or hierarchy
        self._latest: tuple[Any, Layout] | None = None
        self._fixed = None if callable(self.features) else self._layout_for(None)
        self.shape: Any = self._shape if self._fixed is None else self._shape(None)
        if values == "features":
            # What SHAP keeps with the values: which features are present (all), and their names.
            self.data_transform = lambda x: [np.ones(self._layout(x).count)]
            self.feature_names = lambda x: [[f"feature {index}" for index in range(self._layout(x).count)]]
        if self.image_data:
            # Without a hierarchy there is no such attribute: Composite asks whether there is one, not what it is.
            self.clustering: Any = self._clustering if self._fixed is None else self._clustering(None)

    def __call__(self, mask: bool | NDArray[np.bool_] | None, x: Any) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The image and the pixels of it that a coalition means.

        Args:
            mask: Bool, True = kept: one a value of the image ``(H * W * C,)`` or one a feature ``(K,)``. True and False
                stand for all of them; so does None, for False.
            x: An image ``(H, W, C)``, array or tensor.

        Returns:
            An object array ``(1,)`` with the image in it, and the pixel mask, bool ``(1, H, W)``.

        Raises:
            ShapeError: The image has another shape than the masker's, or the mask another size than it needs.
            MaskValueError: The mask keeps only a part of a feature.
            InputTypeError: The model of the explainer takes painted images.
        """
        check_model_of_caller()
        layout = self._layout(x)
        size = np.prod(self.image_shape) if self.values == "pixels" else layout.count
        mask = np.full(size, bool(mask)) if mask is None or isinstance(mask, bool) else np.asarray(mask)
        if mask.shape != (size,):
            raise ShapeError(f"expected a mask of shape ({size},), got {mask.shape}.")
        mask = mask.astype(bool, copy=False)
        visible = layout.visible_from_values(mask) if self.values == "pixels" else mask[layout.feature_mask]
        image = np.empty(1, dtype=object)
        image[0] = x
        return image, visible[None]

    def mask_shapes(self, x: Any) -> list[tuple[int, ...]]:
        """The shape of the SHAP values of an image, for the explainers."""
        return [self.image_shape if self.values == "pixels" else (self._layout(x).count,)]

    def feature_mask(self, x: Any = None) -> NDArray[np.int64]:
        """The feature mask of an image.

        Args:
            x: The image ``(H, W, C)``; only needed where `features` is a function of it.

        Returns:
            Int64 ``(H, W)`` with ids from 0 to K - 1.
        """
        return (self._fixed or self._layout(x)).feature_mask

    def to_pixels(self, explanation: Any, images: Any, output_names: Sequence[str] | None = None) -> Any:
        """Spread values of features over their pixels, for `shap.image_plot`.

        The credit of a feature is divided evenly among its pixels and channels, so that the sum over an image is still
        the difference between the outputs for everything and for nothing. The Partition explainer does the same below
        the features.

        Args:
            explanation: What an explainer returned with this masker, made with ``values="features"``; any outputs of it.
            images: The images that were explained, ``(N, H, W, C)``; or one ``(H, W, C)``, for one row of it.
            output_names: A name for each output, which Permutation and Exact don't take; None leaves those there are.

        Returns:
            A `shap.Explanation` of `images` with values ``(N, H, W, C)``, or ``(N, H, W, C, outputs)``; without N for one.

        Raises:
            InputTypeError: `explanation` is no `shap.Explanation`.
            OptionError: The masker is for values of pixels, which need no spreading.
            ShapeError: There are other images or features than in `explanation`.
        """
        if not isinstance(explanation, shap.Explanation):
            raise InputTypeError(
                f"to_pixels takes the shap.Explanation that an explainer returned, got {type(explanation).__name__}."
            )
        if self.values == "pixels":
            raise OptionError(
                'to_pixels is for values="features"; with "pixels", results have the shape of the images.'
            )
        is_one = len(np.shape(images)) == 3
        rows = ([explanation.values], [images]) if is_one else (list(explanation.values), list(images))
        if len(rows[0]) != len(rows[1]):
            raise ShapeError(f"the explanation is of {len(rows[0])} images, got {len(rows[1])}.")
        spread = [self._layout(image).spread(np.asarray(one, np.float64)) for one, image in zip(*rows, strict=True)]
        pixels = spread[0] if is_one else np.stack(spread)
        if pixels.ndim == 4 - is_one and np.ndim(explanation.base_values) == 2 - is_one:
            # A list of one output: Permutation and Exact drop it from the values, but not from the base values.
            pixels = pixels[..., None]
        names = explanation.output_names if output_names is None else list(output_names)
        return shap.Explanation(
            pixels,
            base_values=explanation.base_values,
            data=as_numpy(images),
            output_names=names if pixels.ndim == 5 - is_one else None,
            compute_time=explanation.compute_time,
        )

    def save(self, out_file: BinaryIO) -> None:
        """Write the masker to a stream, as SHAP's own do; `shap.Explainer.save` calls it.

        Args:
            out_file: A binary stream, open for writing.
        """
        super().save(out_file)
        with Serializer(out_file, _FORMAT, version=0) as stream:
            for name, value in self._arguments().items():
                stream.save(name, value)

    @classmethod
    def load(cls, in_file: BinaryIO, instantiate: bool = True) -> Any:
        """Read a masker from a stream.

        This unpickles what the stream holds, as upstream does, which can run any code: read only what you trust.

        Args:
            in_file: A binary stream, open for reading.
            instantiate: Return the masker; False returns the arguments of its constructor.

        Returns:
            The masker, or its arguments.
        """
        if instantiate:
            return cls._instantiated_load(in_file)
        arguments = cast(dict[str, Any], super().load(in_file, instantiate=False))
        with Deserializer(in_file, _FORMAT, min_version=0, max_version=0) as stream:
            for name in ("shape", "features", "values", "hierarchy"):
                arguments[name] = stream.load(name)
        return arguments

    def __reduce__(self) -> tuple[Callable[..., "Masker"], tuple[Any, ...]]:
        return type(self), tuple(self._arguments().values())

    def _arguments(self) -> dict[str, Any]:
        return {
            "shape": self.image_shape,
            "features": self.features,
            "values": self.values,
            "hierarchy": self.hierarchy,
        }

    # Explainers call these two once for each image, in this order, where the features depend on it.

    def _shape(self, x: Any) -> tuple[int, int]:
        self._latest = None
        count = np.prod(self.image_shape) if self.values == "pixels" else self._layout(x).count
        return 1, int(count)

    def _clustering(self, x: Any) -> NDArray[np.float64]:
        layout = self._layout(x)
        return layout.hierarchy_of_pixels if self.values == "pixels" else layout.hierarchy_of_features

    def _layout(self, x: Any) -> Layout:
        if x is not None and tuple(np.shape(x)) != self.image_shape:
            raise ShapeError(
                f"the masker is for images of shape {self.image_shape}, got {tuple(np.shape(x))}. Images are (H, W, C), and "
                "explainers take a batch of them (N, H, W, C)."
            )
        if self._fixed is not None:
            return self._fixed
        latest = self._latest  # another thread may ask about another image meanwhile
        if latest is None or latest[0] is not x:
            latest = self._latest = x, self._layout_for(x)
        return latest[1]

    def _layout_for(self, x: Any) -> Layout:
        return Layout(feature_mask_of(self.features, self.image_shape, x), self.image_shape[2])


def _image_shape(shape: Sequence[int]) -> tuple[int, ...]:
    sides = tuple(int(side) for side in shape)
    if len(sides) != 3 or min(sides) < 1:
        raise ShapeError(f"shape is that of one image, (H, W, C), got {sides}; for a batch X it is X[0].shape.")
    if sides[0] in (1, 3, 4) and sides[2] > 4:
        raise ShapeError(f"shape is (H, W, C), as SHAP has it; {sides} looks like (C, H, W).")
    return sides
