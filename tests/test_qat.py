"""Tests quantization-aware training: the tf-keras model, its training, its file, the command."""

import json
import os
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras import layers
from PIL import Image

import keras_mobileone
from keras_mobileone import ImageConfig, MobileOne, Variant, set_image_config, train_qat
from keras_mobileone.data.imagenet import preprocess_input
from keras_mobileone.export.qat import export_qat
from keras_mobileone.litert import flatbuffer
from keras_mobileone.litert.runner import LiteRTRunner
from keras_mobileone.quantization import qat_model
from keras_mobileone.quantization.qat import quantize_aware, tf_keras_to_keras
from keras_mobileone.quantization.trace import trace

needs_extra = pytest.mark.usefixtures("qat_packages")


@pytest.fixture(scope="module")
def images(noise):
    return noise(16, 64, 64, 3)


@pytest.fixture(scope="module")
def fused(randomize):
    """Returns a fused network with squeeze-and-excitation, which tests must not change."""
    variant = Variant("tiny", (0.25,) * 4, depths=(1, 1, 1, 1), se_pairs=(0, 0, 1, 1))
    model = MobileOne(
        variant,
        weights=None,
        input_shape=(64, 64, 3),
        classes=10,
        classifier_activation=None,
        deploy=True,
    )
    return randomize(model)


def stock_model(classes=3, activation="softmax", size=32):
    """Returns a user's model with each kind of layer that MobileOne lacks, and a nested model."""
    image = keras.Input((size, size, 3), name="photo")
    x = layers.Conv2D(8, 3, strides=2, activation="relu6", name="first")(image)
    y = layers.MaxPooling2D(3, 1, padding="same", name="largest")(x)
    z = layers.AveragePooling2D(3, 1, padding="same", name="mean")(x)
    x = layers.Add(name="sum")([y, z])
    x = layers.Concatenate(name="both")([x, layers.Conv2D(8, 1, name="side")(x)])
    inner = keras.Input((None, None, 16))
    nested = layers.DepthwiseConv2D(3, depth_multiplier=2, activation="tanh", name="wide")(inner)
    x = keras.Model(inner, nested, name="nested")(x)
    vector = layers.GlobalAveragePooling2D(name="average")(x)
    other = layers.GlobalMaxPooling2D(keepdims=True, name="peak")(x)
    other = layers.Flatten(name="flat")(layers.Reshape((8, 4), name="folded")(other))
    x = layers.Multiply(name="product")([vector, layers.Activation("sigmoid", name="gate")(other)])
    x = layers.Dropout(0.3, name="drop")(x)
    return keras.Model(image, layers.Dense(classes, activation=activation, name="scores")(x))


@pytest.fixture(scope="module")
def stock(randomize):
    return randomize(stock_model())


@pytest.fixture(scope="module")
def training(fused, images, tmp_path_factory):
    """A calibrated model, its state and outputs before some training steps, and its final file.

    Attributes:
        before: Weights by name before the training.
        untrained: Outputs on `images` before the training.
        losses: Loss of each epoch.
        model: The trained model, which tests must not change.
        path: The exported file.
        report: Report of `export_qat`.
    """
    _, keras2 = qat_model.packages()
    model = quantize_aware(fused, images)
    before = {weight.name: weight.numpy().copy() for weight in model.weights}
    untrained = model(images).numpy()
    loss = keras2.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras2.optimizers.Adam(1e-3), loss)
    labels = np.arange(16) % 2
    history = model.fit(images, labels, batch_size=8, epochs=8, shuffle=False, verbose=0)
    path = tmp_path_factory.mktemp("qat") / "trained.tflite"
    report = export_qat(model, path)
    assert report.path == path
    return SimpleNamespace(
        before=before,
        untrained=untrained,
        losses=history.history["loss"],
        model=model,
        path=path,
        report=report,
    )


def run_file(path, images):
    runner = LiteRTRunner(path.read_bytes())
    return np.concatenate([next(iter(runner(image[None]).values())) for image in images])


def tensors_of(path):
    graph = flatbuffer.parse(path.read_bytes()).subgraphs[0]
    return {tensor.name.decode(): tensor for tensor in graph.tensors}, graph


def float_tensors(path) -> int:
    return sum(
        tensor.type == flatbuffer.tensor_type("FLOAT32") for tensor in tensors_of(path)[0].values()
    )


