"""`deploy`, the whole way, and its reports."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import keras_mobileone
from keras_mobileone.about import About
from keras_mobileone.deployment import pipeline
from keras_mobileone.files import staged_directory
from keras_mobileone.litert.metadata import read_labels
from keras_mobileone.weights.checkpoint import write_safetensors
from keras_mobileone.weights.loading import export_tensors

ROOT = Path(__file__).parents[1]
COREML = importlib.util.find_spec("coremltools") is not None
VARIANT = keras_mobileone.Variant("tiny", (0.25,) * 4, depths=(1, 1, 1, 1))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    model = keras_mobileone.MobileOne(VARIANT, weights=None)
    write_safetensors(path, export_tensors(model, VARIANT))
    return path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Thirty noise images in two class folders: ten calibrate, twenty compare."""
    root = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(1)
    for wnid in ("n01440764", "n02123045"):
        (root / wnid).mkdir()
        for i in range(15):
            pixels = rng.integers(0, 256, (60, 60, 3), np.uint8)
            Image.fromarray(pixels).resize((240, 240)).save(root / wnid / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def deployed(weights, photographs, tmp_path_factory):
    output = tmp_path_factory.mktemp("deployed") / "out"
    titles = []

    def step(title):
        titles.append(title)
        return lambda done, total: None

    report = pipeline.deploy(
        VARIANT, weights, output, photographs, coreml=COREML, about=About(author="Ada"), step=step
    )
    return report, output, titles


def test_deploy_writes_every_file(deployed):
    report, output, titles = deployed
    assert {path.name for path in output.iterdir()} == {
        "tiny.keras",
        "tiny_float32.tflite",
        "tiny_float16.tflite",
        "tiny_int8.tflite",
        "report.json",
        "report.md",
        "report.png",
        "cat.png",
    } | ({"tiny.mlpackage"} if COREML else set())
    assert not list(output.parent.glob(".*"))
    for file in report.files:
        assert file.bytes == (output / file.file).stat().st_size
    assert any("int8" in title for title in titles)


def test_deploy_compares_on_other_images_than_it_calibrates_with(deployed):
    report, _, _ = deployed
    assert (report.images, report.calibration_images, report.held_out) == (20, 10, True)
    float32, float16, int8 = report.files
    assert float32.error < 1e-4
    assert float16.error < 1e-2
    assert float32.agreement == 20
    assert float32.top1 == report.keras_top1
    assert float32.sqnr > float16.sqnr > int8.sqnr


def test_reports_tell_the_same(deployed):
    report, output, _ = deployed
    restored = report.report_from_dict(json.loads((output / "report.json").read_text()))
    assert report.markdown(restored) == (output / "report.md").read_text()
    assert f"{report.files[2].latency.median:.2f}" in (output / "report.md").read_text()
    with Image.open(output / "report.png") as picture:
        assert picture.size[0] >= 1000


def test_weights_of_ten_classes_say_which(deployed):
    """They call a cat a chain saw: the report says why."""
    report, _, _ = deployed
    assert "one of these" not in " ".join(report.summary(report))
    few = dataclasses.replace(report, weights="imagenette")
    assert "one of these: tench, English springer," in report.summary(few)[0]


def test_the_report_says_how_apps_use_the_files(deployed):
    report, output, _ = deployed
    text = (output / "report.md").read_text()
    for file in report.files:
        assert f"### {file.file}" in text
        assert dict(file.usage.facts)["Labels"].startswith("1000, `labels.txt` inside the file")
    assert text.count("```python") == text.count("```kotlin") == 1
    assert read_labels(output / "tiny_int8.tflite")[0] == "tench"
    if not COREML:
        pytest.skip("needs coremltools")
    assert "### tiny.mlpackage" in text and "```swift" in text
    assert f"{report.package.bytes / 1e6:.2f} MB, Core ML float16" in text
    assert "Neither run nor timed here" in text


def test_deploying_again_replaces_the_package(tmp_path):
    output = tmp_path / "out"
    for content in ("old", "new"):
        with staged_directory(output) as directory:
            (directory / "m.mlpackage").mkdir()
            (directory / "m.mlpackage" / content).touch()
    assert [p.name for p in (output / "m.mlpackage").iterdir()] == ["new"]


def test_a_failure_leaves_nothing(weights, photographs, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("planted")

    monkeypatch.setattr(pipeline, "benchmark", fail)
    with pytest.raises(RuntimeError, match="planted"):
        pipeline.deploy(VARIANT, weights, tmp_path / "out", photographs)
    assert not list(tmp_path.iterdir())


def test_staging_keeps_what_stood_there(tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "mine.txt").write_text("mine")
    with staged_directory(output) as directory:
        (directory / "new.txt").write_text("new")
    assert sorted(p.name for p in output.iterdir()) == ["mine.txt", "new.txt"]


def test_few_photographs_serve_for_both(tmp_path):
    paths = [Path(f"{i}.png") for i in range(6)]
    calibration, compared = pipeline._split(paths)
    assert calibration == compared == paths


def test_bundled_photographs_exist():
    pytest.importorskip("skimage", reason="the photographs are scikit-image's")
    assert all(path.is_file() for path in pipeline._photographs())


def test_readme_is_generated_from_the_stored_results():
    process = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "readme.py", "--check"],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, "run `make readme`: " + process.stderr[-500:]
