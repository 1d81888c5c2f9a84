"""MobileOne for Keras 3: train many branches, deploy one, export to phones."""

from keras_mobileone.applications import (
    MobileOne,
    MobileOneS0,
    MobileOneS1,
    MobileOneS2,
    MobileOneS3,
    MobileOneS4,
)
from keras_mobileone.data.imagenet import decode_predictions, preprocess_input
from keras_mobileone.data.images import evaluation_crop, load_image
from keras_mobileone.data.tfrecord_writer import write_tfrecords
from keras_mobileone.evaluation.accuracy import Evaluation, evaluate
from keras_mobileone.evaluation.comparison import Comparison, compare
from keras_mobileone.export.coreml import CoreMLReport, export_coreml
from keras_mobileone.export.qat import export_qat
from keras_mobileone.export.report import ExportReport
from keras_mobileone.export.tflite import export_tflite
from keras_mobileone.layers.block import MobileOneBlock
from keras_mobileone.models.complexity import Complexity, model_complexity
from keras_mobileone.models.fusing import fuse
from keras_mobileone.models.network import MobileOneModel, feature_extractor
from keras_mobileone.models.unfusing import unfuse
from keras_mobileone.quantization.equalization import Equalization, equalize
from keras_mobileone.quantization.layerwise_correction import Steps
from keras_mobileone.quantization.ptq import QuantizationReport, quantize
from keras_mobileone.quantization.qat import quantize_aware, tf_keras_to_keras
from keras_mobileone.training.distribution import Devices
from keras_mobileone.training.finalize import TrainingReport
from keras_mobileone.training.finetuning import finetune
from keras_mobileone.training.recipe import RECIPES, Phase, Recipe, get_recipe
from keras_mobileone.training.train import train
from keras_mobileone.variants import VARIANTS, Variant, get_variant

__version__ = "0.2.0"

__all__ = [
    "RECIPES",
    "VARIANTS",
    "Comparison",
    "Complexity",
    "CoreMLReport",
    "Devices",
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
    "Phase",
    "QuantizationReport",
    "Recipe",
    "Steps",
    "TrainingReport",
    "Variant",
    "compare",
    "decode_predictions",
    "equalize",
    "evaluate",
    "evaluation_crop",
    "export_coreml",
    "export_qat",
    "export_tflite",
    "feature_extractor",
    "finetune",
    "fuse",
    "get_recipe",
    "get_variant",
    "load_image",
    "model_complexity",
    "preprocess_input",
    "quantize",
    "quantize_aware",
    "tf_keras_to_keras",
    "train",
    "unfuse",
    "write_tfrecords",
]
