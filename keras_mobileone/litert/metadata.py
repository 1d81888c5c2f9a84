"""Metadata of TFLite files: the normalization, labels and texts that MediaPipe reads.

The schema is `metadata_schema.fbs` (file identifier M001), which the package mediapipe ships in
`mediapipe/tasks/metadata`. A table is written here as a dict from the number of a field in that
schema to its value. Associated files are a zip archive after the bytes of the model.
"""

import io
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from keras_mobileone.about import About
from keras_mobileone.data.image_config import ImageConfig
from keras_mobileone.errors import InputValueError
from keras_mobileone.litert import flatbuffer
from keras_mobileone.litert.flatbuffer import Table, TensorInfo
from keras_mobileone.litert.task_metadata import (
    LABELS_FILE,
    ClassifierMetadata,
    TaskMetadata,
)
from keras_mobileone.litert.task_metadata import PARSER_VERSION as CUSTOM_PARSER_VERSION
from keras_mobileone.models.tasks import TaskConfig, task_from_dict

FIELD = "TFLITE_METADATA"
CONFIG_FIELD = "KERAS_MOBILEONE_IMAGE_CONFIG"
TASK_FIELD = "KERAS_MOBILEONE_TASK_CONFIG"
IDENTIFIER = b"M001"
# The oldest version of the schema that has all fields that are used here without custom metadata.
PARSER_VERSION = "1.0.0"
# Codes of the schema's enumerations and unions.
RGB = flatbuffer.Byte(1)  # ColorSpaceType
IMAGE = flatbuffer.Byte(2)  # ContentProperties
NORMALIZATION = flatbuffer.Byte(1)  # ProcessUnitOptions
# Zip archives contain a date. A fixed one keeps repeated exports identical.
ZIP_DATE = (1980, 1, 1, 0, 0, 0)
CLASSIFIER = ClassifierMetadata()


def with_metadata(
    content: bytes,
    name: str,
    about: About,
    labels: Sequence[str] | None,
    config: ImageConfig,
    task: TaskMetadata = CLASSIFIER,
) -> bytes:
    """Adds metadata and labels to a TFLite file.

    Args:
        content: Content of a TFLite file without associated files.
        name: Name of the model.
        about: Description, author, license and version.
        labels: Names of the classes, or None for a model that has none.
        config: How the file takes images. Standard fields give size, mean and standard deviation to
            any client. The whole configuration is also stored as JSON for this package.
        task: The descriptions that depend on what the file computes.

    Returns:
        The content of the new file. The labels are in a zip archive after the model.
    """
    inputs, outputs = flatbuffer.inputs_and_outputs(content)
    subgraph: Table = {
        2: [_input_tensor(tensor, config) for tensor in inputs],
        3: [task.output(tensor, labels) for tensor in outputs],
    }
    custom = task.custom()
    if custom is not None:
        subgraph[9] = [{0: custom.name, 1: custom.data}]
    fields = {0: name, 1: about.text(name), 2: about.version, 3: [subgraph], 4: about.author}
    fields |= {5: about.license, 7: PARSER_VERSION if custom is None else CUSTOM_PARSER_VERSION}
    described = flatbuffer.with_buffer(content, FIELD, flatbuffer.encode(fields, IDENTIFIER))
    stored = json.dumps(replace(config, labels=None).to_dict()).encode()
    described = flatbuffer.with_buffer(described, CONFIG_FIELD, stored)
    if task.config is not None:
        stored = json.dumps(task.config).encode()
        described = flatbuffer.with_buffer(described, TASK_FIELD, stored)
    return described if labels is None else _with_label_file(described, labels)


