"""Tests the studies of latency without timing: networks, statistics, sentences, figures, files."""

import itertools
import json
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest
from matplotlib.text import Text

import keras_mobileone
from keras_mobileone import model_complexity
from keras_mobileone.benchmarking import Benchmark, Latency
from keras_mobileone.benchmarking.baselines import noise, settle
from keras_mobileone.benchmarking.results import latency_of, round_of
from keras_mobileone.litert.converter import convert
from keras_mobileone.litert.runner import LiteRTRunner
from keras_mobileone.models.variant_complexity import variant_complexity
from keras_mobileone.variants import ALL_VARIANTS


def magnitudes(model) -> list[float]:
    """Returns the largest magnitude of each layer's output on noise."""
    outputs = [layer.output for layer in model.layers]
    values = keras.Model(model.input, outputs)(noise(model)[:1])
    return [float(np.abs(np.asarray(value)).max()) for value in values]


def assert_runs_the_same(model, relative_error):
    """Asserts equal outputs in LiteRT with random weights, and activations in range."""
    settle(model)
    found = magnitudes(model)
    assert min(found) > 1e-4  # the mean of an image in squeeze-and-excitation is the smallest
    assert max(found) < 1e3
    images = noise(model)[:1]
    (outputs,) = LiteRTRunner(convert(model, "float32"))(images).values()
    assert relative_error(outputs, model(images)) < 1e-2  # gates in a row enlarge rounding


@pytest.mark.slow
@pytest.mark.parametrize("name", ["151M", "294M"])
def test_mobile_former_is_the_published_one(load_script, name):
    mobile_former = load_script("mobile_former")
    published = mobile_former.VARIANTS[name]
    found = model_complexity(mobile_former.build(name), strict=True)
    assert found.trainable == pytest.approx(published.parameters * 1e6, rel=0.005)
    assert 0.965 < found.macs / (published.macs * 1e6) < 1


@pytest.mark.slow
def test_mobile_former_runs_in_litert(load_script, relative_error, monkeypatch):
    mobile_former = load_script("mobile_former")
    blocks = mobile_former.VARIANTS["151M"].blocks[:3]
    small = replace(mobile_former.VARIANTS["151M"], blocks=blocks, token_size=32, head=64)
    monkeypatch.setitem(mobile_former.VARIANTS, "small", small)
    model = mobile_former.build("small", (64, 64, 3))
    assert model.output_shape == (None, 1000)
    assert_runs_the_same(model, relative_error)


def test_attention_of_mobile_former(load_script, noise, relative_error):
    """The attention equals that of Keras, head by head."""
    attend = load_script("mobile_former")._attend
    query, key, value = noise(2, 3, 4, 5), noise(2, 3, 7, 5, seed=1), noise(2, 3, 7, 5, seed=2)
    swapped = [np.swapaxes(tensor, 1, 2) for tensor in (query, key, value)]
    expected = np.swapaxes(np.asarray(keras.ops.dot_product_attention(*swapped)), 1, 2)
    assert relative_error(attend(query, key, value), expected) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["ReLU", "GELU", "SE-ReLU", "Dynamic ReLU-A"])
def test_thirty_convolutions_with_an_activation(load_script, activation, relative_error):
    thirty_layers = load_script("thirty_layers")
    assert thirty_layers.CONVOLUTIONS == 30
    model = thirty_layers.build(activation, input_shape=(64, 64, 3))
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(norms) == 30
    assert_runs_the_same(model, relative_error)


