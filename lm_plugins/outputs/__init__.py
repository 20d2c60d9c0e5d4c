"""What of a model's output is explained, for ``output=`` of every adapter, method and measure.

Words (`lm_plugins.outputs.words`) say what a classifier returns. For other models there are functions, ready-made: the
similarity of an embedding to others, classes of a segmentation over a region, the match of a detection with one box.
"""

from lm_plugins.outputs.detection import Detection, Detections
from lm_plugins.outputs.segmentation import Segmentation
from lm_plugins.outputs.similarity import Similarity

__all__ = ["Detection", "Detections", "Segmentation", "Similarity"]
