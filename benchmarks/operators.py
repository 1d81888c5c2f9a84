"""Measures where S0's int8 time goes in LiteRT and OpenVINO, and what forms of its beginning cost.

    python benchmarks/operators.py                    both studies
    python benchmarks/operators.py --only beginnings  one of them

operators   each operator of the int8 file of `runtimes`, in both runtimes
beginnings  the int8 file with different operators in front of the second layer
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import keras
import numpy as np
import study
from drawing import GREEN, RED, bars, figure
from keras import layers
from runtime_files import LITERT, OPENVINO, file_of, prepare_network
from runtime_worker import openvino_request, random_image
from runtimes import conditions
from study import Network, Study, conditions_text, milliseconds, ratio, scatter_text

from keras_mobileone import image_config
from keras_mobileone.benchmarking.baselines import PEERS
from keras_mobileone.deployment.report import markdown_table
from keras_mobileone.litert.flatbuffer import operator_names, parse, serialize
from keras_mobileone.quantization.pixel_input import taking_pixels

S0 = PEERS["MobileOneS0"]
FIRST, DEPTHWISE, POINTWISE = "first convolution", "depthwise 3×3", "pointwise 1×1"
CLASSIFIER, OTHER = "classifier", "input, average, output"
KINDS = (FIRST, DEPTHWISE, POINTWISE, CLASSIFIER, OTHER)
# Kinds by the name of the operator in TFLite and of the node in OpenVINO. The first of the ordinary
# convolutions is the 3×3 convolution of the image, all others are pointwise.
NAMES = {
    "CONV_2D": POINTWISE,
    "DEPTHWISE_CONV_2D": DEPTHWISE,
    "FULLY_CONNECTED": CLASSIFIER,
    "Convolution": POINTWISE,
    "GroupConvolution": DEPTHWISE,
    "FullyConnected": CLASSIFIER,
    "FullyConnectedQuantizedLegacy": CLASSIFIER,
}


def kinds_of(names: list[str]) -> list[str]:
    """Returns the kind of each operator of a file, in order."""
    kinds = [NAMES.get(name, OTHER) for name in names]
    if POINTWISE in kinds:
        kinds[kinds.index(POINTWISE)] = FIRST
    return kinds


def parts(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields the name of each operator of a TFLite file, and a file that has only this operator.

    LiteRT merges padding with the convolution behind it, so they stay together.
    """
    model = parse(content)
    names = [operator_names(model)[o.opcodeIndex] for o in model.subgraphs[0].operators]
    start = 0
    for stop, name in enumerate(names, start=1):
        if name == "PAD":
            continue
        model = parse(content)
        graph = model.subgraphs[0]
        graph.operators = graph.operators[start:stop]
        model.signatureDefs, model.metadata = [], []
        used = {int(t) for o in graph.operators for t in (*o.inputs, *o.outputs) if t >= 0}
        constants = {t for t in used if model.buffers[graph.tensors[t].buffer].data is not None}
        made = {int(t) for o in graph.operators for t in o.outputs}
        graph.inputs = np.array(sorted(used - constants - made), np.int32)
        graph.outputs = np.array(graph.operators[-1].outputs, np.int32)
        kept = {graph.tensors[t].buffer for t in constants}
        for index, buffer in enumerate(model.buffers):
            if index not in kept:
                buffer.data = None
        yield name, serialize(model)
        start = stop


def litert_profile(
    path: Path, warmup_runs: int, runs: int
) -> Callable[[], list[tuple[str, float]]]:
    """Returns a function that times each operator of a file, each alone, in microseconds."""
    from ai_edge_litert.interpreter import Interpreter

    found = []
    for name, content in parts(path.read_bytes()):
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
        for source in interpreter.get_input_details():
            image = random_image(tuple(source["shape"])) * (1 if name == "QUANTIZE" else 127)
            interpreter.set_tensor(source["index"], image.astype(source["dtype"]))
        found.append((name, interpreter))

    def profile() -> list[tuple[str, float]]:
        rows = []
        for name, interpreter in found:
            for _ in range(warmup_runs):
                interpreter.invoke()
            start = time.perf_counter()
            for _ in range(runs):
                interpreter.invoke()
            rows.append((name, (time.perf_counter() - start) / runs * 1e6))
        return rows

    return profile