def test_dynamic_relu_at_rest_is_relu(load_script, noise):
    dynamic_relu = load_script("thirty_layers").dynamic_relu
    images = noise(2, 4, 4, 8)
    for by_channel, channels in ((False, 1), (True, 8)):
        inputs = keras.Input((4, 4, 8))
        model = keras.Model(inputs, dynamic_relu(inputs, by_channel))
        last = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)][-1]
        assert last.units == 4 * channels
        last.kernel.assign(np.zeros(last.kernel.shape))
        np.testing.assert_allclose(model(images), np.maximum(images, 0), atol=1e-6)
        # Both slopes have their largest values, and both offsets their smallest.
        last.bias.assign(np.repeat([100.0, -100.0], 2 * channels))
        steep = np.maximum(images * 2 - 0.5, images - 0.5)
        np.testing.assert_allclose(model(images), steep, atol=1e-5)


@pytest.mark.slow
def test_blocks_differ_in_what_their_names_say(load_script, relative_error, monkeypatch):
    thirty_layers = load_script("thirty_layers")
    monkeypatch.setattr(thirty_layers, "STAGES", ((32, 1, 1), (64, 3, 2)))  # fewer, for speed
    monkeypatch.setattr(thirty_layers, "LAST", 64)
    found = {}
    for name, build in thirty_layers.BLOCKS.items():
        found[name] = build(input_shape=(64, 64, 3))
    macs = {name: model_complexity(model, strict=True).macs for name, model in found.items()}
    adds = {
        name: sum(isinstance(layer, keras.layers.Add) for layer in model.layers)
        for name, model in found.items()
    }
    assert not adds["plain"]
    plain = macs["plain"]
    assert adds["skip connections"] == 3  # all but where the shape changes
    assert macs["skip connections"] == macs["4 convolution branches, fused"] == plain
    assert plain < macs["squeeze-and-excitation"] < 1.1 * plain
    assert macs["4 convolution branches, unfused"] > 2 * plain  # the stem has one branch
    assert_runs_the_same(found["4 convolution branches, unfused"], relative_error)


def test_spearman_with_ties(load_script):
    analysis = load_script("analysis")
    assert analysis.ranks([30, 10, 20, 10]).tolist() == [4, 1.5, 3, 1.5]
    assert analysis.spearman([1, 2, 3, 4], [1, 10, 100, 1000]) == pytest.approx(1)
    assert analysis.spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    # By hand: 1 − 6 · Σd² / (n (n² − 1)) with d = 1, 1, 1, 1, 0.
    assert analysis.spearman([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]) == pytest.approx(1 - 24 / 120)
    stats = pytest.importorskip("scipy.stats")
    first, second = [1, 2, 2, 4, 5, 5], [3, 1, 2, 6, 4, 6]
    assert analysis.spearman(first, second) == pytest.approx(stats.spearmanr(first, second)[0])


def test_p_value_is_the_share_of_orders(load_script):
    analysis = load_script("analysis")
    first, second = [1, 2, 3, 4, 5], [2, 1, 4, 3, 5]
    rho = analysis.spearman(first, second)
    orders = [abs(analysis.spearman(first, x)) for x in itertools.permutations(second)]
    exact = np.mean(np.array(orders) >= abs(rho) - 1e-9)
    assert analysis.p_value(first, second, 20_000) == pytest.approx(exact, abs=0.01)


def row(name, median, **more):
    """Returns a stored row."""
    rounds = [median, 1.1 * median, 0.9 * median]
    latency = Latency(f"{name}.tflite", 5_000_000, median, median, median, 1.0, medians=rounds)
    return {
        "name": name,
        "precision": "float32",
        "threads": 1,
        "macs": 300_000_000,
        "parameters": 3_000_000,
        "latency": vars(latency),
        **more,
    }


CONDITIONS = {
    "processor": "Some CPU avx2",
    "cores": 2,
    "rounds": 3,
    "runs": 4,
    "warmup_runs": 10,
    "ai-edge-litert": "1",
    "tensorflow": "2",
    "keras": "3",
    "busy_cores_before": 0.05,
}