# The model in tf-keras


@needs_extra
@pytest.mark.parametrize("source", ["fused", "stock"])
def test_tf_keras_equals_keras_3(source, request, noise, relative_error):
    model = request.getfixturevalue(source)
    inputs = noise(4, *model.input_shape[1:], seed=3)
    _, keras2 = qat_model.packages()
    rebuilt = qat_model.rebuild_in_tf_keras(trace(model), keras2)
    assert relative_error(rebuilt(inputs).numpy(), model(inputs)) < 1e-5
    names = {layer.name for layer in model._flatten_layers() if layer.weights}
    names -= {"nested", model.name}
    assert names <= {layer.name for layer in rebuilt.layers}


@pytest.mark.slow
@needs_extra
def test_student_is_near_and_quantized(training, fused, images, relative_error):
    assert 1e-3 < relative_error(training.untrained, fused(images)) < 0.2
    assert len(np.unique(training.untrained)) <= 256


@needs_extra
def test_rules_of_squeeze_and_excitation(fused):
    traced = trace(fused)
    rules = {call.layer.name: qat_model.output_rule(call, traced) for call in traced.calls}
    block = "stage4_pair1_pointwise"
    expected = {
        "_conv": "range",  # used by the pooling and by the multiplication
        "_se_pool": "range",
        "_se_reduce": None,  # its ReLU is part of the operator
        "_se_reduce_activation": "range",
        "_se_expand": "range",
        "_se_expand_activation": "sigmoid",
        "_se": None,  # the block's ReLU is part of the multiplication
        "": "range",
    }
    assert {suffix: rules[block + suffix] for suffix in expected} == expected
    assert rules["stem_conv"] is None
    assert rules["stem"] == "range"
    assert rules["stem_pad"] is rules["stage1"] is None


@needs_extra
@pytest.mark.parametrize("depthwise", [False, True])
def test_kernels_are_rounded_per_channel(depthwise, noise):
    import tensorflow as tf

    channels = np.array([1.0, 10.0, 0.0, 0.01], np.float32)
    kernel = noise(3, 3, 5, 4) * channels
    kernel = np.moveaxis(kernel[:, :, :1], 2, 3) if depthwise else kernel
    axes = (0, 1, 3) if depthwise else (0, 1, 2)
    step = np.abs(kernel).max(axes, keepdims=True) / 127
    expected = np.rint(kernel / np.where(step, step, 1)) * step
    quantizer = qat_model.kernel_quantizer()(depthwise=depthwise)
    found = quantizer(tf.constant(kernel), False, {}).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-6 * float(np.abs(kernel).max()))
    for quiet in (found[:, :, 3], expected[:, :, 3]) if depthwise else (found[..., 3],):
        assert len(np.unique(quiet)) > 5  # rounded by its own range, not the loudest channel's


@pytest.mark.slow
@needs_extra
def test_calibration_sets_ranges(training, fused, images):
    stem = keras.Model(fused.input, fused.get_layer("stem").output)(images)
    assert training.before["quant_stem/output_min:0"] == 0
    np.testing.assert_allclose(training.before["quant_stem/output_max:0"], np.max(stem), rtol=1e-5)


@needs_extra
def test_calibration_takes_batches_and_checks_them(noise):
    image = keras.Input((16, 16, 3))
    model = keras.Model(image, layers.ReLU(name="only")(image))
    images = noise(20, 16, 16, 3)
    student = quantize_aware(model, iter([images[:5], images[5:]]))
    limits = student.get_layer("quant_only")._output_quantizer_vars
    np.testing.assert_allclose(limits["max_var"].numpy(), images.max(), rtol=1e-6)
    with pytest.raises(ValueError, match="normalized"):
        quantize_aware(model, np.abs(images) * 100)
    with pytest.raises(ValueError, match=r"\(count, 16, 16, channels\)"):
        quantize_aware(model, images[:, 1:])


@needs_extra
def test_keras_3_stays_the_keras_of_this_process():
    import tensorflow as tf

    qat_model.packages()
    assert qat_model.LEGACY_VARIABLE not in os.environ
    assert tf.keras.__version__.startswith("3.")


# Training and the file