def openvino_profile(
    path: Path, warmup_runs: int, runs: int
) -> Callable[[], list[tuple[str, float]]]:
    """Returns a function that times each node of a file by OpenVINO's profile, in microseconds."""
    request = openvino_request(path, threads=1, PERF_COUNT=True)

    def profile() -> list[tuple[str, float]]:
        for _ in range(warmup_runs):
            request.infer()
        totals: dict[str, tuple[str, float]] = {}
        for _ in range(runs):
            request.infer()
            for node in request.profiling_info:
                spent = node.real_time.total_seconds() / runs * 1e6
                if node.status.name == "EXECUTED":
                    before = totals.get(node.node_name, ("", 0.0))[1]
                    totals[node.node_name] = node.node_type, before + spent
        return list(totals.values())

    return profile


PROFILES = {LITERT: litert_profile, OPENVINO: openvino_profile}


def prepare_operators(files: Path) -> None:
    """Exports the files of S0 for every runtime."""
    prepare_network(S0, files)


def measure_operators(files: Path, rounds: int, runs: int) -> dict:
    """Times the operators in both runtimes in turn."""
    busy = study.busy_cores()
    profiles = {
        runtime: make(file_of(S0, runtime, "int8", files), study.WARMUP_RUNS, runs)
        for runtime, make in PROFILES.items()
    }
    found: dict[str, list[list[tuple[str, float]]]] = {runtime: [] for runtime in profiles}
    for _ in range(rounds):
        for runtime, profile in profiles.items():
            found[runtime].append(profile())
    rows = []
    for runtime, timed in found.items():
        kinds = kinds_of([name for name, _ in timed[0]])
        for kind in KINDS:
            sums = [
                sum(t for own, (_, t) in zip(kinds, one, strict=True) if own == kind)
                for one in timed
            ]
            row = {"runtime": runtime, "kind": kind, "operators": kinds.count(kind)}
            rows.append(row | {"microseconds": [round(value, 1) for value in sums]})
    return {"conditions": conditions(busy, rounds, runs), "rows": rows}


def microseconds(result: dict, runtime: str) -> dict[str, float]:
    """Returns the median over the rounds of the time of each kind of operator."""
    rows = (row for row in result["rows"] if row["runtime"] == runtime)
    return {row["kind"]: median(row["microseconds"]) for row in rows}


def operators_markdown(result: dict, picture: str) -> str:
    """Returns the study of the operators as Markdown."""
    times = {runtime: microseconds(result, runtime) for runtime in PROFILES}
    totals = {runtime: sum(found.values()) for runtime, found in times.items()}
    lost = {kind: times[LITERT][kind] - times[OPENVINO][kind] for kind in KINDS}
    rows = [
        (kind, *(f"{times[runtime][kind]:.0f}" for runtime in PROFILES), f"{lost[kind]:+.0f}")
        for kind in KINDS
    ]
    total = sum(lost.values())
    rows.append(("sum", *(f"{totals[runtime]:.0f}" for runtime in PROFILES), f"{total:+.0f}"))
    most = sorted(KINDS, key=lambda kind: -lost[kind])[:2]
    c = result["conditions"]
    text = (
        f"Of what S0's int8 file takes longer in LiteRT than in OpenVINO, the "
        f"{' and the '.join(f'{kind} ({100 * lost[kind] / total:.0f} %)' for kind in most)} take "
        "the largest parts."
    )
    note = (
        "Microseconds. LiteRT's Python package has no profile of operators, so each runs alone, "
        "with padding before it, from warm caches; OpenVINO's are those of its profile. "
        f"{conditions_text(c)} OpenVINO {c['openvino']}, NNCF {c['nncf']}."
    )
    table = markdown_table(("int8, 1 thread", *PROFILES, "difference"), rows)
    return "\n\n".join([text, table, note, f"![Time by kind of operator]({picture})"])


