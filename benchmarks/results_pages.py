"""Writes the generated tables of README.md and docs/ from the stored results.

python benchmarks/results_pages.py          writes them, and draws the figures of the studies python
benchmarks/results_pages.py --check  exits with 1 if that would change a page
"""

import json
import os
import re
import statistics
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
import operators
import peers
import runtimes
import study

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
QUANTIZATION = ROOT / "benchmarks" / "results" / "quantization.json"
QAT = ROOT / "benchmarks" / "results" / "qat.json"
IMAGENETTE = ROOT / "benchmarks" / "results" / "imagenette"
BRANCHES = ROOT / "benchmarks" / "results" / "branches.json"
FINETUNE = ROOT / "benchmarks" / "results" / "finetune.json"
PIPELINE = ROOT / "benchmarks" / "results" / "input_pipeline.json"
NORMALIZATION = ROOT / "benchmarks" / "results" / "normalization"
ROBUSTNESS_TITLES = {"imagenet-c": "ImageNet-C, mCE"} | {
    name: f"{known.title}, top-1" for name, known in ROBUSTNESS_SETS.items()
}
ARM64 = ROOT / "benchmarks" / "results" / "arm64.json"
TRAIN_STEP = ROOT / "benchmarks" / "results" / "train_step.json"
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


def normalization() -> str:
    """Returns the cost of the normalization of pixels in a file."""
    ratios = []
    for precision in ("float32", "int8"):
        result = load_benchmark(NORMALIZATION / f"{precision}.json")
        ratios.append(f"{100 * (result.ratios[1] - 1):.0f} % of {precision}'s time")
    c = result.conditions
    return (
        f"That costs {' and '.join(ratios)} on S0 ({c['processor']}, {c['threads']} thread, median "
        f"of {c['rounds']} paired rounds of {c['runs']} runs)."
    )


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


def quantization() -> str:
    """Returns the effect of each step of int8 on S0, and the effect on every variant."""
    result = json.loads(QUANTIZATION.read_text(encoding="utf-8"))
    measures = ("MB", "ms", "ratio", "seconds", "GiB")
    accuracy = ("top-1", "agree", "SQNR dB")
    header = ("S0", *accuracy, *(f"Imagenette: {name}" for name in accuracy), *measures)
    rows, generated = [], {}
    for row in result["rows"]:
        if row["variant"] != "s0":
            generated.setdefault(row["variant"].upper(), []).append(f"{row['sqnr']:.1f}")
            continue
        if not rows:
            top1s = [
                f"{100 * each['reference_top1'] / each['images']:.1f}"
                for each in (row, row["second"])
            ]
            rows.append(("float32, Keras", top1s[0], "100.0", "", top1s[1], "100.0", *[""] * 6))
            plain_ms = row["median_ms"]
        rows.append(
            (
                row["configuration"],
                *accuracies(row),
                *accuracies(row["second"]),
                f"{row['bytes'] / 1e6:.2f}",
                f"{row['median_ms']:.2f}",
                f"{row['median_ms'] / plain_ms:.2f}",
                f"{row['seconds']:.0f}",
                f"{row['peak_gib']:.1f}",
            )
        )
    row = result["rows"][0]
    c = result["conditions"]
    conditions = (
        f"Calibrated on 100 photographs, measured on {row['images']} others and on "
        f"{row['second']['images']} of Imagenette; top-1 and agreement in %. "
        "Ratio: latency divided by that of plain int8. Seconds and peak memory: those of the "
        "quantization. "
        f"{c['processor']}, {c['cores']} cores shared with other work, latency with "
        f"{c['threads']} thread(s), {c['rounds']} rounds of {c['runs']} or more runs, interleaved; "
        f"ai-edge-litert {c['ai-edge-litert']}, TensorFlow {c['tensorflow']}."
    )
    others = markdown_table(
        ("SQNR dB, generated parameters", *generated),
        [
            (name, *(column[i] for column in generated.values()))
            for i, name in enumerate(("plain int8", "this package"))
        ],
    )
    return "\n\n".join([markdown_table(header, rows), conditions, others])