@pytest.mark.slow
@needs_extra
def test_training_lowers_the_loss_and_moves_everything(training):
    assert training.losses[-1] < 0.98 * training.losses[0]
    learned = ("kernel:0", "bias:0", "output_max:0")
    after = {w.name: w.numpy() for w in training.model.weights if w.name.endswith(learned)}
    assert len(after) > 40
    same = [name for name, value in after.items() if np.array_equal(value, training.before[name])]
    assert not same


@pytest.mark.slow
@needs_extra
def test_file_is_integer_throughout_and_per_channel(training):
    path = training.path
    assert float_tensors(path) == 2
    operators = flatbuffer.operator_counts(path.read_bytes())
    assert operators["QUANTIZE"] == operators["DEQUANTIZE"] == 1
    tensors, graph = tensors_of(path)
    tensors = list(tensors.values())
    for operator in graph.operators:
        if len(operator.inputs) == 3:  # input, kernel, bias
            bias = graph.tensors[operator.inputs[2]]
            kernel = graph.tensors[operator.inputs[1]]
            assert kernel.type == flatbuffer.tensor_type("INT8")
            assert len(kernel.quantization.scale) == bias.shape[0]


@pytest.mark.slow
@needs_extra
def test_file_agrees_with_the_student(training, relative_error):
    """The file takes pixels, which it normalizes itself."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, *training.model.input_shape[1:]))
    simulated = training.model(preprocess_input(pixels), training=False).numpy()
    assert relative_error(run_file(training.path, pixels), simulated) < 0.05


@pytest.mark.slow
@needs_extra
@pytest.mark.parametrize("normalize", [True, False])
def test_file_keeps_the_learned_ranges(training, normalize, tmp_path):
    path = export_qat(training.model, tmp_path / "x.tflite", normalize=normalize).path
    scales = [
        float(tensor.quantization.scale[0])
        for tensor in tensors_of(path)[0].values()
        if tensor.quantization is not None and tensor.quantization.scale is not None
    ]
    learned = {
        layer.name: float(found["max_var"] - found["min_var"]) / 255
        for layer in training.model.layers
        if (found := getattr(layer, "_output_quantizer_vars", None)) is not None
    }
    normalized = learned.pop("quant_input")
    assert np.isclose(normalized, scales, rtol=1e-5, atol=0).any() != normalize
    assert len(learned) > 20
    for scale in learned.values():
        assert np.isclose(scale, scales, rtol=1e-5, atol=0).any()


@pytest.mark.slow
@needs_extra
def test_file_holds_pixels_exactly_as_that_of_quantize(training, fused, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3)).astype(np.float32)
    content = keras_mobileone.quantize(fused, pixels).content
    expected = flatbuffer.operator_counts(content)
    assert flatbuffer.operator_counts(training.path.read_bytes()) == expected
    tensors, _ = tensors_of(training.path)
    [centered] = [
        tensor
        for name, tensor in tensors.items()
        if "centered_pixels" in name and tensor.shape.tolist() == [1, 32, 32, 13]
    ]
    assert (*centered.quantization.scale, *centered.quantization.zeroPoint) == (1, 0)


@pytest.mark.slow
@needs_extra
def test_pixels_are_rounded_if_the_first_layer_cannot_take_them(noise, tmp_path, relative_error):
    image = keras.Input((32, 32, 3))
    x = layers.DepthwiseConv2D(3, activation="relu", name="first")(image)
    model = keras.Model(image, layers.Conv2D(4, 3, name="second")(x))
    student = quantize_aware(model, noise(8, 32, 32, 3))
    path = export_qat(student, tmp_path / "x.tflite").path
    assert not [name for name in tensors_of(path)[0] if "centered_pixels" in name]
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3))
    simulated = student(preprocess_input(pixels), training=False).numpy()
    assert relative_error(run_file(path, pixels), simulated) < 0.05


@pytest.mark.slow
@needs_extra
def test_exporting_twice_gives_the_same_bytes(training, tmp_path):
    again = export_qat(training.model, tmp_path / "again.tflite").path
    assert again.read_bytes() == training.path.read_bytes()


@pytest.mark.slow
@needs_extra
def test_the_report_is_that_of_export_tflite(training, fused):
    report = training.report
    assert type(report) is keras_mobileone.ExportReport
    assert report.bytes == training.path.stat().st_size
    assert (report.precision, report.image_config.takes_pixels) == ("int8", True)
    assert (report.inputs[0].name, report.inputs[0].dtype) == ("pixels", "float32")
    assert report.operators == flatbuffer.operator_counts(training.path.read_bytes())
    assert report.deploy == keras_mobileone.model_complexity(fused)
    assert 0 < report.error < 0.1
    assert len(report.expected) == 5
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert content["path"] == str(training.path)
    assert content["deploy"]["macs"] == report.deploy.macs


@pytest.mark.slow
@needs_extra
def test_stock_layers_reach_the_file(stock, noise, tmp_path, relative_error):
    inputs = noise(8, 32, 32, 3)
    student = quantize_aware(stock, inputs)
    types = {"input_dtype": "uint8", "output_dtype": "int8"}
    path = export_qat(student, tmp_path / "x.tflite", normalize=False, **types).path
    assert float_tensors(path) == 0
    sources, results = flatbuffer.inputs_and_outputs(path.read_bytes())
    assert (sources[0].name, sources[0].dtype) == ("image", "uint8")
    assert (results[0].name, results[0].dtype) == ("scores", "int8")
    assert relative_error(run_file(path, inputs), student(inputs).numpy()) < 0.05


@pytest.mark.slow
@needs_extra
def test_carry_back(training, fused):
    before = fused.get_weights()
    carried = tf_keras_to_keras(training.model, fused)
    assert [layer.name for layer in carried.layers] == [layer.name for layer in fused.layers]
    for layer in carried.layers:
        if layer.weights:
            wrapper = training.model.get_layer(f"quant_{layer.name}")
            for kind, found, old in zip(
                ("kernel", "bias"),
                layer.get_weights(),
                fused.get_layer(layer.name).get_weights(),
                strict=True,
            ):
                (learned,) = (w for w in wrapper.weights if w.name.endswith(f"{kind}:0"))
                np.testing.assert_array_equal(found, learned.numpy())
                assert not np.array_equal(found, old)
    for old, new in zip(before, fused.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@needs_extra
def test_carry_back_reaches_nested_models(stock, noise):
    carried = tf_keras_to_keras(quantize_aware(stock), stock)
    inputs = noise(2, 32, 32, 3)
    np.testing.assert_array_equal(carried(inputs), stock(inputs))


# Bad input


def with_layer(make):
    image = keras.Input((16, 16, 3))
    return keras.Model(image, make(layers.Conv2D(4, 3, name="conv")(image)))


def called_twice(x):
    again = layers.Conv2D(4, 3, padding="same", name="again")
    return again(again(x))


@needs_extra
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (layers.LayerNormalization(name="norm"), ["'norm'", "LayerNormalization"]),
        (layers.LeakyReLU(name="leaky"), ["'leaky'", "LeakyReLU"]),
        (layers.ReLU(negative_slope=0.1, name="slope"), ["'slope'", "slope"]),
        (layers.ReLU(max_value=4, name="capped"), ["'capped'", "up to 6"]),
        (layers.Activation("gelu", name="bent"), ["'bent'", "gelu"]),
        (layers.Conv2D(4, 1, groups=2, name="grouped"), ["'grouped'", "groups=2"]),
        (called_twice, ["'again'", "called again"]),
        (lambda x: keras.ops.exp(x), ["exp", "Exp"]),
    ],
    ids=["norm", "leaky", "slope", "cap", "gelu", "groups", "shared", "operation"],
)
def test_layers_without_a_rule_are_named(make, words):
    with pytest.raises(ValueError, match="Quantization-aware training takes") as error:
        quantize_aware(with_layer(make))
    for word in words:
        assert word in str(error.value)


@pytest.mark.slow
@needs_extra
def test_unfused_and_foreign_models_are_refused(tiny_model, fused, training, tmp_path):
    with pytest.raises(ValueError, match=r"keras_mobileone\.fuse"):
        quantize_aware(tiny_model)
    with pytest.raises(TypeError, match="Keras model"):
        quantize_aware("model.keras")
    with pytest.raises(ValueError, match="quantize_aware"):
        export_qat(fused, tmp_path / "x.tflite")
    with pytest.raises(ValueError, match=r"'stem_conv'|'stem'|'conv'"):
        tf_keras_to_keras(training.model, with_layer(layers.ReLU()))


@pytest.mark.slow
@needs_extra
@pytest.mark.parametrize(
    ("name", "arguments", "error", "words"),
    [
        ("x.bin", {}, ValueError, r"\.tflite"),
        ("none/x.tflite", {}, FileNotFoundError, "none"),
        ("x.tflite", {"input_dtype": "int16"}, ValueError, "`input_dtype`.*int16"),
        ("x.tflite", {"output_dtype": "int16"}, ValueError, "`output_dtype`.*int16"),
    ],
)
def test_bad_exports_leave_no_file(training, name, arguments, error, words, tmp_path):
    with pytest.raises(error, match=words):
        export_qat(training.model, tmp_path / name, **arguments)
    assert not list(tmp_path.iterdir())


@needs_extra
def test_an_open_size_is_refused(tmp_path):
    image = keras.Input((None, None, 3))
    student = quantize_aware(keras.Model(image, layers.Conv2D(4, 3)(image)))
    with pytest.raises(ValueError, match="fixed image size"):
        export_qat(student, tmp_path / "x.tflite")


@pytest.mark.parametrize("package", ["tensorflow_model_optimization", "tf_keras"])
def test_a_missing_package_names_the_extra(package, fused, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"pip install keras-mobileone\[qat\]"):
        quantize_aware(fused)


# The command


@pytest.fixture(scope="module")
def folder(tmp_path_factory, randomize):
    """Returns two classes of bright and dark noise in train/ and val/, and small models."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 7), ("val", 2)):
        for name, top in (("bright", 256), ("dark", 64)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, top, (40, 50, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(4, 3, strides=2, activation="relu", name="conv")(image)
    x = layers.GlobalAveragePooling2D(name="pool")(layers.DepthwiseConv2D(3, name="deep")(x))
    for classes in (2, 3, 1000):
        scores = layers.Dense(classes, activation="softmax", name="scores")(x)
        randomize(keras.Model(image, scores)).save(root / f"{classes}.keras")
    (root / "empty").mkdir()
    return root


def run(*arguments):
    from keras_mobileone.cli.console import OneLineErrors
    from keras_mobileone.cli.qat import qat_command

    group = OneLineErrors(commands=[qat_command])
    return CliRunner().invoke(group, ["qat", *(str(a) for a in arguments)])


@pytest.mark.slow
@needs_extra
def test_command_resumes_as_if_unbroken(folder, tmp_path):
    common = ("--model", folder / "2.keras", "--data", folder, "--batch-size", 4, "--limit", 12)
    common += ("--learning-rate", 0.01)

    def go(epochs, name, directory, *more):
        output = tmp_path / f"{name}.tflite"
        arguments = ("--epochs", epochs, "--output", output, "--run", tmp_path / directory)
        result = run(*common, *arguments, *more)
        assert result.exit_code == 0, (result.stderr, result.exception)
        assert "val_accuracy" in result.output
        return output

    unbroken = go(2, "unbroken", "a")
    first = go(1, "first", "b")
    resumed = go(2, "resumed", "b", "--resume")
    assert float_tensors(unbroken) == 2
    assert resumed.read_bytes() == unbroken.read_bytes()
    assert first.read_bytes() != unbroken.read_bytes()
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["checkpoint.safetensors"]

    again = ("--epochs", 2, "--output", tmp_path / "x.tflite", "--run", tmp_path / "b")
    result = run(*common, *again)
    assert result.exit_code == 2
    assert "--resume" in result.stderr
    result = run(*common, *again, "--resume", "--batch-size", 5)
    assert result.exit_code == 2
    assert "batch_size 5" in result.stderr
    result = run(*common, "--epochs", 1, *again[2:], "--resume")
    assert result.exit_code == 2
    assert "2 epochs done" in result.stderr
    checkpoint = tmp_path / "b" / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    result = run(*common, *again, "--resume")
    assert result.exit_code == 2
    assert "checkpoint.safetensors, which is damaged" in result.stderr
    assert not (tmp_path / "x.tflite").exists()


@needs_extra
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--data": "{root}/none"}, ["Expected a directory", "none"]),
        ({"--data": "{root}/empty"}, ["one folder of images for each class", "no folder"]),
        ({"--model": "{root}/3.keras"}, ["3 outputs", "2 in"]),
        ({"--model": "{root}/1000.keras"}, ["1000 outputs", "WordNet"]),
        ({"--model": "{root}/none.keras"}, ["none.keras", "does not exist"]),
        ({"--output": "{tmp}/x.bin"}, [".tflite", "x.bin"]),
        ({"--output": "{tmp}/none/x.tflite"}, ["none", "Create it first"]),
        ({"--resume": None}, ["--run"]),
        ({"--resume": None, "--run": "{root}/empty"}, ["checkpoint.safetensors"]),
        ({"--epochs": "0"}, ["--epochs"]),
    ],
    ids=lambda value: (
        "".join(f"{k}{v or ''}" for k, v in value.items()) if isinstance(value, dict) else ""
    ),
)
def test_command_refuses_bad_input_in_one_line(changes, words, folder, tmp_path, refused):
    places = {"root": folder, "tmp": tmp_path}
    defaults = {"--model": "{root}/2.keras", "--data": "{root}", "--epochs": "1"}
    options = {**defaults, "--output": "{tmp}/x.tflite", **changes}
    arguments = [a for item in options.items() for a in item if a is not None]
    result = run(*(a.format(**places) for a in arguments))
    refused(result, words, untouched=tmp_path)