def draw_operators(result: dict) -> Any:
    """Draws the time of each kind of operator in both runtimes."""
    page, axis = figure(8, 3)
    found = {runtime: microseconds(result, runtime) for runtime in PROFILES}
    names = [f"{kind}, {runtime}" for kind in KINDS for runtime in PROFILES]
    times = [found[runtime][kind] for kind in KINDS for runtime in PROFILES]
    bars(axis, names, times, "S0 int8, 1 thread, microseconds", [RED, GREEN] * len(KINDS))
    page.suptitle(result["conditions"]["processor"], fontsize=10)
    return page


NORMALIZED, POINTWISE_FRONT, BLOCKS = "normalized images", "pixels, 1×1", "pixels, 2×2 blocks"


def _pointwise_front() -> keras.Model:
    """Returns S0 behind a 1×1 convolution of the pixels to four channels."""
    network = S0.build()
    pixels = keras.Input(network.input_shape[1:])
    outputs = layers.Conv2D(4, 1)(pixels)
    for layer in network.layers[1:]:
        outputs = type(layer).from_config(layer.get_config())(outputs)
    return keras.Model(pixels, outputs)


def _blocks() -> keras.Model:
    """Returns S0 as `quantize` prepares it for a file that takes pixels."""
    network = S0.build()
    on_pixels = taking_pixels(network, image_config(network))
    if on_pixels is None:
        raise TypeError(f"Expected a network that can take pixels. Received: {network.name!r}.")
    return on_pixels


BEGINNINGS = {
    NORMALIZED: S0,
    POINTWISE_FRONT: Network("MobileOneS0-pixels-pointwise", _pointwise_front),
    BLOCKS: Network("MobileOneS0-pixels-blocks", _blocks),
}


def prepare_beginnings(files: Path) -> None:
    """Exports S0 with every beginning."""
    for network in BEGINNINGS.values():
        study.export(network, files, ("int8",))


def measure_beginnings(files: Path, rounds: int, runs: int) -> dict:
    """Times S0 with every beginning."""
    jobs = [(network, "int8") for network in BEGINNINGS.values()]
    rows, conditions = study.time_files(jobs, files, rounds=rounds, runs=runs)
    return {"conditions": conditions, "rows": rows}


def beginnings_markdown(result: dict, picture: str) -> str:
    """Returns the study of the beginnings as Markdown."""
    found = dict(zip(BEGINNINGS, result["rows"], strict=True))
    reference = found[NORMALIZED]
    text = (
        "A file that takes pixels has one more convolution. On blocks of 2×2 pixels it costs "
        f"{100 * (ratio(found[BLOCKS], reference) - 1):.0f} % of the time of S0 in int8, on single "
        f"pixels {100 * (ratio(found[POINTWISE_FRONT], reference) - 1):.0f} %."
    )
    rows = [
        (
            name,
            f"{row['macs'] / 1e6:.0f} M",
            f"{milliseconds(row):.2f} ({ratio(row, reference):.2f})",
        )
        for name, row in found.items()
    ]
    table = markdown_table(("S0, int8, 1 thread", "MACs", "ms"), rows)
    note = scatter_text([(row, reference) for row in found.values()])
    note += conditions_text(result["conditions"])
    return "\n\n".join(
        [text, table, note, f"![Latency by the form of the first layers]({picture})"]
    )


def draw_beginnings(result: dict) -> Any:
    """Draws the latency of S0 with each beginning."""
    page, axis = figure(7, 1.6)
    times = [milliseconds(row) for row in result["rows"]]
    bars(axis, list(BEGINNINGS), times, "S0 int8, 1 thread, median ms", [GREEN, RED, GREEN])
    page.suptitle(result["conditions"]["processor"], fontsize=10)
    return page


STUDIES = (
    Study("operators", prepare_operators, measure_operators, draw_operators),
    Study("beginnings", prepare_beginnings, measure_beginnings, draw_beginnings),
)
MARKDOWN = {"operators": operators_markdown, "beginnings": beginnings_markdown}

if __name__ == "__main__":
    study.run(__doc__.splitlines()[0], STUDIES)