def test_sentences_on_activations_follow_the_numbers(load_script):
    analysis = load_script("analysis")
    times = {"ReLU": 10, "Leaky ReLU": 10.2, "GELU": 12, "SiLU": 13}
    times |= {"Dynamic ReLU-A": 16, "Dynamic ReLU-B": 42}
    rows = [row(name, time) for name, time in times.items()]
    assert analysis.activations_sentences({"rows": rows}) == (
        "Leaky ReLU costs at most 10 % more than ReLU in the whole network, GELU and SiLU up to "
        "50 % more. Dynamic ReLU-B is the most expensive, 4.2 times the whole network with ReLU; "
        "Dynamic ReLU-A also takes over 1.5 times."
    )
    rows = [row(name, time) for name, time in (("ReLU", 10), ("GELU", 14))]
    assert analysis.activations_sentences({"rows": rows}) == (
        "No other one costs at most 10 % more than ReLU in the whole network, GELU up to 50 % "
        "more. GELU is the most expensive, 1.4 times the whole network with ReLU."
    )


def test_sentences_on_blocks_follow_the_numbers(load_script):
    analysis = load_script("analysis")
    times = (10, 10.1, 13, 25, 80, 9.8)
    rows = [row(name, time) for name, time in zip(analysis.BLOCKS, times, strict=True)]
    text = analysis.blocks_sentences({"rows": rows})
    assert "takes as long as without, within 2 %, with squeeze-and-excitation 30 % longer" in text
    assert "2.5 times as long for one" in text
    assert "8.0 times for four; with the four fused, 0.98 times" in text


@pytest.mark.parametrize(
    ("macs", "parameters", "words"),
    [
        (
            0.9,
            0.5,
            "multiply-accumulates rank networks by latency better than parameters do (ρ = 0.9",
        ),
        (0.5, 0.9, "parameters rank networks by latency better than multiply-accumulates do"),
        (0.52, 0.5, "about equally well (ρ = 0.52 and 0.50)"),
    ],
)
def test_sentences_on_correlation_follow_the_numbers(load_script, macs, parameters, words):
    rows = [row("slow", 30), row("fast", 3)]
    correlation = {"macs": {"rho": macs}, "parameters": {"rho": parameters}}
    text = load_script("analysis").correlation_sentences({"rows": rows, "correlation": correlation})
    assert words in text
    assert "10.0 times as long in slow as in fast" in text


def test_fused_table_and_sentence(load_script):
    fused = load_script("fused")
    rows = []
    for index in range(len(fused.FORMS)):
        memory = {"loaded": 40.0, "peak": 100.0}
        rows += [row("a", 30.0 + index, memory=memory), row("b", 10.0, memory=memory)]
    result = {"rows": rows, "conditions": CONDITIONS}
    assert "| S0 | 30.0 → 10.0 | 3.00 | 5.0 → 5.0 | 60 → 60 |" in fused.table(result)
    assert "between 29 % (S4) and 33 % (S0)" in fused.sentence(result)
    for one in rows:
        one["memory"] = {"loaded": None, "peak": None}
    assert "| S0 | 30.0 → 10.0 | 3.00 | 5.0 → 5.0 | – |" in fused.markdown(result, "picture.png")
    assert fused.draw(result)


def test_scatter_is_that_of_the_ratios_not_of_the_latencies(load_script):
    """A machine that slows down between rounds slows both files, which gives no scatter."""
    study = load_script("study")
    reference, steady, noisy = row("a", 10.0), row("b", 30.0), row("c", 20.0)
    assert study.scatter([(reference, reference), (steady, reference)]) == pytest.approx(0)
    # Ratios 2.4, 2 and 1.6: quartiles 1.8 and 2.2.
    noisy["latency"]["medians"] = [24.0, 22.0, 14.4]
    assert study.scatter([(reference, reference), (noisy, reference)]) == pytest.approx(0.1)
    assert "scatter by 10 %" in study.scatter_text([(noisy, reference)])
    for one in (reference, noisy):
        one["latency"]["medians"] = one["latency"]["medians"][:1]  # a benchmark of one round
    assert study.scatter_text([(noisy, reference)]) == ""


