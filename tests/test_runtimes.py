"""Tests the study of runtimes, and what holds on which machine, without timing."""

import json
from importlib.util import find_spec

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers

import keras_mobileone
from keras_mobileone.benchmarking import Latency
from keras_mobileone.benchmarking.baselines import Peer, noise
from keras_mobileone.benchmarking.settings import Settings
from keras_mobileone.litert.converter import convert
from keras_mobileone.litert.runner import LiteRTRunner

CONDITIONS = {
    "processor": "Some CPU",
    "cores": 2,
    "rounds": 3,
    "runs": 4,
    "warmup_runs": 3,
    "busy_cores_before": 0.0,
    **dict.fromkeys(("ai-edge-litert", "tensorflow", "keras"), "1"),
    **dict.fromkeys(("onnxruntime", "openvino", "nncf"), "2"),
}


def row(name, median, **more):
    """Returns a stored row with three rounds."""
    latency = Latency(name, 1_000_000, *[median] * 4, medians=[median, 2 * median, median / 2])
    return {"name": name, "precision": "float32", "threads": 1, "latency": vars(latency), **more}


@pytest.fixture
def result(load_script):
    """Returns a result in which ONNX Runtime takes 1.1 and OpenVINO 0.9 of LiteRT's time."""
    runtimes = load_script("runtimes")
    factors = dict(zip(runtimes.RUNTIMES, (1, 1.1, 0.9), strict=True))
    rows = [
        row(name, 10 / threads * factor, precision=precision, threads=threads, runtime=runtime)
        for threads in runtimes.THREADS
        for name in runtimes.NETWORKS
        for precision in runtimes.PRECISIONS
        for runtime, factor in factors.items()
    ]
    return {"rows": rows, "conditions": CONDITIONS}


def test_the_table_divides_by_litert(load_script, result):
    runtimes = load_script("runtimes")
    lines = runtimes.table(result).splitlines()
    assert len(lines) == 2 + 8
    assert "| MobileOneS1 | int8 | 2 | 5.00 (1.00) | 5.50 (1.10) | 4.50 (0.90) |" in lines
    text = runtimes.markdown(result, "picture.png")
    assert "in int8 ONNX Runtime takes 1.10 times and OpenVINO takes 0.90 times" in text
    assert "ONNX Runtime 2, OpenVINO 2 in float32 arithmetic, NNCF 2." in text
    assert runtimes.draw(result)


def test_rounds_are_interleaved_and_the_rows_in_order(load_script, monkeypatch, tmp_path):
    runtimes = load_script("runtimes")
    called = []

    def time_file(runtime, path, settings):
        called.append((path.name, settings.threads))
        return runtimes.round_of([1.0, 2.0, 3.0], 5.0)

    def file_of(network, runtime, precision, files):
        path = files / f"{network.name} {precision} {runtime}.xml"
        path.write_bytes(b"12")
        path.with_suffix(".bin").write_bytes(b"345")
        return path

    monkeypatch.setattr(runtimes, "time_file", time_file)
    monkeypatch.setattr(runtimes, "file_of", file_of)
    monkeypatch.setattr(runtimes, "version", lambda name: "7")
    monkeypatch.setattr(runtimes.study, "busy_cores", lambda: 0.0)
    found = runtimes.measure(tmp_path, rounds=2, runs=3)
    assert len(found["rows"]) == 24 and len(called) == 48
    assert called[:12] == called[12:24] and len(set(called[:12])) == 12
    assert [one["latency"]["bytes"] for one in found["rows"]] == [5] * 24
    assert [len(one["latency"]["medians"]) for one in found["rows"]] == [2] * 24
    assert found["conditions"]["openvino"] == "7"
    assert str(tmp_path) not in json.dumps(found)
    assert "(1.00)" in runtimes.table(found)


