"""Tests int8 quantization: exact equalization, effective correction, and failures of both."""

import json

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_mobileone
from keras_mobileone import ImageConfig, Steps, export_tflite, image_config, quantize
from keras_mobileone.evaluation.comparison import compare_outputs
from keras_mobileone.evaluation.metrics import sqnr
from keras_mobileone.litert import flatbuffer
from keras_mobileone.litert.converter import convert
from keras_mobileone.litert.runner import LiteRTRunner
from keras_mobileone.quantization import equalization, layerwise_correction
from keras_mobileone.quantization.calibration import calibration_images
from keras_mobileone.quantization.equalization import EXACTNESS, equalize
from keras_mobileone.quantization.scaling_groups import find_scaling_groups
from keras_mobileone.quantization.trace import trace

SIZE = (64, 64, 3)
VARIANT = keras_mobileone.Variant(
    "small", (0.25,) * 4, depths=(2, 2, 2, 1), se_pairs=(0, 0, 1, 1), num_conv_branches=2
)


@pytest.fixture(scope="module")
def images():
    """Returns smooth random images, normalized: 32 for calibration and 32 others."""
    rng = np.random.default_rng(5)
    coarse = rng.uniform(0, 255, (64, 8, 8, 3)).repeat(8, axis=1).repeat(8, axis=2)
    fine = rng.normal(0, 20, (64, *SIZE))
    pixels = np.clip(coarse + fine, 0, 255).astype(np.uint8)
    return keras_mobileone.preprocess_input(pixels)


def imbalance(model, spread=1.5, seed=0):
    """Gives channels different ranges by random factors between neighboring layers."""
    traced = trace(model)
    groups, _ = find_scaling_groups(traced)
    rng = np.random.default_rng(seed)
    for group in groups:
        channels = group.producer.output.shape[-1]
        equalization.apply_factors(group, np.exp(rng.normal(0, spread, channels)))
    return traced.model


@pytest.fixture(scope="module")
def model(randomize):
    """Returns a fused network with squeeze-and-excitation and ranges as in a trained one."""
    source = keras_mobileone.MobileOne(
        VARIANT, weights=None, input_shape=SIZE, classes=40, classifier_activation=None
    )
    return imbalance(randomize(source).fuse())


def run(content, images):
    runner = LiteRTRunner(content)
    return np.concatenate([next(iter(runner(image[None]).values())) for image in images])


def float_sqnr(model, content, images):
    return sqnr(ops.convert_to_numpy(model(images, training=False)), run(content, images))


@pytest.fixture(scope="module")
def plain(model, images):
    return convert(model, "int8", images[:32])


@pytest.fixture(scope="module")
def accurate(model, images):
    return quantize(model, images[:32], normalize=False, before=True)


@pytest.mark.slow
def test_equalization_keeps_the_outputs_and_the_source(model, images):
    weights = model.get_weights()
    before = ops.convert_to_numpy(model(images[:8], training=False))
    result = equalize(model, images[:32])
    after = ops.convert_to_numpy(result.model(images[:8], training=False))
    assert np.abs(after - before).max() <= EXACTNESS * np.abs(before).max()
    assert result.change <= EXACTNESS
    assert all((a == b).all() for a, b in zip(weights, model.get_weights(), strict=True))
    assert all((t > 0).all() for t in result.factors.values())


@pytest.mark.slow
def test_equalization_evens_out_the_ranges(model, images):
    def unevenness(m):
        traced = trace(m)
        values = traced.run(images[:32])
        ratios = []
        for group in find_scaling_groups(traced)[0]:
            absorber = group.absorbers[0].layer
            if isinstance(absorber, layers.DepthwiseConv2D):
                value = ops.convert_to_numpy(values[id(group.absorbers[0].inputs[0])])
                peaks = value.max((0, 1, 2))
                peaks = peaks[peaks > 0]
                ratios.append(peaks.max() / np.median(peaks))
        return max(ratios)

    assert unevenness(model) > 5
    assert unevenness(equalize(model, images[:32]).model) < 1.01


@pytest.mark.parametrize("bug", ["skip a scale", "swap two channels", "forget the gate's input"])
def test_a_wrong_factor_is_found(model, images, monkeypatch, bug):
    real = equalization.apply_factors

    def broken(group, t):
        kernels = [call.layer.get_weights() for call in group.absorbers]
        real(group, t)
        last = group.absorbers[0 if bug == "forget the gate's input" else -1].layer
        if bug == "skip a scale" and group.producer.layer.name.startswith("stage2_pair1"):
            last.set_weights(kernels[-1])
        elif bug == "swap two channels" and group.producer.layer.name == "stem_conv":
            kernel, *bias = last.get_weights()
            kernel[:, :, [0, 1]] = kernel[:, :, [1, 0]]
            last.set_weights([kernel, *bias])
        elif bug == "forget the gate's input" and len(group.absorbers) > 1:
            last.set_weights(kernels[0])

    monkeypatch.setattr(equalization, "apply_factors", broken)
    with pytest.raises(ArithmeticError, match="Equalization moved the outputs"):
        equalize(model, images[:16])


