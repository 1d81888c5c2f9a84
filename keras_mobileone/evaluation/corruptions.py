"""`evaluate_corruptions`: errors under the corruptions of ImageNet-C, and their mean, mCE."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mobileone.checks import require_same_settings
from keras_mobileone.data.corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    corrupted_crops,
    corruption_pool,
)
from keras_mobileone.data.folders import ClassFolders
from keras_mobileone.data.image_config import ImageConfig
from keras_mobileone.data.imagenet import NUM_CLASSES
from keras_mobileone.data.images import load_crops, spread, square_side
from keras_mobileone.data.robustness_sets import StoredImages, open_stored
from keras_mobileone.data.sources import TFDS_PREFIX
from keras_mobileone.errors import InputValueError
from keras_mobileone.evaluation.accuracy import (
    check_selection,
    common_size,
    number_of_classes,
    predict_crops,
)
from keras_mobileone.evaluation.predictor import Predictor, as_predictor
from keras_mobileone.files import atomic_write
from keras_mobileone.reports import Report

# Top-1 errors of AlexNet on ImageNet-C, averaged over the severities, which mCE divides by: from
# the authors' code, github.com/hendrycks/robustness.
ALEXNET_ERRORS = dict(
    zip(
        CORRUPTIONS,
        (
            *(0.886428, 0.894468, 0.922640, 0.819880, 0.826268),
            *(0.785948, 0.798360, 0.866816, 0.826572, 0.819324),
            *(0.564592, 0.853204, 0.646056, 0.717840, 0.606500),
        ),
        strict=True,
    )
)
# The images of the distributed set are crops of 224 pixels already.
DISTRIBUTED_CROP = 1.0
CLEAN = ("clean", 0)  # the pass without corruption
TITLE = "ImageNet-C"


@dataclass(frozen=True)
class CorruptionEvaluation(Report):
    """Result of `evaluate_corruptions` for one model.

    Attributes:
        model: Name of the model or file.
        images: Number of images of each pass.
        severities: Severities that were evaluated.
        clean: Number of right answers on the images without corruption; None for the distributed
            set, which does not contain them.
        right: Number of right answers (top-1) by corruption, one for each severity.
        seed: Seed of the corruptions; None for the distributed set.
        image_size: (height, width) in pixels.
        crop_fraction: Crop fraction of the evaluation transform.
    """

    model: str
    images: int
    severities: tuple[int, ...]
    clean: int | None
    right: dict[str, tuple[int, ...]]
    seed: int | None
    image_size: tuple[int, int]
    crop_fraction: float

    def error(self, corruption: str) -> float:
        """Returns the top-1 error under a corruption, averaged over the severities, 0 … 1."""
        return 1 - sum(self.right[corruption]) / (self.images * len(self.severities))

    @property
    def mean_error(self) -> float:
        """Top-1 error averaged over the corruptions, from 0 to 1."""
        return float(np.mean([self.error(corruption) for corruption in self.right]))

    @property
    def mce(self) -> float | None:
        """Mean corruption error in percent, where AlexNet has 100.

        None unless all 15 corruptions were evaluated at all 5 severities.
        """
        if set(self.right) != set(CORRUPTIONS) or self.severities != SEVERITIES:
            return None
        ratios = [self.error(name) / ALEXNET_ERRORS[name] for name in CORRUPTIONS]
        return 100 * float(np.mean(ratios))

    def to_dict(self) -> dict[str, Any]:
        """Converts the result to plain data for JSON, with the mean error and mCE."""
        return {**super().to_dict(), "mean_error": self.mean_error, "mce": self.mce}


def evaluate_corruptions(
    models: "Sequence[keras.Model | Predictor | str | os.PathLike]",
    directory: str | os.PathLike,
    *,
    corrupt: bool = False,
    corruptions: Sequence[str] = CORRUPTIONS,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    limit: int | None = None,
    workers: int | None = None,
    cache: str | os.PathLike | None = None,
    state: str | os.PathLike | None = None,
    image_config: ImageConfig | None = None,
    crop_fraction: float | None = None,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[CorruptionEvaluation]:
    """Measures the top-1 error of classifiers under the corruptions of ImageNet-C.

    Every pass takes all images with one corruption at one severity, and each corrupted image is
    shown to all models.

    Args:
        models: Classifiers of the same classes and image size: Keras models, paths of `.keras` or
            `.tflite` files, or predictors.
        directory: The distributed set, with folders `corruption/severity/wnid/`, in which the
            groups of the downloads (`noise/`, `blur/` …) may be kept, or `"tfds:NAME"`, such as
            `"tfds:imagenet2012_corrupted"`, of which tensorflow-datasets has prepared the
            configurations `corruption_severity`. With `corrupt=True` a directory of ordinary images
            in class folders, as `evaluate` takes it.
        corrupt: Whether to make the corruptions from ordinary images. It needs the extra
            `[robustness]`.
        corruptions: Names of corruptions, see `CORRUPTIONS`.
        severities: Severities from 1 to 5.
        seed: Seed of the corruptions that are made.
        limit: Largest number of images of a pass, spread evenly over the sorted list.
        workers: Number of processes that make corruptions. None: one for each core.
        cache: Directory to which the corrupted images are written, in the layout of the distributed
            set, as PNG files.
        state: JSON file in which finished passes are stored. If it exists, they are not repeated.
        image_config: How the models take images. None: according to graph or metadata.
        crop_fraction: Side of the center crop divided by the short side of the resized image. None:
            that of the first model, and 1 for the distributed set, whose images are cropped.
        threads: Number of CPU threads for TFLite files.
        progress: Called with (done, total) images over all passes, after each batch.

    Returns:
        A `CorruptionEvaluation` for each model.

    Raises:
        FileNotFoundError: If a directory or a model file does not exist. Missing folders of the
            distributed set are named.
        ImportError: If `corrupt` is set without the extra `[robustness]`.
        ValueError: If an argument is out of range, if the models do not fit each other or the
            classes, or if `state` holds passes with other settings.

    Examples:
        ```python
        files = ["s0_float32.tflite", "s0_int8.tflite"]
        for result in keras_mobileone.evaluate_corruptions(files, "imagenet/val", corrupt=True):
            print(result.model, result.mce)
        ```
    """
    check_selection(limit, crop_fraction)
    _check_passes(corruptions, severities)
    if cache is not None and not corrupt:
        raise InputValueError(
            f"`cache` keeps the images that `corrupt` makes. Received: {cache} without "
            "corrupt=True (--corrupt). Leave it out for the distributed set."
        )
    predictors = [as_predictor(model, threads, image_config) for model in models]
    outputs, size = number_of_classes(predictors), common_size(predictors)
    if crop_fraction is None:
        crop_fraction = predictors[0].image_config.crop_fraction if corrupt else DISTRIBUTED_CROP
    passes: list[tuple[str, int]] = [(name, level) for name in corruptions for level in severities]
    images: Mapping[tuple[str, int], _Images]
    if corrupt:
        passes.insert(0, CLEAN)
        files = _Files(*ClassFolders.of_outputs(directory, outputs).spread(limit))
        images = dict.fromkeys(passes, files)
    else:
        images = _distributed(directory, passes, outputs, limit)
    count = _common_count(images)
    settings: dict[str, Any] = {
        "models": [predictor.name for predictor in predictors],
        "directory": str(directory),
        "images": count,
        "seed": seed if corrupt else None,
        "crop_fraction": crop_fraction,
        "image_size": list(size),
    }
    done = _read_state(state, settings)
    pool: AbstractContextManager[Any] = corruption_pool(workers) if corrupt else nullcontext()
    with pool as processes:
        for index, key in enumerate(passes):
            chosen = images[key]
            step = _shifted(progress, index * count, len(passes) * count)
            if _name(key) not in done:
                if not corrupt or key == CLEAN:
                    crops = chosen.crops(size, crop_fraction)
                else:
                    crops = corrupted_crops(
                        chosen.paths, square_side(size), crop_fraction, *key, seed, processes
                    )
                if cache is not None and key != CLEAN:
                    crops = _cached(crops, chosen.paths, Path(cache), *key)
                scores = predict_crops(predictors, crops, count, step)
                right = [int((score.argmax(1) == chosen.labels).sum()) for score in scores]
                done[_name(key)] = right
                _write_state(state, settings, done)
            elif step:
                step(count, count)
    return [
        CorruptionEvaluation(
            model=predictor.name,
            images=count,
            severities=tuple(severities),
            clean=done[_name(CLEAN)][index] if corrupt else None,
            right={
                name: tuple(done[_name((name, level))][index] for level in severities)
                for name in corruptions
            },
            seed=settings["seed"],
            image_size=size,
            crop_fraction=crop_fraction,
        )
        for index, predictor in enumerate(predictors)
    ]


class _Files:
    """The images of a pass in files.

    Attributes:
        paths: The image files.
        labels: int64 array of shape (count,).
        count: Number of images.
    """

    def __init__(self, paths: list[Path], labels: np.ndarray) -> None:
        self.paths, self.labels, self.count = paths, labels, len(paths)

    def crops(self, size: tuple[int, int], crop_fraction: float) -> Iterator[np.ndarray]:
        """Yields the evaluation crops, uint8 (*size, 3)."""
        return load_crops(self.paths, size, crop_fraction)


class _Stored:
    """The images of a pass that tensorflow-datasets has prepared.

    Attributes:
        paths: Always empty, since the images are not files.
        labels: int64 array of shape (count,), once the crops were read.
        count: Number of images.
    """

    def __init__(self, images: StoredImages, limit: int | None) -> None:
        self.paths: list[Path] = []
        self._images = images
        self._chosen = spread(range(images.images), limit or images.images)
        self.count = len(self._chosen)
        self.labels = np.zeros(self.count, np.int64)

    def crops(self, size: tuple[int, int], crop_fraction: float) -> Iterator[np.ndarray]:
        """Yields the evaluation crops, uint8 (*size, 3)."""
        examples = self._images.examples(self._chosen, square_side(size), crop_fraction)
        for index, (crop, (label,)) in enumerate(examples):
            self.labels[index] = label
            yield crop


_Images = _Files | _Stored


def _distributed(
    directory: str | os.PathLike, passes: Sequence[tuple[str, int]], outputs: int, limit: int | None
) -> dict[tuple[str, int], _Images]:
    """Returns the images of each pass of the distributed set."""
    if not str(directory).startswith(TFDS_PREFIX):
        return {
            key: _Files(*ClassFolders.of_outputs(path, outputs).spread(limit))
            for key, path in find_passes(Path(directory), passes).items()
        }
    if outputs != NUM_CLASSES:
        raise InputValueError(
            f"Expected a classifier of ImageNet's {NUM_CLASSES} classes for {directory}. Received: "
            f"a model with {outputs} outputs. Pass a directory of its own classes."
        )
    indices = tuple(range(NUM_CLASSES))
    return {
        (name, level): _Stored(open_stored(TITLE, f"{directory}/{name}_{level}", indices), limit)
        for name, level in passes
    }


def _common_count(images: Mapping[tuple[str, int], _Images]) -> int:
    """Returns the number of images of a pass, which must be the same for all passes."""
    counts = {chosen.count: _name(key) for key, chosen in images.items()}
    if len(counts) != 1:
        found = ", ".join(f"{count} in {name}" for count, name in sorted(counts.items()))
        raise InputValueError(
            f"Expected the same number of images in each pass. Received: {found}. Complete the "
            "set, or choose passes with `corruptions` and `severities`."
        )
    return next(iter(counts))


def find_passes(directory: Path, passes: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Path]:
    """Finds the folders of the distributed ImageNet-C, with or without those of the downloads.

    Raises:
        FileNotFoundError: If folders are missing; names them.
    """
    if not directory.is_dir():
        raise FileNotFoundError(
            f"Expected a directory. Received: {directory}, which is not a directory."
        )
    groups = [directory, *sorted(path for path in directory.iterdir() if path.is_dir())]
    found = {}
    for name, level in passes:
        places = [group / name / str(level) for group in groups]
        found[name, level] = next((place for place in places if place.is_dir()), None)
    missing = [_name(key) for key, place in found.items() if place is None]
    if missing:
        shown = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
        raise FileNotFoundError(
            f"Expected the folders CORRUPTION/SEVERITY of ImageNet-C in {directory}. Received: "
            f"{len(missing)} of {len(passes)} missing: {shown}. Name the directory that holds "
            "them, or make the corruptions from ordinary images with corrupt=True (--corrupt)."
        )
    return {key: place for key, place in found.items() if place is not None}


def _check_passes(corruptions: Sequence[str], severities: Sequence[int]) -> None:
    """Raises ValueError unless the corruptions and severities exist, at least one of each."""
    unknown = [name for name in corruptions if name not in CORRUPTIONS]
    if unknown or not corruptions:
        raise InputValueError(
            f"`corruptions` must be among {', '.join(CORRUPTIONS)}. Received: "
            f"{', '.join(unknown) or 'none'}."
        )
    if not severities or any(level not in SEVERITIES for level in severities):
        raise InputValueError(f"`severities` must lie in 1 … 5. Received: {list(severities)}.")


def _name(key: tuple[str, int]) -> str:
    return f"{key[0]}/{key[1]}"


def _shifted(
    progress: Callable[[int, int], None] | None, before: int, total: int
) -> Callable[[int, int], None] | None:
    """Returns a callback for one pass that counts over all passes."""
    if progress is None:
        return None
    return lambda done, _: progress(before + done, total)


def _cached(
    crops: Iterator[np.ndarray], paths: Sequence[Path], cache: Path, corruption: str, severity: int
) -> Iterator[np.ndarray]:
    """Yields crops and writes them to a cache in the layout of the distributed set."""
    from PIL import Image

    for crop, path in zip(crops, paths, strict=True):
        target = cache / corruption / str(severity) / path.parent.name / f"{path.stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as temporary:
            Image.fromarray(crop).save(temporary, "PNG")
        yield crop


def _read_state(path: str | os.PathLike | None, settings: dict[str, Any]) -> dict[str, list[int]]:
    """Returns the finished passes of an earlier run with the same settings."""
    if path is None or not Path(path).is_file():
        return {}
    try:
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
        before, done = stored["settings"], stored["passes"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputValueError(
            f"Expected the state of an evaluation. Received: {path}, which is something else. "
            "Remove it or name another file."
        ) from error
    require_same_settings(before, settings, path)
    return done


def _write_state(
    path: str | os.PathLike | None, settings: dict[str, Any], done: dict[str, list[int]]
) -> None:
    if path is not None:
        with atomic_write(path) as temporary:
            text = json.dumps({"settings": settings, "passes": done}, indent=2)
            temporary.write_text(text + "\n", encoding="utf-8")
