"""Tests metadata and labels in TFLite files with an independent reader."""

import struct
import zipfile

import keras
import numpy as np
import pytest

from keras_mobileone.about import About
from keras_mobileone.data.imagenet import MEAN, STD, labels_of, preprocess_input
from keras_mobileone.data.labels import read_label_file
from keras_mobileone.export.tflite import export_tflite
from keras_mobileone.litert import flatbuffer
from keras_mobileone.litert.metadata import FIELD, IDENTIFIER, read_labels
from keras_mobileone.litert.runner import LiteRTRunner

NAMES = [f"class {letter}" for letter in "abcdefghij"]


def small(classes, top=True) -> keras.Model:
    """Returns the smallest network for an export."""
    inputs = keras.Input((32, 48, 3))
    x = keras.layers.Conv2D(4, 3, strides=4, activation="relu")(inputs)
    if top:
        x = keras.layers.GlobalAveragePooling2D()(x)
        x = keras.layers.Dense(classes, name="predictions")(x)
    return keras.Model(inputs, x, name="small")


@pytest.fixture(scope="module")
def ten() -> keras.Model:
    return small(10)


class Table:
    """A flatbuffer table, read by the rules of the format without this package.

    https://flatbuffers.dev/internals: a table starts with the distance back to its vtable, which
    contains its own size, the size of the table, and the position of each field (0 if it is left
    out), in 16 bits.
    """

    def __init__(self, content, place):
        self.content, self.place = content, place
        self.vtable = place - struct.unpack_from("<i", content, place)[0]

    def field(self, number):
        """Returns the position of a field, or None if it is left out."""
        size = struct.unpack_from("<H", self.content, self.vtable)[0]
        if 4 + 2 * number >= size:
            return None
        offset = struct.unpack_from("<H", self.content, self.vtable + 4 + 2 * number)[0]
        return self.place + offset if offset else None

    def number(self, field, code="<I"):
        """Returns a scalar, or 0 if it is left out."""
        place = self.field(field)
        return 0 if place is None else struct.unpack_from(code, self.content, place)[0]

    def target(self, field):
        """Returns the position that a field points to."""
        place = self.field(field)
        return place + struct.unpack_from("<I", self.content, place)[0]

    def table(self, field):
        return Table(self.content, self.target(field))

    def text(self, field):
        if self.field(field) is None:
            return ""
        place = self.target(field)
        length = struct.unpack_from("<I", self.content, place)[0]
        return self.content[place + 4 : place + 4 + length].decode()

    def floats(self, field):
        place = self.target(field)
        length = struct.unpack_from("<I", self.content, place)[0]
        return np.frombuffer(self.content, "<f4", length, place + 4)

    def tables(self, field):
        start = self.target(field)
        count = struct.unpack_from("<I", self.content, start)[0]
        places = [start + 4 + 4 * i for i in range(count)]
        distances = struct.unpack_from(f"<{count}I", self.content, start + 4)
        return [
            Table(self.content, place + distance)
            for place, distance in zip(places, distances, strict=True)
        ]


def metadata(path) -> Table:
    """Returns the root of a file's metadata (ModelMetadata of metadata_schema.fbs)."""
    model = flatbuffer.parse(path.read_bytes())
    (entry,) = [entry for entry in model.metadata if entry.name.decode() == FIELD]
    content = bytes(bytearray(model.buffers[entry.buffer].data))
    assert content[4:8] == IDENTIFIER
    return Table(content, struct.unpack_from("<I", content)[0])


def test_texts(ten, tmp_path):
    about = About("What it is.", author="Ada", license="Apache-2.0", version="1.2")
    root = metadata(export_tflite(ten, tmp_path / "m.tflite", about=about).path)
    texts = [root.text(number) for number in (0, 1, 2, 4, 5, 7)]
    assert texts == [ten.name, "What it is.", "1.2", "Ada", "Apache-2.0", "1.0.0"]
    plain = metadata(export_tflite(ten, tmp_path / "n.tflite").path)
    assert plain.text(1).startswith(f"{ten.name}. MobileOne")
    assert plain.text(4) == ""


