"""Tests `evaluate` and `predict` of segmentation models and detectors."""

import json

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import keras_mobileone as km
from keras_mobileone.cli import main
from keras_mobileone.data.dense.shapes import NAMES, voc_xml, write_shapes
from keras_mobileone.data.image_config import ImageConfig, set_image_config
from keras_mobileone.evaluation import dense_accuracy
from keras_mobileone.models.detection.config import DetectionConfig
from keras_mobileone.models.detection.encoding import encode_boxes
from keras_mobileone.models.segmentation import SegmentationConfig
from keras_mobileone.models.tasks import set_task_config, task_config

pytest.importorskip("faster_coco_eval", reason="needs keras-mobileone[detect]")

SIDE = 64
COLORS = ((200, 0, 0), (0, 200, 0), (0, 0, 200))
COLOR_NAMES = ("red", "green", "blue")
HEAD = DetectionConfig(2, extra_filters=(16,), scales=(0.2, 0.4, 0.6, 0.8))
PIXELS = {"mean": (0.0,) * 3, "std": (1.0,) * 3}


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def save_image(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def described(model, config, labels, size=(SIDE, SIDE)):
    """Attaches a task and labels, as the models of this package carry them."""
    set_task_config(model, config)
    return set_image_config(
        model, ImageConfig(size, crop_fraction=1.0, stretch=True, labels=labels, **PIXELS)
    )


# Planted answers


@pytest.fixture(scope="module")
def stripes(tmp_path_factory):
    """Returns a data set of one image: a column of 16 pixels red, 16 green and 32 blue.

    The lowest eighth has no class.
    """
    root = tmp_path_factory.mktemp("stripes")
    mask = np.repeat([0, 1, 2, 2], 16)[None].repeat(SIDE, 0).astype(np.uint8)
    save_image(root / "images" / "val" / "a.png", np.array(COLORS, np.uint8)[mask])
    mask[56:] = 255
    save_image(root / "masks" / "val" / "a.png", mask)
    (root / "labels.txt").write_text("\n".join(COLOR_NAMES))
    return root


def color_reader(order=(0, 1, 2), shift=0, labels=COLOR_NAMES):
    """Returns a model whose logit k is color `order[k]` of the pixel `shift` columns to the left.

    The first columns then see nothing, whose logits are equal, so that class 0 is their answer.
    """
    image = keras.Input((SIDE, SIDE, 3))
    kernel = np.zeros((1, 2 * shift + 1, 3, 3), np.float32)
    for output, color in enumerate(order):
        kernel[0, 0, color, output] = 1
    layer = keras.layers.Conv2D(3, kernel.shape[:2], padding="same", use_bias=False)
    model = keras.Model(image, layer(image))
    layer.set_weights([kernel])
    return described(model, SegmentationConfig(3), labels)


def test_a_model_that_reads_the_mask_scores_one(stripes):
    result = km.evaluate_segmentation(color_reader(), stripes)
    assert result.miou == result.pixel_accuracy == 1
    assert result.images == 1
    assert result.iou_by_class == dict.fromkeys(COLOR_NAMES, 1.0)
    assert result.confusion == [[896, 0, 0], [0, 896, 0], [0, 0, 1792]]


def test_a_shifted_mask_has_the_iou_computed_by_hand(stripes):
    result = km.evaluate_segmentation(color_reader(shift=8), stripes)
    # Of each row, red gets columns 0 … 23 of 0 … 15, green 24 … 39 of 16 … 31, blue 40 … of 32 ….
    ious = [16 / 24, 8 / 24, 24 / 32]
    assert list(result.iou_by_class.values()) == pytest.approx(ious)
    assert result.miou == pytest.approx(sum(ious) / 3)
    assert result.confusion == [[16 * 56, 0, 0], [8 * 56, 8 * 56, 0], [0, 8 * 56, 24 * 56]]


def test_classes_are_matched_by_name(stripes, tmp_path):
    model = color_reader(order=(2, 0, 1), labels=("blue", "red", "green"))
    result = km.evaluate_segmentation(model, stripes)
    assert result.miou == 1
    assert list(result.iou_by_class) == ["blue", "red", "green"]
    with pytest.raises(km.InputValueError, match=r"Received: blue\..*names"):
        km.evaluate_segmentation(color_reader(labels=("red", "green", "sea")), stripes)
    names = ("rot", "grün", "blau")  # of other words, but said to be in the order of the outputs
    result = km.evaluate_segmentation(color_reader(labels=COLOR_NAMES), stripes, labels=names)
    assert result.iou_by_class == dict.fromkeys(names, 1.0)


BOXES = np.array([[10, 10, 30, 30], [34, 20, 60, 50]], np.float32)  # in pixels of the input
LABELS = np.array([0, 1])


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    """Returns a data set of an image of 128×64 and one of 512×256 pixels, with the same objects."""
    root = tmp_path_factory.mktemp("boxes")
    for name, scale in (("a", 1), ("b", 4)):
        size = (64 * scale, 128 * scale)
        save_image(root / "images" / "val" / f"{name}.png", np.full((*size, 3), 90, np.uint8))
        scaled = BOXES * (2, 1, 2, 1) * scale
        text = voc_xml(f"{name}.png", size, scaled, ["cat", "dog"])
        path = root / "Annotations" / "val" / f"{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def fixed_detector(found=BOXES, labels=LABELS, names=("cat", "dog"), confidence=8.0):
    """Returns a detector with the same answer for each image: boxes at the nearest anchors."""
    anchors = HEAD.anchors((SIDE, SIDE))
    logits = np.zeros((len(anchors), 3), np.float32)
    logits[:, 0] = 12
    offsets = np.zeros((len(anchors), 4), np.float32)
    for number, (box, label) in enumerate(zip(found, labels, strict=True)):
        center = ((box[1] + box[3]) / 2, (box[0] + box[2]) / 2)
        far = np.hypot(anchors[:, 0] - center[0], anchors[:, 1] - center[1])
        place = np.argsort(far, kind="stable")[number]
        offsets[place] = encode_boxes(
            box[None], anchors[[place]], HEAD.variances, "xyxy", (SIDE, SIDE)
        )[0]
        logits[place] = (0, 0, 0)
        logits[place, 1 + label] = confidence - number
    image = keras.Input((SIDE, SIDE, 3))
    zero = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(0.0)(image))
    outputs = {}
    for name, values in (("bbox_regression", offsets), ("cls_logits", logits)):
        layer = keras.layers.Dense(values.size)
        flat = layer(zero)
        layer.set_weights([np.zeros((3, values.size)), values.ravel()])
        outputs[name] = keras.layers.Reshape(values.shape, name=name)(flat)
    return described(keras.Model(image, outputs), HEAD, names)


