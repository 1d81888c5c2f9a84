"""Appends `TFLite_Detection_PostProcess`, which decodes and suppresses boxes, to a TFLite file."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_mobileone.errors import InputValueError
from keras_mobileone.litert import flatbuffer

OPERATOR = "TFLite_Detection_PostProcess"
# The tensors that the operator takes and returns, by their names in signature and metadata.
LOCATION, SCORE = "location", "score"
RESULTS = (LOCATION, "category", SCORE, "number of detections")


@dataclass(frozen=True)
class PostProcess:
    """Settings of the operator.

    Attributes:
        anchors: float32 (anchors, 4): center y, center x, height and width, divided by the size of
            the image.
        variances: Divisors of the offsets, as in `DetectionConfig`.
        classes: Number of classes without the background, whose score is the first.
        score_threshold: Smallest score of a detection.
        iou_threshold: Largest overlap of two detections of a class.
        max_detections: Number of rows of the results.
    """

    anchors: np.ndarray
    variances: tuple[float, float, float, float]
    classes: int
    score_threshold: float
    iou_threshold: float
    max_detections: int

    def options(self) -> bytes:
        """Returns the options of the operator as a flexbuffer."""
        from flatbuffers import flexbuffers

        y, x, height, width = (1 / variance for variance in self.variances)
        builder = flexbuffers.Builder()
        with builder.Map():
            builder.Int("max_detections", self.max_detections)
            builder.Int("max_classes_per_detection", 1)
            builder.Int("detections_per_class", self.max_detections)
            builder.Int("num_classes", self.classes)
            builder.Bool("use_regular_nms", True)
            builder.Float("nms_score_threshold", self.score_threshold)
            builder.Float("nms_iou_threshold", self.iou_threshold)
            for name, scale in (("y", y), ("x", x), ("h", height), ("w", width)):
                builder.Float(f"{name}_scale", scale)
        return bytes(builder.Finish())


def with_postprocess(content: bytes, settings: PostProcess) -> bytes:
    """Appends the operator to a file.

    Its results are boxes (1, rows, 4) as y and x of the upper left and the lower right corner,
    divided by the size of the image; classes (1, rows) from 0; scores (1, rows); and the number of
    detections (1,), all float32, the best first.

    Args:
        content: Content of a file whose outputs are `"location"` (1, anchors, 4), offsets from the
            anchors, and `"score"` (1, anchors, 1 + classes), both float32.
        settings: Settings of the operator.

    Returns:
        The content of the new file.

    Raises:
        ValueError: If the outputs have other names or types.
    """
    _, outputs = flatbuffer.inputs_and_outputs(content)
    found = {tensor.name: tensor.dtype for tensor in outputs}
    if found != {LOCATION: "float32", SCORE: "float32"}:
        raise InputValueError(
            f"{OPERATOR} needs the float32 outputs {LOCATION!r} and {SCORE!r}. Received: {found}. "
            "Leave out the output type."
        )
    model = flatbuffer.parse(content)
    graph = model.subgraphs[0]
    sources = dict(zip([t.name for t in outputs], map(int, graph.outputs), strict=True))
    rows = settings.max_detections
    anchors = _add_tensor(model, "anchors", settings.anchors.shape, settings.anchors)
    shapes = ((1, rows, 4), (1, rows), (1, rows), (1,))
    results = [_add_tensor(model, *pair) for pair in zip(RESULTS, shapes, strict=True)]
    graph.operators.append(
        _operator(model, [sources[LOCATION], sources[SCORE], anchors], results, settings.options())
    )
    graph.outputs = np.array(results, np.int32)
    for signature in model.signatureDefs or []:
        entry = signature.outputs[0]
        signature.outputs = [copy.copy(entry) for _ in RESULTS]
        for output, name, tensor in zip(signature.outputs, RESULTS, results, strict=True):
            output.name, output.tensorIndex = name, tensor
    return flatbuffer.serialize(model)


def _add_tensor(
    model: Any, name: str, shape: tuple[int, ...], values: np.ndarray | None = None
) -> int:
    """Adds a float32 tensor to a `ModelT`, constant if it has values, and returns its index."""
    from ai_edge_litert import schema_py_generated as schema

    tensor, buffer = schema.TensorT(), schema.BufferT()
    tensor.name, tensor.shape = name, np.array(shape, np.int32)
    tensor.type, tensor.buffer = flatbuffer.tensor_type("FLOAT32"), len(model.buffers)
    if values is not None:
        buffer.data = np.frombuffer(np.ascontiguousarray(values, "<f4").tobytes(), np.uint8)
    model.buffers.append(buffer)
    model.subgraphs[0].tensors.append(tensor)
    return len(model.subgraphs[0].tensors) - 1


def _operator(model: Any, inputs: list[int], outputs: list[int], options: bytes) -> Any:
    """Makes the custom operator, and adds its code to a `ModelT`."""
    from ai_edge_litert import schema_py_generated as schema

    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode, code.version = OPERATOR, 1
    model.operatorCodes.append(code)
    operator = schema.OperatorT()
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
    operator.customOptions = np.frombuffer(options, np.uint8)
    return operator
