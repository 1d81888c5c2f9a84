"""Tests `export_tflite`: parity with Keras, size, operators, types, and clean failures."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from keras_mobileone import (
    MobileOne,
    MobileOneBlock,
    evaluation_crop,
    export_tflite,
    feature_extractor,
    fuse,
    load_image,
    preprocess_input,
)
from keras_mobileone.export import tflite as tflite_export
from keras_mobileone.litert.flatbuffer import read_tflite
from keras_mobileone.litert.runner import LiteRTRunner

SIZE = (64, 64, 3)
PLAIN = {"PAD", "CONV_2D", "DEPTHWISE_CONV_2D", "MEAN", "FULLY_CONNECTED", "SOFTMAX"}
QUANTIZING = {"QUANTIZE", "DEQUANTIZE"}
PRECISIONS = ("float32", "float16", "int8-dynamic", "int8")


@pytest.fixture(scope="module")
def interpreter():
    """Returns the interpreter class of ai-edge-litert, which runs files without this package."""
    return pytest.importorskip("ai_edge_litert.interpreter").Interpreter


@pytest.fixture(scope="module")
def run_file(interpreter):
    """Returns a function that runs a TFLite file on single images and returns the first output."""

    def run(path, images):
        runner = interpreter(model_path=str(path))
        runner.allocate_tensors()
        (source,), target = runner.get_input_details(), runner.get_output_details()[0]
        outputs = []
        for image in images:
            runner.set_tensor(source["index"], image[None].astype(source["dtype"]))
            runner.invoke()
            outputs.append(runner.get_tensor(target["index"])[0].copy())
        return np.stack(outputs)

    return run


@pytest.fixture
def images(noise):
    """Returns normalized images."""
    return noise(4, *SIZE)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (8, *SIZE)).astype(np.float32)


@pytest.fixture(scope="module")
def small(randomize):
    """Returns a train-time model without SE, which has S0's operators when it is fused."""
    inputs = keras.Input(SIZE, name="image")
    x = MobileOneBlock(8, strides=2)(inputs)
    x = MobileOneBlock(8, depthwise=True, strides=2, num_conv_branches=2)(x)
    x = layers.GlobalAveragePooling2D()(MobileOneBlock(16, kernel_size=1)(x))
    return randomize(keras.Model(inputs, layers.Dense(5, name="scores")(x), name="small"))


@pytest.mark.parametrize(
    ("precision", "limit"), [("float32", 1e-4), ("float16", 1e-2), ("int8-dynamic", 0.2)]
)
def test_the_file_computes_what_keras_does(
    precision, limit, tiny_model, pixels, tmp_path, run_file, relative_error
):
    report = export_tflite(tiny_model, tmp_path / "model.tflite", precision)
    expected = tiny_model(preprocess_input(pixels), training=False)
    error = relative_error(run_file(report.path, pixels), expected)
    assert 0 < error < limit
    assert 0 < report.error < limit
    assert report.compared == "a photograph and noise"


@pytest.mark.slow
def test_the_report_describes_the_file(tiny_model, tmp_path):
    path = tmp_path / "model.tflite"
    report = export_tflite(tiny_model, path)
    assert (report.path, report.precision) == (path, "float32")
    assert report.bytes == path.stat().st_size
    (source,), (target,) = report.inputs, report.outputs
    assert (source.name, source.shape, source.dtype) == ("pixels", (1, *SIZE), "float32")
    assert report.image_config.takes_pixels
    assert (target.name, target.shape, target.dtype) == ("predictions", (1, 10), "float32")
    assert (source.scale, target.scale) == (None, None)
    assert report.operators["CONV_2D"] > report.operators["FULLY_CONNECTED"] == 1
    assert report.train.trainable == sum(np.prod(v.shape) for v in tiny_model.trainable_variables)
    assert report.deploy.trainable == fuse(tiny_model).count_params()


def test_an_unfused_model_is_fused_and_left_alone(small, tmp_path):
    report = export_tflite(small, tmp_path / "model.tflite", normalize=False)
    assert set(report.operators) <= PLAIN
    assert (report.operators["CONV_2D"], report.operators["DEPTHWISE_CONV_2D"]) == (2, 1)
    assert any(type(layer).__name__ == "MobileOneBlock" for layer in small.layers)


