"""`ExportReport`, the result of every export."""

from dataclasses import dataclass, field
from pathlib import Path

from keras_mobileone.about import About
from keras_mobileone.data.image_config import ImageConfig
from keras_mobileone.litert.flatbuffer import TensorInfo
from keras_mobileone.models.complexity import Complexity
from keras_mobileone.quantization.ptq import QuantizationReport
from keras_mobileone.reports import Report


@dataclass(frozen=True, kw_only=True)
class ExportReport(Report):
    """Result of `export`, `export_tflite`, `export_coreml` and `export_qat`.

    It describes the file, and how closely the file follows the model that was exported.

    Attributes:
        format: One of `tflite`, `coreml`, `onnx`, `openvino` and `saved_model`.
        path: Path of the file or directory.
        name: Name of the exported model.
        precision: Precision of the format; `"int8"` for `export_qat`.
        bytes: Size of the file, of all files for a directory, and of both files for OpenVINO.
        inputs, outputs: Name, shape, type and quantization of each input and output.
        operators: How often each operator of the format occurs; empty for a SavedModel.
        image_config: How the file takes images; None for a model without exactly one image input.
        labels: Names of the classes in the file, or None.
        expected: (label, score) of the five best classes of `images.example_image`, computed with
            the runtime of the format, or with Keras if there is none; None for a model that does
            not classify RGB images.
        error: Largest difference from the outputs of the exported model, divided by their largest
            magnitude. With several outputs, the largest error of any of them. None if no runtime
            of the format is installed.
        sqnr: Lowest signal-to-quantization-noise ratio of an output, in dB; infinite if there is
            no difference, and None if `error` is None.
        compared: The images on which `error` and `sqnr` were measured, or why there are none.
        train: Parameters and multiply-accumulates of the exported model, if it had to be fused.
        deploy: Parameters and multiply-accumulates of the fused model, which the file contains.
        about: Description, author, license and version in the file.
        quantization: Report of `quantize` for TFLite's `"int8"`; otherwise None, as for `plain` and
            for `export_qat`.
        gpu_warnings: For TFLite, what keeps the GPU delegate from running the whole file; empty if
            it knows all operators. None for the other formats.
        snippets: Example code by language, which `export` adds; empty unless the file classifies,
            segments or finds objects in RGB images.
        task: `"segment"` or `"detect"` for a segmentation model or a detector, otherwise None.
    """

    format: str
    path: Path
    name: str
    precision: str
    bytes: int
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    operators: dict[str, int]
    image_config: ImageConfig | None
    labels: tuple[str, ...] | None
    expected: tuple[tuple[str, float], ...] | None
    error: float | None
    sqnr: float | None
    compared: str
    train: Complexity | None
    deploy: Complexity
    about: About
    quantization: QuantizationReport | None = None
    gpu_warnings: tuple[str, ...] | None = None
    snippets: dict[str, str] = field(default_factory=dict)
    task: str | None = None

    @property
    def difference(self) -> str:
        """How far the file is from Keras, in one phrase."""
        if self.error is None or self.sqnr is None:
            return f"not measured: {self.compared}"
        return f"{self.error:.1e} of the output, {self.sqnr:.1f} dB SQNR, on {self.compared}"