@pytest.mark.parametrize("batch", [1, 8])
def test_a_detector_that_returns_the_truth_scores_one(batch, boxes, monkeypatch):
    monkeypatch.setattr(dense_accuracy, "BATCH_SIZE", batch)
    result = km.evaluate_detection(fixed_detector(), boxes)
    assert (result.images, result.objects) == (2, 4)
    assert result.scores.map == result.scores.map50 == result.scores.map75 == pytest.approx(1)
    assert result.scores.map_large == pytest.approx(1)  # both objects of the second image
    swapped = fixed_detector(labels=LABELS[::-1], names=("dog", "cat"))
    assert km.evaluate_detection(swapped, boxes).scores.map == pytest.approx(1)


@pytest.mark.slow
def test_a_shifted_box_has_the_precision_computed_by_hand(boxes):
    # 5 of 20 columns away: IoU 15 / 25 = 0.6, which passes the thresholds 0.5 and 0.55; the IoU of
    # the cat is a little less than 0.6 after rounding, so it is shifted by less.
    shifted = BOXES + [[4.9, 0, 4.9, 0], [0, 0, 0, 0]]
    result = km.evaluate_detection(fixed_detector(shifted), boxes)
    assert result.scores.by_class == {"cat": pytest.approx(0.3), "dog": pytest.approx(1)}
    assert result.scores.by_class50 == {"cat": pytest.approx(1), "dog": pytest.approx(1)}
    assert result.scores.map == pytest.approx(0.65)
    assert result.scores.map75 == pytest.approx(0.5)
    # One of two classes is not found, or is called by the other's name.
    result = km.evaluate_detection(fixed_detector(BOXES[:1], LABELS[:1]), boxes)
    assert result.scores.map == pytest.approx(0.5)
    assert km.evaluate_detection(fixed_detector(labels=LABELS[::-1]), boxes).scores.map == 0