@pytest.mark.slow
def test_correction_beats_the_converter_on_other_images(model, images, plain, accurate):
    content, report = accurate.content, accurate
    others = images[32:]
    before, after = float_sqnr(model, plain, others), float_sqnr(model, content, others)
    assert after > before + 3
    assert report.tensors[-1].sqnr > report.before[-1].sqnr + 3
    assert flatbuffer.operator_counts(content) == flatbuffer.operator_counts(plain)
    assert len(content) <= 1.02 * len(plain)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:In int8 these layers")  # the cost of an omitted step
def test_each_step_pays(model, images):
    def result(**steps):
        content = quantize(model, images[:32], normalize=False, **steps).content
        return float_sqnr(model, content, images[32:])

    nearest = Steps(rounding="nearest", biases=False)
    neither = result(equalization=False, steps=nearest)
    equalized = result(steps=nearest)
    corrected = result(steps=Steps(rounding="nearest"))
    assert neither + 1 < equalized < corrected


def test_steps_know_their_values():
    assert Steps() == Steps(ranges=True, outliers=True, rounding="compensated", biases=True)
    with pytest.raises(ValueError, match=r"`rounding`.*nearest.*compensated.*'up'"):
        Steps(rounding="up")


@pytest.mark.slow
def test_correcting_the_wrong_layer_shows(model, images, accurate, monkeypatch):
    real = layerwise_correction._matching_weights

    def shuffled(graph, float_graph):
        weights = real(graph, float_graph)
        shapes = [kernel.shape for kernel, _ in weights]
        i = next(i for i, shape in enumerate(shapes) if shape in shapes[i + 1 :])
        j = shapes.index(shapes[i], i + 1)
        weights[i], weights[j] = weights[j], weights[i]
        return weights

    monkeypatch.setattr(layerwise_correction, "_matching_weights", shuffled)
    content = quantize(model, images[:32], normalize=False).content
    wrong = float_sqnr(model, content, images[32:])
    assert wrong < float_sqnr(model, accurate.content, images[32:]) - 5


@pytest.mark.slow
def test_same_arguments_same_bytes(model, images, accurate):
    assert quantize(model, images[:32], normalize=False).content == accurate.content


@pytest.mark.slow
def test_simulation_agrees_with_litert(model, images, accurate):
    content, report = accurate.content, accurate
    found = float_sqnr(model, content, images[:32])
    assert found == pytest.approx(report.tensors[-1].sqnr, abs=1.0)


@pytest.mark.slow
def test_a_users_model_with_two_outputs(images, randomize):
    backbone = keras_mobileone.MobileOne(VARIANT, weights=None, include_top=False, input_shape=SIZE)
    x = layers.Conv2D(24, 3, padding="same", activation="relu")(backbone.output)
    x = layers.ReLU()(layers.Conv2D(16, 3, padding="same")(x))
    x = layers.Conv2D(16, 1, activation="relu", name="shared")(x)
    boxes = layers.Conv2D(4, 1, name="boxes")(x)
    classes = layers.Dense(7, name="classes")(layers.GlobalAveragePooling2D()(x))
    source = randomize(keras.Model(backbone.input, [boxes, classes]))
    fused = imbalance(keras_mobileone.fuse(source))
    result = equalize(fused, images[:16])
    for a, b in zip(fused(images[:4]), result.model(images[:4]), strict=True):
        assert np.abs(a - b).max() <= EXACTNESS * np.abs(a).max()
    assert any("shared" in name for name in result.factors)  # two consumers, both absorb
    assert {blocked.name for blocked in result.blocked} >= {"boxes", "classes"}
    content = quantize(fused, images[:32], normalize=False).content
    runner = LiteRTRunner(content)
    assert {info.name for info in runner.outputs} == {"boxes", "classes"}
    plain_runner = LiteRTRunner(convert(fused, "int8", images[:32]))
    for name, index in (("boxes", 0), ("classes", 1)):
        expected = ops.convert_to_numpy(fused(images[32:])[index])
        found, before = (
            np.concatenate([r(image[None])[name] for image in images[32:]])
            for r in (runner, plain_runner)
        )
        assert sqnr(expected, found) > sqnr(expected, before)


