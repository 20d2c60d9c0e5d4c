"""Attribution methods in Captum's style: Integrated Grad-CAM, SISE, Ada-SISE and RISE, with any removal."""

from lm_plugins.errors import MissingDependencyError

try:
    import captum.attr  # noqa: F401
except ImportError as error:
    raise MissingDependencyError(
        "lm_plugins.attribution needs Captum: pip install 'lm_plugins[attribution]'."
    ) from error

from lm_plugins.attribution.ada_sise import AdaSISE
from lm_plugins.attribution.fusion import fused, otsu_threshold
from lm_plugins.attribution.integrated_grad_cam import OFFICIAL_DEMO, IntegratedGradCam
from lm_plugins.attribution.layers import layers_before_downsampling, named_layers
from lm_plugins.attribution.normalization import min_max
from lm_plugins.attribution.rise import RISE, random_masks
from lm_plugins.attribution.sise import SISE
from lm_plugins.attribution.soft_masks import SoftMasks

__all__ = [
    "OFFICIAL_DEMO",
    "RISE",
    "SISE",
    "AdaSISE",
    "IntegratedGradCam",
    "SoftMasks",
    "fused",
    "layers_before_downsampling",
    "min_max",
    "named_layers",
    "otsu_threshold",
    "random_masks",
]
