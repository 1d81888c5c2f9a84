"""Files of one network for ONNX Runtime and OpenVINO, float32 and int8, for timing only.

The weights are the random ones of the TFLite file of the same network, and int8 is each runtime's
own quantization after training, calibrated on the same noise: ONNX Runtime's static QDQ
quantization, with activations of uint8 as its documentation recommends for x86, and NNCF's for
OpenVINO.
"""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from keras_mobileone.benchmarking.baselines import Peer, export_network, noise, settle
from keras_mobileone.export.onnx import export_onnx
from keras_mobileone.export.openvino import export_openvino
from keras_mobileone.files import staged_path

LITERT, ONNX, OPENVINO = "LiteRT", "ONNX Runtime", "OpenVINO"
# The distribution of each runtime, and that of what makes its int8 files if it is another one.
DISTRIBUTIONS = {ONNX: ("onnxruntime",), OPENVINO: ("openvino", "nncf")}
SUFFIXES = {ONNX: ".onnx", OPENVINO: ".xml"}


def file_of(network: Peer, runtime: str, precision: str, files: Path) -> Path:
    """Returns the file of a network for a runtime, whose name has the versions that made it."""
    if runtime == LITERT:
        return export_network(network.name, network.build, files, precision)
    made_by = "-".join(f"{name}{version(name)}" for name in DISTRIBUTIONS[runtime])
    return files / f"{network.name}-{precision}-{made_by}{SUFFIXES[runtime]}"


def prepare_network(network: Peer, files: Path) -> None:
    """Exports the missing files of a network for every runtime, float32 and int8."""
    for precision in ("float32", "int8"):
        export_network(network.name, network.build, files, precision)
    for runtime, (export, quantize) in MAKERS.items():
        plain, integer = (file_of(network, runtime, p, files) for p in ("float32", "int8"))
        if plain.is_file() and integer.is_file():
            continue
        model = network.build()
        settle(model)
        export(model, plain, normalize=False)
        quantize(plain, integer, noise(model))


def quantize_onnx(source: Path, target: Path, images: np.ndarray) -> None:
    """Quantizes an ONNX file to int8 with ONNX Runtime's static QDQ quantization."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(quantization.CalibrationDataReader):
        """Hands out one image at a time."""

        def __init__(self, name: str) -> None:
            self.batches = iter([{name: image[None]} for image in images])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    with staged_path(target) as temporary:
        prepared = temporary.with_suffix(".prepared.onnx")
        # Symbolic shape inference is for open shapes; every shape here is fixed.
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            temporary,
            Images(_input_name(prepared)),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        prepared.unlink()


def _input_name(path: Path) -> str:
    import onnx

    return onnx.load(path).graph.input[0].name


def quantize_openvino(source: Path, target: Path, images: np.ndarray) -> None:
    """Quantizes an OpenVINO file to int8 with NNCF's quantization after training."""
    import nncf
    import openvino

    graph = openvino.Core().read_model(source)
    dataset = nncf.Dataset([image[None] for image in images])
    quantized = nncf.quantize(graph, dataset, subset_size=len(images))
    with staged_path(target) as temporary:
        openvino.save_model(quantized, temporary, compress_to_fp16=False)


MAKERS: dict[str, tuple[Callable[..., Any], Callable[..., None]]] = {
    ONNX: (export_onnx, quantize_onnx),
    OPENVINO: (export_openvino, quantize_openvino),
}
