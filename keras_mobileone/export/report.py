"""What the TFLite exports return, and how it is measured on the file itself."""

from dataclasses import dataclass
from pathlib import Path

from keras_mobileone.data.image_config import ImageConfig
from keras_mobileone.litert.flatbuffer import TensorInfo
from keras_mobileone.models.complexity import Complexity
from keras_mobileone.quantization.ptq import QuantizationReport
from keras_mobileone.reports import Report


@dataclass(frozen=True)
class ExportReport(Report):
    """What `export_tflite` or `export_qat` wrote, and how close the file is to its source.

    Attributes:
        path: The file.
        precision: One of `PRECISIONS`; `"int8"` for `export_qat`.
        bytes: Its size.
        inputs, outputs: Shape, type and quantization of each.
        operators: How often each TFLite operator occurs.
        image_config: How the file takes images, as its metadata say.
        labels: Names of the classes that the file brings, or None.
        expected: (label, score) of the five best classes of `images.example_image`, as LiteRT
            runs the file; None for a model that does not classify RGB images.
        error: Largest difference from the outputs of the model that was given, over their largest
            magnitude; the worst of all outputs.
        compared: What `error` was measured on.
        train: Parameters and multiply-accumulates of the model given, if it had to be fused.
        deploy: Those of the fused model, which is what the file holds.
        quantization: The layers' report of `quantize`; None for the other precisions, for `plain`
            and for `export_qat`.
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
