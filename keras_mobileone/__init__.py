"""MobileOne for Keras 3: train with several branches, deploy with one, export to phones.

The public names are imported when they are first used, so that `import keras_mobileone` does not
import Keras, and the command line prints `--help` immediately.
"""

import importlib
from typing import TYPE_CHECKING, Any

from keras_mobileone.registration import register_classes

if TYPE_CHECKING:
    from keras_mobileone.about import About
    from keras_mobileone.applications import (
        MobileOne,
        MobileOneS0,
        MobileOneS1,
        MobileOneS2,
        MobileOneS3,
        MobileOneS4,
        list_models,
    )
    from keras_mobileone.benchmarking.android import AndroidDevice
    from keras_mobileone.benchmarking.protocol import benchmark
    from keras_mobileone.benchmarking.results import Benchmark, Latency, load_benchmark
    from keras_mobileone.data.image_config import ImageConfig, image_config, set_image_config
    from keras_mobileone.data.imagenet import decode_predictions, preprocess_input
    from keras_mobileone.data.images import evaluation_crop, load_image
    from keras_mobileone.data.tfrecord_writer import Prepared, write_tfrecords
    from keras_mobileone.dense_applications import MobileOneDeepLabV3, MobileOneSSDLite
    from keras_mobileone.deployment.pipeline import deploy
    from keras_mobileone.deployment.report import DeployReport
    from keras_mobileone.errors import (
        InputError,
        InputTypeError,
        InputValueError,
        MeasurementError,
        MissingPackageError,
        VerificationError,
    )
    from keras_mobileone.evaluation.accuracy import Evaluation, evaluate
    from keras_mobileone.evaluation.comparison import Comparison, compare
    from keras_mobileone.evaluation.confidence import Confidence, measure_confidence
    from keras_mobileone.evaluation.corruptions import CorruptionEvaluation, evaluate_corruptions
    from keras_mobileone.evaluation.dense_accuracy import (
        DenseEvaluation,
        DetectionEvaluation,
        SegmentationEvaluation,
        evaluate_detection,
        evaluate_segmentation,
    )
    from keras_mobileone.evaluation.dense_pictures import (
        DetectedPhotograph,
        SegmentedPhotograph,
        detect,
        segment,
    )
    from keras_mobileone.evaluation.dense_predictor import (
        Detector,
        Segmenter,
        load_detector,
        load_segmenter,
    )
    from keras_mobileone.evaluation.predictor import Predictor, load_predictor
    from keras_mobileone.evaluation.robustness import RobustnessEvaluation, evaluate_robustness
    from keras_mobileone.export.coreml import CoreMLReport, export_coreml
    from keras_mobileone.export.entry import export
    from keras_mobileone.export.model_card import model_card, write_model_card
    from keras_mobileone.export.qat import export_qat
    from keras_mobileone.export.report import ExportReport
    from keras_mobileone.export.tflite import export_tflite
    from keras_mobileone.layers.block import MobileOneBlock
    from keras_mobileone.models.complexity import model_complexity
    from keras_mobileone.models.detection.config import DetectionConfig
    from keras_mobileone.models.detection.network import MobileOneDetector, decode_detections
    from keras_mobileone.models.freezing import freeze_batch_norm
    from keras_mobileone.models.fusing import fuse
    from keras_mobileone.models.network import MobileOneModel, feature_extractor
    from keras_mobileone.models.segmentation import SegmentationConfig
    from keras_mobileone.models.unfusing import unfuse
    from keras_mobileone.models.variant_complexity import Complexity
    from keras_mobileone.quantization.equalization import Equalization, equalize
    from keras_mobileone.quantization.layerwise_correction import Steps
    from keras_mobileone.quantization.ptq import QuantizationReport, quantize
    from keras_mobileone.quantization.qat import quantize_aware, tf_keras_to_keras
    from keras_mobileone.training.distribution import Devices
    from keras_mobileone.training.finalize import TrainingReport
    from keras_mobileone.training.finetuning import finetune
    from keras_mobileone.training.qat_classifier import QATReport, train_qat
    from keras_mobileone.training.recipe import RECIPES, Phase, Recipe, get_recipe
    from keras_mobileone.training.train import train
    from keras_mobileone.variants import VARIANTS, Variant, get_variant

__version__ = "0.2.0"