def test_a_fused_model_gives_the_same_file(small, tmp_path, pixels, run_file, relative_error):
    by_itself = export_tflite(small, tmp_path / "a.tflite")
    before = export_tflite(fuse(small), tmp_path / "b.tflite")
    assert before.operators == by_itself.operators
    assert (before.train, by_itself.deploy) == (None, before.deploy)
    outputs = [run_file(report.path, pixels) for report in (before, by_itself)]
    assert relative_error(*outputs) < 1e-6


@pytest.mark.slow
def test_lower_precisions_are_smaller(tiny_model, pixels, tmp_path):
    fused = fuse(tiny_model)
    sizes = [
        export_tflite(fused, tmp_path / f"{p}.tflite", p, pixels if p == "int8" else None).bytes
        for p in PRECISIONS
    ]
    assert sizes[0] > sizes[1] > max(sizes[2:])


@pytest.mark.slow
def test_the_batch_is_fixed_at_one(tiny_model, tmp_path, interpreter):
    report = export_tflite(tiny_model, tmp_path / "model.tflite")
    (details,) = interpreter(model_path=str(report.path)).get_input_details()
    assert details["shape"].tolist() == [1, *SIZE]
    assert details["shape_signature"].tolist() == [1, *SIZE]


def test_full_integer(small, images, tmp_path, run_file, interpreter, relative_error):
    report = export_tflite(small, tmp_path / "model.tflite", "int8", images, normalize=False)
    assert report.compared == "calibration images"
    assert set(report.operators) <= PLAIN | QUANTIZING
    assert report.error < 0.2
    expected = small(images, training=False)
    assert relative_error(run_file(report.path, images), expected) < 0.2
    runner = interpreter(model_path=str(report.path))
    (image,) = runner.get_input_details()
    tensors = [t for t in runner.get_tensor_details() if len(t["shape"]) == 4]
    # These are kernels and feature maps. Only the image stays float, as `input_dtype` requires.
    assert {t["dtype"] for t in tensors if t["index"] != image["index"]} == {np.int8}


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_integers_in_and_out(dtype, small, images, tmp_path, relative_error):
    types = {"input_dtype": dtype, "output_dtype": dtype}
    report = export_tflite(small, tmp_path / "m.tflite", "int8", images, normalize=False, **types)
    (source,), (target,) = report.inputs, report.outputs
    assert (source.dtype, target.dtype) == (dtype, dtype)
    assert source.scale > 0 and target.scale > 0
    limits = np.iinfo(dtype)
    assert limits.min <= source.zero_point <= limits.max
    assert report.error < 0.2


