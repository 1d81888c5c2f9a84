"""Tests the augmentation and the batches of images with masks or boxes.

Positions are compared with transformations of coordinates in NumPy, and with drawn rectangles whose
pixels show where image, mask and boxes are.
"""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_mobileone.data.dense.augmentation import (
    CROP_ASPECTS,
    DenseAugmentation,
    distorted,
    expanded,
    object_crop,
    overlaps,
)
from keras_mobileone.data.dense.batches import evaluation_batches, training_batches
from keras_mobileone.data.dense.description import DETECT, SEGMENT
from keras_mobileone.data.dense.drawing import class_colors, draw_boxes, draw_mask
from keras_mobileone.data.dense.formats import open_dense
from keras_mobileone.data.dense.mask_codes import IGNORE
from keras_mobileone.data.dense.shapes import write_shapes
from keras_mobileone.data.dense.source import DenseSource
from keras_mobileone.data.dense.windows import (
    FILL,
    Move,
    fill_outside,
    move_boxes,
    move_image,
    move_mask,
    pad_boxes,
    whole_image,
)
from keras_mobileone.data.pipeline import BadImages

COUNT, HEIGHT, WIDTH, BATCH = 7, 48, 64, 3
SEGMENTATION = DenseAugmentation((32, 40), scale=(0.5, 2.0))
DETECTION = DenseAugmentation((40, 40), expand=4.0, crop=True)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipeline") / "shapes"
    write_shapes(root, COUNT, HEIGHT, WIDTH)
    return root


@pytest.fixture(scope="module")
def sources(shapes):
    """Returns the training images by task."""
    return {task: DenseSource(open_dense(shapes, task, "train")) for task in (SEGMENT, DETECT)}