def accuracies(row: dict) -> tuple[str, str, str]:
    """Returns top-1 and agreement with the float model in %, and SQNR in dB."""
    percents = (100 * row[key] / row["images"] for key in ("candidate_top1", "agreement"))
    return *(f"{value:.1f}" for value in percents), f"{row['sqnr']:.1f}"


def qat() -> str:
    """Returns a comparison of quantization-aware training with float and post-training int8."""
    result = json.loads(QAT.read_text(encoding="utf-8"))
    rows = [
        (name, f"{100 * correct / result['images']:.2f}")
        for name, correct in result["correct"].items()
    ]
    conditions = (
        f"S0 on Imagenette's {result['images']:,} validation images, the best of its "
        f"{result['classes']} classes. Trained {result['steps']} steps of {result['batch_size']} "
        f"images, Adam {result['learning_rate']:g}, {result['seconds']['training']} s on two cores "
        "shared with other work."
    )
    return "\n\n".join([markdown_table(("", "top-1, %"), rows), conditions])


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


def finetune() -> str:
    """Returns the result of a fine-tuning run on Imagenette."""
    result = json.loads(FINETUNE.read_text(encoding="utf-8"))
    recipe, c = result["recipe"], result["conditions"]
    total = result["validation_images"]
    top1 = 100 * result["top1"]["deploy.keras"] / total
    pixels = recipe["phases"][-1]["image_size"]
    return (
        f"S0 from the authors' fused ImageNet weights, on Imagenette's "
        f"{result['training_images']:,} training images in {result['classes']} classes: "
        f"**{top1:.2f} %** of {total:,} validation images after {recipe['epochs']} epochs at "
        f"{pixels} pixels, {result['seconds'] / 60:.0f} min on {c['cores']} cores shared with "
        f"other work. Train-time and deploy model agree on {result['agreement']:,}."
    )


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


def imagenette(document: Path) -> str:
    """Returns how the weights in the package were trained, and their accuracy."""
    r = json.loads((IMAGENETTE / "report.json").read_text(encoding="utf-8"))
    found, runs = r["evaluation"], r["runs"]
    images = found["images"]
    share = {name: f"{100 * right / images:.2f} %" for name, right in found["top1"].items()}
    stages = [
        f"{run['recipe']['epochs']} epochs at "
        f"{', '.join(str(phase['image_size']) for phase in run['recipe']['phases'])} pixels "
        f"(`{run['recipe']['command']}`)"
        for run in runs
    ]
    hours = sum(run["seconds"] for run in runs) / 3600
    megabytes = sum(r["bytes"].values()) / 1e6
    text = (
        f"**{share['deploy']}** of {images:,} validation images at {found['size']} pixels, "
        f"{share['int8']} in int8; train-time and deploy model agree on "
        f"{found['agreement']['train time']:,}. {' and then '.join(stages)}, on "
        f"{runs[0]['training_images']:,} images, {hours:.1f} h on {runs[0]['conditions']['cores']} "
        f"cores shared with other work. Both files together: {megabytes:.1f} MB. Published for S0 "
        "on this dataset: 88.1 % at 224 pixels ([Holocron](https://github.com/frgfm/Holocron))."
    )
    picture = address(IMAGENETTE / "curve.png", document)
    return f"{text}\n\n![Accuracy over the epochs]({picture})"


def dense_run(name: str, document: Path) -> str:
    """Returns what a training of a segmentation model or detector reached."""
    return dense_training.markdown(name, address(dense_training.RESULTS / name, document))