def test_pixels_as_bytes(small, pixels, tmp_path, run_file, relative_error):
    """uint8 pixels are passed without change, even if the calibration images are dark."""
    report = export_tflite(small, tmp_path / "m.tflite", "int8", pixels // 2, input_dtype="uint8")
    (source,) = report.inputs
    assert source[:1] + source[2:] == ("pixels", "uint8", 1, 0)
    pixels = pixels // 2
    expected = small(preprocess_input(pixels), training=False)
    assert relative_error(run_file(report.path, pixels), expected) < 0.2


@pytest.mark.slow
def test_normalized_input(tiny_model, images, tmp_path, run_file, relative_error):
    report = export_tflite(tiny_model, tmp_path / "model.tflite", normalize=False)
    assert [i.name for i in report.inputs] == ["image"]
    assert not report.image_config.takes_pixels
    expected = tiny_model(images, training=False)
    assert relative_error(run_file(report.path, images), expected) < 1e-4
    assert report.error < 1e-4


def test_normalization_adds_one_convolution(small, tmp_path):
    with_it, without = (
        export_tflite(small, tmp_path / "model.tflite", normalize=normalize).operators
        for normalize in (True, False)
    )
    assert set(with_it) <= PLAIN
    assert with_it == without | {"CONV_2D": without["CONV_2D"] + 1}


@pytest.mark.parametrize("normalize", [False, True])
def test_the_signature_names_input_and_outputs(normalize, small, tmp_path, interpreter, images):
    report = export_tflite(small, tmp_path / "model.tflite", normalize=normalize)
    runner = interpreter(model_path=str(report.path))
    name = "pixels" if normalize else "image"
    signatures = list(runner.get_signature_list().values())
    assert signatures == [{"inputs": [name], "outputs": ["scores"]}]
    serve = runner.get_signature_runner()
    assert serve(**{name: images[:1]})["scores"].shape == (1, 5)


@pytest.fixture(scope="module")
def two_headed(tiny, randomize):
    """Returns a model with two outputs of the same shape, which differ only in their values."""
    base = MobileOne(tiny, weights=None, include_top=False, pooling="avg", input_shape=SIZE)
    heads = {"zebra": layers.Dense(3, name="second")(base.output)}
    heads["apple"] = layers.Dense(3, name="first")(base.output)
    return randomize(keras.Model(base.input, heads, name="two_headed"))


@pytest.mark.slow
def test_several_outputs_keep_their_names(
    two_headed, tmp_path, images, interpreter, relative_error
):
    report = export_tflite(two_headed, tmp_path / "model.tflite", normalize=False)
    assert report.error < 1e-4
    assert len(report.outputs) == 2
    serve = interpreter(model_path=str(report.path)).get_signature_runner()
    found = serve(image=images[:1])
    expected = two_headed(images[:1], training=False)
    by_layer = dict(zip(two_headed.output_names, keras.tree.flatten(expected), strict=True))
    assert found.keys() == by_layer.keys()
    for name, value in found.items():
        assert relative_error(value, by_layer[name]) < 1e-4


@pytest.mark.slow
def test_a_backbone_with_features_as_outputs(tiny_model, tmp_path):
    report = export_tflite(feature_extractor(tiny_model), tmp_path / "model.tflite")
    assert report.error < 1e-4
    assert sorted(o.shape[1] for o in report.outputs) == [2, 4, 8, 16]


@pytest.mark.slow
def test_a_half_precision_model(tiny, randomize, tmp_path, images, run_file, relative_error):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = MobileOne(tiny, weights=None, input_shape=SIZE, classes=5)
    finally:
        keras.config.set_dtype_policy("float32")
    report = export_tflite(randomize(model), tmp_path / "model.tflite", normalize=False)
    assert (report.inputs[0].dtype, report.outputs[0].dtype) == ("float32", "float32")
    assert report.error < 1e-4  # against the same weights in float32
    assert relative_error(run_file(report.path, images), model(images, training=False)) < 1e-2


@pytest.mark.slow
def test_a_sequential_model(tiny, randomize, tmp_path):
    base = MobileOne(tiny, weights=None, include_top=False, pooling="avg", input_shape=SIZE)
    model = randomize(keras.Sequential([keras.Input(SIZE), base, layers.Dense(2)]))
    assert export_tflite(model, tmp_path / "model.tflite").error < 1e-4


@pytest.mark.slow
def test_a_model_on_an_input_tensor(tiny, randomize, tmp_path):
    model = MobileOne(tiny, weights=None, input_tensor=keras.Input(SIZE), classes=5)
    assert export_tflite(randomize(model), tmp_path / "model.tflite").error < 1e-4


# Calibration.


@pytest.fixture
def photographs(tmp_path):
    directory = tmp_path / "photographs"
    directory.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 80, 70, 3), np.uint8)
    for number, values in enumerate(pixels):
        Image.fromarray(values).save(directory / f"{number}.png")
    return directory


def crops_of(directory) -> np.ndarray:
    """Returns the uint8 pixels of the photographs after the evaluation transform."""
    return np.stack([evaluation_crop(load_image(path), 64) for path in sorted(directory.iterdir())])


@pytest.mark.slow
@pytest.mark.parametrize("normalize", [False, True], ids=["normalized", "pixels"])
def test_calibration_by_directory_array_and_iterable_agree(normalize, small, photographs, tmp_path):
    pixels = crops_of(photographs)
    images = pixels.astype(np.float32) if normalize else preprocess_input(pixels)
    sources = [photographs, str(photographs), images, [images[:2], images[2:]], iter([images])]
    files = []
    for number, source in enumerate(sources):
        path = tmp_path / f"{number}.tflite"
        export_tflite(small, path, "int8", source, normalize=normalize)
        files.append(path.read_bytes())
    assert [file == files[0] for file in files] == [True] * 5
    with pytest.warns(UserWarning, match="single image"):
        export_tflite(small, path, "int8", images[:1], normalize=normalize)
    assert path.read_bytes() != files[0]  # the images do make a difference


@pytest.fixture
def calibrate(small, tmp_path):
    """Returns a function that exports int8 with a calibration and returns the file's content."""

    def export(calibration) -> bytes:
        path = tmp_path / "calibrated.tflite"
        export_tflite(small, path, "int8", calibration)
        return path.read_bytes()

    return export


