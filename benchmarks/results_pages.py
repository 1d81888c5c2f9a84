"""Writes the generated tables of README.md and docs/ from the stored results.

python benchmarks/results_pages.py          writes them, and draws the figures of the studies
python benchmarks/results_pages.py --check  exits with 1 if that would change a page
"""

import json
import os
import re
import sys
from functools import partial
from pathlib import Path

import analysis
import browser
import conclusions
import corruptions
import dense_pages
import dense_peers
import dense_training
import fused
import int8_pages
import operators
import peers
import runtimes
import study
import training_pages

import keras_mobileone
from keras_mobileone.benchmarking import load_benchmark
from keras_mobileone.benchmarking.published_results import PUBLISHED, PUBLISHED_ROBUSTNESS
from keras_mobileone.data.robustness_sets import ROBUSTNESS_SETS
from keras_mobileone.deployment.report import (
    HEADER,
    DeployReport,
    markdown_table,
    report_from_dict,
    summary,
    table_rows,
    usages,
)

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
RESULTS_PAGE = DOCS / "benchmarks" / "index.md"
LATENCY_PAGE = DOCS / "benchmarks" / "latency.md"
PAPER_PAGE = DOCS / "paper.md"
DENSE_PAGES = {"segment": DOCS / "segmentation.md", "detect": DOCS / "detection.md"}
INT8_PAGE = DOCS / "methods" / "int8.md"
ROBUSTNESS_PAGE = DOCS / "guides" / "robustness.md"
ANDROID_PAGE = DOCS / "guides" / "android.md"
IOS_PAGE = DOCS / "guides" / "ios.md"
BROWSER_PAGE = DOCS / "browser.md"
# A package index shows README.md without the repository around it.
RAW = "https://raw.githubusercontent.com/keras-mobileone/keras-mobileone/main"
PAGES = "https://github.com/keras-mobileone/keras-mobileone/blob/main/docs"
ROBUSTNESS_TITLES = {"imagenet-c": "ImageNet-C, mCE"} | {
    name: f"{known.title}, top-1" for name, known in ROBUSTNESS_SETS.items()
}
ARM64 = ROOT / "benchmarks" / "results" / "arm64.json"
DEMO = ROOT / "benchmarks" / "results" / "demo" / "report.json"


def address(path: Path, document: Path) -> str:
    """Returns the address of a file of the repository in a link of `document`."""
    if document == README:
        return f"{RAW}/{path.relative_to(ROOT).as_posix()}"
    return Path(os.path.relpath(path, document.parent)).as_posix()


def stored_demo() -> DeployReport:
    """Returns the stored report of `make demo`."""
    return report_from_dict(json.loads(DEMO.read_text(encoding="utf-8")))


def demo(document: Path) -> str:
    """Returns the table of `make demo`, its conditions and its figure."""
    report = stored_demo()
    lines = summary(report)
    picture = f"![Size and latency]({address(DEMO.with_suffix('.png'), document)})"
    return "\n\n".join([lines[0], markdown_table(HEADER, table_rows(report)), *lines[1:], picture])


def short_demo() -> str:
    """Returns size, latency and accuracy of the files of `make demo`, with their conditions."""
    report = stored_demo()
    images, c = report.images, report.conditions
    rows = [("Keras, float32", "", "", f"{100 * report.keras_top1 / images:.1f} %", "")]
    for file in report.files:
        latency = file.latency
        rows.append(
            (
                f"`.tflite`, {file.precision}",
                f"{file.bytes / 1e6:.2f} MB",
                f"{latency.median:.2f} ms",
                f"{100 * file.top1 / images:.1f} %",
                f"{100 * file.agreement / images:.1f} %",
            )
        )
    text = (
        f"MobileOne-S0 with the authors' ImageNet weights. Accuracy is measured on {images} "
        f"photographs of ImageNet; int8 was calibrated on {report.calibration_images} others. "
        f"Latency is the median on {c['processor']} with {c['threads']} thread, batch 1, "
        f"ai-edge-litert {c['ai-edge-litert']}."
    )
    if not study.has_integer_dot_products(c):
        text += (
            " This processor has no integer dot products, so int8 makes the file smaller but not "
            "faster there."
        )
    header = ("", "size", "latency", "top-1", "same class as Keras")
    return "\n\n".join([markdown_table(header, rows), text])


