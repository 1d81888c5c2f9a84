"""Reads and writes TFLite files: tensors, operators, signatures.

Works with `ai_edge_litert.tools.flatbuffer_utils` and the schema that ai-edge-litert ships, without
TensorFlow. `ModelT`, `TensorT` and the other classes ending in T are that schema's own.
"""

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keras_mobileone.errors import InputValueError

if TYPE_CHECKING:
    import flatbuffers
    from ai_edge_litert.schema_py_generated import ModelT

IDENTIFIER = b"TFL3"
Table = dict[int, Any]  # maps the number of a field in a schema to its value
Reader = Any  # `flatbuffers.table.Table`, positioned on a table of a flatbuffer


class TensorInfo(NamedTuple):
    """An input or output of a TFLite file.

    Attributes:
        name: Name in the signature, or of the tensor if the file has no signature.
        shape: Dimensions.
        dtype: NumPy's name of the type.
        scale, zero_point: real = scale · (stored − zero_point); None for floating point.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int | None


def read_tflite(path: str | os.PathLike) -> bytes:
    """Reads and checks the content of a TFLite file.

    Args:
        path: Path of the file.

    Returns:
        The content of the file.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not a TFLite file or is cut short.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a .tflite file. Received: {path}, which does not exist.")
    content = path.read_bytes()
    if content[4:8] != IDENTIFIER:
        raise InputValueError(
            f"Expected a TFLite file. Received: {path}, which lacks the identifier TFL3. "
            "Export the model to TFLite first."
        )
    damaged = (
        f"Expected a complete TFLite file. Received: {path}, which is damaged or cut short. "
        "Copy or export it again."
    )
    try:
        model = parse(content)
    except Exception as error:  # any error of the flatbuffer reader means a damaged file
        raise InputValueError(damaged) from error
    if not model.subgraphs:
        raise InputValueError(damaged)
    return content


def parse(content: bytes) -> "ModelT":
    """Parses the content of a TFLite file to a `ModelT`."""
    from ai_edge_litert.tools import flatbuffer_utils

    # `read_model_from_bytearray` is not used: it renumbers the buffers, which changes the bytes.
    return flatbuffer_utils.convert_bytearray_to_object(content)


def serialize(model: "ModelT") -> bytes:
    """Returns the content of the TFLite file that `model` describes."""
    from ai_edge_litert.tools import flatbuffer_utils

    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def with_buffer(content: bytes, name: str, buffer: bytes) -> bytes:
    """Adds an entry to the metadata table of a TFLite file and returns the new content."""
    from ai_edge_litert import schema_py_generated as schema

    model = parse(content)
    entry, data = schema.MetadataT(), schema.BufferT()
    entry.name, entry.buffer, data.data = name, len(model.buffers), np.frombuffer(buffer, np.uint8)
    model.buffers.append(data)
    model.metadata = [*(model.metadata or []), entry]
    return serialize(model)


def read_buffer(content: bytes, name: str) -> bytes | None:
    """Returns the entry called `name` in a TFLite file's metadata table, or None."""
    model = parse(content)
    for entry in model.metadata or []:
        if entry.name.decode() == name:
            data = model.buffers[entry.buffer].data
            return None if data is None else bytes(data)
    return None


def root(buffer: bytes) -> Reader:
    """Returns the root table of any flatbuffer, whose fields are read by their numbers."""
    from flatbuffers import Table
    from flatbuffers.encode import Get
    from flatbuffers.packer import uoffset

    return Table.Table(buffer, Get(uoffset, buffer, 0))


def table(parent: Reader, field: int) -> Reader | None:
    """Returns the table in a field, or None if the field is not set."""
    place = _place(parent, field)
    return None if place is None else _table_at(parent, place)


def items(parent: Reader, field: int) -> list[Reader]:
    """Returns the tables in a field that holds a vector of tables."""
    place = parent.Offset(4 + 2 * field)
    if not place:
        return []
    start = parent.Vector(place)
    return [_table_at(parent, start + 4 * i) for i in range(parent.VectorLen(place))]


def floats(parent: Reader, field: int) -> tuple[float, ...]:
    """Returns the values in a field that holds a vector of float32."""
    place = parent.Offset(4 + 2 * field)
    if not place:
        return ()
    start, length = parent.Vector(place), parent.VectorLen(place)
    return tuple(map(float, np.frombuffer(parent.Bytes, "<f4", length, start)))


def byte(parent: Reader, field: int) -> int:
    """Returns the number in a field of one byte; 0 if the field is not set."""
    place = _place(parent, field)
    return 0 if place is None else parent.Bytes[place]


def _place(parent: Reader, field: int) -> int | None:
    """Returns the position of a field in the buffer, or None if it is not set."""
    offset = parent.Offset(4 + 2 * field)
    return parent.Pos + offset if offset else None