@pytest.mark.slow
def test_calibration_by_datasets_and_paths(calibrate, photographs):
    """Paths, and batches with and without labels and weights, give the same images."""
    import tensorflow as tf

    images = crops_of(photographs).astype(np.float32)
    labels = np.arange(len(images))
    paths = sorted(photographs.iterdir())
    pairs = tf.data.Dataset.from_tensor_slices((images, labels)).batch(2)
    expected = calibrate(images)
    for source in (
        paths,
        [str(path) for path in paths],
        pairs,
        pairs.map(lambda x, y: (x, y, tf.ones_like(y))),
        pairs.map(lambda x, y: x),
        [(images[:3], labels[:3]), (images[3:], labels[3:])],
    ):
        assert calibrate(source) == expected


def test_calibration_by_single_images_is_refused(calibrate, photographs):
    import tensorflow as tf

    images = crops_of(photographs)
    words = r"\(count, 64, 64, channels\)\. Received: \(64, 64, 3\)\..*dataset\.batch\(32\)"
    single = tf.data.Dataset.from_tensor_slices((images, np.arange(len(images))))
    for source in (single, list(images), images[0]):
        with pytest.raises(ValueError, match=words):
            calibrate(source)
    with pytest.raises(ValueError, match=r"Received: \(5, 32, 64, 3\)\. Resize"):
        calibrate(images[:, :32])


@pytest.mark.parametrize("plain", [False, True])
def test_calibration_images_are_checked_once(plain, small, pixels, tmp_path, monkeypatch):
    from keras_mobileone.quantization import calibration

    checked = []
    monkeypatch.setattr(calibration, "_check_pixels", lambda images: checked.append(len(images)))
    export_tflite(small, tmp_path / "model.tflite", "int8", pixels, plain=plain)
    assert checked == [len(pixels)]


@pytest.mark.slow
def test_a_large_directory_is_thinned_evenly_to_200(small, tmp_path):
    directory = tmp_path / "photographs"
    directory.mkdir()
    for number in range(400):
        level = (number * 37) % 256  # the brightest images may be anywhere, also at odd places
        Image.new("RGB", (64, 64), (level, 255 - level, number % 2 * 255)).save(
            directory / f"{number:03}.png"
        )
    images = crops_of(directory)
    files = []
    for name, source in (("directory", directory), ("half", images[::2]), ("all", images)):
        path = tmp_path / f"{name}.tflite"
        export_tflite(small, path, "int8", source)
        files.append(path.read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]


