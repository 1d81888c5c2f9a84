"""Tests files of segmentation models and detectors: numbers, int8, and MediaPipe's two tasks."""

import os
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import keras_mobileone as km
from keras_mobileone.cli import main
from keras_mobileone.data.images import stretched
from keras_mobileone.evaluation.metrics import sqnr
from keras_mobileone.litert.converter import convert
from keras_mobileone.litert.metadata import read_labels
from keras_mobileone.litert.postprocess import PostProcess, with_postprocess
from keras_mobileone.litert.runner import LiteRTRunner
from keras_mobileone.models.detection.encoding import decode_boxes
from keras_mobileone.models.detection.nms import suppress
from keras_mobileone.models.tasks import task_config
from keras_mobileone.quantization.scaling_groups import find_scaling_groups
from keras_mobileone.quantization.trace import trace

ROOT = Path(__file__).parents[1]
PYTHON = Path(os.environ.get("MEDIAPIPE_PYTHON", ROOT / ".venv-mediapipe" / "bin" / "python"))
SIZE = (64, 96)
SCORE_THRESHOLD = 0.05  # that of mediapipe_dense.py
LABELS = ["ant", "bee", "cat"]
TIME_LIMIT = 120  # seconds for one process of MediaPipe, which usually takes two
BYTES = {"input_dtype": "uint8", "output_dtype": "uint8"}


@pytest.fixture(scope="module")
def pixels(project):
    """Returns parts of a photograph in the size of the models, uint8."""
    cat = Image.open(project / "keras_mobileone" / "assets" / "cat.png").convert("RGB")
    corners = [(x, y) for x in range(0, 90, 15) for y in range(0, 120, 15)]
    return np.stack([stretched(cat.crop((x, y, x + 130, y + 100)), SIZE) for x, y in corners])


@pytest.fixture(scope="module")
def segmenter(tiny, randomize):
    model = km.MobileOneDeepLabV3(
        tiny, 3, (*SIZE, 3), weights=None, aspp_filters=16, rates=(2, 3), decoder_filters=8
    )
    return km.fuse(randomize(model))


@pytest.fixture(scope="module")
def detector(tiny, randomize, enlarge_head):
    model = km.MobileOneSSDLite(
        tiny, 3, (*SIZE, 3), weights=None, extra_filters=(16, 8), scales=(0.2, 0.4, 0.6, 0.8, 1.0)
    )
    return enlarge_head(km.fuse(randomize(model)), classes=3, boxes=2)


def segment(model, image):
    return np.asarray(model(km.preprocess_input(image)[None]))[0]


def detect(model, image, **settings):
    """Returns the detections of Keras as (x, y, width, height), labels and scores."""
    outputs = model(km.preprocess_input(image)[None])
    found = km.decode_detections(model, outputs, max_detections=100, **settings)
    count = int(found["num_detections"][0])
    boxes, labels, scores = (
        np.asarray(found[name])[0, :count] for name in ("boxes", "labels", "confidence")
    )
    return boxes, labels, scores


def mediapipe_run(task, path, image, directory):
    """Runs one of MediaPipe's tasks in a process with a time limit."""
    photograph, result = directory / "photograph.png", directory / "result.npz"
    Image.fromarray(image).save(photograph)
    script = Path(__file__).with_name("mediapipe_dense.py")
    command = [str(p) for p in (PYTHON, script, task, path, photograph, result)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT)
    assert process.returncode == 0, process.stderr[-2000:]
    return dict(np.load(result))


needs_mediapipe = [
    pytest.mark.skipif(not PYTHON.is_file(), reason="needs .venv-mediapipe (make test makes it)"),
    pytest.mark.slow,
]