def test_edges_that_carry_no_factor_are_left_alone_and_reported(images):
    inputs = keras.Input(SIZE)
    x = layers.Conv2D(8, 3, activation="relu", name="before_add")(inputs)
    y = layers.Conv2D(8, 1, activation="relu", name="inside")(x)
    x = layers.Conv2D(8, 1, activation="swish", name="swish")(layers.Add(name="sum")([x, y]))
    x = layers.Conv2D(8, 1, activation="relu", name="good")(x)
    outputs = layers.Conv2D(4, 1, name="last")(x)
    result = equalize(keras.Model(inputs, outputs), images[:4])
    assert set(result.factors) == {"good"}
    reasons = {blocked.name: blocked.reason for blocked in result.blocked}
    assert "sum" in reasons["before_add"]
    assert "sum" in reasons["inside"]
    assert "swish_activation" in reasons["swish"]
    assert "output" in reasons["last"]


@pytest.mark.slow
def test_input_and_output_types_and_normalization(model, images, tmp_path):
    mean, std = (np.array(v) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = np.rint((images * std + mean) * 255).astype(np.float32)
    report = export_tflite(
        *(model, tmp_path / "u8.tflite", "int8", pixels[:32]),
        normalize=True,
        input_dtype="uint8",
        output_dtype="int8",
    )
    assert (report.inputs[0].dtype, report.outputs[0].dtype) == ("uint8", "int8")
    assert report.inputs[0].scale == pytest.approx(1, rel=0.02)
    assert report.quantization.rescaled
    expected = ops.convert_to_numpy(model(images[32:], training=False))
    plain = export_tflite(
        *(model, tmp_path / "plain.tflite", "int8", pixels[:32]), normalize=True, plain=True
    )
    assert plain.quantization is None
    found, before = (
        run((tmp_path / name).read_bytes(), pixels[32:]) for name in ("u8.tflite", "plain.tflite")
    )
    assert sqnr(expected, found) > sqnr(expected, before) + 3


@pytest.mark.slow
def test_int16x8_gains_by_equalization(model, images, plain, tmp_path):
    contents = []
    for name in ("plain", "equalized"):
        path = tmp_path / f"{name}.tflite"
        options = {"normalize": False, "plain": name == "plain"}
        report = export_tflite(model, path, "int16x8", images[:32], **options)
        contents.append(path.read_bytes())
        assert report.bytes == len(contents[-1])
    found = [float_sqnr(model, content, images[32:]) for content in (plain, *contents)]
    assert found[0] < found[2]
    assert found[1] + 3 < found[2]


@pytest.mark.slow
def test_report_names_layers_and_saves(accurate, tmp_path):
    report = accurate
    assert report.worst(3) == sorted(report.tensors, key=lambda t: t.sqnr)[:3]
    assert all(tensor.low < tensor.high for tensor in report.tensors)
    assert any("stage4_pair1_pointwise" in tensor.name for tensor in report.tensors)
    report.save(tmp_path / "layers.json")
    report.plot(tmp_path / "layers.png")
    saved = json.loads((tmp_path / "layers.json").read_text())
    assert saved == report.to_dict()
    assert "content" not in saved
    assert "content" not in repr(report)
    assert saved["tensors"][0]["operator"] == report.tensors[0].operator
    assert (tmp_path / "layers.json").stat().st_size > 1000
    assert (tmp_path / "layers.png").stat().st_size > 1000


def test_names_in_the_file_are_short_and_unique(model, images):
    report = quantize(model, images[:8], normalize=False)
    names = [t.name.decode() for t in flatbuffer.parse(report.content).subgraphs[0].tensors]
    assert len(set(names)) == len(names)
    assert not any(";" in name for name in names)
    assert {tensor.name for tensor in report.tensors} <= set(names)


@pytest.mark.slow
def test_compare_takes_files_models_and_labels(model, images, tmp_path):
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (6, *SIZE), np.uint8)
    export_tflite(model, tmp_path / "m.tflite")
    result = keras_mobileone.compare(model, tmp_path / "m.tflite", pixels, np.zeros(6, int))
    assert (result.images, result.agreement) == (6, 6)
    assert result.sqnr > 80
    assert result.cosine == pytest.approx(1)
    assert result.reference_top1 == result.candidate_top1
    assert keras_mobileone.compare(model, model, pixels).candidate_top1 is None
    reference = np.array([[3.0, 1.0], [0.0, 2.0]])
    found = compare_outputs(reference, np.array([[3.0, 1.0], [2.0, 0.0]]), np.array([0, 1]))
    assert (found.agreement, found.reference_top1, found.candidate_top1) == (1, 2, 1)
    assert found.sqnr == pytest.approx(10 * np.log10(14 / 8))
    assert found.cosine == pytest.approx(0.5)
    with pytest.raises(ValueError, match="the same shape"):
        compare_outputs(reference, reference[:, :1])


