"""`export_onnx`: writes a Keras model as an ONNX file and compares the two in ONNX Runtime."""

import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

from keras_mobileone.about import About
from keras_mobileone.compat import prepare_tf2onnx
from keras_mobileone.errors import explained_conversion
from keras_mobileone.export.composites import teach_tf2onnx
from keras_mobileone.export.formats import FORMATS
from keras_mobileone.export.network import Arrays, Files, Network, Runner, export_network
from keras_mobileone.export.report import ExportReport

UNKNOWN = r"No Op registered for (\w+)"  # what the checker of onnx says
# The metadata that ONNX defines for models and images (docs/MetadataProps.md of onnx).
AUTHOR, LICENSE = "model_author", "model_license"
PIXEL_FORMAT = {"Image.BitmapPixelFormat": "Rgb8", "Image.NominalPixelRange": "NominalRange_0_255"}


def export_onnx(
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
    """Writes `model` as an ONNX file with a fixed batch of 1.

    Images stay (batch, height, width, channels). Name, description, labels (a JSON list) and the
    image configuration are in the file's `metadata_props`.

    Args:
        model, path, precision, normalize, labels, about, images, verify: As in
            `keras_mobileone.export`.

    Returns:
        An `ExportReport`.

    Raises:
        ImportError: If onnx or tf2onnx is not installed.
        ValueError, TypeError, ArithmeticError, OSError: As in `keras_mobileone.export`.

    Examples:
        >>> tiny = km.Variant("tiny", widths=(0.25,) * 4, depths=(1, 1, 1, 1))
        >>> model = km.MobileOne(
        ...     tiny, weights=None, input_shape=(32, 32, 3), classes=2, deploy=True
        ... )
        >>> report = export_onnx(model, "model.onnx", labels=["tench", "dog"])
        >>> report.inputs[0].name, report.error < 1e-4
        ('pixels', True)
    """
    return export_network(
        model,
        Path(path),
        FORMATS["onnx"],
        Files(_write, _load),
        precision=precision,
        normalize=normalize,
        labels=labels,
        about=about,
        images=images,
        verify=verify,
    )


def _write(network: Network, path: Path, precision: str, about: About) -> dict[str, int]:
    """Writes the file with metadata, and counts its operators."""
    import onnx

    with quiet(), warnings.catch_warnings():
        # Keras 3.15 asks NumPy for an attribute that tf2onnx needs and NumPy announces.
        warnings.filterwarnings("ignore", "In the future `np.object`", FutureWarning)
        with explained_conversion("ONNX", UNKNOWN):
            _convert(network, path)
    file = onnx.load(path)
    metadata = network.metadata(about)
    file.doc_string = metadata["description"]
    for standard, name in ((AUTHOR, "author"), (LICENSE, "license")):
        if name in metadata:
            metadata[standard] = metadata.pop(name)
    if network.file is not None and network.file.takes_pixels:
        metadata |= PIXEL_FORMAT
    onnx.helper.set_model_props(file, metadata)
    with explained_conversion("ONNX", UNKNOWN):
        onnx.checker.check_model(file)
    onnx.save(file, path)
    return dict(Counter(node.op_type for node in file.graph.node).most_common())


def _convert(network: Network, path: Path) -> None:
    """Writes the graph of a network.

    Keras' `model.export(…, format="onnx")` makes an input of each constant tensor that a model
    contains, as `x * keras.ops.array(…)` does, and leaves out its value.
    """
    import tensorflow as tf

    prepare_tf2onnx()
    teach_tf2onnx()
    from tf2onnx import convert, tf_loader

    (structure,) = network.signature()
    names = [spec.name for spec in network.outputs]

    def run(*tensors: Any) -> list[Any]:
        outputs = network.model(keras.tree.pack_sequence_as(structure, tensors), training=False)
        return [outputs[name] for name in names]

    specs = keras.tree.flatten(structure)
    function = tf.function(run).get_concrete_function(*specs)
    inputs = [tensor.name for tensor in function.inputs[: len(specs)]]
    outputs = [tensor.name for tensor in function.outputs]
    named = zip([*inputs, *outputs], [*(spec.name for spec in specs), *names], strict=True)
    convert.from_graph_def(
        tf_loader.from_function(function, inputs, outputs),
        name=network.source.name,
        input_names=inputs,
        output_names=outputs,
        tensors_to_rename=dict(named),
        output_path=str(path),
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Turns off the warnings of tf2onnx, such as tracebacks of optimizations that it leaves out.

    The file is correct without them, and ONNX Runtime optimizes it once more.
    """
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _load(path: Path) -> Runner:
    """Returns a function that runs a file in ONNX Runtime on one thread of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Arrays) -> Arrays:
        return dict(zip(names, session.run(names, inputs), strict=True))

    return run
