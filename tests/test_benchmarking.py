"""Tests the benchmark on this machine, with LiteRT on small files, and its stored results."""

import json
import statistics

import pytest
from click.testing import CliRunner

import keras_mobileone
from keras_mobileone import benchmarking
from keras_mobileone.benchmarking import (
    Latency,
    Round,
    baselines,
    benchmark,
    load_benchmark,
    protocol,
    ratio,
)
from keras_mobileone.benchmarking.results import latency_of, round_of
from keras_mobileone.cli import main
from keras_mobileone.litert import flatbuffer


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


class Told:
    """A target that returns given rounds, or raises given errors."""

    def __init__(self, *rounds):
        self._rounds = iter(rounds)
        self.calls = []

    def __enter__(self):
        self.calls.append("enter")
        return self

    def __exit__(self, *exception):
        self.calls.append("exit")

    def add(self, path):
        self.calls.append(("add", path))

    def measure(self, path, settings):
        self.calls.append(("measure", path))
        value = next(self._rounds)
        if isinstance(value, Exception):
            raise value
        return Round(median=value, p95=2 * value, minimum=value / 2, initialization=10 * value)

    def finish(self, path, settings):
        self.calls.append(("finish", path))

    def conditions(self):
        return {"target": "made up"}


def changed(source, path, change):
    """Returns a copy of a TFLite file after `change` has changed its `ModelT`."""
    model = flatbuffer.parse(source.read_bytes())
    change(model)
    path.write_bytes(flatbuffer.serialize(model))
    return path


def open_batch(model):
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].shapeSignature = [-1, 64, 64, 3]


def foreign_operator(model):
    code = model.operatorCodes[model.subgraphs[0].operators[1].opcodeIndex]
    code.builtinCode, code.deprecatedBuiltinCode = 32, 32  # CUSTOM
    code.customCode = b"NobodysOp"


def run(*arguments):
    return CliRunner().invoke(main, ["benchmark", *map(str, arguments)])


@pytest.mark.slow
def test_rounds_are_interleaved_and_conditions_recorded(files, monkeypatch):
    order, real = [], benchmarking.ThisMachine.measure

    def recorded(self, path, settings):
        order.append(path)
        return real(self, path, settings)

    monkeypatch.setattr(benchmarking.ThisMachine, "measure", recorded)
    result = benchmark([str(path) for path in files], threads=1, runs=5, rounds=2, warmup_runs=4)
    assert order == [*files, *files]
    for latency, path in zip(result.latencies, files, strict=True):
        assert latency.path == str(path)
        assert latency.bytes == path.stat().st_size
        assert 0 < latency.minimum <= latency.trimmed
        assert latency.minimum <= latency.median <= latency.p90 <= latency.p95
        assert latency.initialization > 0
        assert statistics.median(latency.medians) == latency.median
        assert len(latency.medians) == 2
    assert result.failures == []
    conditions = {"threads": 1, "rounds": 2, "runs": 5, "warmup_runs": 4, "batch": 1}
    assert conditions.items() <= result.conditions.items()
    assert result.conditions["ai-edge-litert"]
    assert result.conditions["processor"]


def test_a_round_is_trimmed_as_the_authors_trim():
    """Cutting 10 of 50 runs at each end does not change the median."""
    runs = [100.0] * 10 + [1.0] * 10 + [float(n) for n in range(10, 40)]
    found = round_of(runs, initialization=3.0)
    assert found.trimmed == statistics.fmean(range(10, 40))
    assert found.median == statistics.median(runs) == statistics.median(range(10, 40))
    assert (found.p90, found.p95, found.minimum, found.initialization) == (100, 100, 1, 3)
    # The percentile lies between two values, as in the tool of ai-edge-litert.
    assert round_of([float(n) for n in range(11)], 0).p90 == 9
    assert round_of([0.0, 10.0], 0).p95 == 9.5
    assert round_of([5.0], 0) == Round(5, 5, 5, 0, 5, 5)


