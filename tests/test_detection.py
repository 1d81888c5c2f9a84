"""Tests the parts of SSDLite against counts by hand and NumPy code written for this test."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

import keras_mobileone as km
from keras_mobileone.models.complexity import model_complexity
from keras_mobileone.models.detection import decoding, loss
from keras_mobileone.models.detection.anchors import anchor_boxes, anchor_shapes, feature_sizes
from keras_mobileone.models.detection.config import DetectionConfig
from keras_mobileone.models.detection.encoding import decode_boxes, encode_boxes
from keras_mobileone.models.detection.matching import match_anchors
from keras_mobileone.models.detection.nms import suppress
from keras_mobileone.models.tasks import task_config
from keras_mobileone.weights.loading import read_task_config

SIZE = (96, 128)
CONFIG = DetectionConfig(3, extra_filters=(16, 8), scales=(0.2, 0.4, 0.6, 0.8, 1.0))


# References in NumPy, box by box.


def corners(box):
    y, x, h, w = box
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def iou(one, other):
    left, top = max(one[0], other[0]), max(one[1], other[1])
    right, bottom = min(one[2], other[2]), min(one[3], other[3])
    inside = max(0, right - left) * max(0, bottom - top)
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other))
    return inside / (areas - inside) if areas > inside else 0.0


def reference_matches(anchors, boxes, labels, threshold=0.5):
    """The box of each anchor, or −1. All boxes are xyxy."""
    overlap = np.array([[iou(a, b) for b in boxes] for a in anchors]).reshape(len(anchors), -1)
    overlap[:, np.asarray(labels) < 0] = -1
    result = np.full(len(anchors), -1)
    for n, row in enumerate(overlap):
        if len(row) and row.max() >= threshold:
            result[n] = row.argmax()
    taken = set()
    for m in range(len(boxes)):
        free = [(-overlap[n, m], n) for n in range(len(anchors)) if n not in taken]
        best, n = min(free)
        if -best > 0:
            result[n] = m
            taken.add(n)
    return result


def reference_nms(boxes, scores, labels, iou_threshold, score_threshold):
    """The indices of the kept boxes, best first."""
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        rivals = (k for k in kept if labels[k] == labels[i])
        if scores[i] >= score_threshold and all(
            iou(boxes[k], boxes[i]) <= iou_threshold for k in rivals
        ):
            kept.append(int(i))
    return kept


def reference_loss(labels, outputs, config, size):
    """The loss of SSD, image by image and anchor by anchor."""
    anchors = config.anchors(size)
    box_loss = class_loss = positives = 0.0
    for boxes, classes, offsets, logits in zip(
        labels["boxes"],
        labels["labels"],
        outputs["bbox_regression"],
        outputs["cls_logits"],
        strict=True,
    ):
        matches = reference_matches([corners(a) for a in anchors], boxes, classes)
        negatives = []
        for n, match in enumerate(matches):
            target = 0 if match < 0 else classes[match] + 1
            entropy = np.log(np.exp(logits[n].astype(np.float64)).sum()) - logits[n][target]
            if match < 0:
                negatives.append(entropy)
                continue
            left, top, right, bottom = boxes[match]
            y, x, h, w = anchors[n]
            wanted = [
                ((top + bottom) / 2 - y) / h / 0.1,
                ((left + right) / 2 - x) / w / 0.1,
                np.log((bottom - top) / h) / 0.2,
                np.log((right - left) / w) / 0.2,
            ]
            error = np.abs(offsets[n] - wanted)
            box_loss += np.where(error < 1, error**2 / 2, error - 0.5).sum()
            class_loss += entropy
            positives += 1
        count = 3 * (matches >= 0).sum()
        class_loss += sum(sorted(negatives, reverse=True)[:count])
    return box_loss / max(positives, 1), class_loss / max(positives, 1)


def random_labels(rng, counts, rows, size=SIZE, config=CONFIG):
    """Labels of images with `counts` boxes each, padded to `rows`."""
    height, width = size
    boxes, labels = np.full((len(counts), rows, 4), -1.0), np.full((len(counts), rows), -1)
    for image, count in enumerate(counts):
        low = rng.uniform(0, 0.7, (count, 2))
        high = low + rng.uniform(0.05, 1, (count, 2)) * (1 - low)
        boxes[image, :count] = np.concatenate([low, high], 1) * [width, height, width, height]
        labels[image, :count] = rng.integers(0, config.classes, count)
    return {"boxes": boxes.astype(np.float32), "labels": labels.astype(np.int32)}


def random_outputs(rng, batch, config=CONFIG, size=SIZE):
    anchors = len(config.anchors(size))
    return {
        "bbox_regression": rng.normal(0, 1, (batch, anchors, 4)).astype(np.float32),
        "cls_logits": rng.normal(0, 2, (batch, anchors, config.classes + 1)).astype(np.float32),
    }


# Anchors


def test_anchors_of_the_published_settings():
    anchors = DetectionConfig(80).anchors((320, 320))
    assert anchors.shape == (3234, 4)
    assert feature_sizes((320, 320), 6) == [(s, s) for s in (20, 10, 5, 3, 2, 1)]
    # By hand: the cell in row 1, column 2 of the first map, of stride 16 and sides 48 and 100.
    root2, root3, middle = 2**0.5, 3**0.5, (48 * 100) ** 0.5
    sides = [(48, 48), (middle, middle), (48 / root2, 48 * root2), (48 * root2, 48 / root2)]
    sides += [(48 / root3, 48 * root3), (48 * root3, 48 / root3)]
    expected = [(24, 40, *side) for side in sides]
    first = 6 * (20 + 2)
    assert np.abs(anchors[first : first + 6] - expected).max() < 1e-4
    large = (304 * 320) ** 0.5
    expected = [(160, 160, 304, 304), (160, 160, large, large)]
    assert np.abs(anchors[-6:-4] - expected).max() < 1e-4


@pytest.mark.parametrize("size", [(320, 320), (300, 200), (64, 96), (33, 500)])
def test_anchors_fit_the_outputs_and_tile_the_image(size):
    config = DetectionConfig(2)
    anchors = config.anchors(size)
    cells = sum(rows * columns for rows, columns in feature_sizes(size, 6))
    assert len(anchors) == 6 * cells
    for axis in (0, 1):
        assert anchors[:, axis].min() > 0
        assert anchors[:, axis].max() < size[axis]
        assert anchors[:, axis].mean() == pytest.approx(size[axis] / 2)
    assert len(anchor_shapes(0.1, 0.2, ())) == 2
    assert anchor_boxes(size, [0.1, 0.2], ()).shape[0] == 2 * np.prod(feature_sizes(size, 1)[0])


# Encoding


def test_an_encoding_by_hand():
    anchor, box = np.array([[50.0, 40.0, 20.0, 10.0]]), np.array([[37.0, 42.0, 45.0, 62.0]])
    # center y 52, x 41, height 20, width 8
    expected = [2 / 20 / 0.1, 1 / 10 / 0.1, 0, np.log(0.8) / 0.2]
    found = encode_boxes(box, anchor, (0.1, 0.1, 0.2, 0.2), "xyxy", SIZE)
    assert np.abs(np.asarray(found)[0] - expected).max() < 1e-5


FORMATS = ("xyxy", "yxyx", "xywh", "center_xywh", "rel_xyxy", "rel_yxyx", "rel_xywh")


@pytest.mark.parametrize("box_format", FORMATS)
def test_decoding_inverts_encoding(box_format):
    rng = np.random.default_rng(1)
    anchors = CONFIG.anchors(SIZE)
    boxes = random_labels(rng, [len(anchors)], len(anchors))["boxes"]
    boxes[0, 0] = [0, 0, SIZE[1], SIZE[0]]  # the whole image
    boxes[0, 1] = [SIZE[1] - 1, SIZE[0] - 1, SIZE[1], SIZE[0]]  # one pixel in the corner
    converted = keras.utils.bounding_boxes.convert_format(boxes, "xyxy", box_format, *SIZE)
    offsets = encode_boxes(converted, anchors, CONFIG.variances, box_format, SIZE)
    found = decode_boxes(offsets, anchors, CONFIG.variances, "xyxy", SIZE)
    assert np.abs(np.asarray(found) - boxes).max() < 2e-3
    again = encode_boxes(found, anchors, CONFIG.variances, "xyxy", SIZE)
    assert np.abs(np.asarray(again) - offsets).max() < 2e-3


# Matching


def test_a_matching_by_hand():
    anchors = np.array([[10, 10, 20, 20], [10, 30, 20, 20], [10, 50, 20, 20], [10, 70, 20, 20]])
    boxes = np.array([[[10, 12, 20, 20], [10, 52, 8, 8], [10, 12, 20, 20], [10, 72, 20, 20]]])
    # The third box is equal to the first, which has taken the only anchor that overlaps it much, so
    # it gets the next one. The last box is padding.
    valid = np.array([[True, True, True, False]])
    assert np.asarray(match_anchors(anchors, boxes, valid)).tolist() == [[0, 2, 1, -1]]


@pytest.mark.parametrize("rows", [12, 30])
def test_matching_equals_its_reference(rows):
    rng = np.random.default_rng(2)
    anchors = CONFIG.anchors(SIZE)
    labels = random_labels(rng, [0, 1, 5, 12], rows)
    labels["boxes"][3, 3] = labels["boxes"][3, 2]  # twice the same
    labels["boxes"][3, 4] = [10, 10, 10, 20]  # without area
    centered = keras.utils.bounding_boxes.convert_format(labels["boxes"], "xyxy", "center_yxhw")
    found = np.asarray(match_anchors(anchors, centered, labels["labels"] >= 0))
    for image in range(4):
        expected = reference_matches(
            [corners(a) for a in anchors], labels["boxes"][image], labels["labels"][image]
        )
        assert np.array_equal(found[image], expected)
    assert set(found[3]) - {-1} == set(range(12)) - {4}
    assert (found[0] == -1).all()


def test_matching_without_any_rows():
    anchors = CONFIG.anchors(SIZE)
    found = match_anchors(anchors, np.zeros((2, 0, 4), np.float32), np.zeros((2, 0), bool))
    assert (np.asarray(found) == -1).all()


# Loss


@pytest.mark.parametrize("counts", [[0, 0], [1, 0], [3, 7]])
def test_the_loss_equals_its_reference(counts):
    rng = np.random.default_rng(3)
    labels, outputs = random_labels(rng, counts, 8), random_outputs(rng, len(counts))
    found = loss.detection_loss(labels, outputs, CONFIG, SIZE)
    expected = reference_loss(labels, outputs, CONFIG, SIZE)
    for name, value in zip(("box_loss", "class_loss"), expected, strict=True):
        assert float(found[name]) == pytest.approx(value, rel=1e-4, abs=1e-6)
    assert (sum(counts) == 0) == (expected == (0, 0))


def test_padding_and_the_format_of_boxes_do_not_change_the_loss():
    rng = np.random.default_rng(4)
    labels, outputs = random_labels(rng, [2, 4], 4), random_outputs(rng, 2)
    expected = loss.detection_loss(labels, outputs, CONFIG, SIZE)
    more = {
        "boxes": np.pad(labels["boxes"], [(0, 0), (0, 5), (0, 0)], constant_values=-1),
        "labels": np.pad(labels["labels"], [(0, 0), (0, 5)], constant_values=-1),
    }
    relative = DetectionConfig(
        3, "rel_xywh", extra_filters=CONFIG.extra_filters, scales=CONFIG.scales
    )
    boxes = keras.utils.bounding_boxes.convert_format(more["boxes"], "xyxy", "rel_xywh", *SIZE)
    for given, config in ((more, CONFIG), ({**more, "boxes": boxes}, relative)):
        found = loss.detection_loss(given, outputs, config, SIZE)
        for name in expected:
            assert float(found[name]) == pytest.approx(float(expected[name]), rel=1e-5)


def test_perfect_outputs_have_no_loss():
    rng = np.random.default_rng(5)
    labels = random_labels(rng, [3, 0], 3)
    offsets, classes = loss.detection_targets(labels, CONFIG, SIZE)
    logits = 50.0 * ops.one_hot(classes, CONFIG.classes + 1)
    outputs = {"bbox_regression": offsets, "cls_logits": logits}
    found = loss.detection_loss(labels, outputs, CONFIG, SIZE)
    assert float(found["box_loss"]) == 0
    assert float(found["class_loss"]) < 1e-6
    # They decode to the labels.
    detections = decoding.decode_outputs(outputs, CONFIG, SIZE, iou_threshold=0.99)
    for box, label in zip(labels["boxes"][0], labels["labels"][0], strict=True):
        same = np.asarray(detections["labels"][0]) == label
        errors = np.abs(np.asarray(detections["boxes"][0]) - box).max(1)
        assert errors[same].min() < 1e-2
    assert int(detections["num_detections"][1]) == 0


def test_hard_negatives_by_hand():
    losses = np.array([[5.0, 1, 2, 3, 4, 9], [1, 2, 3, 4, 5, 6]], np.float32)
    is_object = np.array([[1, 0, 0, 0, 0, 0], [0] * 6], bool)
    found = np.asarray(loss.hard_negatives(losses, is_object))
    assert found.astype(int).tolist() == [[0, 0, 0, 1, 1, 1], [0] * 6]


def test_a_loss_without_hard_negatives_is_noticed(monkeypatch):
    """The reference goes red if all negatives count."""
    monkeypatch.setattr(loss, "NEGATIVES_PER_POSITIVE", 10**6)
    with pytest.raises(AssertionError):
        test_the_loss_equals_its_reference([3, 7])


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.zeros((1, 2)), "must be a dictionary with 'boxes'.*ndarray"),
        ({"boxes": np.zeros((1, 2, 4))}, "must be a dictionary with 'boxes'"),
        ({"boxes": np.zeros((2, 4)), "labels": np.zeros(2)}, r"Received: \(2, 4\) and \(2,\)"),
    ],
)
def test_labels_of_a_wrong_form(labels, words):
    with pytest.raises(ValueError, match=words):
        loss.detection_loss(labels, random_outputs(np.random.default_rng(0), 1), CONFIG, SIZE)


# Suppression and decoding


@pytest.mark.parametrize("threshold", [0.2, 0.45, 0.8])
def test_suppression_equals_the_greedy_algorithm(threshold):
    rng = np.random.default_rng(6)
    centers, sides = rng.uniform(0, 60, (2, 80, 2)), rng.uniform(5, 40, (2, 80, 2))
    boxes = np.concatenate([centers, centers + sides], 2).astype(np.float32)
    groups = rng.integers(0, 3, (2, 80))
    kept = np.asarray(suppress(boxes, groups, threshold))
    for image in range(2):
        expected = reference_nms(boxes[image], -np.arange(80.0), groups[image], threshold, -100)
        assert np.flatnonzero(kept[image]).tolist() == sorted(expected)


def test_a_chain_of_suppressions():
    """Each box overlaps only the next one, so every second one stays."""
    boxes = np.array([[[x, 0, x + 10, 10] for x in range(0, 60, 5)]], np.float32)
    kept = np.asarray(suppress(boxes, np.zeros((1, 12), int), 0.3))
    assert kept[0].tolist() == [True, False] * 6


def test_detections_equal_their_reference():
    rng = np.random.default_rng(7)
    outputs = random_outputs(rng, 2)
    settings = {"score_threshold": 0.3, "iou_threshold": 0.4, "max_detections": 300}
    found = decoding.decode_outputs(outputs, CONFIG, SIZE, **settings)
    anchors, limits = CONFIG.anchors(SIZE), np.array([*SIZE[::-1]] * 2)
    for image in range(2):
        logits, offsets = outputs["cls_logits"][image], outputs["bbox_regression"][image]
        probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        y, x = (anchors[:, i] + offsets[:, i] * 0.1 * anchors[:, i + 2] for i in (0, 1))
        h, w = (anchors[:, i] * np.exp(0.2 * offsets[:, i]) for i in (2, 3))
        boxes = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)
        boxes, labels = boxes.repeat(3, axis=0), np.tile(range(3), len(anchors))
        scores = probabilities[:, 1:].ravel()
        kept = reference_nms(boxes, scores, labels, 0.4, 0.3)
        count = int(found["num_detections"][image])
        assert count == len(kept) > 30
        assert np.asarray(found["labels"])[image, :count].tolist() == labels[kept].tolist()
        assert np.abs(np.asarray(found["confidence"])[image, :count] - scores[kept]).max() < 1e-5
        assert (
            np.abs(np.asarray(found["boxes"])[image, :count] - boxes[kept].clip(0, limits)).max()
            < 1e-2
        )
        for name in ("boxes", "labels", "confidence"):
            assert (np.asarray(found[name])[image, count:] == -1).all()


def test_detections_have_the_number_of_rows_and_the_format_that_were_asked_for():
    rng = np.random.default_rng(8)
    outputs = random_outputs(rng, 1)
    many = decoding.decode_outputs(outputs, CONFIG, SIZE, max_detections=7)
    assert tuple(many["boxes"].shape) == (1, 7, 4)
    few = decoding.decode_outputs(outputs, CONFIG, SIZE, max_detections=50, candidates=20)
    assert tuple(few["labels"].shape) == (1, 50)
    relative = DetectionConfig(
        3, "rel_yxyx", extra_filters=CONFIG.extra_filters, scales=CONFIG.scales
    )
    found = decoding.decode_outputs(outputs, relative, SIZE, max_detections=7)
    expected = np.asarray(many["boxes"])[0][:, [1, 0, 3, 2]] / [96, 128, 96, 128]
    assert np.abs(np.asarray(found["boxes"])[0] - expected).max() < 1e-5


# The network


def detector(variant, **arguments):
    settings = {"weights": None, "input_shape": (64, 96, 3), "extra_filters": (16, 8)} | arguments
    return km.MobileOneSSDLite(variant, 3, scales=CONFIG.scales, **settings)


@pytest.fixture(scope="module")
def models(tiny, randomize):
    """Returns a train-time detector and the one that fusing makes of it."""
    model = randomize(detector(tiny))
    return model, km.fuse(model)


def test_outputs(models):
    model, _ = models
    anchors = len(CONFIG.anchors((64, 96)))
    assert {name: tuple(tensor.shape) for name, tensor in model.output.items()} == {
        "bbox_regression": (None, anchors, 4),
        "cls_logits": (None, anchors, 4),
    }


def test_each_output_row_is_that_of_its_anchor(tiny, noise):
    """A change in one corner of the image changes the rows of the anchors there most."""
    model = detector(tiny, deploy=True)
    one = noise(1, 64, 96, 3)
    other = one.copy()
    other[:, -8:, -8:] += 3
    change = np.abs(
        np.asarray(model(other)["cls_logits"]) - np.asarray(model(one)["cls_logits"])
    ).sum((0, 2))
    anchors = task_config(model).anchors((64, 96))
    first_map = slice(0, 4 * 6 * 6)
    nearest = np.linalg.norm(anchors[first_map, :2] - [64, 96], axis=1)
    assert nearest[change[first_map].argmax()] == nearest.min()


# At 320 pixels: multiply-accumulates of backbone, extra feature maps and head of 80 classes, and
# parameters of the head of 3 classes, computed from the widths alone.
def counted(variant, classes):
    filters = [variant.stage_filters[2], variant.stage_filters[3], 512, 256, 256, 128]
    sides, values = [20, 10, 5, 3, 2, 1], (6 * 4, 6 * (classes + 1))
    extras = heads = 0
    for before, after, large, small in zip(
        filters[1:], filters[2:], sides[1:], sides[2:], strict=False
    ):
        half = after // 2
        extras += before * half * large**2 + (9 * half + half * after) * small**2
    for channels, side in zip(filters, sides, strict=True):
        heads += sum((9 * channels + channels * k) * side**2 for k in values)
    return extras, heads


@pytest.mark.parametrize("name", ["s0", "s2"])
def test_work(name):
    variant = km.get_variant(name)
    model = km.MobileOneSSDLite(variant, 80, weights=None, deploy=True)
    backbone = km.MobileOne(variant, False, None, input_shape=(320, 320, 3), deploy=True)
    extras, heads = counted(variant, 80)
    found = model_complexity(model).macs
    assert found == model_complexity(backbone).macs + extras + heads
    if name == "s0":  # the figures of the design
        assert (round(extras / 1e9, 2), round(heads / 1e9, 2)) == (0.03, 0.12)
        assert round((found - extras - heads) / 1e9, 2) == 0.56


def test_fused_equals_unfused(models, tiny, relative_error, noise):
    model, fused = models
    images = noise(2, 64, 96, 3)
    for name in ("bbox_regression", "cls_logits"):
        assert relative_error(fused(images)[name], model(images)[name]) < 1e-5
    assert not any(isinstance(x, keras.layers.BatchNormalization) for x in fused.layers)
    assert task_config(fused) == task_config(model)
    built = detector(tiny, deploy=True)
    assert [layer.name for layer in built.layers] == [layer.name for layer in fused.layers]


def test_unfuse(models, tiny, relative_error, noise):
    _, fused = models
    images = noise(6, 64, 96, 3)
    model = km.unfuse(fused, tiny, images)
    assert isinstance(model, km.MobileOneDetector)
    for name in ("bbox_regression", "cls_logits"):
        assert relative_error(model(images)[name], fused(images)[name]) < 1e-5
        assert relative_error(model(images, training=True)[name], fused(images)[name]) < 2e-3


def test_it_learns_and_is_saved(tiny, tmp_path, noise):
    model = detector(tiny)
    images = noise(2, 64, 96, 3)
    labels = random_labels(np.random.default_rng(9), [2, 0], 3, (64, 96))
    model.compile(keras.optimizers.Adam(3e-3), run_eagerly=True)
    losses = [float(model.train_on_batch(images, labels)) for _ in range(4)]
    assert losses[-1] < 0.9 * losses[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    assert type(loaded) is km.MobileOneDetector
    assert task_config(loaded) == read_task_config(tmp_path / "model.keras") == task_config(model)
    for name, values in model(images).items():
        assert np.array_equal(loaded(images)[name], values)
    outputs = loaded(images)
    assert float(loaded.compute_loss(None, labels, outputs)) > 0
    with pytest.raises(ValueError, match="no weights of images"):
        loaded.compute_loss(None, labels, outputs, sample_weight=np.ones(2))


def test_decode_detections_needs_a_detector(tiny_model):
    with pytest.raises(ValueError, match="Expected a detector made by MobileOneSSDLite"):
        km.decode_detections(tiny_model, {})


@pytest.mark.slow
def test_loss_and_decoding_on_jax(tmp_path, run_python):
    """The parts compute the same on another backend, also when they are compiled."""
    pytest.importorskip("jax")
    rng = np.random.default_rng(10)
    labels, outputs = random_labels(rng, [2, 5], 6), random_outputs(rng, 2)
    np.savez(tmp_path / "given.npz", **labels, **outputs)
    source = """
