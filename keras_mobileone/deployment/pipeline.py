"""`deploy`: the whole way from weights to verified, timed TFLite files with a report."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np

from keras_mobileone.about import About
from keras_mobileone.applications import MobileOne
from keras_mobileone.benchmarking import Latency, benchmark
from keras_mobileone.data.imagenet import (
    NUM_CLASSES,
    PRETRAINED_CLASSES,
    class_table,
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
    DeployedFile,
    DeployedPackage,
    DeployReport,
    require_plot,
    write_reports,
)
from keras_mobileone.errors import MissingPackageError
from keras_mobileone.evaluation.accuracy import predict_images
from keras_mobileone.evaluation.comparison import Comparison, compare_outputs
from keras_mobileone.evaluation.predictor import load_predictor
from keras_mobileone.export.coreml import export_coreml, require_coremltools
from keras_mobileone.export.snippets import coreml_usage, tflite_usage
from keras_mobileone.export.tflite import ExportReport, export_tflite
from keras_mobileone.files import staged_directory
from keras_mobileone.models.complexity import model_complexity
from keras_mobileone.variants import Variant

PRECISIONS = ("float32", "float16", "int8")
CALIBRATION_SHARE = 3  # one image of so many calibrates, the others compare
MAX_CALIBRATION_IMAGES = 100
SHOWN_PHOTOGRAPHS = 4
BENCHMARK_RUNS = 50
# Photographs of things ImageNet has classes for, among the images that scikit-image ships.
SKIMAGE_PHOTOGRAPHS = (
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "astronaut.png",
    "motorcycle_left.png",
    "camera.png",
)


def deploy(
    variant: Variant,
    weights: str | os.PathLike,
    output: str | os.PathLike,
    calibration: str | os.PathLike | None = None,
    *,
    coreml: bool = False,
    labels: Sequence[str] | None = None,
    about: About | None = None,
    threads: int = 1,
    step: Callable[[str], Callable[[int, int], None]] | None = None,
) -> DeployReport:
    """Loads, fuses, exports, verifies and times a MobileOne.

    Writes `{variant}_{precision}.tflite` for float32, float16 and int8, the fused model as
    `{variant}.keras`, the photograph of the usage pages, and `report.json`, `report.md`,
    `report.png` into `output`: all of them at the end, or none if anything fails.

    Args:
        variant: What to deploy.
        weights: `"imagenet"`, `"imagenette"` or the path of a weight file, see `MobileOne`.
        output: Directory for the results; made if its parent exists.
        calibration: Directory of photographs. A third of them calibrates int8, the files are
            compared with Keras on the others; with labels if the folders are named by WordNet id.
            By default the photographs that scikit-image ships.
        coreml: Write `{variant}.mlpackage` too, a float16 classifier of pictures.
        labels, about: Of the files, see `export_tflite`.
        threads: CPU threads of the benchmark.
        step: `step(title)` announces a step and returns a progress callback (done, total).

    Raises:
        OSError, ValueError, ImportError: For input that does not fit; see the functions it uses.
    """
    require_plot()
    if coreml:
        require_coremltools()
    step = step or (lambda title: lambda done, total: None)
    output = Path(output)
    _require_output(output)
    paths = _photographs() if calibration is None else list_images(calibration)
    calibration_paths, compared_paths = _split(paths)

    step(f"Loading {variant.name} with {weights} weights, fused")
    classes = PRETRAINED_CLASSES.get(weights, NUM_CLASSES)
    names = class_table(weights)
    model = MobileOne(
        variant, weights=weights, classes=classes, classifier_activation=None, deploy=True
    )
    with staged_directory(output) as directory:
        model.save(directory / f"{variant.name}.keras")
        shutil.copy(example_path(), directory)
        if labels is None and weights in PRETRAINED_CLASSES:
            labels = unique_labels(names)
        texts = {"labels": labels, "about": about}
        exports = _export(model, variant, calibration_paths, directory, step, texts)
        package = _package(model, variant, directory, step, **texts) if coreml else None
        predictors = [load_predictor(m) for m in (model, *(export.path for export in exports))]
        title = f"Comparing with Keras on {len(compared_paths)} images"
        scores = predict_images(predictors, compared_paths, variant.crop_fraction, step(title))
        timing = benchmark(
            [export.path for export in exports],
            threads=threads,
            runs=BENCHMARK_RUNS,
            progress=step("Timing"),
        )
        truth = image_labels(compared_paths, {wnid: i for i, (wnid, _) in enumerate(names)})
        keras_result = compare_outputs(scores[0], scores[0], truth)
        report = DeployReport(
            variant=variant.name,
            weights=Path(weights).name,
            train=model_complexity(MobileOne(variant, weights=None, classes=classes)),
            deploy=model_complexity(model),
            files=[
                _deployed_file(export, latency, compare_outputs(scores[0], found, truth))
                for export, latency, found in zip(
                    exports, timing.latencies, scores[1:], strict=True
                )
            ],
            package=package,
            images=len(compared_paths),
            calibration_images=len(calibration_paths),
            held_out=not set(calibration_paths) & set(compared_paths),
            keras_top1=keras_result.reference_top1,
            keras_top5=keras_result.reference_top5,
            predictions=_predictions(compared_paths, scores, names),
            conditions=timing.conditions
            | {"keras": keras.__version__, "tensorflow": version("tensorflow")},
        )
        write_reports(report, directory)
    return report


def _export(model, variant, calibration_paths, directory, step, texts) -> list[ExportReport]:
    size = model.input_shape[1:3]
    images = np.stack(list(load_crops(calibration_paths, size, variant.crop_fraction)))
    exports = []
    for precision in PRECISIONS:
        step(f"Exporting {precision}")
        path = directory / f"{variant.name}_{precision}.tflite"
        calibration = images if precision == "int8" else None
        exports.append(export_tflite(model, path, precision, calibration, **texts))
    return exports


def _package(model, variant, directory, step, labels, about) -> DeployedPackage:
    step("Exporting Core ML")
    path = directory / f"{variant.name}.mlpackage"
    labels = default_labels(model, labels)
    export = export_coreml(model, path, labels=labels, about=about)
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


def _require_output(output):
    existing = output if output.exists() else output.parent
    if not existing.is_dir():
        raise NotADirectoryError(
            f"Expected a directory to write to, or one to make it in. Received: {output}, where "
            f"{existing} is none. Create it first."
        )
    if not os.access(existing, os.W_OK):
        raise PermissionError(f"Expected a writable directory. Received: {existing}, which is not.")


def _photographs() -> list[Path]:
    try:
        import skimage
    except ImportError as error:
        raise MissingPackageError(
            "No photographs to calibrate and compare with. Pass a directory of some, or install "
            "scikit-image's with `pip install keras-mobileone[photos]`."
        ) from error
    return [Path(skimage.__file__).parent / "data" / name for name in SKIMAGE_PHOTOGRAPHS]


def _split(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Calibration images and the others; all of them for both when there are few."""
    count = min(len(paths) // CALIBRATION_SHARE, MAX_CALIBRATION_IMAGES)
    if count < 8:
        return list(paths), list(paths)
    calibration = spread(paths, count)
    return calibration, sorted(set(paths) - set(calibration))


def _predictions(paths, scores, names) -> list[tuple[str, str, list[str]]]:
    def name(output, index):
        return names[int(output[index].argmax())][1]

    chosen = spread(range(len(paths)), SHOWN_PHOTOGRAPHS)
    return [(paths[i].stem, name(scores[0], i), [name(s, i) for s in scores[1:]]) for i in chosen]
