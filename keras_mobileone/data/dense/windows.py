"""Moves an image, its mask and its boxes from a window of the image to an output of fixed size.

Each geometric augmentation here only chooses a window, whose sides may exceed the image, and
whether to mirror it. Scaling, cropping, expanding and stretching are therefore one resampling, and
image, mask and boxes can't disagree.

Keras' `RandomFlip` and `Resizing` move all three alike too, but draw random numbers from a state
that can't be resumed at a position of the stream. Its `RandomCrop` (3.15.1) exchanges x and y of
the boxes, and its fill value for images is used for masks, where it is a class.
"""

from dataclasses import dataclass
from typing import Any

from keras_mobileone.data.dense.mask_codes import IGNORE
from keras_mobileone.data.imagenet import MEAN

FILL = tuple(255 * mean for mean in MEAN)  # ImageNet's mean color, which is 0 once normalized
SMALLEST_SIDE = 1.0  # pixels of the output; narrower boxes are left out
PADDING = -1  # label and coordinates of padding, as in keras-hub


@dataclass(frozen=True)
class Move:
    """A window of an image and the output that it becomes.

    Attributes:
        window: float32 tensor (top, left, height, width) in pixels of the image.
        mirrored: bool scalar tensor, whether left and right are exchanged afterwards.
        size: (height, width) of the output in pixels.
    """

    window: Any
    mirrored: Any
    size: tuple[int, int]


def whole_image(image: Any, size: tuple[int, int]) -> Move:
    """Returns the move that stretches an image to a size, as MediaPipe does on a phone."""
    import tensorflow as tf

    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    return Move(tf.concat([[0.0, 0.0], sides], 0), tf.constant(False), size)


def move_image(image: Any, move: Move) -> Any:
    """Resamples an image bilinearly, with antialiasing as in Pillow's `Image.resize`.

    Args:
        image: Tensor of shape (height, width, 3).
        move: The move.

    Returns:
        float32 tensor of shape (*move.size, 3). See `fill_outside` for pixels outside of the image.
    """
    import tensorflow as tf

    scale = tf.constant(move.size, tf.float32) / move.window[2:]
    pixels = tf.raw_ops.ScaleAndTranslate(
        images=image[None],
        size=move.size,
        scale=scale,
        translation=-move.window[:2] * scale,
        kernel_type="triangle",
        antialias=True,
    )[0]
    return _mirror(tf.ensure_shape(pixels, (*move.size, 3)), move)


def fill_outside(pixels: Any, image: Any, move: Move) -> Any:
    """Fills the output pixels whose centers lie outside of the image with the mean color."""
    import tensorflow as tf

    (_, rows), (_, columns) = _sources(tf.shape(image), move)
    inside = _mirror((rows[:, None] & columns[None])[..., None], move)
    return tf.where(inside, pixels, tf.constant(FILL, pixels.dtype))


def move_mask(mask: Any, move: Move) -> Any:
    """Takes the label of the nearest pixel, and `IGNORE` outside of the image.

    Args:
        mask: uint8 tensor of shape (height, width).
        move: The move.

    Returns:
        uint8 tensor of shape move.size.
    """
    import tensorflow as tf

    (ys, rows), (xs, columns) = _sources(tf.shape(mask), move)
    labels = tf.gather(tf.gather(mask, ys), xs, axis=1)
    labels = tf.where(rows[:, None] & columns[None], labels, tf.constant(IGNORE, tf.uint8))
    return tf.ensure_shape(_mirror(labels, move), move.size)


def move_boxes(boxes: Any, labels: Any, move: Move) -> tuple[Any, Any]:
    """Moves boxes, clips them to the output and keeps those whose centers are inside.

    Args:
        boxes: float32 "xyxy" tensor of shape (n, 4), in pixels of the image.
        labels: int64 tensor of shape (n,).
        move: The move.

    Returns:
        The boxes in pixels of the output, shape (m, 4), and their labels, with m ≤ n. Boxes
        narrower than `SMALLEST_SIDE` are left out.
    """
    import tensorflow as tf

    height, width = move.size
    scale = tf.constant(move.size, tf.float32) / move.window[2:]
    y1, y2 = ((boxes[:, side] - move.window[0]) * scale[0] for side in (1, 3))
    x1, x2 = ((boxes[:, side] - move.window[1]) * scale[1] for side in (0, 2))
    x1, x2 = tf.where(move.mirrored, width - x2, x1), tf.where(move.mirrored, width - x1, x2)
    centers_inside = ((y1 + y2) / 2 > 0) & ((y1 + y2) / 2 < height)
    centers_inside &= ((x1 + x2) / 2 > 0) & ((x1 + x2) / 2 < width)
    y1, y2 = (tf.clip_by_value(y, 0, height) for y in (y1, y2))
    x1, x2 = (tf.clip_by_value(x, 0, width) for x in (x1, x2))
    kept = centers_inside & (x2 - x1 >= SMALLEST_SIDE) & (y2 - y1 >= SMALLEST_SIDE)
    moved = tf.stack([x1, y1, x2, y2], 1)
    return tf.boolean_mask(moved, kept), tf.boolean_mask(labels, kept)


def pad_boxes(boxes: Any, labels: Any, count: int) -> dict[str, Any]:
    """Pads boxes with −1 to a fixed number, in the format of keras-hub.

    Returns:
        {"boxes": float32 (count, 4), "labels": int64 (count,)}.
    """
    import tensorflow as tf

    missing = tf.maximum(count - tf.shape(labels)[0], 0)
    boxes = tf.pad(boxes[:count], [[0, missing], [0, 0]], constant_values=PADDING)
    labels = tf.pad(labels[:count], [[0, missing]], constant_values=PADDING)
    return {"boxes": tf.ensure_shape(boxes, (count, 4)), "labels": tf.ensure_shape(labels, count)}


def _sources(shape: Any, move: Move) -> list[tuple[Any, Any]]:
    """Returns, for rows and for columns, the nearest source pixels and whether they exist."""
    import tensorflow as tf

    found = []
    for axis in range(2):
        centers = (tf.range(move.size[axis], dtype=tf.float32) + 0.5) / move.size[axis]
        source = tf.floor(move.window[axis] + centers * move.window[axis + 2])
        source = tf.cast(source, tf.int32)
        inside = (source >= 0) & (source < shape[axis])
        found.append((tf.clip_by_value(source, 0, shape[axis] - 1), inside))
    return found


def _mirror(tensor: Any, move: Move) -> Any:
    import tensorflow as tf

    return tf.where(move.mirrored, tf.reverse(tensor, [1]), tensor)