def test_a_busy_machine_is_said_so(load_script):
    study = load_script("study")
    assert "other work" not in study.conditions_text(CONDITIONS)
    assert "other work" not in study.conditions_text(CONDITIONS | {"busy_cores_before": None})
    busy = study.conditions_text(CONDITIONS | {"busy_cores_before": 1.5})
    assert "other work kept 1.5 cores busy" in busy


def test_busy_cores_are_those_not_idle(load_script, tmp_path, monkeypatch):
    study = load_script("study")
    stat = tmp_path / "stat"
    stat.write_text("cpu 100 0 50 800 20 0 0 0 0 0\ncpu0 1\n", encoding="utf-8")
    monkeypatch.setattr(study, "PROC_STAT", stat)
    monkeypatch.setattr(study.os, "cpu_count", lambda: 4)
    later = "cpu 140 0 60 940 30 0 0 0 0 0\n"  # 50 of 200 ticks are busy
    monkeypatch.setattr(
        study.time, "sleep", lambda seconds: stat.write_text(later, encoding="utf-8")
    )
    assert study.busy_cores() == 1.0
    monkeypatch.setattr(study, "PROC_STAT", tmp_path / "none")
    assert study.busy_cores() is None


def test_machine_names(load_script):
    assert load_script("study").machine("AMD EPYC avx2") == "amd-epyc-avx2"
    assert load_script("study").machine("Intel(R) Xeon(R) @ 2.20GHz") == "intel-xeon-2-20ghz"


@pytest.fixture
def peers_result(load_script):
    """Returns a result with every peer in every column, ordered by size."""
    peers = load_script("peers")
    rows = []
    for precision, threads in peers.COLUMNS:
        for index, (name, network) in enumerate(peers.NETWORKS.items()):
            more = {"precision": precision, "threads": threads}
            more |= {"top1": network.top1, "source": network.source, "pixels": network.pixels}
            rows.append(row(name, (index + 4) / threads, **more))
    return {"rows": rows, "conditions": CONDITIONS}


def test_peers_table_has_every_network_and_column(load_script, peers_result):
    peers = load_script("peers")
    lines = peers.table(peers_result).splitlines()
    assert len(lines) == 2 + len(peers.NETWORKS)
    (own,) = [index for index, line in enumerate(lines) if line.startswith("| MobileOneS0 ")]
    assert lines[own] == (
        "| MobileOneS0 | 71.4 | 3.0 M | 300 M | " + "7.0 (1.00) | " * 3 + "3.5 (1.00) | " * 3
    ).rstrip(" ")
    assert lines[own + 1].count("(1.14)") == 6
    text = peers.markdown(peers_result, "peers.png")
    assert "MobileFormer294M, MobileFormer508M: github.com/AAboys/MobileFormer" in text


def test_peers_table_tells_other_sizes(load_script, peers_result):
    peers = load_script("peers")
    assert "| FastViTT8, 256 px |" in peers.table(peers_result)
    for one in peers_result["rows"]:
        del one["pixels"]  # as in results that are older than the networks of other sizes
    assert "| FastViTT8 |" in peers.table(peers_result)


def test_where_mobileone_is_beaten(load_script):
    peers = load_script("peers")
    times = {"MobileOneS0": 3.0, "MobileOneS1": 8.0, "MobileOneMicro": 1.0}
    top1 = {"MobileOneS0": 71.0, "MobileOneS1": 76.0, "MobileOneMicro": 60.0}
    times |= {"quick": 2.0, "better": 2.5, "slow": 9.0, "worse": 1.5}
    top1 |= {"quick": 72.0, "better": 77.0, "slow": 80.0, "worse": 70.0}
    rows = [row(name, time, top1=top1[name]) for name, time in times.items()]
    assert peers.overtaken(rows) == {"MobileOneS0": ["quick", "better"], "MobileOneS1": ["better"]}
    rows += [row("MobileOneS0", 1.0, precision="int8", top1=71.0)]
    assert peers.better_choices({"rows": rows}) == (
        "In float32, MobileOne is beaten in both latency and accuracy: MobileOneS0 by quick, "
        "better; MobileOneS1 by better. In int8, no MobileOne is beaten in both latency and "
        "accuracy."
    )
    assert peers.better_than_both({"rows": rows}).startswith("No other network there")
    rows += [row("quick", 0.5, precision="int8", top1=72.0)]
    assert peers.better_than_both({"rows": rows}) == (
        "Some networks are both faster and more accurate there, in float32 and in int8: quick than "
        "S0. There is none for S1, S2, S3, S4."
    )


