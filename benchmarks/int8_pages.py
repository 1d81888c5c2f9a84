"""Generated sections on quantization, for `results_pages.py`."""

import json
from pathlib import Path

from keras_mobileone.benchmarking import load_benchmark
from keras_mobileone.deployment.report import markdown_table

RESULTS = Path(__file__).parent / "results"
QUANTIZATION = RESULTS / "quantization.json"
QAT = RESULTS / "qat.json"
NORMALIZATION = RESULTS / "normalization"


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
