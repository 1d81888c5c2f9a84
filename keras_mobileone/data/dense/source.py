"""The stream of encoded images with their masks or boxes, in an order that can be resumed."""

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_mobileone.data.dense.description import SEGMENT, DenseData
from keras_mobileone.data.shuffling import shuffled_positions
from keras_mobileone.errors import InputValueError

if TYPE_CHECKING:
    import tensorflow as tf


class DenseSource:
    """A `Source` of images with masks or boxes.

    Objects that are to be ignored are left out, since a model is not trained on them.

    Args:
        data: The images.

    Attributes:
        data: The images.
        classes: Class names in label order.
        images: Number of images.
        name: Name of the data in messages.
        most_boxes: Largest number of boxes of an image, at least 1.

    Examples:
        >>> from keras_mobileone.data.dense.formats import open_dense
        >>> from keras_mobileone.data.dense.shapes import write_shapes
        >>> write_shapes("shapes", images=4)
        >>> source = DenseSource(open_dense("shapes", "detect", "train"))
        >>> sorted(next(iter(source.stream(seed=0))))
        ['boxes', 'encoded', 'labels', 'name', 'position']
    """

    def __init__(self, data: DenseData) -> None:
        self.data = data
        self.classes = data.classes
        self.images = len(data.images)
        self.name = data.name
        kept = [~image.ignored for image in data.images]
        counts = [int(keep.sum()) for keep in kept]
        self.most_boxes = max(1, *counts)
        self._ends = np.cumsum([0, *counts])
        self._boxes = np.concatenate(
            [image.boxes[keep] for image, keep in zip(data.images, kept, strict=True)]
        )
        self._labels = np.concatenate(
            [image.labels[keep] for image, keep in zip(data.images, kept, strict=True)]
        )

    def stream(
        self, start: int = 0, seed: int | None = None, worker: int = 0, workers: int = 1
    ) -> "tf.data.Dataset":
        """Returns the images from a position on; see `Source.stream`.

        Returns:
            Dataset of {"position": int64, "name": string, "encoded": string}, with either "mask":
            uint8 (height, width), or "boxes": float32 (n, 4) and "labels": int64 (n,); see
            `DenseImage`.
        """
        import tensorflow as tf

        positions = shuffled_positions(self.images, start, seed, worker, workers)
        with tf.device("CPU"):
            files = tf.constant([os.fsencode(image.path) for image in self.data.images])
        annotation = self._mask_reader() if self.data.task == SEGMENT else self._box_reader()

        def load(position: Any, image: Any) -> Any:
            name = files[image]
            element = {"position": position, "name": name, "encoded": tf.io.read_file(name)}
            return element | annotation(image)

        return positions.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def _mask_reader(self) -> Any:
        """Returns a function from the index of an image to its mask."""
        import tensorflow as tf

        code, images = self.data.code, self.data.images

        def read(index: Any) -> np.ndarray:
            image = images[int(index)]
            if code is None or image.mask is None:
                raise InputValueError(f"Expected a mask of each image. Received: none of {image}.")
            return code.read(image.mask)

        def mask(image: Any) -> Any:
            # TensorFlow's decoder replaces the indices of a palette image by their colors.
            labels = tf.numpy_function(read, [image], tf.uint8, stateful=False)
            return {"mask": tf.ensure_shape(labels, (None, None))}

        return mask

    def _box_reader(self) -> Any:
        """Returns a function from the index of an image to its boxes and their labels."""
        import tensorflow as tf

        with tf.device("CPU"):
            ends, boxes, labels = (
                tf.constant(array) for array in (self._ends, self._boxes, self._labels)
            )

        def of_image(image: Any) -> Any:
            first, end = ends[image], ends[image + 1]
            return {"boxes": boxes[first:end], "labels": labels[first:end]}

        return of_image