def assert_every_name_can_be_read(axis, count):
    boxes = [Text.get_window_extent(text) for text in axis.texts]
    assert len(boxes) == count
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_networks_that_none_beats(load_script):
    rows = [
        {"name": name, "top1": top1, "latency": {"median": ms}}
        for name, top1, ms in [
            ("slow", 75.0, 9.0),
            ("equal, slower", 70.0, 3.0),
            ("good", 75.0, 8.0),
            ("fast", 70.0, 2.0),
            ("as fast, worse", 69.0, 2.0),
            ("best", 80.0, 20.0),
        ]
    ]
    assert load_script("peers").unbeaten(rows) == ["fast", "good", "best"]


def test_labels_of_a_picture_do_not_overlap(load_script, peers_result):
    for axis in load_script("peers").draw(peers_result).axes:
        assert_every_name_can_be_read(axis, len(load_script("peers").NETWORKS))


def test_labels_of_crowded_points_do_not_overlap(load_script):
    drawing = load_script("drawing")
    axis = drawing.figure(6, 5)[1]
    points = [(1, 1 + i / 20, f"network {i}") for i in range(5)]
    axis.set(xlim=(0, 2), ylim=(0, 2))
    drawing.label_points(axis, points)
    assert_every_name_can_be_read(axis, len(points))


@pytest.fixture
def script(load_script, monkeypatch, tmp_path):
    """Returns a function that runs a script with two studies in an empty directory."""
    study, drawing = load_script("study"), load_script("drawing")
    called = []

    def measure(name, files, rounds, runs):
        called.append((name, rounds, runs))
        if runs == 99:
            raise RuntimeError("the machine broke")
        return {"rounds": rounds}

    def draw(result):
        called.append(result)
        return drawing.figure(2, 2)[0]

    studies = [
        study.Study(
            name,
            lambda files, name=name: called.append(f"prepare {name}"),
            lambda *arguments, name=name: measure(name, *arguments),
            draw,
        )
        for name in ("one", "two")
    ]

    def run(*arguments):
        called.clear()
        options = ["--files", tmp_path / "files", "--results", tmp_path / "results", *arguments]
        monkeypatch.setattr(sys, "argv", ["script", *map(str, options)])
        study.run("Two studies.", studies)
        return called

    run.results = tmp_path / "results"
    return run


def test_a_script_prepares_measures_and_draws(script):
    assert script("--prepare") == ["prepare one", "prepare two"]
    assert not script.results.exists()
    assert script("--rounds", 2, "--runs", 3, "--only", "two") == [
        "prepare two",
        ("two", 2, 3),
        {"rounds": 2},
    ]
    (directory,) = script.results.iterdir()
    assert sorted(path.name for path in directory.iterdir()) == ["two.json", "two.png"]
    (directory / "two.png").unlink()
    assert script("--plot-only") == [{"rounds": 2}]
    assert (directory / "two.png").stat().st_size > 0


def test_a_failed_measurement_leaves_the_last_one(script):
    script("--rounds", 2)
    (directory,) = script.results.iterdir()
    before = {path: path.read_bytes() for path in directory.iterdir()}
    with pytest.raises(RuntimeError, match="broke"):
        script("--runs", 99)
    assert {path: path.read_bytes() for path in directory.iterdir()} == before


