"""Images in class folders."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_mobileone.data.images import IMAGE_SUFFIXES
from keras_mobileone.data.shuffling import check_share, pass_range, permutation
from keras_mobileone.errors import InputValueError

if TYPE_CHECKING:
    import tensorflow as tf

VALIDATION_FOLDERS = ("val", "validation")


class ClassFolders:
    """One folder of images for each class.

    The labels follow the sorted names of the folders, which for WordNet ids is the order of
    ImageNet's indices: with all 1,000 folders the label is ImageNet's class index. Folders
    within class folders are read too, names that begin with a dot are not.

    Args:
        root: The directory of the class folders.
        classes: Names in label order, for a validation split or a larger classifier. By default
            those of the folders.

    Attributes:
        classes: Names in label order.
        images: How many there are.
        name: `root`, for messages.
        files: Path of each image below `root`, sorted by class and name.
        labels: int64 array of shape (images,).

    Raises:
        FileNotFoundError: If `root` is no directory.
        ValueError: If there is no class folder, one without images or one that `classes` does
            not name, or an image outside of the folders.

    Example:
        >>> source = ClassFolders("imagenette/train")
        >>> for element in source.stream(seed=0).take(2):
        ...     print(element["name"].numpy(), int(element["label"]))
    """

    def __init__(self, root: str | os.PathLike, classes: Sequence[str] | None = None):
        self.root = Path(root)
        self.name = str(self.root)
        folders = class_folders(self.root)
        self.classes = tuple(folders if classes is None else classes)
        index = {name: label for label, name in enumerate(self.classes)}
        self.files, labels = [], []
        for folder in folders:
            if folder not in index:
                raise InputValueError(
                    f"Expected folders of the classes {some(self.classes)}. Received: folder "
                    f"{folder!r} in {self.root}. Remove or rename it."
                )
            found = folder_images(self.root, folder)
            self.files += found
            labels.append(np.full(len(found), index[folder], np.int64))
        self.labels = np.concatenate(labels)
        self.images = len(self.files)

    def stream(
        self, start: int = 0, seed: int | None = None, worker: int = 0, workers: int = 1
    ) -> "tf.data.Dataset":
        """See `Source.stream`. Skipping costs nothing: each image is a file of its own."""
        import tensorflow as tf

        check_share(start, worker, workers)
        with tf.device("CPU"):
            files = tf.constant([os.fsencode(file) for file in self.files])
            labels = tf.constant(self.labels)
            root = tf.constant(os.path.join(os.fsencode(self.root), b""))

        def one_pass(number):
            first = number * self.images
            lowest = tf.maximum(first, start)
            lowest += (worker - lowest) % workers
            end = tf.maximum(first + self.images, lowest)
            positions = tf.range(lowest, end, workers)
            chosen = positions - first
            if seed is not None:
                chosen = tf.gather(permutation(self.images, seed, number), chosen)
            return tf.data.Dataset.from_tensor_slices((positions, chosen))

        def load(position, image):
            name = files[image]
            return {
                "position": position,
                "name": name,
                "encoded": tf.io.read_file(root + name),
                "label": labels[image],
            }

        passes = tf.data.Dataset.range(*pass_range(self.images, start, seed))
        return passes.flat_map(one_pass).map(
            load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )


def class_folders(root: str | os.PathLike) -> list[str]:
    """Sorted names of the class folders in `root`.

    Raises:
        FileNotFoundError: If `root` is no directory.
        ValueError: If it holds an image, or no folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(
            f"Expected a directory of class folders. Received: {root}, which is none."
        )
    names = []
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                names.append(entry.name)
            elif is_image(entry.name):
                raise InputValueError(
                    f"Expected one folder of images for each class in {root}. Received: image "
                    f"{entry.name} outside of them. Sort the images into class folders."
                )
    if not names:
        raise InputValueError(
            f"Expected one folder of images for each class in {root}. Received: no folder."
        )
    return sorted(names)


def folder_splits(directory: str | os.PathLike) -> dict[str, Path]:
    """Where the class folders are: "train", and "val" if there is one.

    Args:
        directory: Holds train/ and perhaps val/ or validation/, or the class folders directly.

    Raises:
        FileNotFoundError: If `directory` is none.
        ValueError: If there is a validation folder beside no train/.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(
            f"Expected a directory of training images. Received: {directory}, which is none."
        )
    found = [directory / name for name in VALIDATION_FOLDERS if (directory / name).is_dir()]
    train = directory / "train"
    if train.is_dir():
        return {"train": train, **({"val": found[0]} if found else {})}
    if found:
        raise InputValueError(
            f"Expected training images in {train}, beside {found[0].name}. Received: no such "
            "folder. For training on class folders alone, name the directory that holds them."
        )
    return {"train": directory}


def folder_images(root: Path, folder: str) -> list[str]:
    """Sorted paths below `root` of the images in one of its class folders."""
    found = []
    # `os.walk` reads a folder in one go and asks nothing about the single file.
    for place, below, names in os.walk(root / folder):
        below[:] = [name for name in below if not name.startswith(".")]
        prefix = os.path.relpath(place, root)
        found += [os.path.join(prefix, name) for name in names if is_image(name)]
    if not found:
        raise InputValueError(
            f"Expected images ({', '.join(IMAGE_SUFFIXES)}) in each class folder. Received: none "
            f"in {root / folder}. Remove the folder, or add its images."
        )
    return sorted(found)


def is_image(name: str) -> bool:
    """Whether a file name is an image's; hidden ones are not."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def some(names: Sequence[str], count: int = 5) -> str:
    """The first of many names, for a message."""
    return ", ".join(names[:count]) + (f" … ({len(names)})" if len(names) > count else "")
