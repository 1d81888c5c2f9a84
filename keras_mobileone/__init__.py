"""MobileOne for Keras 3: train many branches, deploy one, export to phones."""

from keras_mobileone.comparison import Comparison, compare
from keras_mobileone.complexity import Complexity, complexity
from keras_mobileone.evaluation import Evaluation, evaluate
from keras_mobileone.exporting import ExportReport, export_tflite
from keras_mobileone.fusing import fuse
from keras_mobileone.imagenet import decode_predictions, preprocess_input
from keras_mobileone.images import evaluation_crop, load_image
from keras_mobileone.layers import MobileOneBlock
from keras_mobileone.models import (
    MobileOne,
    MobileOneS0,
    MobileOneS1,
    MobileOneS2,
    MobileOneS3,
    MobileOneS4,
)
from keras_mobileone.network import MobileOneModel, feature_extractor
from keras_mobileone.quantization.equalization import Equalization, equalize
from keras_mobileone.quantization.qat import carry_back, export_qat, quantize_aware
from keras_mobileone.quantization.quantizing import QuantizationReport, quantize
from keras_mobileone.variants import VARIANTS, Variant, get_variant

__version__ = "0.1.0"

__all__ = [
    "VARIANTS",
    "Comparison",
    "Complexity",
    "Equalization",
    "Evaluation",
    "ExportReport",
    "MobileOne",
    "MobileOneBlock",
    "MobileOneModel",
    "MobileOneS0",
    "MobileOneS1",
    "MobileOneS2",
    "MobileOneS3",
    "MobileOneS4",
    "QuantizationReport",
    "Variant",
    "carry_back",
    "compare",
    "complexity",
    "decode_predictions",
    "equalize",
    "evaluate",
    "evaluation_crop",
    "export_qat",
    "export_tflite",
    "feature_extractor",
    "fuse",
    "get_variant",
    "load_image",
    "preprocess_input",
    "quantize",
    "quantize_aware",
]