def test_figures_are_medians_over_the_rounds(files):
    latency = benchmark(files[:1], rounds=3, target=Told(1.0, 9.0, 2.0)).latencies[0]
    figures = (latency.median, latency.p95, latency.minimum, latency.initialization)
    assert figures == (2.0, 4.0, 0.5, 20.0)
    assert latency.medians == [1.0, 9.0, 2.0]
    assert latency.p90 is None
    assert latency.trimmed is None


def test_ratios_are_paired(files):
    """The second file takes three times as long in each round, while the machine drifts."""
    told = Told(1.0, 3.0, 10.0, 30.0, 2.0, 6.0, 40.0, 120.0, 7.0, 22.0)
    result = benchmark(files, rounds=5, target=told)
    assert result.ratios == [1.0, 3.0]
    first, second = result.latencies
    assert second.median / first.median != 3.0  # the quotient of the medians is another


def test_ratios_of_results_without_rounds():
    old = [Latency("a", 1, median, 2 * median, 1.0, 1.0) for median in (4.0, 6.0)]
    assert ratio(old[1], old[0]) == 1.5


def test_a_file_that_fails_does_not_stop_the_others(files):
    told = Told(1.0, RuntimeError("planted\nmore"), 2.0, 3.0)
    progress = []
    result = benchmark(
        files, rounds=3, target=told, keep_going=True, progress=lambda *p: progress.append(p)
    )
    assert [latency.path for latency in result.latencies] == [str(files[0])]
    assert result.latencies[0].medians == [1.0, 2.0, 3.0]
    assert [(f.path, f.message) for f in result.failures] == [(str(files[1]), "planted more")]
    assert progress == [(1, 6), (4, 6), (5, 6), (6, 6)]
    assert told.calls[-2:] == [("finish", files[0]), "exit"]


@pytest.mark.parametrize("keep_going", [False, True])
def test_the_target_is_left_after_an_error(files, keep_going):
    error = protocol.TargetError if keep_going else RuntimeError
    told = Told(1.0, error("planted"))
    with pytest.raises(error, match="planted"):
        benchmark(files, target=told, keep_going=keep_going)
    assert told.calls[-1] == "exit"


def test_arguments_below_one_are_refused(files):
    with pytest.raises(ValueError, match="at least 1"):
        benchmark(files, runs=0)
    with pytest.raises(ValueError, match="warmup_runs=-1"):
        benchmark(files, warmup_runs=-1)
    with pytest.raises(ValueError, match="at least one file"):
        benchmark([])
    with pytest.raises(TypeError, match=r"Pass \[path\] instead"):
        benchmark(str(files[0]))


def test_a_result_is_stored_and_read_again(files, tmp_path):
    result = benchmark(files, rounds=2, target=Told(1.0, 2.0, 3.0, 6.0))
    result.save(tmp_path / "result.json")
    assert load_benchmark(tmp_path / "result.json") == result
    content = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert content["format"] == 1
    assert content["ratios"] == [1.0, 2.0]
    assert content == result.to_dict()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"format": 99, "latencies": []}', ["format 1", "format 99", "Measure again"]),
        ('{"latencies": []}', ["no format number"]),
        ('{"format": 1}', ["lacks parts", "latencies"]),
        ('{"format": 1, "latencies": [{}], "conditions": {}}', ["lacks parts", "median"]),
        ("[]", ["not its JSON"]),
        ('{"form', ["not its JSON"]),
    ],
)
def test_another_json_is_refused(tmp_path, content, words):
    path = tmp_path / "result.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"result\.json") as error:
        load_benchmark(path)
    assert all(word in str(error.value) for word in words)