import sys, numpy as np, jax
from keras_mobileone.models.detection import decoding, loss
from keras_mobileone.models.detection.config import DetectionConfig
given = dict(np.load(sys.argv[1]))
config = DetectionConfig(3, extra_filters=(16, 8), scales=(0.2, 0.4, 0.6, 0.8, 1.0))
losses = jax.jit(lambda g: loss.detection_loss(g, g, config, (96, 128)))(given)
found = jax.jit(lambda g: decoding.decode_outputs(g, config, (96, 128)))(given)
np.savez(sys.argv[2], **losses, **found)
"""
    run_python(source, tmp_path / "given.npz", tmp_path / "found.npz", KERAS_BACKEND="jax")
    found = np.load(tmp_path / "found.npz")
    expected = loss.detection_loss(labels, outputs, CONFIG, SIZE)
    expected |= decoding.decode_outputs(outputs, CONFIG, SIZE)
    for name, values in expected.items():
        assert np.abs(found[name] - np.asarray(values)).max() < 1e-3 + 1e-5 * np.abs(values).max()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"classes": 0}, "`classes` must be a positive integer"),
        ({"bounding_box_format": "xyx"}, "`bounding_box_format` must be one of xyxy, yxyx"),
        ({"scales": (0.1, 0.2)}, "`scales` must have a positive number for each feature map"),
        ({"aspect_ratios": (0.5,)}, "`aspect_ratios` must be larger than 1"),
        ({"variances": (0.1, 0.2)}, "`variances` must be four positive numbers"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        DetectionConfig(**{"classes": 2, **arguments})


def test_every_pair_of_formats_is_known_to_keras():
    from keras_mobileone.models.detection.config import BOUNDING_BOX_FORMATS

    box = np.array([[1.0, 2, 3, 5]], np.float32)
    for one, other in itertools.product(BOUNDING_BOX_FORMATS, repeat=2):
        there = keras.utils.bounding_boxes.convert_format(box, "xyxy", one, *SIZE)
        back = keras.utils.bounding_boxes.convert_format(there, one, other, *SIZE)
        back = keras.utils.bounding_boxes.convert_format(back, other, "xyxy", *SIZE)
        assert np.abs(np.asarray(back) - box).max() < 1e-4, (one, other)
