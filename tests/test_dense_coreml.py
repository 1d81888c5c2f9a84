"""Tests Core ML packages of segmentation models and detectors in NumPy, and what Xcode shows."""

import json
import logging

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import keras_mobileone as km
from keras_mobileone.cli import main
from keras_mobileone.export.coreml import export_coreml
from keras_mobileone.models.detection.encoding import decode_boxes
from keras_mobileone.models.detection.nms import suppress
from keras_mobileone.models.tasks import task_config

logging.getLogger("coremltools").setLevel(logging.ERROR)
coremltools = pytest.importorskip("coremltools", reason="needs coremltools")
import mil_numpy  # noqa: E402
from mil_numpy import run_package  # noqa: E402

SIZE = (50, 70)  # of no multiple of the stride, so that features are cropped
LABELS = ["ant", "bee", "cät"]
TOLERANCE = {"float32": 1e-4, "float16": 1e-2}


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def segmenter(tiny, randomize) -> keras.Model:
    """Returns a train-time model with dilated convolutions, upsampling, cropping and a decoder."""
    model = km.MobileOneDeepLabV3(
        tiny,
        3,
        (*SIZE, 3),
        weights=None,
        output_stride=8,
        rates=(2, 3),
        aspp_filters=16,
        decoder_filters=8,
    )
    return randomize(model)


@pytest.fixture(scope="module")
def detector(tiny, randomize, enlarge_head) -> keras.Model:
    """Returns a fused detector of four classes, so that both outputs have one shape."""
    model = km.MobileOneSSDLite(
        tiny, 4, (*SIZE, 3), weights=None, extra_filters=(16,), scales=(0.2, 0.4, 0.6, 0.8)
    )
    return enlarge_head(km.fuse(randomize(model)), classes=3, boxes=3)


def logits_of(model, image) -> np.ndarray:
    return np.asarray(model(km.preprocess_input(image)[None], training=False))


def detections_of(model, image):
    """Returns the boxes (x1, y1, x2, y2) and the probabilities of all anchors by Keras."""
    outputs = model(km.preprocess_input(image)[None])
    config = task_config(model)
    arguments = config.anchors(SIZE), config.variances, "xyxy", SIZE
    boxes = np.asarray(decode_boxes(outputs["bbox_regression"], *arguments))[0]
    return boxes, np.array(keras.ops.softmax(outputs["cls_logits"]))[0, :, 1:]


def corners(coordinates) -> np.ndarray:
    """Converts the output of a package to (x1, y1, x2, y2) in pixels."""
    x, y, width, height = np.float64(coordinates).T * [[SIZE[1]], [SIZE[0]], [SIZE[1]], [SIZE[0]]]
    return np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1)


def description(path):
    return coremltools.models.MLModel(str(path), skip_model_load=True).get_spec().description


@pytest.mark.slow
def test_logits_and_classes_are_those_of_keras(
    segmenter, image, tmp_path, relative_error, monkeypatch
):
    path, expected = tmp_path / "m.mlpackage", logits_of(segmenter, image)
    report = export_coreml(segmenter, path, "float32", classifier=False)
    assert report.task == "segment" and report.operators["upsample_bilinear"] == 3
    assert relative_error(run_package(path, image)["scores"], expected) < TOLERANCE["float32"]

    def without_half_pixels(x, scale_factor_height, scale_factor_width, align_corners):
        for axis, factor in ((2, scale_factor_height), (3, scale_factor_width)):
            grid = np.arange(x.shape[axis] * int(factor)) / factor
            x = x.take(np.floor(grid).astype(int), axis)
        return x

    monkeypatch.setitem(mil_numpy.OPERATIONS, "upsample_bilinear", without_half_pixels)
    assert relative_error(run_package(path, image)["scores"], expected) > 0.01


@pytest.mark.slow
def test_a_class_map_is_laid_out_as_apples(segmenter, image, tmp_path):
    path, expected = tmp_path / "m.mlpackage", logits_of(segmenter, image)[0]
    report = export_coreml(segmenter, path, labels=LABELS)
    found = run_package(path, image)["semanticPredictions"]
    assert found.dtype == np.int32 and found.shape == SIZE
    # float16 decides otherwise only where two classes are about equal.
    best = np.sort(expected, -1)
    clear = best[..., -1] - best[..., -2] > TOLERANCE["float16"] * np.abs(expected).max()
    assert clear.mean() > 0.9 and (found == expected.argmax(-1))[clear].all()
    assert report.outputs[0][:3] == ("semanticPredictions", SIZE, "int32")
    shown = description(path)
    (output,) = shown.output
    assert output.name == "semanticPredictions"
    assert list(output.type.multiArrayType.shape) == list(SIZE)
    metadata = shown.metadata.userDefined
    assert metadata["com.apple.coreml.model.preview.type"] == "imageSegmenter"
    parameters = json.loads(metadata["com.apple.coreml.model.preview.params"])
    assert parameters["labels"] == LABELS
    assert parameters["colors"][0] == "#e63946" and len(set(parameters["colors"])) == 3