def usage(core_ml: bool) -> str:
    """Returns how apps use the files of `make demo`."""
    report = stored_demo()
    pages = usages(report)
    count = len(report.files)
    return "\n\n".join(pages[count:] if core_ml else pages[:count])


def family() -> str:
    """Returns the size and the published accuracy of the variants."""
    header = ("", "parameters, train", "deploy", "MACs", "authors' top-1")
    header += ("timm's top-1", "top-5", "distilled", "iPhone ms")
    rows = []
    for key, variant in keras_mobileone.VARIANTS.items():
        train, deploy = (
            keras_mobileone.model_complexity(
                keras_mobileone.MobileOne(key, weights=None, deploy=deployed)
            )
            for deployed in (False, True)
        )
        sizes = train.trainable, deploy.trainable, deploy.feature_macs
        published = ("–" if v is None else f"{v:g}" for v in PUBLISHED[variant.name])
        rows.append((key.upper(), *(f"{size / 1e6:,.1f} M" for size in sizes), *published))
    return markdown_table(header, rows)


def arm64() -> str:
    """Returns a comparison of S0's files on an emulated Arm core with x86."""
    result = json.loads(ARM64.read_text(encoding="utf-8"))
    rows = [
        (
            file["precision"],
            str(file["images"]),
            f"{file['error']:.0e}" if file["error"] else "0",
            str(file["equal_answers"]),
            f"{file['equal_logits']:,} of {file['logits']:,}",
        )
        for file in result["files"]
    ]
    c = result["conditions"]
    on_x86, on_arm64 = c["x86"]["ai-edge-litert"], c["arm64"]["ai-edge-litert"]
    conditions = (
        f"Weights {result['weights']}, photographs of {result['photographs']}, int8 calibrated on "
        f"{result['calibration_images']}. Error: largest difference of the logits divided by their "
        f"largest magnitude; floating point may reach {result['tolerance']:g}, int8 must give "
        f"equal answers. {c['processor']}, ai-edge-litert {on_x86}, compared with qemu "
        f"{c['qemu'].split()[0]} as {c['emulated_core']}, ai-edge-litert {on_arm64}, Debian "
        f"{c['debian']}. Timings under qemu mean nothing, so none are given."
    )
    header = ("S0 on Arm", "images", "error", "equal answers", "equal logits")
    return "\n\n".join([markdown_table(header, rows), conditions])


def robustness() -> str:
    """The published figures of the robustness benchmarks."""
    rows = [
        (ROBUSTNESS_TITLES[name], source, *(f"{figure:g}" for figure in figures))
        for (name, source), figures in PUBLISHED_ROBUSTNESS.items()
    ]
    return markdown_table(("%", "source", "S0", "S1", "S2", "S3", "S4"), rows)


def corrupted() -> str:
    """What quantization costs under corruptions."""
    result = json.loads((corruptions.OUTPUT / "results.json").read_text(encoding="utf-8"))
    picture = address(corruptions.OUTPUT / "curve.png", ROBUSTNESS_PAGE)
    return corruptions.markdown(result, picture)


def in_browser() -> str:
    """Returns a comparison of LiteRT.js in Chromium with native LiteRT."""
    return browser.markdown(load_benchmark(browser.NATIVE), load_benchmark(browser.CHROMIUM))


def imagenette() -> str:
    """Returns how the weights in the package were trained, with the curve."""
    return training_pages.imagenette(address(training_pages.IMAGENETTE / "curve.png", RESULTS_PAGE))


def dense_run(name: str, document: Path) -> str:
    """Returns what a training of a segmentation model or detector reached."""
    return dense_training.markdown(name, address(dense_training.RESULTS / name, document))


def machines(name: str, markdown, document: Path, results: Path = study.RESULTS) -> str:
    """Returns the text of a study, once for each machine that has a result."""
    parts = []
    for path, result in study.stored(name, results):
        parts.append(markdown(result, address(path.with_suffix(".png"), document)))
    return "\n\n".join(parts) or "Not measured yet. `make benchmark` measures it."