# Keras and TFLite


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(root, 5, 48, 96)
    return root


@pytest.fixture(scope="module")
def segmenter(tiny, randomize):
    model = km.MobileOneDeepLabV3(
        tiny, 3, (SIDE, 96, 3), weights=None, aspp_filters=16, rates=(2, 3), deploy=True
    )
    return labeled(randomize(model), NAMES)


@pytest.fixture(scope="module")
def detector(tiny, randomize):
    model = km.MobileOneSSDLite(
        *(tiny, 2, (SIDE, 96, 3)),
        weights=None,
        extra_filters=HEAD.extra_filters,
        scales=HEAD.scales,
        deploy=True,
    )
    return labeled(randomize(model), NAMES[1:])


def labeled(model, labels):
    config = km.image_config(model)
    return set_image_config(model, ImageConfig(**config.to_dict() | {"labels": labels}))


@pytest.fixture(scope="module")
def files(segmenter, detector, tmp_path_factory):
    """Returns the files of both models, by name."""
    root = tmp_path_factory.mktemp("files")
    paths = {name: root / f"{name}.tflite" for name in ("segment", "detect", "raw")}
    km.export_tflite(segmenter, paths["segment"])
    km.export_tflite(detector, paths["detect"])
    km.export_tflite(detector, paths["raw"], nms=False)
    for name, model in (("segment", segmenter), ("detect", detector)):
        paths[f"keras {name}"] = root / f"{name}.keras"
        model.save(paths[f"keras {name}"])
    return paths


@pytest.mark.slow
def test_a_segmentation_file_scores_as_keras(segmenter, files, shapes):
    expected = km.evaluate_segmentation(segmenter, shapes)
    assert 0 < expected.miou < 1
    assert tuple(expected.iou_by_class) == NAMES
    saved = km.evaluate_segmentation(files["keras segment"], shapes)
    assert saved.confusion == expected.confusion
    found = km.evaluate_segmentation(files["segment"], shapes)
    assert tuple(found.iou_by_class) == NAMES  # from the file's metadata
    assert found.miou == pytest.approx(expected.miou, abs=1e-3)
    assert found.images == 5


@pytest.mark.slow
@pytest.mark.parametrize("file", ["keras detect", "detect", "raw"])
def test_a_detection_file_finds_what_keras_finds(file, detector, files, noise):
    pixels = (noise(2, SIDE, 96, 3) * 40 + 120).clip(0, 255).astype(np.uint8)
    expected = km.load_detector(detector)(pixels, 0.2)
    loaded = km.load_detector(files[file])
    assert loaded.names == NAMES[1:]
    assert loaded.config == task_config(detector)
    for found, other in zip(loaded(pixels, 0.2), expected, strict=True):
        assert len(other.labels) > 5
        count = min(len(other.labels), 100)
        assert found.labels[:count].tolist() == other.labels[:count].tolist()
        assert np.abs(found.boxes[:count] - other.boxes[:count]).max() < 1e-2
        assert np.abs(found.scores[:count] - other.scores[:count]).max() < 1e-4