# The public names by the module that defines them.
_NAMES = {
    "about": ("About",),
    "applications": (
        "MobileOne",
        "MobileOneS0",
        "MobileOneS1",
        "MobileOneS2",
        "MobileOneS3",
        "MobileOneS4",
        "list_models",
    ),
    "benchmarking.android": ("AndroidDevice",),
    "benchmarking.protocol": ("benchmark",),
    "benchmarking.results": (
        "Benchmark",
        "Latency",
        "load_benchmark",
    ),
    "data.image_config": (
        "ImageConfig",
        "image_config",
        "set_image_config",
    ),
    "data.imagenet": (
        "decode_predictions",
        "preprocess_input",
    ),
    "data.images": (
        "evaluation_crop",
        "load_image",
    ),
    "data.tfrecord_writer": (
        "Prepared",
        "write_tfrecords",
    ),
    "dense_applications": (
        "MobileOneDeepLabV3",
        "MobileOneSSDLite",
    ),
    "deployment.pipeline": ("deploy",),
    "deployment.report": ("DeployReport",),
    "errors": (
        "InputError",
        "InputTypeError",
        "InputValueError",
        "MeasurementError",
        "MissingPackageError",
        "VerificationError",
    ),
    "evaluation.accuracy": (
        "Evaluation",
        "evaluate",
        "evaluate_corruptions",
        "evaluate_robustness",
    ),
    "evaluation.comparison": (
        "Comparison",
        "compare",
    ),
    "evaluation.confidence": (
        "Confidence",
        "measure_confidence",
    ),
    "evaluation.corruptions": (
        "CorruptionEvaluation",
        "evaluate_corruptions",
    ),
    "evaluation.dense_accuracy": (
        "DenseEvaluation",
        "DetectionEvaluation",
        "SegmentationEvaluation",
        "evaluate_detection",
        "evaluate_segmentation",
    ),
    "evaluation.dense_pictures": (
        "DetectedPhotograph",
        "SegmentedPhotograph",
        "detect",
        "segment",
    ),
    "evaluation.dense_predictor": (
        "Detector",
        "Segmenter",
        "load_detector",
        "load_segmenter",
    ),
    "evaluation.predictor": (
        "Predictor",
        "load_predictor",
    ),
    "evaluation.robustness": (
        "RobustnessEvaluation",
        "evaluate_robustness",
    ),
    "export.coreml": (
        "CoreMLReport",
        "export_coreml",
    ),
    "export.entry": ("export",),
    "export.model_card": (
        "model_card",
        "write_model_card",
    ),
    "export.qat": ("export_qat",),
    "export.report": ("ExportReport",),
    "export.tflite": ("export_tflite",),
    "layers.block": ("MobileOneBlock",),
    "models.complexity": ("model_complexity",),
    "models.detection.config": ("DetectionConfig",),
    "models.detection.network": (
        "MobileOneDetector",
        "decode_detections",
    ),
    "models.freezing": ("freeze_batch_norm",),
    "models.fusing": ("fuse",),
    "models.network": (
        "MobileOneModel",
        "feature_extractor",
    ),
    "models.segmentation": ("SegmentationConfig",),
    "models.unfusing": ("unfuse",),
    "models.variant_complexity": ("Complexity",),
    "quantization.equalization": (
        "Equalization",
        "equalize",
    ),
    "quantization.layerwise_correction": ("Steps",),
    "quantization.ptq": (
        "QuantizationReport",
        "quantize",
    ),
    "quantization.qat": (
        "quantize_aware",
        "tf_keras_to_keras",
    ),
    "training.distribution": ("Devices",),
    "training.finalize": ("TrainingReport",),
    "training.finetuning": ("finetune",),
    "training.qat_classifier": (
        "QATReport",
        "train_qat",
    ),
    "training.recipe": (
        "RECIPES",
        "Phase",
        "Recipe",
        "get_recipe",
    ),
    "training.train": ("train",),
    "variants": (
        "VARIANTS",
        "Variant",
        "get_variant",
    ),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "RECIPES",
    "VARIANTS",
    "About",
    "AndroidDevice",
    "Benchmark",
    "Comparison",
    "Complexity",
    "Confidence",
    "CoreMLReport",
    "CorruptionEvaluation",
    "DenseEvaluation",
    "DeployReport",
    "DetectedPhotograph",
    "DetectionConfig",
    "DetectionEvaluation",
    "Detector",
    "Devices",
    "Equalization",
    "Evaluation",
    "ExportReport",
    "ImageConfig",
    "InputError",
    "InputTypeError",
    "InputValueError",
    "Latency",
    "MeasurementError",
    "MissingPackageError",
    "MobileOne",
    "MobileOneBlock",
    "MobileOneDeepLabV3",
    "MobileOneDetector",
    "MobileOneModel",
    "MobileOneS0",
    "MobileOneS1",
    "MobileOneS2",
    "MobileOneS3",
    "MobileOneS4",
    "MobileOneSSDLite",
    "Phase",
    "Predictor",
    "Prepared",
    "QATReport",
    "QuantizationReport",
    "Recipe",
    "RobustnessEvaluation",
    "SegmentationConfig",
    "SegmentationEvaluation",
    "SegmentedPhotograph",
    "Segmenter",
    "Steps",
    "TrainingReport",
    "Variant",
    "VerificationError",
    "benchmark",
    "compare",
    "decode_detections",
    "decode_predictions",
    "deploy",
    "detect",
    "equalize",
    "evaluate",
    "evaluate_corruptions",
    "evaluate_detection",
    "evaluate_robustness",
    "evaluate_segmentation",
    "evaluation_crop",
    "export",
    "export_coreml",
    "export_qat",
    "export_tflite",
    "feature_extractor",
    "finetune",
    "freeze_batch_norm",
    "fuse",
    "get_recipe",
    "get_variant",
    "image_config",
    "list_models",
    "load_benchmark",
    "load_detector",
    "load_image",
    "load_predictor",
    "load_segmenter",
    "measure_confidence",
    "model_card",
    "model_complexity",
    "preprocess_input",
    "quantize",
    "quantize_aware",
    "segment",
    "set_image_config",
    "tf_keras_to_keras",
    "train",
    "train_qat",
    "unfuse",
    "write_model_card",
    "write_tfrecords",
]


def __getattr__(name: str) -> Any:
    """Imports a public name from the module that defines it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    # The next access finds it without this function. The import above has bound `export` to the
    # package of that name, which can be called.
    return globals().setdefault(name, value)


def __dir__() -> list[str]:
    """Returns the public names and the names that have been imported so far."""
    return sorted({*globals(), *__all__})


register_classes()