def front_figure() -> str:
    """Returns the figure of a machine with integer dot products, and what it shows."""
    for path, result in study.stored("peers"):
        if study.has_integer_dot_products(result["conditions"]):
            picture = address(path.with_suffix(".png"), README)
            page = f"{PAGES}/benchmarks/index.md#beside-other-networks"
            return (
                "![Published ImageNet accuracy against latency on a CPU, for MobileOne and other "
                f"networks]({picture})\n\n*Top-1 accuracy as published; latency measured with "
                f"LiteRT on one thread of a server CPU ([conditions]({page})). "
                f"{peers.better_than_both(result)}*"
            )
    return ""


def fused_sentence(result: dict, picture: str) -> str:
    """Returns a sentence on what fusing saves on a machine."""
    sentence = fused.sentence(result)
    return f"On {result['conditions']['processor']}: {sentence[0].lower()}{sentence[1:]}"


SECTIONS = {
    README: {
        "figure": front_figure,
        "family": family,
        "demo": short_demo,
        "dense": dense_training.short,
    },
    RESULTS_PAGE: {
        "demo": partial(demo, RESULTS_PAGE),
        "normalization": int8_pages.normalization,
        "arm64": arm64,
        "finetune": training_pages.finetune,
        "imagenette": imagenette,
        "branches": training_pages.branches,
        "pipeline": training_pages.pipeline,
        "train_step": training_pages.train_step,
        "family": family,
        "peers": partial(machines, "peers", peers.markdown, RESULTS_PAGE),
        "fused": partial(machines, "fused", fused_sentence, RESULTS_PAGE),
        "dense_peers": partial(machines, "dense_peers", dense_peers.markdown, RESULTS_PAGE),
        "runtimes": partial(machines, "runtimes", runtimes.markdown, RESULTS_PAGE),
        **{
            name: partial(machines, name, markdown, RESULTS_PAGE)
            for name, markdown in operators.MARKDOWN.items()
        },
    },
    PAPER_PAGE: {"dense": partial(dense_pages.paper_table, "segment", "detect")},
    **{
        page: {
            "latency": partial(machines, "dense_peers", partial(dense_pages.latency, task), page),
            "paper": partial(dense_pages.paper_table, task),
        }
        | {name: partial(dense_run, name, page) for name in dense_training.STORED[task]}
        for task, page in DENSE_PAGES.items()
    },
    LATENCY_PAGE: {
        **{
            name: partial(machines, name, markdown, LATENCY_PAGE)
            for name, markdown in analysis.MARKDOWN.items()
        },
        "fused": partial(machines, "fused", fused.markdown, LATENCY_PAGE),
        "conclusions": conclusions.markdown,
    },
    INT8_PAGE: {
        "quantization": int8_pages.quantization,
        "dense": dense_pages.quantized,
        "qat": int8_pages.qat,
    },
    ROBUSTNESS_PAGE: {"robustness": robustness, "corruptions": corrupted},
    ANDROID_PAGE: {"usage": partial(usage, False)},
    BROWSER_PAGE: {"browser": in_browser},
    IOS_PAGE: {"usage": partial(usage, True)},
}


def fill(document: Path) -> str:
    """Returns the text of a document with each generated section between its markers."""
    text = document.read_text(encoding="utf-8")
    for name, render in SECTIONS[document].items():
        pattern = rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end -->)"
        text, count = re.subn(
            pattern, lambda m, r=render: f"{m[1]}{r()}\n{m[2]}", text, flags=re.DOTALL
        )
        if count != 1:
            raise ValueError(
                f"Expected one section {name!r} in {document.name}. Received: {count}. Put "
                f"<!-- {name}: generated by benchmarks/results_pages.py --> and <!-- end --> there."
            )
    return text


def main() -> int:
    """Fills every page."""
    try:
        texts = {document: fill(document) for document in SECTIONS}
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if "--check" in sys.argv[1:]:
        return int(
            any(document.read_text(encoding="utf-8") != text for document, text in texts.items())
        )
    for document, text in texts.items():
        document.write_text(text, encoding="utf-8")
    studies = (peers, analysis, fused, dense_peers, runtimes, operators)
    for one in (one for script in studies for one in script.STUDIES):
        study.plot(one)
    return 0


if __name__ == "__main__":
    sys.exit(main())