@pytest.mark.parametrize(
    ("change", "normalize", "message"),
    [
        (lambda x: (x + 2.2) * 50, False, "look like pixels 0 … 255"),
        (lambda x: np.clip((x + 2.2) / 5, 0, 1), False, r"scaled to \[0, 1\]"),
        (lambda x: (x / 255 - 0.485) / 0.229, False, "normalized twice"),
        (lambda x: x, True, "normalized already"),
        (lambda x: np.clip((x + 2.2) / 5, 0, 1), True, r"scaled to \[0, 1\]"),
        (lambda x: (x + 2.2) * 100, True, "exceed 255"),
    ],
)
def test_classic_calibration_mistakes_are_told(model, images, tmp_path, change, normalize, message):
    with pytest.raises(ValueError, match=message):
        export_tflite(
            *(model, tmp_path / "x.tflite", "int8", change(images[:8])), normalize=normalize
        )
    assert not list(tmp_path.iterdir())


def test_a_model_that_scales_its_own_input_takes_pixels(images):
    inputs = keras.Input(SIZE)
    model = keras.Model(inputs, layers.Conv2D(4, 3)(layers.Rescaling(1 / 255)(inputs)))
    pixels = (images[:2] * 100 + 128).clip(0, 255)
    assert calibration_images(pixels, image_config(model)).shape[0] == 2
    with pytest.raises(ValueError, match="look normalized already"):
        calibration_images(images[:2], image_config(model))


def test_one_image_is_allowed_with_a_warning(model, images):
    with pytest.warns(UserWarning, match="single image"):
        calibration_images(images[:1], ImageConfig(images.shape[1:3]))


def test_unfused_models_are_refused_by_quantize(images):
    source = keras_mobileone.MobileOne(VARIANT, weights=None, input_shape=SIZE)
    with pytest.raises(ValueError, match=r"Expected a fused model.*fuse\(model\)"):
        quantize(source, images[:4], normalize=False)


@pytest.mark.slow
@pytest.mark.parametrize(("takes_pixels", "lowest"), [(False, 19.6), (True, 20.0)])
def test_real_weights_keep_their_accuracy(shared, takes_pixels, lowest):
    """100 photographs of the sample calibrate, and the other 200 are measured."""
    from keras_mobileone.data.images import image_labels, list_images, load_crops

    paths = list_images(shared / "imagenet-sample" / "images")
    others = [path for i, path in enumerate(paths) if i % 3]
    crops = np.stack(list(load_crops(paths, (224, 224), 0.875)))
    normalized = keras_mobileone.preprocess_input(crops)
    images = crops.astype(np.float32) if takes_pixels else normalized
    rest = np.array([i % 3 > 0 for i in range(len(paths))])
    model = keras_mobileone.MobileOneS0(
        weights=shared / "weights" / "mobileone_s0_apple_fused.safetensors",
        classifier_activation=None,
        deploy=True,
    )
    report = quantize(model, images[::3], normalize=takes_pixels)
    reference = model.predict(normalized[rest], verbose=0)
    result = compare_outputs(reference, run(report.content, images[rest]), image_labels(others))
    assert result.sqnr >= lowest
    assert result.candidate_top1 >= result.reference_top1 - 2
    assert result.agreement >= 184
    # Which others pay depends on small differences between processors.
    assert {"stage3_pair8_depthwise_conv", "stage3_pair9_pointwise_conv"} <= set(report.limited)
    assert len(report.limited) < 10


def test_a_channel_that_never_fires_does_no_harm(images):
    """Its weight scale is increased so that the bias fits int32, and its weights round to 0."""
    inputs = keras.Input(SIZE)
    x = layers.Conv2D(8, 3, activation="relu", name="first")(inputs)
    model = keras.Model(inputs, layers.Conv2D(4, 1, name="last")(x))
    kernel, bias = model.get_layer("first").get_weights()
    kernel[..., 0] *= 1e-12
    bias[0] = -5.0
    kernel[..., 1], bias[1] = 0.0, 2.0
    model.get_layer("first").set_weights([kernel, bias])
    content = quantize(model, images[:8], normalize=False).content
    assert float_sqnr(model, content, images[32:]) > 30