@pytest.mark.slow
def test_planted_objects_survive_each_file(boxes, tmp_path):
    model = fixed_detector(confidence=3)  # scores of 0.91 and 0.79
    pixels = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    for name, settings in (("nms", {}), ("raw", {"nms": False})):
        km.export_tflite(model, tmp_path / f"{name}.tflite", **settings)
        result = km.evaluate_detection(tmp_path / f"{name}.tflite", boxes)
        assert result.scores.map == pytest.approx(1), name
        detector = km.load_detector(tmp_path / f"{name}.tflite")
        for threshold, labels in ((0.5, [0, 1]), (0.85, [0]), (0.95, [])):
            assert detector(pixels, threshold)[0].labels.tolist() == labels, name


# Photographs


def test_objects_are_in_pixels_of_the_photograph():
    photograph = Image.fromarray(np.full((640, 1280, 3), 90, np.uint8))
    found = km.detect(fixed_detector(), photograph)
    assert [thing.label for thing in found.objects] == ["cat", "dog"]
    boxes = [thing.box for thing in found.objects]
    assert np.abs(np.array(boxes) - BOXES * (20, 10, 20, 10)).max() < 0.1
    assert found.draw(photograph).shape == (640, 1280, 3)
    assert not km.detect(fixed_detector(), photograph, score_threshold=1).objects
    with pytest.raises(km.InputValueError, match="score_threshold"):
        km.detect(fixed_detector(), photograph, score_threshold=2)


def test_masks_have_the_size_of_the_photograph(stripes):
    photograph = km.load_image(stripes / "images" / "val" / "a.png").resize((256, 128))
    found = km.segment(color_reader(), photograph)
    assert found.shares == {"blue": 0.5, "red": 0.25, "green": 0.25}
    mask = found.mask()
    assert mask.shape == (128, 256)
    assert (mask == np.repeat([0, 1, 2, 2], 64)).mean() > 0.98
    drawn = found.draw(photograph)
    assert drawn.shape[1] == 640  # enlarged, and a legend below
    assert drawn.shape[0] > 320


# The command line


@pytest.mark.slow
def test_evaluate_prints_and_saves_the_scores(files, shapes, tmp_path):
    result = run("evaluate", shapes, "--model", files["segment"], "--json", tmp_path / "a.json")
    assert result.exit_code == 0, result.output
    for word in ("circle", "mIoU", "Most taken for"):
        assert word in result.output
    saved = json.loads((tmp_path / "a.json").read_text())
    assert np.shape(saved["confusion"]) == (3, 3)
    assert f"{100 * saved['miou']:.2f} %" in result.output
    options = ("--task", "detect", "--limit", 3, "--format", "voc", "--json", tmp_path / "b.json")
    result = run("evaluate", shapes, "--model", files["keras detect"], *options)
    assert result.exit_code == 0, result.output
    for word in ("mAP50", "mAP75", "small", "square"):
        assert word in result.output
    saved = json.loads((tmp_path / "b.json").read_text())
    assert saved["images"] == 3
    assert set(saved["scores"]["by_class"]) == set(NAMES[1:])


@pytest.mark.slow
@pytest.mark.parametrize("task", ["segment", "detect"])
def test_predict_writes_pictures_and_json(task, files, shapes, tmp_path):
    output, results = tmp_path / "seen", tmp_path / "seen.json"
    photographs = sorted((shapes / "images" / "val").glob("*"))[:2]
    copy = tmp_path / "other" / photographs[0].name  # another photograph of the same name
    copy.parent.mkdir()
    copy.write_bytes(photographs[1].read_bytes())
    options = ["--output", output, "--json", results, "--task", task]
    result = run("predict", *photographs, copy, "--model", files[task], *options)
    assert result.exit_code == 0, result.output
    saved = json.loads(results.read_text())
    assert [entry["photograph"] for entry in saved["photographs"]] == [
        str(path) for path in (*photographs, copy)
    ]
    pictures = [entry["picture"] for entry in saved["photographs"]]
    assert len(set(pictures)) == 3
    assert {path.name for path in output.iterdir()} == {path.split("/")[-1] for path in pictures}
    for entry in saved["photographs"]:
        assert km.load_image(entry["picture"]).width == 640
        assert entry["size"] == [48, 96]
        if task == "segment":
            assert sum(entry["shares"].values()) == pytest.approx(1)
        else:
            scores = [thing["score"] for thing in entry["objects"]]
            assert scores == sorted(scores, reverse=True)
            assert min(scores, default=1) >= 0.3


