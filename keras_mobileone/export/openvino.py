"""`export_openvino`: writes a Keras model for OpenVINO and compares the two on the CPU."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from keras_mobileone.about import About
from keras_mobileone.errors import VerificationError, explained_conversion
from keras_mobileone.export.formats import FORMATS
from keras_mobileone.export.network import Arrays, Files, Network, Runner, export_network
from keras_mobileone.export.report import ExportReport

SECTION = "keras_mobileone"  # of the metadata in `rt_info`
# The section that OpenVINO's Model API and Intel's DL Streamer read; labels stand there in one
# string, separated by spaces.
MODEL_INFO = "model_info"
# Without it, OpenVINO computes in bfloat16 on processors that have it, which is faster and differs
# from Keras by about a hundredth of the outputs.
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}
NO_OPERATORS = ("Parameter", "Constant", "Result")


def export_openvino(
    model: keras.Model,
    path: str | os.PathLike,
    precision: str = "float32",
    *,
    normalize: bool | None = None,
    labels: Sequence[str] | None = None,
    about: About | None = None,
    images: Any = None,
    verify: bool = True,
) -> ExportReport:
    """Writes `model` as OpenVINO's intermediate representation with a fixed batch of 1.

    It consists of two files: the graph at `path`, and the weights beside it, which end in `.bin`.
    Images stay (batch, height, width, channels). Name, description, labels (a JSON list) and the
    image configuration are in the section `keras_mobileone` of the graph's `rt_info`.

    Args:
        model, path, normalize, labels, about, images, verify: As in `keras_mobileone.export`.
        precision: `"float32"`, or `"float16"` for weights of half the size.

    Returns:
        An `ExportReport`.

    Raises:
        ImportError: If openvino is not installed.
        ValueError, TypeError, ArithmeticError, OSError: As in `keras_mobileone.export`.

    Examples:
        >>> tiny = km.Variant("tiny", widths=(0.25,) * 4, depths=(1, 1, 1, 1))
        >>> model = km.MobileOne(
        ...     tiny, weights=None, input_shape=(32, 32, 3), classes=2, deploy=True
        ... )
        >>> report = export_openvino(model, "model.xml", "float16", labels=["tench", "dog"])
        >>> report.inputs[0].name, report.error < 1e-2
        ('pixels', True)
    """
    return export_network(
        model,
        Path(path),
        FORMATS["openvino"],
        Files(_write, _load),
        precision=precision,
        normalize=normalize,
        labels=labels,
        about=about,
        images=images,
        verify=verify,
    )


def _write(network: Network, path: Path, precision: str, about: About) -> dict[str, int]:
    """Writes graph and weights with metadata, and counts the operators."""
    import openvino

    converted = path.with_name("converted.xml")
    with explained_conversion("OpenVINO", r"No conversion rule found for operations: (.+)"):
        network.model.export(
            str(converted), format="openvino", verbose=False, input_signature=network.signature()
        )
    graph = openvino.Core().read_model(converted)
    for info in network.outputs:
        _output(graph, info.name).set_names({info.name})
    for name, text in network.metadata(about).items():
        graph.set_rt_info(text, [SECTION, name])
    if network.labels is not None:
        words = " ".join("_".join(label.split()) for label in network.labels)
        graph.set_rt_info(words, [MODEL_INFO, "labels"])
    openvino.save_model(graph, path, compress_to_fp16=precision == "float16")
    counts = Counter(operator.get_type_name() for operator in graph.get_ordered_ops())
    del graph  # it reads the weights from the file that is removed next
    for file in (converted, converted.with_suffix(".bin")):
        file.unlink()
    return {name: count for name, count in counts.most_common() if name not in NO_OPERATORS}


def _output(graph: Any, name: str) -> Any:
    """Returns the tensor of an output of the graph by its name, among other names that it has."""
    for output in graph.outputs:
        if name in output.get_names():
            return output.get_tensor()
    raise VerificationError(
        f"Expected a graph with the output {name!r}. Received: one without it. Give each output a "
        "separate layer, such as Identity."
    )


def _load(path: Path) -> Runner:
    """Returns a function that runs a file on the CPU in float32."""
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", FLOAT32)

    def run(inputs: Arrays) -> Arrays:
        found = compiled(inputs)
        return {name: found[name] for output in compiled.outputs for name in output.get_names()}

    return run
