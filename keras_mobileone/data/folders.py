"""Reads images from class folders."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_mobileone.data.imagenet import NUM_CLASSES, class_index, classes
from keras_mobileone.data.images import (
    IMAGE_SUFFIXES,
    find_images,
    is_hidden,
    is_image,
    left_out_sentence,
    spread,
)
from keras_mobileone.data.shuffling import shuffled_positions
from keras_mobileone.errors import InputValueError

if TYPE_CHECKING:
    import tensorflow as tf

# The usual names of the folders of a dataset, in lower case, in order of preference.
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "test", "testing"),
}


class ClassFolders:
    """Source of images with one folder for each class.

    The labels follow the sorted names of the folders, which for WordNet ids is the order of
    ImageNet's indices: with all 1,000 folders the label is ImageNet's class index. Folders within
    class folders are read too, symbolic links are followed, and hidden files and folders are left
    out; see `find_images`.

    Args:
        root: The directory of the class folders.
        classes: Class names in label order, for a validation split or a larger classifier. By
            default, the names of the folders.

    Attributes:
        classes: Class names in label order.
        images: Number of images.
        name: `root`, as shown in messages.
        files: Path of each image below `root`, sorted by class and name.
        labels: int64 array of shape (images,).
        left_out: Number of files that were left out, by suffix; see `find_images`.

    Raises:
        FileNotFoundError: If `root` is not a directory.
        ValueError: If there is no class folder, if a class folder has no images or is not in
            `classes`, or if there is an image outside of the class folders.

    Examples:
        >>> source = ClassFolders("photos")
        >>> source.classes
        ('dog', 'tench')
        >>> sorted(next(iter(source.stream(seed=0))))
        ['encoded', 'label', 'name', 'position']
    """

    def __init__(self, root: str | os.PathLike, classes: Sequence[str] | None = None) -> None:
        self.root = Path(root)
        self.name = str(self.root)
        folders = class_folders(self.root)
        self.classes = tuple(folders if classes is None else classes)
        index = {name: label for label, name in enumerate(self.classes)}
        self.files: list[str] = []
        self.left_out: Counter[str] = Counter()
        labels = []
        for folder in folders:
            if folder not in index:
                raise InputValueError(
                    f"Expected folders of the classes {some(self.classes)}. Received: folder "
                    f"{folder!r} in {self.root}. Remove or rename it."
                )
            found, left_out = folder_images(self.root, folder)
            self.left_out += left_out
            self.files += found
            labels.append(np.full(len(found), index[folder], np.int64))
        self.labels = np.concatenate(labels)
        self.images = len(self.files)

    @classmethod
    def of_outputs(
        cls, root: str | os.PathLike, outputs: int, classes: Sequence[str] | None = None
    ) -> "ClassFolders":
        """Opens class folders and labels them with the outputs of a classifier.

        Args:
            root: The directory of the class folders. For 1,000 outputs the folders may be named by
                WordNet id, such as `n01440764/`, and some may be missing. Otherwise there is one
                folder for each output, in sorted order.
            outputs: Number of outputs of the classifier.
            classes: Names of the folders in the order of the outputs. By default, the order
                described for `root`.

        Raises:
            FileNotFoundError: If `root` is not a directory.
            ValueError: If the number of classes is not the number of outputs.

        Examples:
            >>> ClassFolders.of_outputs("photos", outputs=2).labels
            array([0, 0, 0, 0, 1, 1, 1, 1])
        """
        if classes is None:
            return cls(root, output_folders(class_folders(root), outputs, root))
        if len(classes) != outputs:
            raise InputValueError(
                f"Expected one name in `classes` for each of the model's {outputs} outputs. "
                f"Received: {len(classes)}: {some(classes)}."
            )
        return cls(root, classes)

    @property
    def paths(self) -> list[Path]:
        """Paths of the images, in the order of `files`."""
        return [self.root / file for file in self.files]

    def spread(self, limit: int | None) -> tuple[list[Path], np.ndarray]:
        """Returns the paths and labels of at most `limit` images, spread evenly over all."""
        chosen = spread(range(self.images), limit or self.images)
        paths = self.paths
        return [paths[index] for index in chosen], self.labels[chosen]

    def stream(
        self, start: int = 0, seed: int | None = None, worker: int = 0, workers: int = 1
    ) -> "tf.data.Dataset":
        """Returns the images from a position on; see `Source.stream`. Skipping images is free."""
        import tensorflow as tf

        positions = shuffled_positions(self.images, start, seed, worker, workers)
        with tf.device("CPU"):
            files = tf.constant([os.fsencode(file) for file in self.files])
            labels = tf.constant(self.labels)
            root = tf.constant(os.path.join(os.fsencode(self.root), b""))

        def load(position: Any, image: Any) -> Any:
            name = files[image]
            return {
                "position": position,
                "name": name,
                "encoded": tf.io.read_file(root + name),
                "label": labels[image],
            }

        return positions.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def class_folders(root: str | os.PathLike) -> list[str]:
    """Returns the sorted names of the class folders in `root`.

    Raises:
        FileNotFoundError: If `root` is not a directory.
        ValueError: If `root` contains an image, or no folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(
            f"Expected a directory of class folders. Received: {root}, which is not a directory."
        )
    names = []
    with os.scandir(root) as entries:
        for entry in entries:
            if is_hidden(entry.name):
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


