"""The benchmark: LiteRT's real tool on small files, in rounds, with its conditions."""

import json

import pytest

import keras_mobileone
from keras_mobileone import benchmarking


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("files")
    paths = []
    for width in (0.25, 0.5):
        variant = keras_mobileone.Variant("tiny", (width,) * 4, depths=(1, 1, 1, 1))
        model = keras_mobileone.MobileOne(
            variant, weights=None, input_shape=(64, 64, 3), deploy=True
        )
        paths.append(directory / f"{width}.tflite")
        keras_mobileone.export_tflite(model, paths[-1])
    return paths


def test_benchmark_interleaves_and_records_conditions(files, tmp_path, monkeypatch):
    order, real = [], benchmarking._run_tool

    def recorded(path, threads, runs):
        order.append(path)
        return real(path, threads, runs)

    monkeypatch.setattr(benchmarking, "_run_tool", recorded)
    result = benchmarking.benchmark(files, threads=1, runs=5, rounds=2)
    assert order == [*files, *files]
    for latency, path in zip(result.latencies, files, strict=True):
        assert latency.bytes == path.stat().st_size
        assert 0 < latency.minimum <= latency.median <= latency.p95
        assert latency.initialization > 0
    assert result.conditions["threads"] == 1
    assert result.conditions["rounds"] == 2
    assert result.conditions["ai-edge-litert"]
    result.save(tmp_path / "result.json")
    assert json.loads((tmp_path / "result.json").read_text())["latencies"][0]["bytes"]


def test_figures_are_medians_over_the_rounds(files, monkeypatch):
    rounds = iter([1.0, 9.0, 2.0])

    def tool(path, threads, runs):
        time = next(rounds)
        return {"median_ms": time, "p95_ms": 2 * time, "min_ms": time / 2, "init_ms": 10 * time}

    monkeypatch.setattr(benchmarking, "_run_tool", tool)
    latency = benchmarking.benchmark(files[:1], rounds=3).latencies[0]
    figures = (latency.median, latency.p95, latency.minimum, latency.initialization)
    assert figures == (2.0, 4.0, 0.5, 20.0)


def test_a_file_the_runtime_refuses_is_named(files, tmp_path):
    content = bytearray(files[0].read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(content)
    with pytest.raises((RuntimeError, ValueError), match=r"broken\.tflite"):
        benchmarking.benchmark([broken], runs=1, rounds=1)


def test_arguments_below_one_are_refused(files):
    with pytest.raises(ValueError, match="at least 1"):
        benchmarking.benchmark(files, runs=0)
    with pytest.raises(ValueError, match="at least one file"):
        benchmarking.benchmark([])