def branches() -> str:
    """Returns a comparison of one branch with four, over the seeds."""
    r = json.loads(BRANCHES.read_text(encoding="utf-8"))
    top1 = {(row["branches"], row["seed"]): 100 * row["top1"] for row in r["rows"]}
    counts, seeds = (sorted(set(keys)) for keys in zip(*top1, strict=True))
    rows = []
    for count in counts:
        values = [top1[count, seed] for seed in seeds]
        loss = statistics.mean(
            row["training_loss"] for row in r["rows"] if row["branches"] == count
        )
        spread = f"{min(values):.1f} … {max(values):.1f}"
        mean = f"{statistics.mean(values):.1f}"
        rows.append((f"k = {count}", str(len(seeds)), mean, spread, f"{loss:.3f}"))
    gains = [top1[counts[-1], seed] - top1[counts[0], seed] for seed in seeds]
    text = (
        f"S0 trained from scratch on Imagenette, {r['epochs']} epochs at {r['size']} pixels, from "
        f"the same seeds under one recipe; top-1 of {r['validation_images']:,} validation images. "
        f"Four branches against one: {statistics.mean(gains):+.1f} points; seed by seed "
        f"{', '.join(f'{gain:+.1f}' for gain in gains)}."
    )
    header = ("branches", "runs", "top-1, mean", "from … to", "training loss")
    return "\n\n".join([markdown_table(header, rows), text])


def pipeline() -> str:
    """Returns a comparison of the training transform with decoding alone and other pipelines."""
    result = json.loads(PIPELINE.read_text(encoding="utf-8"))
    rows = [
        (row["pipeline"], f"{row['images_per_second']:.0f}", f"{row['ratio']:.2f}")
        for row in result["rows"]
    ]
    c = result["conditions"]
    conditions = (
        f"At {c['size']} pixels, batches of {c['batch']}, {c['images']} photographs of ImageNet in "
        f"the file cache, median of {c['rounds']} interleaved rounds; ratio to decoding the whole "
        f"files alone. {c['processor']}, {c['cores']} cores, load "
        f"{c['load_average'][0]:.1f}; TensorFlow {c['tensorflow']}. {'; '.join(c['not_measured'])}"
    ).rstrip()
    return "\n\n".join([markdown_table(("", "images/s", "ratio"), rows), conditions])


def train_step() -> str:
    """Returns a comparison of branch by branch, one pass and plain network."""
    results = json.loads(TRAIN_STEP.read_text(encoding="utf-8"))["rows"]
    rows = [
        (
            row["variant"].upper(),
            row["method"],
            str(row["conditions"]["batch"]),
            f"{row['images_per_second']:.1f}",
            f"{row['ratio']:.2f}",
            f"{row['gibibytes']:.1f}",
        )
        for row in results
    ]
    c = results[0]["conditions"]
    onednn = {"0": "off", "1": "on"}.get(c["onednn"], c["onednn"])
    conditions = (
        f"{c['size']} pixels, {c['dtype']}; processes interleaved, {c['rounds']} rounds of "
        f"{c['steps']} steps; ratio to branch by branch of the same round. The plain network is "
        "the deploy topology with one batch normalization of Keras' for each convolution. GiB: of "
        f"the whole process, {results[0]['gibibytes_before']:.1f} before the first step. "
        f"{c['processor']}, {c['cores']} cores, oneDNN {onednn}; "
        f"TensorFlow {c['tensorflow']}, Keras {c['keras']}{against_pytorch(results)}."
    )
    header = ("", "", "batch", "images/s", "ratio", "GiB")
    return "\n\n".join([markdown_table(header, rows), conditions])


def against_pytorch(results: list[dict]) -> str:
    """Returns a comparison of one pass with the authors' code, paired within rounds."""
    rows = {(row["variant"], row["method"]): row for row in results}
    versions, ratios = set(), []
    for (variant, method), row in rows.items():
        if method == "authors' PyTorch":
            ours = rows[variant, "one pass"]["seconds_per_step"]
            pairs = zip(row["seconds_per_step"], ours, strict=True)
            ratio = statistics.median(theirs / own for theirs, own in pairs)
            ratios.append(f"{ratio:.2f} times with {variant.upper()}")
            versions.add(row["conditions"]["torch"])
    if not ratios:
        return ""
    return (
        f", PyTorch {', '.join(sorted(versions))}. One pass runs {', '.join(ratios)} as many "
        "images per second as the authors' code"
    )


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
        "normalization": normalization,
        "arm64": arm64,
        "finetune": finetune,
        "imagenette": partial(imagenette, RESULTS_PAGE),
        "branches": branches,
        "pipeline": pipeline,
        "train_step": train_step,
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
    INT8_PAGE: {"quantization": quantization, "dense": dense_pages.quantized, "qat": qat},
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