# Files and Keras


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 1e-5), ("float16", 2e-2), ("int8", 0.3)]
)
def test_a_segmentation_file_returns_logits(precision, tolerance, segmenter, pixels, tmp_path):
    calibration = pixels[::4].astype("float32") if precision == "int8" else None
    path = tmp_path / "m.tflite"
    report = km.export_tflite(segmenter, path, precision, calibration, labels=LABELS)
    assert report.error < tolerance
    assert report.outputs[0].shape == (1, *SIZE, 3)
    assert report.labels == tuple(LABELS) == tuple(read_labels(path))
    assert report.image_config.stretch
    found = next(iter(LiteRTRunner(path.read_bytes())(pixels[:1].astype("float32")).values()))
    expected = segment(segmenter, pixels[0])
    assert np.abs(found[0] - expected).max() < tolerance * np.abs(expected).max()


def test_dilated_convolutions_are_one_operator(tiny, tmp_path):
    model = km.MobileOneDeepLabV3(
        tiny, 3, (50, 70, 3), weights=None, aspp_filters=16, output_stride=8, deploy=True
    )
    report = km.export_tflite(model, tmp_path / "m.tflite")
    assert set(report.operators) == {
        *("CONV_2D", "DEPTHWISE_CONV_2D", "PAD", "MEAN", "RESIZE_BILINEAR", "CONCATENATION"),
        *("MUL", "LOGISTIC", "STRIDED_SLICE"),
    }


def test_a_detection_file_suppresses_boxes(detector, pixels, tmp_path):
    path = tmp_path / "m.tflite"
    report = km.export_tflite(detector, path, labels=LABELS)
    assert report.operators["CUSTOM"] == 1
    assert [output.name for output in report.outputs] == [
        "location", "category", "score", "number of detections",
    ]  # fmt: skip
    for image in pixels[:3]:
        found = LiteRTRunner(path.read_bytes())(image[None].astype("float32"))
        boxes, labels, scores = detect(detector, image)
        count = int(found["number of detections"][0])
        assert count == len(labels) > 10
        assert found["category"][0, :count].tolist() == labels.tolist()
        assert np.abs(found["score"][0, :count] - scores).max() < 1e-4
        corners = (found["location"][0, :count] * [*SIZE, *SIZE])[:, [1, 0, 3, 2]]
        assert np.abs(corners.clip(0, [96, 64, 96, 64]) - boxes).max() < 0.05


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("float16", 2e-2)])
def test_a_raw_detection_file(precision, tolerance, detector, pixels, tmp_path):
    report = km.export_tflite(detector, tmp_path / "m.tflite", precision, nms=False)
    assert {output.name: output.shape for output in report.outputs} == {
        "location": (1, 198, 4),
        "score": (1, 198, 3),
    }
    assert report.error < tolerance
    found = LiteRTRunner(report.path.read_bytes())(pixels[:1].astype("float32"))
    outputs = detector(km.preprocess_input(pixels[:1]))
    scores = keras.ops.softmax(outputs["cls_logits"])[..., 1:]
    assert np.abs(found["score"] - scores).max() < tolerance * np.abs(scores).max()