def _table_at(parent: Reader, place: int) -> Reader:
    """Returns the table that the offset at a position refers to."""
    return type(parent)(parent.Bytes, parent.Indirect(place))


class Byte(int):
    """A number that a schema stores in one byte, such as an enumeration or the type of a union."""


class Float(float):
    """A number that a schema stores as float32."""


def encode(table: Table, identifier: bytes) -> bytes:
    """Encodes a table, given as a dict from field number to value, as a flatbuffer.

    Values are tables, lists of tables, arrays of float32 or uint32, strings, bytes (aligned to 16
    bytes, as flatbuffers inside flatbuffers need it), `Byte`, `Float`, and unsigned 32-bit
    integers. Empty strings are left out.
    """
    import flatbuffers

    builder = flatbuffers.Builder(1 << 10)
    builder.Finish(_write(builder, table), file_identifier=identifier)
    return bytes(builder.Output())


def _write(builder: "flatbuffers.Builder", value: str | bytes | np.ndarray | list | dict) -> int:
    """Writes a value that is stored by reference, and returns its offset."""
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, np.ndarray):
        exact = value.dtype == np.uint32
        return builder.CreateNumpyVector(value if exact else value.astype(np.float32))
    if isinstance(value, bytes):
        builder.StartVector(1, len(value), 16)
        builder.head -= len(value)
        builder.Bytes[builder.head : builder.head + len(value)] = value
        return builder.EndVector()
    if isinstance(value, list):
        places = [_write(builder, item) for item in value]
        builder.StartVector(4, len(places), 4)
        for place in reversed(places):
            builder.PrependUOffsetTRelative(place)
        return builder.EndVector()
    fields = {
        number: item if isinstance(item, (int, Float)) else _write(builder, item)
        for number, item in value.items()
        if not isinstance(item, str) or item
    }
    builder.StartObject(max(fields, default=-1) + 1)
    for number, item in fields.items():
        if isinstance(value[number], Byte):
            builder.PrependUint8Slot(number, item, 0)
        elif isinstance(value[number], Float):
            builder.PrependFloat32Slot(number, item, 0.0)
        elif isinstance(value[number], int):
            builder.PrependUint32Slot(number, item, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(number, item, 0)
    return builder.EndObject()


def operator_names(model: "ModelT") -> list[str]:
    """Returns the names of the operator codes of a `ModelT`, such as `CONV_2D`."""
    from ai_edge_litert.tools import flatbuffer_utils

    codes = range(len(model.operatorCodes))
    return [flatbuffer_utils.opcode_to_name(model, code) for code in codes]


def operator_counts(content: bytes) -> dict[str, int]:
    """Counts how often each operator occurs, by its name in the schema, such as `CONV_2D`."""
    model = parse(content)
    names = operator_names(model)
    counts = Counter(names[op.opcodeIndex] for graph in model.subgraphs for op in graph.operators)
    return dict(counts.most_common())


def inputs_and_outputs(content: bytes) -> tuple[list[TensorInfo], list[TensorInfo]]:
    """Returns the inputs and the outputs of the first subgraph of a TFLite file."""
    model = parse(content)
    graph = model.subgraphs[0]
    names = {}
    for signature in model.signatureDefs or []:
        if signature.subgraphIndex == 0:
            for entry in (*signature.inputs, *signature.outputs):
                names[entry.tensorIndex] = entry.name.decode()

    def info(index: int) -> TensorInfo:
        tensor = graph.tensors[index]
        quantization = tensor.quantization
        quantized = quantization is not None and quantization.scale is not None
        return TensorInfo(
            names.get(int(index), tensor.name.decode()),
            tuple(int(n) for n in tensor.shape),
            _dtype_name(tensor.type),
            float(quantization.scale[0]) if quantized else None,
            int(quantization.zeroPoint[0]) if quantized else None,
        )

    return [info(i) for i in graph.inputs], [info(i) for i in graph.outputs]


def open_inputs(content: bytes) -> list[tuple[str, tuple[int, ...]]]:
    """Returns name and shape of each input that has open dimensions, with -1 for each of them."""
    graph = parse(content).subgraphs[0]
    tensors = [graph.tensors[index] for index in graph.inputs]
    shapes = [
        (t.name.decode(), tuple(int(n) for n in t.shapeSignature))
        for t in tensors
        if t.shapeSignature is not None
    ]
    return [(name, shape) for name, shape in shapes if min(shape, default=0) < 0]


def tensor_type(name: str) -> int:
    """Returns the schema's code of a type, such as `"INT8"`."""
    from ai_edge_litert.schema_py_generated import TensorType

    return getattr(TensorType, name)


def _dtype_name(code: int) -> str:
    from ai_edge_litert.tools import flatbuffer_utils

    return flatbuffer_utils.type_to_name(code).lower()