def output_folders(folders: Sequence[str], outputs: int, root: str | os.PathLike) -> Sequence[str]:
    """Returns the class folder that each output of a classifier stands for.

    Args:
        folders: Sorted names of the class folders in `root`.
        outputs: Number of outputs of the classifier.
        root: The directory that the message names.

    Raises:
        ValueError: If the folders do not match the outputs.
    """
    imagenet = outputs == NUM_CLASSES
    others = [name for name in folders if name not in class_index()]
    if imagenet and not others:
        return [wnid for wnid, _ in classes()]
    if len(folders) != outputs:
        raise InputValueError(
            f"Expected one class folder for each of the model's {outputs} outputs"
            f"{', or folders named by WordNet id' if imagenet else ''}. Received: {len(folders)} "
            f"in {root}{', among them' if imagenet else ':'} {some(others or folders)}. Pass a "
            "directory with the classes of the model."
        )
    return folders


def folder_splits(directory: str | os.PathLike) -> dict[str, Path]:
    """Finds the directories of the class folders: "train", and "val" if there is one.

    Args:
        directory: Directory with one folder for each split, or with the class folders themselves.
            The folder of a split has one of the names in `SPLIT_FOLDERS`, in upper or lower case.
            Next to class folders, a folder of such a name is a class if it contains images rather
            than folders.

    Returns:
        Paths by split. If there are only class folders, "train" is `directory`.

    Raises:
        FileNotFoundError: If `directory` is not a directory.
        ValueError: If there is a validation folder without a training folder, or if two folders
            could be the training images.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(
            "Expected a directory of training images. Received: "
            f"{directory}, which is not a directory."
        )
    known = {name: split for split, names in SPLIT_FOLDERS.items() for name in names}
    folders = sorted(path for path in directory.iterdir() if path.is_dir())
    folders = [path for path in folders if not is_hidden(path.name)]
    only_splits = all(path.name.lower() in known for path in folders)
    found: dict[str, list[Path]] = {split: [] for split in SPLIT_FOLDERS}
    for path in folders:
        split = known.get(path.name.lower())
        if split and (only_splits or any(entry.is_dir() for entry in path.iterdir())):
            found[split].append(path)
    if len(found["train"]) > 1:
        raise InputValueError(
            f"Expected one folder of training images in {directory}. Received: "
            f"{' and '.join(path.name for path in found['train'])}. Name the one to use, or "
            "rename the other."
        )
    # If there are several, the one whose name comes first is used: validation before test images.
    order = SPLIT_FOLDERS["val"].index
    val = sorted(found["val"], key=lambda path: order(path.name.lower()))[:1]
    if found["train"]:
        return {"train": found["train"][0], **({"val": val[0]} if val else {})}
    if val:
        raise InputValueError(
            f"Expected training images in {directory / 'train'}, next to {val[0].name}. Received: "
            "no such folder. To train on class folders alone, name the directory that contains "
            "them."
        )
    return {"train": directory}


def folder_images(root: Path, folder: str) -> tuple[list[str], Counter]:
    """Returns the sorted paths below `root` of a class folder's images, and what was left out."""
    found, left_out = find_images(root / folder)
    if not found:
        raise InputValueError(
            f"Expected images ({', '.join(IMAGE_SUFFIXES)}) in each class folder. Received: none "
            f"in {root / folder}. {left_out_sentence(left_out)} Remove the folder, or add its "
            "images.".replace("  ", " ")
        )
    return sorted(os.path.join(folder, name) for name in found), left_out


def some(names: Sequence[str], count: int = 5) -> str:
    """Returns the first of many names, for a message."""
    return ", ".join(names[:count]) + (f" … ({len(names)})" if len(names) > count else "")