@needs_extra
def test_command_without_the_extra_names_it(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    output = tmp_path / "x.tflite"
    common = ("--model", folder / "2.keras", "--data", folder, "--epochs", 1)
    result = run(*common, "--output", output)
    assert result.exit_code == 2
    assert "keras-mobileone[qat]" in result.stderr


def test_wordnet_folders_take_the_outputs_of_imagenet(tmp_path):
    from keras_mobileone.data.folders import output_folders

    folders = ["n01440764", "n02102040"]
    names = output_folders(folders, 1000, tmp_path)
    assert [names.index(folder) for folder in folders] == [0, 217]
    assert output_folders(folders, 2, tmp_path) == folders


@pytest.mark.parametrize("mean", [0.0, 127.5])
def test_images_are_cropped_and_normalized_as_the_model_takes_them(mean, folder, tmp_path):
    """The content of a training batch is compared with a photograph prepared by hand."""
    from keras_mobileone.data.images import evaluation_crop, load_image
    from keras_mobileone.training.qat_classifier import Settings, read_data

    config = ImageConfig((32, 32), mean=(mean,) * 3, std=(2.0,) * 3, crop_fraction=0.5)
    model = set_image_config(keras.models.load_model(folder / "2.keras"), config)
    train, val = read_data(folder, model)
    for images in (train, val):
        batch, labels = next(images.in_order(Settings(1e-5, 3, None)))
        expected = [evaluation_crop(load_image(path), 32, 0.5) for path in images.paths[:3]]
        np.testing.assert_allclose(batch, (np.stack(expected) - mean) / 2, atol=1e-4)
        expected = [train.folders.index(path.parent.name) for path in images.paths[:3]]
        assert labels.tolist() == expected


@pytest.mark.slow
@needs_extra
def test_training_reports_what_it_did(folder, tmp_path):
    """`train_qat` is called as a function, without the command and without checkpoints."""
    model, path = keras.models.load_model(folder / "2.keras"), tmp_path / "x.tflite"
    steps = []
    report = train_qat(model, folder, path, epochs=1, limit=8, batch_size=4, status=steps.append)
    assert (report.path, report.epochs, report.bytes) == (path, 1, path.stat().st_size)
    assert (report.training_images, report.validation_images) == (14, 4)
    assert set(report.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert steps == ["Equalizing"]
    assert [p.name for p in tmp_path.iterdir()] == ["x.tflite"]


@needs_extra
@pytest.mark.slow
def test_ctrl_c_says_how_the_training_goes_on(folder, tmp_path, monkeypatch):
    from keras_mobileone.training import qat_classifier

    def interrupted(*arguments, **keywords):
        fit(*arguments, **keywords)
        raise KeyboardInterrupt

    fit = qat_classifier.fit
    monkeypatch.setattr(qat_classifier, "fit", interrupted)
    common = ("--model", folder / "2.keras", "--data", folder, "--epochs", 1, "--limit", 4)
    output = ("--output", tmp_path / "x.tflite")
    result = run(*common, *output, "--run", tmp_path / "run")
    assert result.exit_code == 130
    assert f"--resume to continue from {tmp_path / 'run'}" in result.stderr
    result = run(*common, *output)
    assert result.exit_code == 130
    assert "no checkpoint yet" in result.stderr
