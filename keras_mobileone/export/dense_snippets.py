"""Kotlin and Swift code for apps that segment photographs or find objects in them.

Kotlin uses the tasks of MediaPipe, which read the metadata of the file, and Swift uses Vision.
"""

from keras_mobileone.evaluation.dense_pictures import SHOWN_SCORE
from keras_mobileone.export.coreml import CoreMLReport
from keras_mobileone.export.coreml_forms import CLASS_MAP, PREVIEW, SCORES
from keras_mobileone.export.coreml_package import CONFIDENCE, COORDINATES
from keras_mobileone.export.report import ExportReport

DEPENDENCY = "com.google.mediapipe:tasks-vision:latest.release"
MOST_RESULTS = 100


def suits_mediapipe(report: ExportReport) -> bool:
    """Returns whether MediaPipe's tasks accept a TFLite file.

    They normalize images by one mean and deviation for all channels only, and refuse int8 as the
    type of inputs and outputs (mediapipe 1.2.3).
    """
    pixels = report.image_config is not None and report.image_config.takes_pixels
    return pixels and all(tensor.dtype != "int8" for tensor in (*report.inputs, *report.outputs))


def kotlin_segmentation(report: ExportReport) -> str:
    """Writes Kotlin code that finds the class of each pixel of a bitmap."""
    shown = "segmenter.labels[center]" if report.labels else "center"
    lines = [
        *_kotlin_options(report, "ImageSegmenter"),
        "    .setOutputCategoryMask(true)",
        "    .setOutputConfidenceMasks(false)",
        "    .build()",
        "val segmenter = ImageSegmenter.createFromOptions(context, options)",
        "val result = segmenter.segment(BitmapImageBuilder(bitmap).build())",
        "val mask = result.categoryMask().get()  // as large as the bitmap",
        "val classes = ByteBufferExtractor.extract(mask)  // one byte for each pixel, row by row",
        "val index = mask.height / 2 * mask.width + mask.width / 2",
        "val center = classes.get(index).toInt() and 0xFF",
        f"println({shown})",
    ]
    return "\n".join(lines) + "\n"


def kotlin_detection(report: ExportReport) -> str:
    """Writes Kotlin code that finds the objects in a bitmap."""
    shown = "categoryName" if report.labels else "index"
    lines = [
        *_kotlin_options(report, "ObjectDetector"),
        f"    .setScoreThreshold({SHOWN_SCORE}f)",
        f"    .setMaxResults({MOST_RESULTS})",
        "    .build()",
        "val detector = ObjectDetector.createFromOptions(context, options)",
        "val result = detector.detect(BitmapImageBuilder(bitmap).build())",
        "for (found in result.detections()) {",
        "    val best = found.categories().first()",
        "    // The box is a RectF in pixels of the bitmap.",
        f'    println("${{best.{shown}()}} ${{best.score()}} ${{found.boundingBox()}}")',
        "}",
    ]
    return "\n".join(lines) + "\n"


def _kotlin_options(report: ExportReport, task: str) -> list[str]:
    file = report.path.name
    return [
        f'// implementation("{DEPENDENCY}")',
        f"// Add {file} to the assets of the app.",
        f'val base = BaseOptions.builder().setModelAssetPath("{file}").build()',
        f"val options = {task}.{task}Options.builder()",
        "    .setBaseOptions(base)",
        "    .setRunningMode(RunningMode.IMAGE)",
    ]


def swift_results(report: CoreMLReport) -> list[str]:
    """Writes the lines of Swift that read the results of Vision's `request` with `core`."""
    names = [tensor.name for tensor in report.outputs]
    if names == [SCORES]:
        return [
            "let result = request.results!.first as! VNCoreMLFeatureValueObservation",
            f'let scores = result.featureValue.multiArrayValue!  // "{SCORES}"',
        ]
    if names == [CLASS_MAP]:
        return _swift_class_map(report)
    rows, _ = report.outputs[0].shape
    return _swift_objects() if rows < 0 else _swift_anchors(rows)


def _swift_class_map(report: CoreMLReport) -> list[str]:
    height, width, _ = report.shape
    return [
        "let result = request.results!.first as! VNCoreMLFeatureValueObservation",
        "let classes = result.featureValue.multiArrayValue!  "
        f'// "{CLASS_MAP}", {height}×{width} Int32',
        "let metadata = core.modelDescription.metadata[.creatorDefinedKey] as! [String: String]",
        f'let preview = Data(metadata["{PREVIEW}.params"]!.utf8)',
        "let parameters = try JSONSerialization.jsonObject(with: preview) as! [String: Any]",
        'let labels = parameters["labels"] as! [String]',
        f"print(labels[classes[[{height // 2}, {width // 2}]].intValue])  // the center",
    ]


def _swift_objects() -> list[str]:
    return [
        "for object in request.results as! [VNRecognizedObjectObservation] {",
        "    let best = object.labels[0]",
        "    // Vision's boxes have their origin in the lower left corner of the photograph.",
        "    let box = VNImageRectForNormalizedRect(object.boundingBox, photo.width, photo.height)",
        "    print(best.identifier, best.confidence, box)",
        "}",
    ]


def _swift_anchors(rows: int) -> list[str]:
    return [
        "var arrays: [String: MLShapedArray<Float>] = [:]",
        "for result in request.results as! [VNCoreMLFeatureValueObservation] {",
        "    arrays[result.featureName] = MLShapedArray(result.featureValue.multiArrayValue!)",
        "}",
        f"for anchor in 0..<{rows} {{",
        f'    let scores = arrays["{CONFIDENCE}"]![anchor].scalars',
        "    // Center x, center y, width and height, divided by the size of the photograph, with",
        "    // the origin in the upper left corner. Overlapping boxes are not suppressed.",
        f'    let box = arrays["{COORDINATES}"]![anchor].scalars',
        f"    if let best = scores.max(), best > {SHOWN_SCORE} {{",
        "        print(scores.firstIndex(of: best)!, best, box)",
        "    }",
        "}",
    ]