def test_refused_arguments(detector, segmenter, pixels, tmp_path):
    path = tmp_path / "m.tflite"
    with pytest.raises(ValueError, match="nms=False is for detectors"):
        km.export_tflite(segmenter, path, nms=False)
    with pytest.raises(ValueError, match="suppresses boxes itself returns float32"):
        km.export_tflite(detector, path, "int8", pixels, **BYTES)
    with pytest.raises(ValueError, match="Expected 3 labels"):
        km.export_tflite(detector, path, labels=["one"])
    with pytest.raises(ValueError, match="needs the float32 outputs 'location' and 'score'"):
        content = convert(segmenter)
        settings = PostProcess(np.zeros((1, 4)), (0.1,) * 4, 3, 0.1, 0.5, 10)
        with_postprocess(content, settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_exports(segmenter, detector, pixels, tmp_path):
    """One error, and the files with which an app begins."""
    for model in (segmenter, detector):
        source, target = tmp_path / f"{model.name}.keras", tmp_path / f"{model.name}.tflite"
        model.save(source)
        usage = tmp_path / "usage.md"
        command = ["export", "tflite", "--model", source, "--output", target, "--usage", usage]
        result = CliRunner().invoke(main, [str(word) for word in command])
        assert result.exit_code == 0, result.output
        assert target.is_file()
    command = [*command[:5], tmp_path / "raw.tflite", "--raw-boxes"]
    result = CliRunner().invoke(main, [str(word) for word in command])
    assert result.exit_code == 0, result.output
    outputs = LiteRTRunner((tmp_path / "raw.tflite").read_bytes()).outputs
    assert len(outputs) == 2


# int8


def test_channels_are_rescaled_through_concatenations(segmenter, pixels):
    """The branches get one range, and each of their channels uses it."""
    traced = trace(segmenter)
    groups, blocked = find_scaling_groups(traced)
    assert [b.name for b in blocked if "_se_" not in b.name] == ["logits"]
    by_name = {group.producer.layer.name: group for group in groups}
    starts = []
    for name in ("aspp_pointwise", "aspp_rate2_pointwise", "aspp_rate3_pointwise"):
        group = by_name[f"{name}_conv"]
        (absorber,) = group.absorbers
        assert absorber.layer.name == "aspp_projection_conv"
        starts.append(group.channels(absorber.inputs[0]))
    assert starts == [slice(0, 16), slice(16, 32), slice(32, 48)]
    images = km.preprocess_input(pixels)
    result = km.equalize(segmenter, images)
    assert result.change < 1e-5
    features = result.model.get_layer("aspp_concatenated").output
    values = np.asarray(keras.Model(result.model.input, features)(images))
    largest = [values[..., part].max() for part in starts]
    assert largest == pytest.approx([1, 1, 1], rel=1e-3)


def test_a_wrong_channel_behind_a_concatenation_is_noticed(segmenter, pixels, monkeypatch):
    from keras_mobileone.quantization import scaling_groups

    monkeypatch.setattr(scaling_groups, "channels_before", lambda call, tensor: 0)
    with pytest.raises(ArithmeticError, match="Equalization moved the outputs"):
        km.equalize(segmenter, km.preprocess_input(pixels))


@pytest.mark.slow
def test_int8_follows_float_more_closely_than_the_converter_does(segmenter, detector, pixels):
    for model in (segmenter, detector):
        images = km.preprocess_input(pixels)
        calibration, others = images[::2], images[1::4]
        expected = keras.tree.flatten(model(others))
        names = [name for name in ("bbox_regression", "cls_logits") if model is detector]
        names = names or ["segmentation"]
        report = km.quantize(model, calibration, normalize=False)
        assert report.left_to_converter == []
        plain = convert(model, "int8", calibration, output_names=names)
        ours = signal_to_noise(report.content, others, names, expected)
        try:
            theirs = signal_to_noise(plain, others, names, expected)
        except ValueError:  # the converter gave the concatenated tensors different scales
            theirs = [0.0] * len(names)
        assert all(good > bad for good, bad in zip(ours, theirs, strict=True)), (ours, theirs)


def signal_to_noise(content, images, names, expected):
    run = LiteRTRunner(content)
    found = [run(image[None]) for image in images]
    return [
        sqnr(np.asarray(values), np.concatenate([outputs[name] for outputs in found]))
        for name, values in zip(names, expected, strict=True)
    ]


@pytest.mark.usefixtures("qat_packages")
def test_training_for_int8_is_refused(segmenter, detector):
    for model in (segmenter, detector):
        with pytest.raises(ValueError, match=r"classifiers.*Received.*Use `quantize`"):
            km.quantize_aware(model)


# MediaPipe


@pytest.mark.parametrize("precision", ["float32", "int8", "bytes"])
class TestSegmenter:
    pytestmark = needs_mediapipe

    def test_it_agrees_on_all_pixels(self, precision, segmenter, pixels, tmp_path):
        path = tmp_path / "m.tflite"
        if precision == "float32":
            km.export_tflite(segmenter, path, labels=LABELS)
        else:
            types = BYTES if precision == "bytes" else {}
            km.export_tflite(segmenter, path, "int8", pixels[::4], labels=LABELS, **types)
        found = mediapipe_run("segment", path, pixels[0], tmp_path)
        assert found["labels"].tolist() == LABELS
        own = next(iter(LiteRTRunner(path.read_bytes())(pixels[:1].astype("float32")).values()))[0]
        if precision == "float32":
            assert np.array_equal(found["mask"], segment(segmenter, pixels[0]).argmax(-1))
        assert np.array_equal(found["mask"], own.argmax(-1))
        probabilities = np.exp(own - own.max(-1, keepdims=True))
        probabilities /= probabilities.sum(-1, keepdims=True)
        assert np.abs(found["confidence"] - probabilities).max() < 1e-3
        assert len(np.unique(found["mask"])) > 1


def raw_detections(model, image):
    """Returns what MediaPipe makes of a raw file, computed from the outputs of Keras.

    Each anchor has the class of its largest score, and boxes of all classes suppress each other.
    """
    outputs = model(km.preprocess_input(image)[None])
    config = task_config(model)
    scores = np.array(keras.ops.softmax(outputs["cls_logits"]))[0, :, 1:]
    arguments = config.anchors(SIZE), config.variances, "xyxy", SIZE
    boxes = np.asarray(decode_boxes(outputs["bbox_regression"], *arguments))[0]
    order = np.argsort(-scores.max(1), kind="stable")
    order = order[scores.max(1)[order] >= SCORE_THRESHOLD]
    boxes, scores = boxes[order], scores[order]
    kept = np.asarray(suppress(boxes[None], np.zeros((1, len(boxes)), int), 0.3))[0]
    boxes, scores = boxes[kept][:100], scores[kept][:100]
    return boxes.clip(0, [*SIZE[::-1]] * 2), scores.argmax(1), scores.max(1)


@pytest.mark.parametrize("nms", [True, False])
@pytest.mark.parametrize("precision", ["float32", "int8", "bytes"])
class TestDetector:
    pytestmark = needs_mediapipe

    def test_boxes_equal_those_of_keras(self, precision, nms, detector, pixels, tmp_path):
        path, image = tmp_path / "m.tflite", pixels[0]
        if precision == "bytes" and nms:
            pytest.skip("a detector that suppresses boxes itself returns float32")
        if precision == "float32":
            km.export_tflite(detector, path, labels=LABELS, nms=nms)
        else:
            types = BYTES if precision == "bytes" else {}
            km.export_tflite(detector, path, "int8", pixels[::4], labels=LABELS, nms=nms, **types)
        found = mediapipe_run("detect", path, image, tmp_path)
        assert set(found["names"]) <= set(LABELS)
        if nms:
            boxes, labels, scores = detect(detector, image, score_threshold=SCORE_THRESHOLD)
        else:
            boxes, labels, scores = raw_detections(detector, image)
        limits = [*SIZE[::-1]] * 2
        if precision != "float32":  # the numbers are those of the file
            if nms:
                outputs = LiteRTRunner(path.read_bytes())(image[None].astype("float32"))
                keep = outputs["score"][0] >= SCORE_THRESHOLD
                boxes = (outputs["location"][0] * [*SIZE, *SIZE])[keep][:, [1, 0, 3, 2]]
                labels, scores = (outputs[n][0][keep] for n in ("category", "score"))
                boxes, labels = boxes.clip(0, limits), labels.astype(int)
            else:
                assert len(found["boxes"]) > 10
                return
        # A box whose overlap is at the threshold may be suppressed by one of the two only.
        assert len(boxes) > 10
        names, unmatched = np.array(LABELS)[labels], 0
        rows = zip(found["boxes"].clip(0, limits), found["names"], found["scores"], strict=True)
        for box, name, score in rows:
            same = (names == name) & (np.abs(scores - score) < 1e-3)
            # MediaPipe cuts off the fractions of the left upper corner, and of width and height. It
            # clips only that corner, so that a box that begins outside the image ends too late.
            error = np.abs(box - boxes)
            error[:, 2:] *= boxes[:, :2] > 0
            near = (error[:, :2] <= 1).all(1) & (error[:, 2:] <= 2).all(1)
            unmatched += not (same & near).any()
        assert unmatched <= 3
        assert abs(len(boxes) - len(found["boxes"])) <= 3