@pytest.mark.slow
def test_files_of_every_runtime_are_made_once_and_timed(
    load_script, tiny, tmp_path, relative_error, monkeypatch
):
    if not all(map(find_spec, ("tf2onnx", "onnxruntime", "openvino", "nncf"))):
        pytest.skip("the extra `runtimes` is not installed")
    files, runtimes = load_script("runtime_files"), load_script("runtimes")

    def build():
        return keras_mobileone.MobileOne(
            tiny,
            weights=None,
            input_shape=(32, 32, 3),
            classes=10,
            classifier_activation=None,
            deploy=True,
        )

    network = Peer("Tiny", build, 70.0, "nowhere", 32)
    files.prepare_network(network, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 2 + 2 + 4  # OpenVINO's weights are a file of their own
    monkeypatch.setattr(files, "settle", None)  # nothing is made a second time
    files.prepare_network(network, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    image = noise(build())[:1]
    outputs = {}
    for precision in ("float32", "int8"):
        for runtime in runtimes.RUNTIMES:
            path = files.file_of(network, runtime, precision, tmp_path)
            outputs[runtime, precision] = outputs_of(runtime, path, image)
            expected = outputs[files.LITERT, "float32"]
            limit = 1e-4 if precision == "float32" else 0.5  # the weights are random
            assert relative_error(outputs[runtime, precision], expected) < limit, path.name
            timed = runtimes.time_file(runtime, path, Settings(threads=1, runs=2, warmup_runs=0))
            assert timed.median > 0 and timed.initialization > 0
    for runtime in runtimes.RUNTIMES:  # int8 is not the float file under another name
        assert not np.array_equal(outputs[runtime, "int8"], outputs[runtime, "float32"])


def outputs_of(runtime, path, image):
    """Returns the logits of one file in its runtime."""
    if runtime == "LiteRT":
        (outputs,) = LiteRTRunner(path.read_bytes())(image).values()
        return outputs
    if runtime == "ONNX Runtime":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return session.run(None, {session.get_inputs()[0].name: image})[0]
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(path, "CPU", settings)(image)[0]


def store(results, machine, name, result):
    directory = results / machine
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps(result), encoding="utf-8")


def test_conclusions_say_where_they_hold(load_script, result, tmp_path):
    conclusions = load_script("conclusions")
    assert "Not measured yet" in conclusions.markdown(tmp_path)
    store(tmp_path, "one", "runtimes", result)
    assert "No conclusion has been measured on two machines yet." in conclusions.markdown(tmp_path)
    other = json.loads(json.dumps(result))
    other["conditions"]["processor"] = "Another CPU"
    for one in other["rows"]:
        if one["runtime"] == "ONNX Runtime":
            one["latency"]["medians"] = [value / 2 for value in one["latency"]["medians"]]
    store(tmp_path, "two", "runtimes", other)
    text = conclusions.markdown(tmp_path)
    assert text.startswith(
        "Of the 4 conclusions that were measured on more than one machine, 2 differ between them."
    )
    start = "| ONNX Runtime is faster than LiteRT for S0 in int8 (its time divided by LiteRT's) | "
    assert f"{start}no, 1.10 | yes, 0.55 | **differs** |" in text
    assert "for S0 in int8 (its time divided by LiteRT's) | yes, 0.90 | yes, 0.90 | holds |" in text
    assert "ReLU" not in text  # measured nowhere


def test_every_conclusion_finds_its_number_in_the_stored_results(load_script):
    """All rows that the conclusions name are rows of the studies, as far as they are stored."""
    conclusions, peers = load_script("conclusions"), load_script("peers")
    newer = {network.name for network in peers.BUILT_HERE}
    for results in conclusions.machines().values():
        for one in conclusions.CONCLUSIONS:
            if one.study in results and not any(name in one.text for name in newer):
                assert conclusions.answer(one, results)[0] is not None, one.text


def test_a_result_before_the_newer_networks_has_no_say_on_them(load_script):
    conclusions, peers = load_script("conclusions"), load_script("peers")
    rows = [
        row(network, 1.0, precision=precision, threads=threads, top1=70.0, source="here")
        for network in ("MobileOneS0", "MobileOneS1")
        for precision, threads in peers.COLUMNS
    ]
    results = {"peers": {"rows": rows, "conditions": CONDITIONS}}
    (one,) = (
        one
        for one in conclusions.CONCLUSIONS
        if one.text == "MobileNetV4ConvS, more accurate than S0, is slower in int8"
    )
    assert conclusions.answer(one, results) == (None, "not measured")


def test_the_operators_of_a_file_run_alone(load_script):
    """One after the other, the files of single operators compute what the whole file computes."""
    operators = load_script("operators")
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, strides=2)(layers.ZeroPadding2D(1)(inputs))
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu")(layers.Conv2D(8, 1)(x))
    model = keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))
    images = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)
    content = convert(model, "int8", images)
    names, value = [], images[:1]
    for name, part in operators.parts(content):
        interpreter = Interpreter(model_content=part)
        interpreter.allocate_tensors()
        (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.set_tensor(source["index"], value)
        interpreter.invoke()
        value = interpreter.get_tensor(target["index"])
        names.append(name)
    assert operators.kinds_of(names) == [
        operators.OTHER,
        operators.FIRST,
        operators.POINTWISE,
        operators.DEPTHWISE,
        operators.OTHER,
        operators.CLASSIFIER,
        operators.OTHER,
    ]
    (whole,) = LiteRTRunner(content)(images[:1]).values()
    np.testing.assert_array_equal(value, whole)


def test_the_table_of_operators_has_the_differences(load_script):
    operators = load_script("operators")
    rows = [
        {"runtime": runtime, "kind": kind, "operators": 1, "microseconds": [time, 3 * time, 0]}
        for runtime, times in {"LiteRT": (50, 80, 30, 2, 8), "OpenVINO": (20, 40, 30, 9, 1)}.items()
        for kind, time in zip(operators.KINDS, times, strict=True)
    ]
    result = {"rows": rows, "conditions": CONDITIONS}
    text = operators.operators_markdown(result, "picture.png")
    assert "the depthwise 3×3 (57 %) and the first convolution (43 %) take the largest" in text
    assert "| sum | 170 | 100 | +70 |" in text
    assert operators.draw_operators(result)


def test_the_beginnings_differ_in_their_first_layers_only(load_script):
    operators = load_script("operators")
    beginnings = operators.BEGINNINGS
    normalized, single, blocks = (network.build() for network in beginnings.values())
    assert [len(m.layers) - len(normalized.layers) for m in (single, blocks)] == [1, 1]
    assert blocks.get_layer("stem_conv").strides == (1, 1)
    rows = [
        row(network.name, time, macs=250_000_000)
        for network, time in zip(beginnings.values(), (2.0, 3.0, 2.2), strict=True)
    ]
    text = operators.beginnings_markdown({"rows": rows, "conditions": CONDITIONS}, "picture.png")
    assert "it costs 10 % of the time of S0 in int8, on single pixels 50 %." in text
    assert "| pixels, 1×1 | 250 M | 3.00 (1.50) |" in text
    assert operators.draw_beginnings({"rows": rows, "conditions": CONDITIONS})
