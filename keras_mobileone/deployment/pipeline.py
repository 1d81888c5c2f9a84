"""`deploy` turns weights or a model into verified, timed TFLite files with a report."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np

from keras_mobileone.about import About
from keras_mobileone.applications import MobileOne
from keras_mobileone.benchmarking import Latency, benchmark
from keras_mobileone.choices import DEPLOY_PRECISIONS
from keras_mobileone.data.imagenet import (
    NUM_CLASSES,
    PRETRAINED_CLASSES,
    class_table,
    classes,
    unique_labels,
)
from keras_mobileone.data.images import (
    example_path,
    image_labels,
    list_images,
    load_crops,
    spread,
)
from keras_mobileone.data.labels import default_labels
from keras_mobileone.deployment.report import (
    LISTED_CLASSES,
    DeployedFile,
    DeployedPackage,
    DeployReport,
    require_plot,
    write_reports,
)
from keras_mobileone.errors import InputTypeError, InputValueError, MissingPackageError
from keras_mobileone.evaluation.accuracy import predict_images
from keras_mobileone.evaluation.comparison import Comparison, compare_outputs
from keras_mobileone.evaluation.predictor import load_predictor
from keras_mobileone.export.coreml import export_coreml
from keras_mobileone.export.coreml_package import require_coremltools
from keras_mobileone.export.report import ExportReport
from keras_mobileone.export.snippets import coreml_usage, tflite_usage
from keras_mobileone.export.tflite import export_tflite
from keras_mobileone.files import staged_directory
from keras_mobileone.models.complexity import Complexity, model_complexity
from keras_mobileone.models.fusing import fuse, has_blocks
from keras_mobileone.variants import Variant, get_variant
from keras_mobileone.weights.loading import load_keras

# Announces a step by its title and returns a progress callback (done, total).
Step = Callable[[str], Callable[[int, int], None]]
CALIBRATION_SHARE = 3  # one image in three calibrates; the others are used for the comparison
MIN_CALIBRATION_IMAGES = 8  # with fewer, all images are used for both
MAX_CALIBRATION_IMAGES = 100
SHOWN_PHOTOGRAPHS = 4
BENCHMARK_RUNS = 50
# The images of scikit-image that show objects for which ImageNet has classes.
SKIMAGE_PHOTOGRAPHS = (
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "astronaut.png",
    "motorcycle_left.png",
    "camera.png",
)


@dataclass(frozen=True)
class _Source:
    """The fused model to deploy, and information about its classes."""

    name: str
    weights: str | None
    train: Complexity | None
    model: keras.Model
    crop_fraction: float
    labels: list[str] | None  # for the files
    names: list[str]  # of the classes, for the report
    folders: dict[str, int]  # output of each class folder, by the name of the folder


def deploy(
    variant: Variant | str | None = None,
    weights: str | os.PathLike | None = None,
    output: str | os.PathLike | None = None,
    calibration: str | os.PathLike | None = None,
    *,
    model: keras.Model | str | os.PathLike | None = None,
    coreml: bool = False,
    labels: Sequence[str] | None = None,
    about: About | None = None,
    threads: int = 1,
    step: Step | None = None,
) -> DeployReport:
    """Loads a model or takes a given one, fuses and exports it, and verifies and times the files.

    The directory `output` receives `{name}_{precision}.tflite` for float32, float16 and int8, the
    fused model as `{name}.keras`, the photograph that the usage pages refer to, and `report.json`,
    `report.md` and `report.png`. `{name}` is the name of the variant or of the model. The files
    appear together at the end; if anything fails, none of them appears.

    Args:
        variant: Variant to deploy, or its name: `"s0"` … `"s4"`. None means `"s0"`, unless `model`
            is given.
        weights: `"imagenet"`, `"imagenette"` or the path of a weight file, as for `MobileOne`.
            None means `"imagenet"`, unless `model` is given.
        output: Directory for the results. It is created if its parent exists. Required.
        calibration: Directory of photographs. A third of them, at most 100, calibrates int8, and
            the files are compared with Keras on the others; with fewer than 24 photographs, all of
            them are used for both. If every photograph lies in a folder named after one of the
            classes, or by the class's WordNet id, accuracy is reported too. By default, the
            photographs that come with scikit-image.
        model: Model to deploy instead of a variant: a Keras model, or the path of a `.keras` file,
            such as the result of `finetune`. It must classify square RGB images of a fixed size,
            with any number of classes, and take them as `preprocess_input` normalizes them.
        coreml: Whether to write `{name}.mlpackage` too, a float16 Core ML package. It is a
            classifier if the labels are known.
        labels: Names of the classes in the order of the outputs. None: ImageNet's names for a
            model of 1,000 classes, the names that belong to `weights="imagenette"`, and no names
            for other models.
        about: Description, author and license to store in the files.
        threads: Number of CPU threads for the latency.
        step: Called with the title of each step. It returns a callback that is called with
            (done, total) while the step runs.

    Returns:
        A `DeployReport`, which is also written to `output`.

    Raises:
        ValueError: If arguments contradict each other, `output` is missing, or the model, its
            labels or the photographs do not fit.
        TypeError: If `model` is not a Keras model or a path.
        OSError: If a file is missing or `output` can't be written.
        ImportError: If matplotlib, scikit-image (without `calibration`) or coremltools (with
            `coreml`) is missing.

    Examples:
        ```python
        report = keras_mobileone.deploy("s0", "imagenet", "s0_files", "photographs")
        print(report.files[2].agreement, "of", report.images)
        keras_mobileone.deploy(model="finetuned.keras", output="my_files", calibration="photos")
        ```
    """
    output = _require_output(output)
    require_plot()
    if coreml:
        require_coremltools()
    step = step or _silent
    paths = _photographs() if calibration is None else list_images(calibration)
    calibration_paths, compared_paths = _split(paths)
    source = _load(variant, weights, model, labels, step)
    with staged_directory(output) as directory:
        source.model.save(directory / f"{source.name}.keras")
        shutil.copy(example_path(), directory)
        exports = _export(source, calibration_paths, directory, step, about)
        package = _package(source, directory, step, about) if coreml else None
        scores = _outputs(source, exports, compared_paths, step)
        timing = benchmark(
            [export.path for export in exports],
            threads=threads,
            runs=BENCHMARK_RUNS,
            progress=step("Timing"),
        )
        truth = image_labels(compared_paths, source.folders)
        comparisons = [compare_outputs(scores[0], found, truth) for found in scores]
        few = len(source.names) <= LISTED_CLASSES and source.labels is not None
        report = DeployReport(
            name=source.name,
            weights=source.weights,
            train=source.train,
            deploy=model_complexity(source.model),
            classes=source.names if few else [],
            files=[
                _deployed_file(export, latency, comparison)
                for export, latency, comparison in zip(
                    exports, timing.latencies, comparisons[1:], strict=True
                )
            ],
            package=package,
            images=len(compared_paths),
            calibration_images=len(calibration_paths),
            held_out=not set(calibration_paths) & set(compared_paths),
            keras_top1=comparisons[0].reference_top1,
            keras_top5=comparisons[0].reference_top5,
            predictions=_predictions(source, compared_paths, scores),
            conditions=timing.conditions
            | {"keras": keras.__version__, "tensorflow": version("tensorflow")},
        )
        write_reports(report, directory)
    return report


def _silent(title: str) -> Callable[[int, int], None]:
    """Ignores a step and its progress."""
    return lambda done, total: None


def _load(
    variant: Variant | str | None,
    weights: str | os.PathLike | None,
    model: keras.Model | str | os.PathLike | None,
    labels: Sequence[str] | None,
    step: Step,
) -> _Source:
    """Returns the fused model that the arguments of `deploy` select."""
    if model is not None:
        if variant is not None or weights is not None:
            raise InputValueError(
                "`model` replaces `variant` and `weights`. Received: all of `model`, "
                f"variant={variant!r} and weights={weights!r}. Omit the last two."
            )
        step("Loading the model, fused")
        return _own_source(model, labels)
    variant = get_variant("s0") if variant is None else variant
    variant = get_variant(variant) if isinstance(variant, str) else variant
    weights = "imagenet" if weights is None else weights
    step(f"Loading {variant.name} with {weights} weights, fused")
    classes = PRETRAINED_CLASSES.get(os.fspath(weights), NUM_CLASSES)
    deployed = MobileOne(
        variant, weights=weights, classes=classes, classifier_activation=None, deploy=True
    )
    table = class_table(os.fspath(weights))
    return _Source(
        name=variant.name,
        weights=Path(weights).name,
        train=model_complexity(MobileOne(variant, weights=None, classes=classes)),
        model=deployed,
        crop_fraction=variant.crop_fraction,
        labels=default_labels(deployed, unique_labels(table) if labels is None else labels),
        names=[name for _, name in table],
        folders={wnid: index for index, (wnid, _) in enumerate(table)},
    )


def _own_source(model: keras.Model | str | os.PathLike, labels: Sequence[str] | None) -> _Source:
    """Checks and fuses the model of a user."""
    if isinstance(model, (str, os.PathLike)):
        name, model = Path(model).stem, load_keras(model)
    elif isinstance(model, keras.Model):
        name = model.name
    else:
        raise InputTypeError(
            "`model` must be a Keras model or the path of a .keras file. "
            f"Received: {type(model).__name__}."
        )
    predictor = load_predictor(model)
    outputs = predictor.classes
    if outputs is None:
        raise InputValueError(
            "Expected a classifier with one output of shape (batch, classes). Received: "
            f"{model.name!r} with output shape {model.output_shape}. Use `export_tflite` for it."
        )
    unfused = has_blocks(model)
    labels = default_labels(model, predictor.image_config.labels if labels is None else labels)
    return _Source(
        name=name,
        weights=None,
        train=model_complexity(model) if unfused else None,
        model=fuse(model) if unfused else model,
        crop_fraction=predictor.image_config.crop_fraction,
        labels=labels,
        names=labels or [f"class {index}" for index in range(outputs)],
        folders=_class_folders(labels or []),
    )


def _class_folders(labels: Sequence[str]) -> dict[str, int]:
    """Returns the output of each class folder, whose name is a label or a WordNet id."""
    names = {name: wnid for wnid, name in classes()}
    names |= {
        label: wnid for label, (wnid, _) in zip(unique_labels(classes()), classes(), strict=True)
    }
    folders = {label: index for index, label in enumerate(labels)}
    wnids = {names[label]: index for label, index in folders.items() if label in names}
    return wnids | folders


def _export(
    source: _Source,
    calibration_paths: Sequence[Path],
    directory: Path,
    step: Step,
    about: About | None,
) -> list[ExportReport]:
    size = source.model.input_shape[1:3]
    images = np.stack(list(load_crops(calibration_paths, size, source.crop_fraction)))
    exports = []
    for precision in DEPLOY_PRECISIONS:
        step(f"Exporting {precision}")
        path = directory / f"{source.name}_{precision}.tflite"
        calibration = images if precision == "int8" else None
        exports.append(
            export_tflite(
                source.model, path, precision, calibration, labels=source.labels, about=about
            )
        )
    return exports


def _outputs(
    source: _Source,
    exports: Sequence[ExportReport],
    paths: Sequence[Path],
    step: Step,
) -> list[np.ndarray]:
    """Returns the outputs of Keras and of each file for the same photographs, (images, classes)."""
    predictors = [load_predictor(m) for m in (source.model, *(export.path for export in exports))]
    progress = step(f"Comparing with Keras on {len(paths)} images")
    return predict_images(predictors, paths, source.crop_fraction, progress)


def _package(
    source: _Source,
    directory: Path,
    step: Step,
    about: About | None,
) -> DeployedPackage:
    step("Exporting Core ML")
    path = directory / f"{source.name}.mlpackage"
    export = export_coreml(source.model, path, labels=source.labels, about=about)
    return DeployedPackage(
        file=path.name,
        bytes=export.bytes,
        compute_precision=export.compute_precision,
        minimum_deployment_target=export.minimum_deployment_target,
        operators=export.operators,
        usage=coreml_usage(export),
    )


def _deployed_file(export: ExportReport, latency: Latency, comparison: Comparison) -> DeployedFile:
    return DeployedFile(
        file=export.path.name,
        precision=export.precision,
        bytes=export.bytes,
        latency=replace(latency, path=export.path.name),
        operators=export.operators,
        error=comparison.error,
        sqnr=comparison.sqnr,
        agreement=comparison.agreement,
        top1=comparison.candidate_top1,
        top5=comparison.candidate_top5,
        usage=tflite_usage(export),
    )


def _require_output(output: str | os.PathLike | None) -> Path:
    if output is None:
        raise InputValueError(
            "`output` is required. Received: output=None. Pass a directory for the results."
        )
    output = Path(output)
    existing = output if output.exists() else output.parent
    if not existing.is_dir():
        raise NotADirectoryError(
            "Expected a directory, or a new name in an existing directory. Received: "
            f"{output}. Not a directory: {existing}. Create it first."
        )
    if not os.access(existing, os.W_OK):
        raise PermissionError(
            f"Expected a writable directory. Received: {existing}, which is not writable."
        )
    return output


def _photographs() -> list[Path]:
    try:
        import skimage
    except ImportError as error:
        raise MissingPackageError(
            "Expected photographs to calibrate and compare with. Received: no `calibration`, and "
            "no scikit-image, whose photographs are the default. Pass a directory of photographs, "
            "or install scikit-image with `pip install keras-mobileone[photos]`."
        ) from error
    return [Path(skimage.__file__).parent / "data" / name for name in SKIMAGE_PHOTOGRAPHS]


def _split(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Splits into calibration images and others, or returns all of them twice if there are few."""
    count = min(len(paths) // CALIBRATION_SHARE, MAX_CALIBRATION_IMAGES)
    if count < MIN_CALIBRATION_IMAGES:
        return list(paths), list(paths)
    calibration = spread(paths, count)
    return calibration, sorted(set(paths) - set(calibration))


def _predictions(
    source: _Source, paths: Sequence[Path], scores: Sequence[np.ndarray]
) -> list[tuple[str, str, list[str]]]:
    """Returns the predictions for a few photographs that are known to show one of the classes.

    ImageNet's 1,000 classes cover everyday photographs. With fewer classes, the best class is
    meaningless for a photograph of something else.
    """
    known: Sequence[int] = range(len(paths))
    if len(source.names) != NUM_CLASSES:
        known = [i for i in known if paths[i].parent.name in source.folders]
    answers = [[source.names[index] for index in output.argmax(1)] for output in scores]
    return [
        (paths[i].stem, answers[0][i], [answer[i] for answer in answers[1:]])
        for i in spread(known, SHOWN_PHOTOGRAPHS)
    ]