@pytest.mark.slow
def test_boxes_of_all_anchors_are_those_of_keras(detector, image, tmp_path):
    path = tmp_path / "m.mlpackage"
    report = export_coreml(detector, path, nms=False, minimum_deployment_target="iOS16")
    found = run_package(path, image)
    boxes, scores = detections_of(detector, image)
    assert np.abs(found["confidence"] - scores).max() < TOLERANCE["float16"]
    assert np.abs(corners(found["coordinates"]) - boxes).max() < 0.5, "pixels"
    assert [output[:2] for output in report.outputs] == [
        ("confidence", scores.shape),
        ("coordinates", boxes.shape),
    ]
    for output in description(path).output:  # not float16, as by default for iOS16
        assert output.type.multiArrayType.dataType == output.type.multiArrayType.FLOAT32


@pytest.mark.slow
def test_a_package_suppresses_boxes(detector, image, tmp_path):
    """The pipeline has Create ML's names, its thresholds, and the classes without background."""
    path = tmp_path / "m.mlpackage"
    report = export_coreml(detector, path, "float32", labels=[*LABELS, "dog"])
    found = run_package(path, image)
    boxes, scores = detections_of(detector, image)
    order = np.argsort(-scores.max(1), kind="stable")
    order = order[scores.sum(1)[order] >= 0.25]
    groups = scores[order].argmax(1)
    kept = order[np.asarray(suppress(boxes[order][None], groups[None], 0.45))[0]]
    assert 5 < len(kept) < len(order)
    assert np.abs(found["confidence"] - scores[kept]).max() < 1e-4
    assert np.abs(corners(found["coordinates"]) - boxes[kept]).max() < 1e-3
    assert report.operators["nonMaximumSuppression"] == 1
    spec = coremltools.models.MLModel(str(path), skip_model_load=True).get_spec()
    assert [i.name for i in spec.description.input] == [
        "image", "iouThreshold", "confidenceThreshold",
    ]  # fmt: skip
    assert [o.name for o in spec.description.output] == ["confidence", "coordinates"]
    network, suppression = spec.pipeline.models
    labels = suppression.nonMaximumSuppression.stringClassLabels.vector
    assert list(labels) == [*LABELS, "dog"]
    # Core ML's validator asks for one dtype, and for inputs that the suppression names.
    types = {
        feature.type.multiArrayType.dataType
        for model in (network, suppression)
        for feature in (*model.description.input, *model.description.output)
        if feature.type.HasField("multiArrayType")
    }
    assert types == {spec.description.output[0].type.multiArrayType.FLOAT32}
    names = {feature.name for feature in suppression.description.input}
    assert names == {"raw_confidence", "raw_coordinates", "iouThreshold", "confidenceThreshold"}


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["linear8", "palette8"])
def test_compressed_weights(compression, tiny, randomize, image, tmp_path):
    """coremltools compresses kernels of 2,048 values and more, which these models have."""
    settings = {"minimum_deployment_target": "iOS16", "compression": compression}
    path, shape = tmp_path / "m.mlpackage", (*SIZE, 3)
    if compression == "linear8":
        model = randomize(km.MobileOneDeepLabV3(tiny, 3, shape, weights=None, aspp_filters=64))
        report = export_coreml(model, path, classifier=False, **settings)
        assert report.operators["constexpr_affine_dequantize"] >= 1
        found, expected = run_package(path, image)["scores"], logits_of(model, image)
    else:
        pytest.importorskip("sklearn", reason="palettization needs scikit-learn")
        heads = {"extra_filters": (128,), "scales": (0.2, 0.4, 0.6, 0.8)}
        model = km.fuse(randomize(km.MobileOneSSDLite(tiny, 4, shape, weights=None, **heads)))
        report = export_coreml(model, path, nms=False, **settings)
        assert report.operators["constexpr_lut_to_dense"] > 1
        found, expected = run_package(path, image)["confidence"], detections_of(model, image)[1]
    assert 0.98 < np.corrcoef(found.ravel(), expected.ravel())[0, 1] < 1


@pytest.mark.parametrize(
    ("task", "arguments", "words"),
    [
        ("segment", {"classifier": True}, "classifies whole images"),
        ("segment", {"nms": False}, "nms=False is for detectors"),
        ("segment", {"labels": ["one"]}, "Expected 3 labels.*Received: 1"),
        ("segment", {"labels": LABELS, "classifier": False}, "Labels need a classifier"),
        ("detect", {"classifier": False}, "two outputs.*--raw-boxes"),
        ("detect", {"classifier": True}, "classifies whole images"),
    ],
)
def test_refused_arguments(task, arguments, words, segmenter, detector, tmp_path):
    model = {"segment": segmenter, "detect": detector}[task]
    with pytest.raises(ValueError, match=words):
        export_coreml(model, tmp_path / "m.mlpackage", **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_command(detector, tmp_path, refused):
    """The command asks no labels of a model with a task, and --usage shows Swift for it."""
    source, output, usage = (tmp_path / n for n in ("m.keras", "m.mlpackage", "usage.md"))
    detector.save(source)
    command = ["export", "coreml", "--model", source, "--output", output, "--usage", usage]
    result = CliRunner().invoke(main, [str(word) for word in [*command, "--raw-boxes"]])
    assert result.exit_code == 0, result.output
    assert 'arrays["coordinates"]' in usage.read_text(encoding="utf-8")
    (tmp_path / "empty").mkdir()
    command[5] = tmp_path / "empty" / "m.mlpackage"
    result = CliRunner().invoke(main, [str(word) for word in [*command, "--scores"]])
    refused(result, ["two outputs", "--raw-boxes"], tmp_path / "empty")