@pytest.fixture
def small_network(load_script):
    def build():
        inputs = keras.Input((16, 16, 3))
        x = keras.layers.Conv2D(4, 3)(inputs)
        return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))

    return load_script("study").Network("small", build)


def test_a_network_is_exported_and_timed(load_script, small_network, tmp_path, monkeypatch):
    study = load_script("study")

    def benchmark(paths, **options):
        assert options["rounds"] == 1
        timed = [Latency(str(path), path.stat().st_size, *[2.0] * 4) for path in paths]
        return Benchmark(timed, {"threads": options["threads"]})

    monkeypatch.setattr(study, "benchmark", benchmark)
    monkeypatch.setattr(study, "busy_cores", lambda: 0.0)
    study.export(small_network, tmp_path, ("float32", "int8"))
    jobs = [(small_network, "float32"), (small_network, "int8")]
    rows, conditions = study.time_files(jobs, tmp_path, threads=2, rounds=1, runs=1)
    assert [one["precision"] for one in rows] == ["float32", "int8"]
    assert rows[0]["macs"] == 14 * 14 * 27 * 4 + 14 * 14 * 4
    assert rows[0]["parameters"] == 27 * 4 + 4
    assert conditions["threads"] == 2
    assert str(tmp_path) not in json.dumps(rows)  # no path of this machine
    assert study.ratio(rows[1], rows[0]) == 1


def test_memory_of_a_process(load_script, small_network, tmp_path):
    fused, study = load_script("fused"), load_script("study")
    study.export(small_network, tmp_path)
    (path,) = tmp_path.glob("*.tflite")
    found = fused.memory(path)
    if found["peak"] is None:
        pytest.skip("only Linux tells the peak")
    assert 1 < found["loaded"] <= found["peak"] < 2000


def test_documents_say_what_is_not_measured(load_script, tmp_path):
    readme = load_script("results_pages")
    assert "make benchmark" in readme.machines("peers", None, readme.README, tmp_path)


def test_the_search_keeps_every_budget_and_knows_the_micro_variants(load_script):
    search = load_script("search_variants")
    micro = keras_mobileone.get_variant("micro2")
    counts = variant_complexity(micro, deploy=True)
    budget = counts.trainable / 1e6, counts.macs / 1e6
    found = search.search(*budget)
    shapes = [(variant.widths, variant.depths) for variant, _, _ in found]
    assert (micro.widths, micro.depths) in shapes
    assert all(one.trainable <= counts.trainable and one.macs <= counts.macs for _, one, _ in found)
    macs = [one.macs for _, one, _ in found]
    assert macs == sorted(macs, reverse=True) and len(macs) > 100


@pytest.mark.slow
def test_the_latency_model_finds_the_coefficients_of_a_device(load_script, tmp_path):
    """Times made from known coefficients, one of which is 0, are stored as a phone's would be."""
    search = load_script("search_variants")
    truth = np.array([0.2, 0.004, 0.0])
    latencies = [
        latency_of(
            f"/x/{variant.name}.tflite", 1, [round_of([search.features(variant) @ truth], 1)]
        )
        for variant in ALL_VARIANTS.values()
    ]
    Benchmark(latencies, {}).save(tmp_path / "phone.json")
    times = search.measured(tmp_path / "phone.json")
    assert [variant for variant, _ in times] == list(ALL_VARIANTS.values())
    found, error = search.fit_latency(times)
    np.testing.assert_allclose(found, truth, atol=1e-3)
    assert error < 0.01
    limit = 0.9
    for variant, _, latency in search.search(None, None, limit, found):
        assert latency == pytest.approx(search.features(variant) @ truth, rel=0.02)
        assert latency <= limit
    Benchmark(latencies[:3], {}).save(tmp_path / "few.json")
    with pytest.raises(SystemExit, match=r"at least 4 files.*few\.json with 3"):
        search.measured(tmp_path / "few.json")