def read_file_config(content: bytes) -> ImageConfig | None:
    """Reads from the metadata of a TFLite file how it takes images.

    Args:
        content: Content of the file.

    Returns:
        The configuration that this package stored. For a file from another tool, a configuration
        with the size, mean and standard deviation of the standard metadata, or None if it has no
        such metadata.
    """
    names = _labels_in(io.BytesIO(content))
    labels = None if names is None else tuple(names)
    stored = flatbuffer.read_buffer(content, CONFIG_FIELD)
    if stored is not None:
        config = ImageConfig.from_dict(json.loads(stored))
        return replace(config, labels=labels)
    described = flatbuffer.read_buffer(content, FIELD)
    statistics = None if described is None else _read_normalization(described)
    if statistics is None:
        return None
    _, height, width, _ = flatbuffer.inputs_and_outputs(content)[0][0].shape
    mean, std = (values if len(values) == 3 else values * 3 for values in statistics)
    return ImageConfig((height, width), mean, std, labels=labels)


def read_file_task(content: bytes) -> TaskConfig | None:
    """Reads from the metadata of a TFLite file what it computes.

    Args:
        content: Content of the file.

    Returns:
        The configuration that this package stored in a segmentation model or a detector, else None.
    """
    stored = flatbuffer.read_buffer(content, TASK_FIELD)
    return None if stored is None else task_from_dict(json.loads(stored))


def require_file_config(content: bytes) -> ImageConfig:
    """Reads how a TFLite file takes images, and requires that its metadata describe it.

    Args:
        content: Content of the file.

    Returns:
        The configuration, see `read_file_config`.

    Raises:
        ValueError: If the metadata do not describe how the file takes images.
    """
    config = read_file_config(content)
    if config is None:
        raise InputValueError(
            "Expected a TFLite file whose metadata describe how it takes images. Received: a file "
            "without such metadata. Export the model with keras_mobileone.export_tflite."
        )
    return config


def _read_normalization(described: bytes) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Reads mean and standard deviation of the first input from standard metadata.

    Returns:
        Mean and standard deviation, each with one value for each channel or one for all channels;
        None if the metadata lack them.
    """
    table = flatbuffer.root(described)
    subgraph = flatbuffer.items(table, 3)[:1]
    tensor = flatbuffer.items(subgraph[0], 2)[:1] if subgraph else []
    for unit in flatbuffer.items(tensor[0], 4) if tensor else []:
        options = flatbuffer.table(unit, 1)
        if flatbuffer.byte(unit, 0) == NORMALIZATION and options is not None:
            mean, std = flatbuffer.floats(options, 0), flatbuffer.floats(options, 1)
            if len(mean) in (1, 3) and len(std) == len(mean):
                return mean, std
    return None


def read_labels(path: str | os.PathLike) -> list[str] | None:
    """Reads the names of the classes in a TFLite file; None if it has none."""
    return _labels_in(path)


def _labels_in(file: str | os.PathLike | io.BytesIO) -> list[str] | None:
    """Reads the labels from the zip archive that follows the model; None if there is none."""
    if not zipfile.is_zipfile(file):
        return None
    with zipfile.ZipFile(file) as archive:
        if LABELS_FILE not in archive.namelist():
            return None
        return archive.read(LABELS_FILE).decode().splitlines()


def _input_tensor(tensor: TensorInfo, config: ImageConfig) -> Table:
    """Describes the input of a file as a table of the schema."""
    _, height, width, channels = tensor.shape
    if channels != 3:
        return {0: tensor.name, 1: f"image of {channels} channels"}
    mean, std = np.array(config.mean), np.array(config.std)
    size = {0: width, 1: height}
    return {
        0: tensor.name,
        1: "RGB image, " + ("0 … 255" if config.takes_pixels else "normalized: (x − mean) / std"),
        3: {0: IMAGE, 1: {0: RGB, 1: size}},
        4: [{0: NORMALIZATION, 1: {0: mean, 1: std}}],
        5: {0: (255 - mean) / std, 1: -mean / std},
    }


def _with_label_file(content: bytes, labels: Sequence[str]) -> bytes:
    """Appends a zip archive with the labels to a TFLite file."""
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(LABELS_FILE, ZIP_DATE), "\n".join(labels) + "\n")
    return file.getvalue()
