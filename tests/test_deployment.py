"""Tests `deploy` from weights or a model to verified files, and its reports."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from PIL import Image

import keras_mobileone
from keras_mobileone.about import About
from keras_mobileone.cli import main
from keras_mobileone.deployment import pipeline
from keras_mobileone.deployment import report as reporting
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
    """Returns thirty noise images in two class folders, of which ten calibrate."""
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_deploy_compares_on_other_images_than_it_calibrates_with(deployed):
    report, _, _ = deployed
    assert (report.images, report.calibration_images, report.held_out) == (20, 10, True)
    float32, float16, int8 = report.files
    assert float32.error < 1e-4
    assert float16.error < 1e-2
    assert float32.agreement == 20
    assert float32.top1 == report.keras_top1
    assert float32.sqnr > float16.sqnr > int8.sqnr


@pytest.mark.slow
def test_reports_tell_the_same(deployed):
    report, output, _ = deployed
    restored = reporting.report_from_dict(
        json.loads((output / "report.json").read_text(encoding="utf-8"))
    )
    assert reporting.markdown(restored) == (output / "report.md").read_text(encoding="utf-8")
    assert f"{report.files[2].latency.median:.2f}" in (output / "report.md").read_text(
        encoding="utf-8"
    )
    with Image.open(output / "report.png") as picture:
        assert picture.size[0] >= 1000


@pytest.fixture(scope="module")
def ten_classes(tmp_path_factory):
    """Returns a train-time model of a user with ten classes and random weights."""
    return keras_mobileone.MobileOne(
        VARIANT, weights=None, input_shape=(64, 64, 3), classes=10, classifier_activation=None
    )


NAMES = [f"kind {index}" for index in range(10)]


@pytest.fixture(scope="module")
def own(ten_classes, photographs, tmp_path_factory):
    """Deploys that model from its file, with photographs that show none of its classes."""
    root = tmp_path_factory.mktemp("own")
    ten_classes.save(root / "mine.keras")
    found = pipeline.deploy(
        output=root / "out", calibration=photographs, model=root / "mine.keras", labels=NAMES
    )
    return found, root / "out"


@pytest.mark.slow
def test_weights_of_ten_classes_say_which(deployed, own):
    """The weights classify a cat as a chain saw. The report explains why and does not list it."""
    found, _, _ = deployed
    assert "one of these" not in " ".join(reporting.summary(found))
    assert len(found.predictions) == pipeline.SHOWN_PHOTOGRAPHS
    found, output = own
    assert "10 classes" in reporting.summary(found)[0]
    assert "one of these: kind 0, kind 1," in reporting.summary(found)[0]
    assert "no predictions are listed" in reporting.summary(found)[0]
    assert found.predictions == []
    assert "## Photographs" not in (output / "report.md").read_text(encoding="utf-8")


def test_weights_that_come_with_the_package_know_their_classes():
    source = pipeline._load("s0", "imagenette", None, None, pipeline._silent)
    assert source.labels[:2] == source.names[:2] == ["tench", "English springer"]
    assert source.folders["n01440764"] == 0
    paths = [Path("n01440764/a.jpg"), Path("n02123045/cat.jpg")]
    scores = [np.eye(10)[:2], np.eye(10)[:2]]
    assert pipeline._predictions(source, paths, scores) == [("a", "tench", ["tench"])]


@pytest.mark.slow
def test_a_model_of_ones_own_is_deployed(own, ten_classes):
    found, output = own
    assert {path.name for path in output.iterdir()} == {
        "mine.keras",
        "mine_float32.tflite",
        "mine_float16.tflite",
        "mine_int8.tflite",
        "report.json",
        "report.md",
        "report.png",
        "cat.png",
    }
    assert (found.name, found.weights, found.classes) == ("mine", None, NAMES)
    assert found.train.trainable == ten_classes.count_params() - found.train.non_trainable
    assert found.deploy.trainable < found.train.trainable
    assert found.files[0].error < 1e-4
    assert found.files[0].agreement == found.images == 20
    assert found.keras_top1 is None
    assert "The images have no labels" in reporting.summary(found)[1]
    assert read_labels(output / "mine_int8.tflite") == NAMES


@pytest.mark.slow
def test_the_command_line_deploys_a_model_of_ones_own(own, tmp_path, monkeypatch):
    found, _ = own
    given = {}

    def told(variant, weights, output, calibration, **arguments):
        given.update(arguments, variant=variant, weights=weights, output=output)
        return found

    monkeypatch.setattr("keras_mobileone.deployment.pipeline.deploy", told)
    labels = tmp_path / "classes.txt"
    labels.write_text("\n".join(NAMES), encoding="utf-8")
    options = ["--model", "mine.keras", "--labels", str(labels), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(main, ["deploy", *options])
    assert result.exit_code == 0, result.output
    assert (given["variant"], given["weights"]) == (None, None)
    assert (given["model"], given["labels"]) == (Path("mine.keras"), NAMES)
    assert "Photograph" not in result.output
    assert "no predictions are listed" in " ".join(result.output.split())


def test_folders_named_by_label_or_wordnet_id_give_accuracy():
    folders = pipeline._class_folders(["tench", "my dog", "crane (n02012849)"])
    assert folders == {
        "tench": 0,
        "n01440764": 0,
        "my dog": 1,
        "crane (n02012849)": 2,
        "n02012849": 2,
    }


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"output": None}, ValueError, "`output` is required"),
        ({"model": "m.keras", "variant": "s0"}, ValueError, "replaces"),
        ({"model": "m.keras", "weights": "imagenet"}, ValueError, "replaces"),
        ({"model": "none.keras"}, FileNotFoundError, "does not exist"),
        ({"model": 3}, TypeError, "Received: int"),
        ({"variant": "s9"}, ValueError, "s9"),
        ({"output": "a/b/c"}, NotADirectoryError, "Create it first"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(
    photographs, tmp_path, monkeypatch, arguments, error, words
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        pipeline.deploy(**{"output": "out", "calibration": photographs} | arguments)
    assert not list(tmp_path.iterdir())


def test_models_that_deploy_cannot_compare_are_refused(photographs, tmp_path):
    image = keras.Input((64, 64, 3))
    conv = keras.layers.Conv2D(4, 3)(image)
    mask = keras.Model(image, conv, name="mask")
    with pytest.raises(ValueError, match="one output of shape"):
        pipeline.deploy(output=tmp_path / "out", calibration=photographs, model=mask)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_few_images_are_counted_and_many_are_percentages(deployed):
    found, _, _ = deployed
    keras_row, float32, *_ = reporting.table_rows(found)
    assert float32[7] == "20 of 20"
    assert keras_row[8] == f"{found.keras_top1} of 20"
    assert "as numbers of images" in reporting.summary(found)[1]
    files = [dataclasses.replace(file, agreement=188) for file in found.files]
    many = dataclasses.replace(found, images=200, files=files)
    assert reporting.table_rows(many)[1][7] == "94.0"
    assert "in % of the images" in reporting.summary(many)[1]


@pytest.mark.slow
def test_a_report_is_stored_and_read_again(deployed, tmp_path):
    found, output, _ = deployed
    assert reporting.load_report(output / "report.json") == found
    exact = dataclasses.replace(found.files[0], sqnr=float("inf"))
    exact = dataclasses.replace(found, files=[exact, *found.files[1:]])
    exact.save(tmp_path / "report.json")
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert json.loads(text)["format"] == reporting.FORMAT == 1
    assert "Infinity" not in text
    assert reporting.load_report(tmp_path / "report.json") == exact
    (tmp_path / "old.json").write_text('{"format": 0}', encoding="utf-8")
    with pytest.raises(ValueError, match="report of deploy of format 1"):
        reporting.load_report(tmp_path / "old.json")
    (tmp_path / "part.json").write_text('{"format": 1}', encoding="utf-8")
    with pytest.raises(ValueError, match="lacks parts"):
        reporting.load_report(tmp_path / "part.json")


def test_the_stored_demo_can_be_read_and_drawn_again():
    path = ROOT / "benchmarks" / "results" / "demo" / "report.json"
    found = reporting.load_report(path)
    assert found.to_dict() == json.loads(path.read_text(encoding="utf-8"))
    assert [file.agreement for file in found.files] == [200, 200, 192]
    assert path.with_suffix(".png").is_file()


@pytest.mark.slow
def test_the_picture_shows_latency_and_size(deployed, tmp_path, monkeypatch):
    """The figure is drawn from the report alone. Agreement is shown as text, not as bars."""
    found, output, _ = deployed
    figures = []

    class Kept(Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            figures.append(self)

    monkeypatch.setattr("matplotlib.figure.Figure", Kept)
    reporting.plot(reporting.load_report(output / "report.json"), tmp_path / "again.png")
    (figure,) = figures
    size, latency = figure.axes
    assert size.get_title() == "Size, MB"
    assert latency.get_title().startswith("Latency, ms")
    heights = [bar.get_height() for bar in latency.patches]
    assert heights == [file.latency.median for file in found.files]
    words = f"Same best class as Keras, of 20 photographs: float32 {found.files[0].agreement}"
    assert figure.get_supxlabel().startswith(words)


@pytest.mark.slow
def test_the_report_says_how_apps_use_the_files(deployed):
    report, output, _ = deployed
    text = (output / "report.md").read_text(encoding="utf-8")
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


@pytest.mark.slow
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
    (output / "mine.txt").write_text("mine", encoding="utf-8")
    with staged_directory(output) as directory:
        (directory / "new.txt").write_text("new", encoding="utf-8")
    assert sorted(p.name for p in output.iterdir()) == ["mine.txt", "new.txt"]


def test_few_photographs_serve_for_both(tmp_path):
    paths = [Path(f"{i}.png") for i in range(6)]
    calibration, compared = pipeline._split(paths)
    assert calibration == compared == paths


def test_bundled_photographs_exist():
    pytest.importorskip("skimage", reason="the photographs are scikit-image's")
    assert all(path.is_file() for path in pipeline._photographs())