def moves(count=40):
    """Yields random windows, which may exceed the image, mirrored or not."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        height, width = rng.uniform(10, 90, 2)
        top, left = rng.uniform(-30, 40, 2)
        window = tf.constant([top, left, height, width], tf.float32)
        yield Move(window, tf.constant(bool(rng.random() < 0.5)), (33, 47))


def place_of(box, move):
    """Returns the corners of an "xyxy" box after a move, by NumPy, neither clipped nor dropped."""
    top, left, height, width = move.window.numpy()
    corners = np.array(box, np.float64).reshape(2, 2)  # (x, y) twice
    corners = (corners - (left, top)) / (width, height) * move.size[::-1]
    if bool(move.mirrored):
        corners[:, 0] = move.size[1] - corners[::-1, 0]
    return corners.ravel()


def test_boxes_move_as_coordinates_do():
    boxes = np.array([[3, 5, 20, 30], [0, 0, 64, 48], [40, 30, 44, 33]], np.float32)
    labels = np.array([4, 5, 6])
    dropped = 0
    for move in moves():
        found, kept = (t.numpy() for t in move_boxes(tf.constant(boxes), tf.constant(labels), move))
        expected = []
        for box, label in zip(boxes, labels, strict=True):
            place = place_of(box, move)
            center = (place[:2] + place[2:]) / 2
            clipped = np.clip(place, 0, np.tile(move.size[::-1], 2))
            sides = clipped[2:] - clipped[:2]
            if (center > 0).all() and (center < move.size[::-1]).all() and (sides >= 1).all():
                expected.append((*clipped, label))
        assert kept.tolist() == [row[4] for row in expected]
        np.testing.assert_allclose(
            found, [row[:4] for row in expected] or np.zeros((0, 4)), atol=1e-3
        )
        dropped += len(labels) - len(kept)
    assert dropped > 10


def test_masks_take_the_nearest_pixel():
    mask = np.random.default_rng(1).integers(0, 9, (48, 64)).astype(np.uint8)
    outside = 0
    for move in moves():
        found = move_mask(tf.constant(mask), move).numpy()
        top, left, height, width = move.window.numpy().astype(np.float64)
        for row, column in np.random.default_rng(2).integers(0, move.size, (60, 2)):
            across = move.size[1] - 1 - column if bool(move.mirrored) else column
            y = top + (row + 0.5) * height / move.size[0]
            x = left + (across + 0.5) * width / move.size[1]
            if min(abs(y - round(y)), abs(x - round(x))) < 1e-3:
                continue  # float32 may round to either pixel
            inside = 0 <= y < 48 and 0 <= x < 64
            assert found[row, column] == (mask[int(y), int(x)] if inside else IGNORE)
            outside += not inside
    assert outside > 100


@pytest.mark.parametrize("size", [(24, 32), (96, 128), (30, 50)])
def test_resampling_is_that_of_pillow(size):
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (48, 64, 3), np.uint8)
    whole = whole_image(tf.constant(image), size)
    expected = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    assert np.abs(move_image(image, whole) - expected).max() < 1.5
    window = Move(tf.constant([8.0, 12.0, 30.0, 40.0]), tf.constant(False), size)
    box = (12, 8, 52, 38)
    expected = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR, box)
    inner = (slice(4, -4), slice(4, -4))  # Pillow does not look at pixels outside of the box
    assert np.abs(move_image(image, window) - np.asarray(expected))[inner].max() < 1.5


def test_image_mask_and_boxes_stay_together():
    """A drawn rectangle is found at the same place in the image, in the mask and by its box."""
    box = (20, 10, 44, 34)
    image, mask = np.zeros((48, 64, 3), np.uint8), np.zeros((48, 64), np.uint8)
    image[10:34, 20:44], mask[10:34, 20:44] = 255, 1
    for move in moves():
        pixels = move_image(tf.constant(image), move).numpy()[..., 0] > 127
        labels = move_mask(tf.constant(mask), move).numpy() == 1
        boxes, _ = move_boxes(tf.constant([box], tf.float32), tf.constant([0]), move)
        if len(boxes) == 0:
            continue
        for found in (pixels, labels):
            ys, xs = np.nonzero(found)
            edges = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            np.testing.assert_allclose(edges, boxes[0], atol=1.0)


def test_outside_of_the_image_is_the_mean_color():
    image = tf.fill((48, 64, 3), tf.constant(9, tf.uint8))
    for move in moves():
        filled = fill_outside(move_image(image, move), image, move).numpy()
        blank = move_mask(tf.zeros((48, 64), tf.uint8), move).numpy() == IGNORE
        np.testing.assert_allclose(filled[blank], np.broadcast_to(FILL, filled[blank].shape))
        np.testing.assert_allclose(filled[~blank], 9, atol=1e-3)


@pytest.mark.parametrize("count", [0, 2, 5])
def test_padding_of_boxes(count):
    boxes = tf.reshape(tf.range(4.0 * count), (count, 4))
    padded = pad_boxes(boxes, tf.range(count), 3)
    assert padded["labels"].numpy().tolist() == [*range(count), -1, -1, -1][:3]
    shown = np.concatenate([boxes, -np.ones((3, 4))])[:3]
    np.testing.assert_array_equal(padded["boxes"], shown)


# Random windows.


def test_scaled_windows_keep_the_aspect_ratio_and_stay_near():
    sides = np.array([48.0, 64.0])
    scales = []
    for seed in range(200):
        window = SEGMENTATION.first_window(tf.constant(sides, tf.float32), (seed, 1)).numpy()
        assert window[2] / window[3] == pytest.approx(32 / 40)
        scales.append(48 / window[2])
        for axis in range(2):
            free = sides[axis] - window[2 + axis]
            assert min(0, free) - 1e-3 <= window[axis] <= max(0, free) + 1e-3
    assert 0.5 <= min(scales) < 0.6
    assert 1.9 < max(scales) <= 2.0


def test_half_of_the_images_are_expanded():
    window = np.array([2.0, 3.0, 40.0, 60.0], np.float32)
    factors = []
    for seed in range(200):
        top, left, height, width = expanded(tf.constant(window), 4.0, (seed, 2)).numpy()
        factors.append(height / 40)
        assert height / width == pytest.approx(40 / 60, rel=1e-5)
        assert top <= 2.001 and top + height >= 41.999
        assert left <= 3.001 and left + width >= 62.999
    factors = np.array(factors)
    assert 70 < (factors == 1).sum() < 130
    assert factors.max() > 3.5


def iou(a, b):
    """Returns the IoU of two "xyxy" boxes, written anew."""
    sides = [min(a[2 + k], b[2 + k]) - max(a[k], b[k]) for k in range(2)]
    shared = max(0, sides[0]) * max(0, sides[1])
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return shared / (sum(areas) - shared)


def test_overlaps_in_a_graph():
    rng = np.random.default_rng(4)
    windows = rng.uniform(1, 30, (6, 4)).astype(np.float32)
    corners = rng.uniform(0, 30, (5, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + rng.uniform(1, 20, (5, 2))], 1).astype(np.float32)
    found = tf.function(overlaps)(tf.constant(windows), tf.constant(boxes)).numpy()
    for i, (top, left, height, width) in enumerate(windows):
        for j, box in enumerate(boxes):
            expected = iou((left, top, left + width, top + height), box)
            assert found[i, j] == pytest.approx(expected, abs=1e-5)


def test_crops_keep_an_object():
    boxes = np.array([[5, 5, 25, 30], [40, 20, 60, 44]], np.float32)
    window = tf.constant([0.0, 0.0, 48.0, 64.0])
    crop = tf.function(object_crop)
    overlap, whole = [], 0
    for seed in range(150):
        found = crop(window, tf.constant(boxes), tf.constant((seed, 3), tf.int64)).numpy()
        top, left, height, width = found
        if (found == window.numpy()).all():
            whole += 1
            continue
        assert top >= 0 and left >= 0 and top + height <= 48.001 and left + width <= 64.001
        assert CROP_ASPECTS[0] <= height / width <= CROP_ASPECTS[1]
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((centers > (left, top)) & (centers < (left + width, top + height))).all(1)
        assert inside.any()
        overlap.append(max(iou((left, top, left + width, top + height), box) for box in boxes))
    assert 20 < whole < 110
    assert min(overlap) < 0.3
    assert max(overlap) > 0.5
    found = crop(window, tf.zeros((0, 4)), tf.constant((1, 3), tf.int64))
    np.testing.assert_array_equal(found, window)


def test_distortion_is_bounded_and_can_be_switched_off():
    pixels = tf.constant(np.random.default_rng(5).uniform(0, 255, (8, 8, 3)), tf.float32)
    np.testing.assert_allclose(distorted(pixels, 0.0, (0, 1)), pixels, atol=1e-3)
    results = [distorted(pixels, 1.0, (seed, 1)).numpy() for seed in range(30)]
    assert all(r.min() >= 0 and r.max() <= 255 for r in results)
    assert len({r.tobytes() for r in results}) > 20
    gray = distorted(tf.fill((4, 4, 3), 100.0), 1.0, (3, 1)).numpy()
    assert np.ptp(gray) < 1e-3  # gray has no saturation and no hue


@pytest.mark.parametrize(
    "changes", [{"size": (0, 4)}, {"scale": (2.0, 1.0)}, {"expand": 0.5}, {"photometric": 2.0}]
)
def test_unsuitable_changes_are_refused(changes):
    with pytest.raises(ValueError, match=f"`{next(iter(changes))}` is out of range"):
        DenseAugmentation(**{"size": (32, 32), **changes})


# Batches.


def batches(sources, task, count=5, **options):
    augmentation = SEGMENTATION if task == SEGMENT else DETECTION
    made = training_batches(sources[task], augmentation, BATCH, **{"seed": 5, **options})
    return list(made.take(count).as_numpy_iterator())


def flat(batch):
    return [np.asarray(array) for array in tf.nest.flatten(batch)]


@pytest.mark.parametrize("task", [SEGMENT, DETECT])
def test_a_stream_can_be_continued_and_shared(task, sources):
    whole = [flat(batch) for batch in batches(sources, task, 4)]
    (share,) = batches(sources, task, 1, start=2 * BATCH, worker=1, workers=2)
    for index, found in enumerate(flat(share)):
        expected = np.concatenate([batch[index] for batch in whole])
        np.testing.assert_array_equal(found, expected[2 * BATCH + 1 :: 2])


def test_each_position_is_augmented_anew(sources):
    data = sources[SEGMENT].data
    source = DenseSource(dataclasses.replace(data, images=data.images[:1]))
    ((images, _),) = batches({SEGMENT: source}, SEGMENT, 1)
    assert len({image.tobytes() for image in images}) == BATCH


def test_batches_of_masks(sources):
    images, masks = batches(sources, SEGMENT)[0]
    assert images.shape == (BATCH, 32, 40, 3) and images.dtype == np.uint8
    assert masks.shape == (BATCH, 32, 40) and masks.dtype == np.uint8
    assert set(np.unique(masks)) <= {0, 1, 2, IGNORE}


def test_batches_of_boxes(sources):
    most = sources[DETECT].most_boxes
    for images, targets in batches(sources, DETECT):
        assert images.shape == (BATCH, 40, 40, 3)
        boxes, labels = targets["boxes"], targets["labels"]
        assert boxes.shape == (BATCH, most, 4) and boxes.dtype == np.float32
        assert labels.shape == (BATCH, most) and labels.dtype == np.int64
        assert ((boxes == -1).all(-1) == (labels == -1)).all()
        real = boxes[labels >= 0]
        assert (real[:, 2:] > real[:, :2]).all() and real.min() >= 0 and real.max() <= 40


@pytest.mark.parametrize("task", [SEGMENT, DETECT])
def test_batches_for_validation(task, sources):
    source = sources[task]
    made = evaluation_batches(source, (HEIGHT, WIDTH), BATCH)
    collected = [flat(batch) for batch in made.as_numpy_iterator()]
    images, *targets, weights = (np.concatenate(parts) for parts in zip(*collected, strict=True))
    assert weights.tolist() == [1] * COUNT + [0, 0]
    for index, image in enumerate(source.data.images):
        np.testing.assert_allclose(
            images[index].astype(int), np.asarray(Image.open(image.path)).astype(int), atol=2
        )
        if task == SEGMENT:
            np.testing.assert_array_equal(targets[0][index], source.data.code.read(image.mask))
        else:
            boxes, labels = targets
            count = len(image.labels)
            np.testing.assert_allclose(boxes[index, :count], image.boxes, atol=1e-3)
            assert labels[index].tolist()[:count] == image.labels.tolist()
    padding = IGNORE if task == SEGMENT else -1
    assert all((target[COUNT:] == padding).all() for target in targets)


def test_objects_to_ignore_are_no_targets(shapes, tmp_path):
    for path in sorted((shapes / "Annotations" / "train").iterdir()):
        text = path.read_text().replace("<object>", "<object><difficult>1</difficult>", 1)
        (tmp_path / path.name).write_text(text)
        image = shapes / "images" / "train" / f"{path.stem}.jpg"
        (tmp_path / image.name).write_bytes(image.read_bytes())
    data = open_dense(tmp_path, DETECT, "train")
    total = sum(len(image.labels) for image in data.images)
    found = evaluation_batches(DenseSource(data), (HEIGHT, WIDTH), COUNT)
    ((_, targets, _),) = found.as_numpy_iterator()
    assert (targets["labels"] >= 0).sum() == total - COUNT


@pytest.mark.parametrize("task", [SEGMENT, DETECT])
def test_a_damaged_image_is_replaced(task, shapes, tmp_path):
    write_shapes(tmp_path / "bad", 4, HEIGHT, WIDTH)
    path = tmp_path / "bad" / "images" / "train" / "train002.jpg"
    path.write_bytes(path.read_bytes()[:700])  # the header is whole
    source = DenseSource(open_dense(tmp_path / "bad", task, "train"))
    with pytest.raises(tf.errors.InvalidArgumentError):
        batches({task: source}, task)
    bad = BadImages(skip=True)
    made = batches({task: source}, task, 3, bad=bad)
    assert bad.names == {str(path)}
    assert all(images.std(axis=(1, 2, 3)).min() > 1 for images, _ in made)
    bad = BadImages(skip=True)
    made = evaluation_batches(source, (HEIGHT, WIDTH), 4, bad=bad)
    ((_, _, weights),) = made.as_numpy_iterator()
    assert weights.tolist() == [1, 1, 0, 1]


# Drawing.


def test_colors_of_classes_are_distinct():
    assert len({tuple(color) for color in class_colors(150)}) == 150


def test_a_mask_is_drawn_where_it_is():
    image = np.full((60, 80, 3), 100, np.uint8)
    mask = np.zeros((60, 80), np.uint8)
    mask[10:30, 20:50], mask[40:50] = 1, IGNORE
    drawn = draw_mask(image, mask, ("grass", "dog"))
    expected = np.round(0.5 * 100 + 0.5 * class_colors(2).astype(float))
    np.testing.assert_allclose(drawn[20, 30], expected[1], atol=1)
    np.testing.assert_allclose(drawn[5, 5], expected[0], atol=1)
    assert drawn[45, 40].tolist() == [45, 45, 45]
    assert drawn.shape[0] > 60 and (drawn[60:] == class_colors(2)[1]).all(-1).any()


def test_boxes_are_drawn_where_they_are():
    image = np.full((100, 120, 3), 100, np.uint8)
    boxes = np.array([[30, 40, 90, 80], [-1, -1, -1, -1]])
    drawn = draw_boxes(image, boxes, np.array([1, -1]), ("cat", "dog"), np.array([0.9, 0.0]))
    color = class_colors(2)[1]
    changed = np.argwhere((drawn == color).all(-1))
    assert changed.max(0).tolist() == [80, 90]
    assert changed[:, 1].min() == 30
    assert (drawn[60, 30] == color).all() and (drawn[60, 60] == 100).all()
    assert (drawn[81:] == 100).all()