@pytest.mark.parametrize("normalize", [True, False])
def test_the_input_as_described_is_the_input_it_takes(normalize, ten, noise, tmp_path):
    """Pixels normalized by the metadata of the file give the result of Keras."""
    path = export_tflite(ten, tmp_path / "m.tflite", normalize=normalize).path
    (subgraph,) = metadata(path).tables(3)
    (tensor,) = subgraph.tables(2)
    content = tensor.table(3)
    assert content.number(0, "<B") == 2  # ImageProperties
    assert content.table(1).number(0, "<B") == 1  # RGB
    size = content.table(1).table(1)
    assert (size.number(0), size.number(1)) == (48, 32)  # width, height
    (unit,) = tensor.tables(4)
    assert unit.number(0, "<B") == 1  # NormalizationOptions
    mean, std = unit.table(1).floats(0), unit.table(1).floats(1)
    assert tensor.text(0) == ("pixels" if normalize else "image")

    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3)).astype(np.float32)
    found = LiteRTRunner(path.read_bytes())((pixels - mean) / std)["predictions"]
    np.testing.assert_allclose(found, ten(preprocess_input(pixels)), atol=1e-5)
    highest, lowest = tensor.table(5).floats(0), tensor.table(5).floats(1)
    np.testing.assert_allclose(highest, (255 - mean) / std, rtol=1e-6)
    np.testing.assert_allclose(lowest, (0 - mean) / std, rtol=1e-6)
    if not normalize:
        np.testing.assert_allclose(mean, 255 * np.array(MEAN), rtol=1e-6)
        np.testing.assert_allclose(std, 255 * np.array(STD), rtol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8-dynamic"])
def test_labels_lie_in_the_file(precision, ten, tmp_path):
    report = export_tflite(ten, tmp_path / "m.tflite", precision, labels=NAMES)
    assert report.labels == tuple(NAMES)
    assert read_labels(report.path) == NAMES
    assert report.bytes == report.path.stat().st_size
    (subgraph,) = metadata(report.path).tables(3)
    (tensor,) = subgraph.tables(3)
    (file,) = tensor.tables(6)
    assert (file.text(0), file.number(2, "<B")) == ("labels.txt", 2)  # TENSOR_AXIS_LABELS
    with zipfile.ZipFile(report.path) as archive:
        assert archive.testzip() is None
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
    assert {label for label, _ in report.expected} < set(NAMES)


def test_a_thousand_classes_are_imagenets(tmp_path):
    labels = read_labels(export_tflite(small(1000), tmp_path / "m.tflite").path)
    assert (len(labels), len(set(labels)), labels[0]) == (1000, 1000, "tench")


def test_folders_become_labels():
    assert labels_of(["n01440764", "kitchen"]) == ["tench", "kitchen"]
    assert labels_of(["n03126707", "n02012849"]) == ["crane (n03126707)", "crane (n02012849)"]


def test_a_model_without_classes_has_no_labels(tmp_path):
    model, path = small(0, top=False), tmp_path / "m.tflite"
    report = export_tflite(model, path)
    assert (report.labels, report.expected, read_labels(path)) == (None, None, None)
    with pytest.raises(ValueError, match=r"Labels need.*\(None, 8, 12, 4\)"):
        export_tflite(model, path, labels=NAMES)


def test_a_model_that_scales_pixels_is_left_to_do_so(tmp_path):
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalMaxPooling2D()(x)))
    report = export_tflite(model, tmp_path / "m.tflite")
    (subgraph,) = metadata(report.path).tables(3)
    (unit,) = subgraph.tables(2)[0].tables(4)
    assert unit.table(1).floats(0).tolist() == [0, 0, 0]
    assert unit.table(1).floats(1).tolist() == [1, 1, 1]
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.float32)
    (found,) = LiteRTRunner(report.path.read_bytes())(pixels).values()
    np.testing.assert_allclose(found, model(pixels), atol=1e-5)


def test_equal_exports_are_equal_files(ten, tmp_path):
    files = [
        export_tflite(ten, tmp_path / f"{n}.tflite", labels=NAMES).path.read_bytes() for n in "ab"
    ]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["one", "two"], "Expected 10 labels.*Received: 2"),
        ([*NAMES[:9], " "], "each label to be one line of text. Received: ' '"),
        ([*NAMES[:9], "two\nlines"], "one line of text"),
    ],
)
def test_labels_that_do_not_fit(labels, words, ten, tmp_path):
    with pytest.raises(ValueError, match=words):
        export_tflite(ten, tmp_path / "m.tflite", labels=labels)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        b"tench\nhall [big]\n",
        b"tench\nhall [big]",
        "\ufefftench\r\nhall [big]\r\n".encode(),
        b"tench\nhall [big]\n\n  \n",
    ],
    ids=["plain", "no newline at the end", "byte order mark", "blank lines at the end"],
)
def test_label_files(content, tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    assert read_label_file(path) == ["tench", "hall [big]"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("tench\nhall\n".encode("utf-16"), "UTF-8.*labels.txt.*Save the file as UTF-8"),
        (b"tench\n\nhall\n", "labels.txt, whose line 2 is blank"),
        (b"\n \n", "labels.txt, which has no names"),
    ],
)
def test_label_files_that_are_refused(content, words, tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_label_file(path)
    with pytest.raises(FileNotFoundError, match=r"none\.txt"):
        read_label_file(tmp_path / "none.txt")
