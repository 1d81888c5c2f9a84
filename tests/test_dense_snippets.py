"""Tests that the code for segmentation and detection runs, and says what Keras says."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

import keras_mobileone as km
from keras_mobileone.data.images import EXAMPLE_IMAGE, example_image
from keras_mobileone.export.snippets import usage
from keras_mobileone.export.tasks import FILE_DETECTIONS

SIZE = (64, 96)
LABELS = ["ant", "bee", "cat"]
BYTES = {"input_dtype": "uint8", "output_dtype": "uint8"}


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    """Returns the example image in a directory, enlarged to a size that is not the models'."""
    path = tmp_path_factory.mktemp("photograph") / EXAMPLE_IMAGE
    Image.fromarray(example_image((150, 120))).save(path)
    return path


@pytest.fixture(scope="module")
def segmenter(tiny, randomize) -> keras.Model:
    model = km.MobileOneDeepLabV3(tiny, 3, (*SIZE, 3), weights=None, aspp_filters=16, rates=(2, 3))
    return km.fuse(randomize(model))


@pytest.fixture(scope="module")
def detector(tiny, randomize, enlarge_head) -> keras.Model:
    model = km.MobileOneSSDLite(
        tiny, 3, (*SIZE, 3), weights=None, extra_filters=(16,), scales=(0.3, 0.5, 0.7, 0.9)
    )
    return enlarge_head(km.fuse(randomize(model)), classes=2)  # scores above the code's threshold


def printed(code, photograph, directory) -> list[list[str]]:
    """Returns the words of each line that the code prints, run beside file and photograph."""
    (directory / EXAMPLE_IMAGE).write_bytes(photograph.read_bytes())
    (directory / "app.py").write_text(code, encoding="utf-8")
    process = subprocess.run(
        [sys.executable, "app.py"], cwd=directory, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return [line.split() for line in process.stdout.splitlines()]


def export(model, path, precision="float32", **arguments):
    if precision == "int8":
        pixels = np.random.default_rng(0).integers(0, 256, (8, *SIZE, 3), np.uint8)
        arguments["calibration"] = [np.float32(pixels)]
    return km.export(model, path, precision=precision, **arguments)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["float32", "bytes", "onnx"])
def test_the_python_code_segments(case, segmenter, photograph, tmp_path):
    if case == "onnx":
        pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    path = tmp_path / ("m.onnx" if case == "onnx" else "m.tflite")
    bytes_ = {"precision": "int8", **BYTES} if case == "bytes" else {}
    report = export(segmenter, path, labels=None if case == "onnx" else LABELS, **bytes_)
    found = printed(report.snippets["python"], photograph, tmp_path)
    source = path if case == "bytes" else segmenter
    expected = km.segment(source, km.load_image(photograph), labels=LABELS).shares
    names = "012" if case == "onnx" else LABELS
    assert {LABELS[names.index(label)]: float(share) for label, share in found} == pytest.approx(
        expected, abs=2e-3
    )
    assert len(expected) > 1
    assert [label for label, _ in found] == [n for n in names if n in dict(found)]


@pytest.mark.slow
@pytest.mark.parametrize("nms", [True, False])
def test_the_python_code_finds_objects(nms, detector, photograph, tmp_path):
    report = export(detector, tmp_path / "m.tflite", labels=LABELS, nms=nms)
    found = printed(report.snippets["python"], photograph, tmp_path)
    objects = km.detect(detector, km.load_image(photograph), labels=LABELS).objects
    assert len(found) == min(len(objects), FILE_DETECTIONS if nms else len(objects)) > 3
    for label, score, *box in found:
        # The file does not clip its boxes to the image.
        inside = np.clip(np.float64(box), 0, [120, 150, 120, 150])
        assert any(
            label == expected.label
            and abs(float(score) - expected.score) < 1e-3
            and np.abs(inside - expected.box).max() <= 1
            for expected in objects
        )
    assert "Preprocessing" in dict(usage(report).facts)
    assert "stretched to 96×64" in dict(usage(report).facts)["Preprocessing"]


@pytest.mark.slow
def test_kotlin_uses_mediapipe_for_files_that_it_accepts(segmenter, detector, tmp_path):
    report = export(segmenter, tmp_path / "seg.tflite", labels=LABELS)
    code = report.snippets["kotlin"]
    assert "com.google.mediapipe:tasks-vision" in code and '"seg.tflite"' in code
    assert "ImageSegmenter.ImageSegmenterOptions" in code and "setOutputCategoryMask(true)" in code
    assert "segmenter.labels[center]" in code
    assert "```kotlin" in usage(report).markdown()
    assert 'pipeline_tag: "image-segmentation"' in km.model_card(report)
    report = export(detector, tmp_path / "det.tflite")
    code = report.snippets["kotlin"]
    assert "ObjectDetector.ObjectDetectorOptions" in code and "best.index()" in code
    assert 'pipeline_tag: "object-detection"' in km.model_card(report)
    refused = export(segmenter, tmp_path / "n.tflite", normalize=False)
    assert list(refused.snippets) == ["python"], "MediaPipe refuses the normalization"


@pytest.mark.slow
def test_swift_reads_the_outputs_of_the_package(segmenter, detector, tmp_path):
    pytest.importorskip("coremltools", reason="needs coremltools")
    code = export(segmenter, tmp_path / "a.mlpackage", "float16").snippets["swift"]
    assert "= .scaleFill  // to 96×64" in code and '// "semanticPredictions", 64×96' in code
    assert "classes[[32, 48]]" in code and "com.apple.coreml.model.preview.params" in code
    code = export(detector, tmp_path / "b.mlpackage", "float16").snippets["swift"]
    assert "as! [VNRecognizedObjectObservation]" in code
    code = export(detector, tmp_path / "c.mlpackage", "float16", nms=False).snippets["swift"]
    assert 'arrays["coordinates"]' in code and "MLShapedArray<Float>" in code