def test_bad_files_are_named_and_the_others_measured(files, tmp_path):
    """One command with every kind prints a sentence for each, the good files, and exit code 2."""
    (tmp_path / "text.tflite").write_text("not a model", encoding="utf-8")
    content = files[0].read_bytes()
    (tmp_path / "cut.tflite").write_bytes(content[: len(content) // 3])
    (tmp_path / "old.json").write_text('{"format": 0}', encoding="utf-8")
    changed(files[0], tmp_path / "open.tflite", open_batch)
    changed(files[0], tmp_path / "foreign.tflite", foreign_operator)
    out = tmp_path / "result.json"
    names = ("text.tflite", "cut.tflite", "old.json", "open.tflite", "foreign.tflite")
    bad = [tmp_path / name for name in (*names, "none.tflite")]
    result = run(*bad[:3], *files, *bad[3:], "--runs", 2, "--rounds", 2, "--json", out)
    assert result.exit_code == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    expected = {
        "text.tflite": ["TFL3", "Export"],
        "cut.tflite": ["cut short", "again"],
        "old.json": ["format 1", "format 0"],
        "open.tflite": ["(-1, 64, 64, 3)", "batch of 1"],
        "foreign.tflite": ["NobodysOp", "builtin operators"],
        "none.tflite": ["does not exist"],
    }
    assert len(lines) == len(expected)
    for name, words in expected.items():
        (line,) = (line for line in lines if name in line)
        assert "Expected" in line
        assert "Received" in line
        assert all(word in line for word in words), line
    stored = load_benchmark(out)
    assert [latency.path for latency in stored.latencies] == [str(path) for path in files]
    assert len(stored.failures) == 5  # all but old.json


def test_a_damaged_file_is_refused_or_named(files, tmp_path):
    """Half of the file is zeros. Whatever fails, the error is one sentence."""
    content = bytearray(files[0].read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(content)
    with pytest.raises((RuntimeError, ValueError), match=r"broken\.tflite"):
        benchmark([broken], runs=1, rounds=1)


def test_a_worker_that_dies_is_an_error(files, monkeypatch, tmp_path):
    worker = tmp_path / "worker.py"
    worker.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", encoding="utf-8")
    monkeypatch.setattr(benchmarking.local, "WORKER", worker)
    with pytest.raises(RuntimeError, match=r"0\.25\.tflite: LiteRT crashed with SIGSEGV"):
        benchmark(files[:1], runs=1, rounds=1)


def test_a_stored_result_is_shown(files, tmp_path):
    benchmark(files, rounds=2, target=Told(1.0, 2.5, 3.0, 7.5)).save(tmp_path / "result.json")
    result = run(tmp_path / "result.json")
    assert result.exit_code == 0, result.stderr
    for figure in ("2.50", "made up", "rounds 2", "–"):
        assert figure in result.output


@pytest.mark.slow
def test_peers_stand_beside_ones_own(files, tmp_path, monkeypatch, tiny):
    def build():
        return keras_mobileone.MobileOne(tiny, weights=None, input_shape=(32, 32, 3), deploy=True)

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    other = {"Other": baselines.Peer("Other", build, 70.0, "nowhere")}
    monkeypatch.setattr(baselines, "PEERS", other)
    out = tmp_path / "result.json"
    result = run(files[0], "--peers", "--runs", 2, "--rounds", 1, "--json", out)
    assert result.exit_code == 0, result.stderr
    names = [latency.path.rsplit("/", 1)[-1] for latency in load_benchmark(out).latencies]
    assert [name.split("-")[0] for name in names] == ["0.25.tflite", "Other"]
    assert "Other float32 " in result.output


def test_a_table_fits_into_80_columns(files, tmp_path):
    long = [tmp_path / f"{'x' * 60}{i}.tflite" for i in range(2)]
    for path in long:
        path.write_bytes(files[0].read_bytes())
    benchmark(long, rounds=1, target=Told(123.45, 234.56)).save(tmp_path / "result.json")
    result = run(tmp_path / "result.json")
    for figure in ("x0.tflite", "x1.tflite", "123.45", "1.90", "469.12", "2345.6"):
        assert figure in result.output


def test_latency_of_one_round():
    found = latency_of("a", 1, [Round(2.0, 3.0, 1.0, 4.0, 2.5, 2.1)])
    assert found == Latency("a", 1, 2.0, 3.0, 1.0, 4.0, 2.5, 2.1, [2.0])
