"""`ExportReport`, the result of the TFLite exports."""

from dataclasses import dataclass
from pathlib import Path

from keras_mobileone.data.image_config import ImageConfig
from keras_mobileone.litert.flatbuffer import TensorInfo
from keras_mobileone.models.complexity import Complexity
from keras_mobileone.quantization.ptq import QuantizationReport
from keras_mobileone.reports import Report


@dataclass(frozen=True)
class ExportReport(Report):
    """Result of `export_tflite` or `export_qat`: the file, and how closely it follows its source.

    Attributes:
        path: Path of the file.
        precision: One of `PRECISIONS`; `"int8"` for `export_qat`.
        bytes: Size of the file.
        inputs, outputs: Name, shape, type and quantization of each input and output.
        operators: How often each TFLite operator occurs.
        image_config: How the file takes images, according to its metadata.
        labels: Names of the classes in the file, or None.
        expected: (label, score) of the five best classes of `images.example_image`, computed with
            LiteRT; None for a model that does not classify RGB images.
        error: Largest difference from the outputs of the exported model, divided by their largest
            magnitude. With several outputs, the largest error of any of them.
        compared: The images on which `error` was measured.
        train: Parameters and multiply-accumulates of the exported model, if it had to be fused.
        deploy: Parameters and multiply-accumulates of the fused model, which the file contains.
        quantization: Report of `quantize`; None for the other precisions, for `plain` and for
            `export_qat`.
    """

    path: Path
    precision: str
    bytes: int
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    operators: dict[str, int]
    image_config: ImageConfig
    labels: tuple[str, ...] | None
    expected: tuple[tuple[str, float], ...] | None
    error: float
    compared: str
    train: Complexity | None
    deploy: Complexity
    quantization: QuantizationReport | None
