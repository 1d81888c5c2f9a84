"""Metadata of TFLite files: normalization, labels and texts, as MediaPipe and Android Studio read.

The schema is `metadata_schema.fbs` (file identifier M001), which the package mediapipe ships in
`mediapipe/tasks/metadata`. A table is written here as a dict from the number of a field in that
schema to its value. Associated files are a zip archive behind the model's own bytes.
"""

import io
import os
import zipfile
from collections.abc import Sequence

import numpy as np

from keras_mobileone.about import About
from keras_mobileone.data.imagenet import MEAN, STD
from keras_mobileone.litert import flatbuffer

FIELD = "TFLITE_METADATA"
IDENTIFIER = b"M001"
# The first version of the schema has all that is written here.
PARSER_VERSION = "1.0.0"
LABELS_FILE = "labels.txt"
# Codes of the schema's enumerations and unions.
TENSOR_AXIS_LABELS = flatbuffer.Byte(2)  # AssociatedFileType
RGB = flatbuffer.Byte(1)  # ColorSpaceType
FEATURE, IMAGE = flatbuffer.Byte(1), flatbuffer.Byte(2)  # ContentProperties
NORMALIZATION = flatbuffer.Byte(1)  # ProcessUnitOptions
# Zip archives carry a date; a fixed one keeps equal exports equal.
ZIP_DATE = (1980, 1, 1, 0, 0, 0)


def with_metadata(
    content: bytes,
    name: str,
    about: About,
    labels: Sequence[str] | None,
    *,
    takes_pixels: bool,
) -> bytes:
    """The TFLite file with metadata and, after it, the labels.

    Args:
        content: A TFLite file without associated files.
        name: Of the model.
        about: Texts.
        labels: Names of the classes, or None for a model that has none.
        takes_pixels: Whether an RGB input takes pixels 0 … 255. Otherwise it is described as
            (x − mean) / std of these.
    """
    inputs, outputs = flatbuffer.inputs_and_outputs(content)
    subgraph = {
        2: [_input_tensor(tensor, takes_pixels) for tensor in inputs],
        3: [_output_tensor(tensor, labels) for tensor in outputs],
    }
    fields = {0: name, 1: about.text(name), 2: about.version, 3: [subgraph], 4: about.author}
    fields |= {5: about.license, 7: PARSER_VERSION}
    described = flatbuffer.with_buffer(content, FIELD, flatbuffer.encode(fields, IDENTIFIER))
    return described if labels is None else _with_file(described, labels)


def read_labels(path: str | os.PathLike) -> list[str] | None:
    """The names of the classes that a TFLite file brings, or None."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        if LABELS_FILE not in archive.namelist():
            return None
        return archive.read(LABELS_FILE).decode().splitlines()


def _input_tensor(tensor, takes_pixels) -> dict:
    _, height, width, channels = tensor.shape
    if channels != 3:
        return {0: tensor.name, 1: f"image of {channels} channels"}
    mean, std = np.array((0, 0, 0)), np.array((1, 1, 1))
    if not takes_pixels:
        mean, std = 255 * np.array(MEAN), 255 * np.array(STD)
    size = {0: width, 1: height}
    return {
        0: tensor.name,
        1: "RGB image, " + ("0 … 255" if takes_pixels else "normalized: (x − mean) / std"),
        3: {0: IMAGE, 1: {0: RGB, 1: size}},
        4: [{0: NORMALIZATION, 1: {0: mean, 1: std}}],
        5: {0: (255 - mean) / std, 1: -mean / std},
    }


def _output_tensor(tensor, labels) -> dict:
    fields = {0: tensor.name, 1: "outputs of the model", 3: {0: FEATURE, 1: {}}}
    if labels is None:
        return fields
    description = "names of the classes in the order of the scores"
    file = {0: LABELS_FILE, 1: description, 2: TENSOR_AXIS_LABELS}
    return fields | {1: "score of each class", 6: [file]}


def _with_file(content, labels) -> bytes:
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(LABELS_FILE, ZIP_DATE), "\n".join(labels) + "\n")
    return file.getvalue()