@pytest.fixture(scope="module")
def bad(shapes, files, tiny_model, tmp_path_factory):
    """Returns the words for the arguments below."""
    root = tmp_path_factory.mktemp("bad")
    write_shapes(root / "broken", 3, 48, 96)
    broken = next((root / "broken" / "images" / "val").glob("*"))
    broken.write_bytes(broken.read_bytes()[:700])
    write_shapes(root / "unsplit", 2, 48, 96)
    for kind in ("images", "masks", "Annotations"):
        for file in (root / "unsplit" / kind / "val").glob("*"):
            file.unlink()
    write_shapes(root / "others", 2, 48, 96)
    (root / "others" / "labels.txt").write_text("ground\ncircle\nsquare\n")
    tiny_model.save(root / "classifier.keras")
    return {
        **{name.replace(" ", "_"): str(path) for name, path in files.items()},
        "root": str(root),
        "shapes": str(shapes),
        "photograph": str(broken.parent),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("evaluate {shapes} --model {segment} --task detect", ["'detect'", "a segmentation model"]),
        ("evaluate {shapes} --model {keras_detect} --task segment", ["'segment'", "a detector"]),
        ("evaluate {shapes} --model {detect} --task classify", ["'classify'", "a detector"]),
        (
            "evaluate {shapes} --model {root}/classifier.keras --task segment",
            ["'segment'", "which is a classifier"],
        ),
        ("evaluate {shapes} --task segment", ["--task segment", "--model FILE"]),
        ("evaluate {shapes} --model {root}/classifier.keras --skip-bad", ["--skip-bad"]),
        ("evaluate {shapes} --model {segment} --benchmark imagenet-a", ["--benchmark"]),
        ("evaluate {root}/none --model {segment}", ["not a directory"]),
        ("evaluate {root}/unsplit --model {segment}", ["split 'val'"]),
        ("evaluate {root}/others --model {segment}", ["ground", "background"]),
        ("evaluate {root}/broken --model {detect}", ["can't be decoded", "--skip-bad"]),
        ("predict {photograph} --model {detect} --task segment", ["'segment'", "a detector"]),
        ("predict {photograph} --model {segment} --top 3", ["--top"]),
        ("predict {photograph} --model {segment} --score-threshold 0.5", ["--score-threshold"]),
        ("predict {photograph} --model {detect} --output {photograph}", ["another directory"]),
        ("predict {photograph} --model {root}/classifier.keras --output x", ["--output"]),
    ],
)
def test_bad_input_is_one_sentence(arguments, words, bad, tmp_path):
    out = tmp_path / "result.json"
    result = run(*(word.format(**bad) for word in arguments.split()), "--json", out)
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert any(all(word in line for word in words) for line in lines), result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_broken_images_are_left_out_if_asked_for(files, bad, tmp_path):
    out = tmp_path / "result.json"
    options = ("--skip-bad", "--json", out)
    for name in ("segment", "detect"):
        result = run("evaluate", f"{bad['root']}/broken", "--model", files[name], *options)
        assert result.exit_code == 0, result.output
        saved = json.loads(out.read_text())
        assert saved["images"] == 2
        assert len(saved["left_out"]) == 1
        assert "1 broken files" in result.output