# Errors are raised before any work and leave no file.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "int4"}, "float32, float16, int8-dynamic, int8.*'int4'"),
        ({"precision": "int8"}, "`calibration` is required for precision 'int8'"),
        (
            {"precision": "int8", "calibration": np.zeros((0, *SIZE))},
            "at least one image. Received: none",
        ),
        ({"precision": "int8", "calibration": []}, "at least one image. Received: none"),
        ({"precision": "int8", "calibration": np.zeros((2, 32, 32, 3))}, r"\(2, 32, 32, 3\)"),
        ({"precision": "int8", "calibration": np.zeros(SIZE)}, r"\(64, 64, 3\)"),
        ({"precision": "int8", "calibration": np.zeros((2, 64, 64, 1))}, r"\(2, 64, 64, 1\)"),
        ({"precision": "int8", "calibration": 7}, "Received: int"),
        ({"input_dtype": "int8"}, "input_dtype='int8' with precision='float32'"),
        ({"output_dtype": "uint8"}, "output_dtype='uint8' with precision='float32'"),
        (
            {"precision": "int8", "calibration": np.zeros((1, *SIZE)), "input_dtype": "int4"},
            "`input_dtype` must be one of float32, int8, uint8.*'int4'",
        ),
    ],
)
def test_arguments_out_of_range(arguments, message, tiny_model, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_tflite(tiny_model, tmp_path / "model.tflite", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_paths_that_cannot_be_written(tiny_model, tmp_path):
    with pytest.raises(ValueError, match=r"end in \.tflite.*model\.bin"):
        export_tflite(tiny_model, tmp_path / "model.bin")
    with pytest.raises(FileNotFoundError, match="missing"):
        export_tflite(tiny_model, tmp_path / "missing" / "model.tflite")
    (tmp_path / "folder.tflite").mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder\.tflite"):
        export_tflite(tiny_model, tmp_path / "folder.tflite")


def test_an_open_image_size_is_an_error(tiny, tmp_path):
    model = MobileOne(tiny, weights=None, include_top=False)
    with pytest.raises(ValueError, match=r"fixed size.*'tiny'.*\(None, None, None, 3\)"):
        export_tflite(model, tmp_path / "model.tflite")


def test_grey_input_with_normalization_is_an_error(tiny, tmp_path):
    model = MobileOne(tiny, weights=None, input_shape=(64, 64, 1), classes=2)
    with pytest.raises(ValueError, match=r"RGB|channels"):
        export_tflite(model, tmp_path / "model.tflite", normalize=True)


@pytest.mark.slow
def test_grey_input_is_exported(tiny, randomize, tmp_path):
    model = MobileOne(tiny, weights=None, input_shape=(64, 64, 1), classes=2)
    report = export_tflite(randomize(model), tmp_path / "model.tflite")
    assert report.inputs[0].shape == (1, 64, 64, 1)
    assert report.error < 1e-4


def test_two_inputs_are_an_error(tmp_path):
    left, right = keras.Input(SIZE, name="left"), keras.Input(SIZE, name="right")
    model = keras.Model([left, right], layers.Add()([left, right]))
    with pytest.raises(ValueError, match=r"2 inputs: 'left' \(None, 64, 64, 3\), 'right' .*"):
        export_tflite(model, tmp_path / "model.tflite")


@pytest.mark.parametrize("wrong", ["model.keras", None])
def test_what_is_no_model_is_a_type_error(wrong, tmp_path):
    with pytest.raises(TypeError, match=type(wrong).__name__):
        export_tflite(wrong, tmp_path / "model.tflite")


@pytest.mark.parametrize("broken", ["convert", "measure_deviation", "atomic_write"])
def test_a_failure_leaves_nothing_behind(broken, monkeypatch, small, tmp_path):
    def fail(*_, **__):
        raise RuntimeError("planted")

    monkeypatch.setattr(tflite_export, broken, fail)
    with pytest.raises(RuntimeError, match="planted"):
        export_tflite(small, tmp_path / "model.tflite")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_old_file(monkeypatch, small, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")

    def refuse(self, content):
        self.touch()
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(OSError, match="no space left"):
        export_tflite(small, path)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["model.tflite"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_named(kept, small, tmp_path):
    path = export_tflite(small, tmp_path / "model.tflite").path
    assert LiteRTRunner(read_tflite(path))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=r"TFLite file.*model\.tflite"):
        read_tflite(path)


# MobileOne-S0 itself.


@pytest.fixture(scope="module")
def s0():
    return MobileOne("s0", weights=None, deploy=True)


@pytest.mark.slow
# With random weights, the 1,000 probabilities are nearly equal, and therefore below one step of
# int8.
@pytest.mark.filterwarnings("ignore:In int8 these layers are mostly noise")
@pytest.mark.parametrize(
    ("precision", "megabytes"),
    [("float32", 8.4), ("float16", 4.3), ("int8-dynamic", 2.4), ("int8", 2.4)],
)
def test_s0_is_small_and_plain(precision, megabytes, s0, randomize, noise, tmp_path):
    calibration = 128 + 32 * noise(2, 224, 224, 3).clip(-3, 3) if precision == "int8" else None
    report = export_tflite(
        randomize(s0), tmp_path / "s0.tflite", precision, calibration, verify=False
    )
    assert report.bytes <= megabytes * 1e6
    allowed = PLAIN if precision == "float32" else PLAIN | QUANTIZING
    assert set(report.operators) <= allowed
    assert report.operators["CONV_2D"] == 22 + 1  # normalization
    assert report.operators["DEPTHWISE_CONV_2D"] == 21
    assert report.deploy.trainable == 2_078_504


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "limit"), [("float32", 1e-4), ("float16", 1e-2)])
def test_s0_with_the_authors_weights(precision, limit, shared, tmp_path, run_file, relative_error):
    """The images are photographs. With noise, logits are near zero and relative errors large."""
    path = shared / "weights" / "mobileone_s0_apple_fused.safetensors"
    model = MobileOne("s0", weights=path, deploy=True, classifier_activation=None)
    paths = sorted((shared / "imagenet-sample" / "images").rglob("*.JPEG"))[:8]
    crops = np.stack([evaluation_crop(load_image(path)) for path in paths])
    report = export_tflite(model, tmp_path / "s0.tflite", precision, crops)
    assert relative_error(run_file(report.path, crops), model(preprocess_input(crops))) < limit
    assert report.error < limit
