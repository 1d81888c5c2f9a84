"""Tests an Android device as a target, with a stand-in for adb that runs as a program.

No phone was available. The answers of a real one are taken from its sources; see stand_in_adb.py.
"""

import struct
from pathlib import Path

import pytest
from click.testing import CliRunner

from keras_mobileone.benchmarking import (
    AndroidDevice,
    adb,
    android,
    benchmark,
    device,
    load_benchmark,
    native,
)
from keras_mobileone.benchmarking.settings import TargetError
from keras_mobileone.cli import main

ARM64 = 183
ARM = 40
X86_64 = 62


@pytest.fixture
def naps(monkeypatch):
    """Returns the seconds of rest that were requested, without sleeping."""
    found = []
    monkeypatch.setattr(android, "sleep", found.append)
    return found


def make_tool(path: Path, machine=ARM64, litert=False) -> Path:
    path.write_bytes(b"\x7fELF" + bytes(14) + struct.pack("<H", machine))
    with path.open("ab") as file:
        file.write(b"use_profiler" if litert else b"op_profiling_output_file")
    return path


@pytest.fixture(params=["TensorFlow Lite", "LiteRT"])
def tool(request, tmp_path):
    return make_tool(tmp_path / "benchmark_model", litert=request.param == "LiteRT")


@pytest.fixture
def litert_tool(tmp_path):
    return make_tool(tmp_path / "benchmark_model", litert=True)


@pytest.fixture
def files(sized_files):
    return sized_files


def run(*arguments):
    return CliRunner().invoke(main, ["benchmark", *map(str, arguments)])


def sizes(files) -> list[float]:
    """Returns the milliseconds that the stand-in takes for each file."""
    return [path.stat().st_size / 1e3 for path in files]


def test_files_are_measured_in_turn(phone, tool, files, naps):
    target = AndroidDevice(tool=tool, cool_down=3, affinity="0xF0")
    result = benchmark(files, threads=4, runs=20, rounds=2, target=target)
    for latency, time in zip(result.latencies, sizes(files), strict=True):
        assert latency.medians == [time, time]
        assert latency.p95 == pytest.approx(time + 0.02)
        assert latency.minimum == pytest.approx(time - 0.008)
        assert latency.initialization == 12.345
        assert latency.p90 is None  # the tool does not tell it
    c = result.conditions
    assert (c["model"], c["soc"], c["android"], c["serial"]) == (
        "Pixel 8",
        "Tensor G3",
        "15",
        "R5CT1",
    )
    assert (c["delegate"], c["affinity"], c["threads"], c["runs"]) == ("cpu", "f0", 4, 20)
    assert c["before"]["thermal_status"] == c["after"]["thermal_status"] == 0
    assert c["before"]["temperatures"] == {"VIRTUAL-SKIN": 33.2, "BIG": 41.0}
    assert c["after"]["battery_percent"] == 87
    assert c["after"]["battery_celsius"] == 28.6
    assert c["after"]["powered_by"] == ["USB"]
    assert c["thermal_status_after_rounds"] == {str(path): [0, 0] for path in files}
    graphs = [word for call in phone.runs for word in call if word.startswith("--graph")]
    assert [Path(graph).name for graph in graphs] == ["0.tflite", "1.tflite"] * 2
    for call in phone.runs:
        assert call[1:3] == ["taskset", "f0"]
        assert {"--num_threads=4", "--num_runs=20", "--warmup_runs=10", "--min_secs=0"} <= set(call)
        assert not any("gpu" in word for word in call)
    assert naps == [3] * 4
    assert phone.left == []


def test_ratios_survive_a_phone_that_slows_down(phone, litert_tool, files, naps):
    phone.change(drift=[1, 1, 3, 3, 1, 1])
    target = AndroidDevice(tool=litert_tool)
    result = benchmark(files, rounds=3, target=target)
    small, large = sizes(files)
    assert result.ratios == [1, pytest.approx(large / small, rel=1e-3)]


def test_the_executable_bit_is_set(phone, litert_tool, files, naps):
    """The push of the stand-in loses the executable bit."""
    benchmark(files[:1], rounds=1, target=AndroidDevice(tool=litert_tool))
    names = [call[1] for call in phone.calls if call[0] == "shell"]
    assert names.index("chmod") < names.index(phone.runs[0][1])


def test_profiles_are_fetched(phone, tool, files, naps, tmp_path):
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    target = AndroidDevice(tool=tool, profile=profiles, delegate="gpu")
    result = benchmark(files, rounds=2, target=target)
    assert all(len(latency.medians) == 2 for latency in result.latencies)
    found = sorted(profiles.iterdir())
    assert [path.stem for path in found] == ["0-1", "1-1000"]
    assert all("CONV_2D" in path.read_text(encoding="utf-8") for path in found)
    # The profile is measured separately because profiling costs time.
    assert [any("profil" in word for word in call) for call in phone.runs] == [False] * 4 + [
        True
    ] * 2
    assert phone.left == []


def test_the_whole_file_on_the_gpu(phone, tool, files, naps):
    result = benchmark(files, rounds=1, target=AndroidDevice(tool=tool, delegate="gpu"))
    assert result.conditions["delegate"] == "gpu"
    assert "--use_gpu=true" in phone.runs[0]


@pytest.mark.parametrize("how", ["refused", "partial", "ignored"])
def test_cpu_figures_are_never_called_the_gpus(phone, tool, files, naps, how):
    phone.change(gpu=how)
    result = run(
        *files, "--android", "--tool", tool, "--delegate", "gpu", "--rounds", 1, "--cool-down", 0
    )
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert [str(path) in line for path, line in zip(files, lines, strict=True)] == [True, True]
    assert all("Expected the GPU to run all of" in line for line in lines)
    assert all("--delegate cpu" in line for line in lines)
    assert "Minimum" not in result.output
    assert phone.left == []


def test_one_file_that_is_killed_does_not_stop_the_others(
    phone, litert_tool, files, naps, tmp_path
):
    phone.change(killed=[files[0].read_bytes().decode("latin1")])
    out = tmp_path / "result.json"
    result = run(*files, "--android", "--tool", litert_tool, "--rounds", 2, "--json", out)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    for word in ("1.tflite", "killed it (SIGKILL)", "thermal status none", "cool down"):
        assert word in result.stderr
    stored = load_benchmark(out)
    assert [latency.path for latency in stored.latencies] == [str(files[1])]
    assert stored.conditions["model"] == "Pixel 8"
    assert phone.left == []


def test_a_hot_device_is_let_cool_down(phone, litert_tool, files, naps):
    phone.change(thermal=[0, 3, 4, 3, 1])  # the first value is for the state before the benchmark
    result = benchmark(files[:1], rounds=1, target=AndroidDevice(tool=litert_tool, cool_down=2))
    assert naps == [2, android.POLL, android.POLL, android.POLL]
    assert len(result.latencies) == 1


def test_a_device_that_stays_hot_is_not_measured(phone, litert_tool, files, naps, monkeypatch):
    monkeypatch.setattr(android, "PATIENCE", 30.0)
    phone.change(thermal=[0, 5])
    result = run(files[0], "--android", "--tool", litert_tool, "--rounds", 1)
    assert result.exit_code == 2
    for word in ("thermal status below severe", "emergency", "30 s", "1.tflite"):
        assert word in result.stderr
    assert sum(naps) == android.COOL_DOWN + android.PATIENCE
    assert phone.runs == []
    assert phone.left == []


def test_a_round_that_made_the_device_hot_is_marked(phone, litert_tool, files, naps):
    phone.change(thermal=[0, 0, 3])
    result = run(files[0], "--android", "--tool", litert_tool, "--rounds", 1)
    assert result.exit_code == 0, result.stderr
    assert "thermal status severe after a round" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("scenario", "serial", "words"),
    [
        ({"devices": {}}, None, ["empty list from `adb devices`", "USB debugging"]),
        ({"devices": {"A": "unauthorized"}}, None, ["unauthorized", "confirm the dialog"]),
        ({"devices": {"A": "offline"}}, None, ["offline", "adb kill-server"]),
        (
            {"devices": {"A": "no permissions (user is not in the plugdev group)"}},
            None,
            ["no permissions", "udev"],
        ),
        ({"devices": {"A": "recovery"}}, None, ["recovery", "Start Android"]),
        ({"devices": {"A": "device", "B": "device"}}, None, ["several", "A, B"]),
        ({"devices": {"A": "device"}}, "C", ["connected device: A", "'C'"]),
        ({"devices": {"A": "device", "B": "offline"}}, "B", ["device B", "offline"]),
        ({"abis": "x86_64,x86"}, None, ["x86_64 or x86", "for arm64-v8a", "--tool"]),
        ({"full": ["benchmark_model"]}, None, ["space on device R5CT1", "benchmark_model"]),
        ({"program": "not executable: 64-bit ELF file"}, None, ["not executable", "--tool"]),
        ({"lost_after": 5}, None, ["stay connected", "not found", "Reconnect"]),  # at the tool
        ({"lost_after": 8}, None, ["stay connected", "not found"]),  # at the second file
        ({"lost_after": 10}, None, ["stay connected", "not found"]),  # at the first run
    ],
)
def test_a_device_that_can_not_be_used_is_one_line(
    phone, litert_tool, files, naps, scenario, serial, words
):
    phone.change(**scenario)
    android_option = f"--android={serial}" if serial else "--android"
    result = run(*files, "--tool", litert_tool, "--rounds", 1, android_option)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert "Received" in result.stderr
    for word in words:
        assert word in result.stderr
    assert "Minimum" not in result.output
    assert phone.left == [] or "lost_after" in scenario


def test_a_file_for_which_there_is_no_room(phone, litert_tool, files, naps, tmp_path):
    phone.change(full=["1000.tflite"])
    result = run(*files, "--android", "--tool", litert_tool, "--rounds", 1)
    assert result.exit_code == 2
    for word in ("1000.tflite", "no space left", "Free some"):
        assert word in result.stderr
    assert "Minimum" in result.output
    removed = [call for call in phone.calls if call[:3] == ["shell", "rm", "-f"]]
    assert [Path(call[3]).name for call in removed] == ["1.tflite"]
    assert phone.left == []


def test_cleaned_up_when_interrupted(phone, litert_tool, files, naps, monkeypatch):
    def interrupt(output):
        raise KeyboardInterrupt

    monkeypatch.setattr(android, "parse_output", interrupt)
    with pytest.raises(KeyboardInterrupt):
        benchmark(files, target=AndroidDevice(tool=litert_tool))
    assert phone.left == []


def test_without_adb(phone, litert_tool, files, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run(*files, "--android", "--tool", litert_tool)
    assert result.exit_code == 2
    assert "platform-tools" in result.stderr


def test_the_tool_that_litert_cli_downloaded(phone, files, naps, tmp_path):
    result = run(files[0], "--android")
    assert result.exit_code == 2
    for word in ("benchmark_model for arm64-v8a", "no --tool", "litert-cli"):
        assert word in result.stderr
    directory = tmp_path / "home" / ".cache" / "litert-cli" / "binaries" / "arm64-v8a"
    directory.mkdir(parents=True)
    make_tool(directory / "benchmark_model", litert=True)
    (directory / "libLiteRtClGlAccelerator.so").write_bytes(b"library")
    result = run(files[0], "--android", "--rounds", 1)
    assert result.exit_code == 0, result.stderr
    assert [call[1] for call in phone.calls if call[0] == "push"][:2] == [
        str(directory / "benchmark_model"),
        str(directory / "libLiteRtClGlAccelerator.so"),
    ]
    assert phone.runs[0][1] == "env"
    assert phone.runs[0][2].startswith("LD_LIBRARY_PATH=/data/local/tmp/")


def test_litert_cli_is_asked_for_its_tool(phone, files, naps, tmp_path, monkeypatch):
    """The stand-in package has the same function as litert-cli 0.2.1."""
    package = tmp_path / "site" / "litert_cli" / "core"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    tool = make_tool(tmp_path / "fetched")
    (package / "android_utils.py").write_text(
        "def find_android_binary(tool_name, abi):\n"
        "    assert (tool_name, abi) == ('benchmark_model', 'arm64-v8a')\n"
        f"    return {str(tool)!r}\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(package.parents[1]))
    assert native.find_tool(None, ["arm64-v8a"]).path == tool


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["does not exist"]),
        (b"#!/bin/sh\n", ["not an ELF program"]),
        (b"\x7fELF" + bytes(14) + struct.pack("<H", 62), ["x86_64"]),
        (b"\x7fELF" + bytes(14) + struct.pack("<H", 243), ["ELF machine 243"]),
    ],
)
def test_a_wrong_tool_is_refused(tmp_path, content, words):
    path = tmp_path / "tool"
    if content:
        path.write_bytes(content)
    with pytest.raises(TargetError) as error:
        native.find_tool(path, ["arm64-v8a", "armeabi-v7a"])
    assert all(word in str(error.value) for word in ("arm64-v8a", *words))


def test_a_tool_of_the_second_abi_will_do(tmp_path):
    tool = native.find_tool(make_tool(tmp_path / "tool", ARM), ["arm64-v8a", "armeabi-v7a"])
    assert tool.abi == "armeabi-v7a"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{file}", "--tool", "x"), ["--tool", "--android"]),
        (("{file}", "--cool-down", "0"), ["--cool-down", "--android"]),
        (("{file}", "--android", "b.tflite"), ["b.tflite", "files first"]),
        (("--android", "{file}"), ["1.tflite", "files first"]),
        (("--android", "R5CT1"), ["FILES", "--help"]),
        (("{file}", "--android", "--affinity", "four"), ["hexadecimal", "'four'"]),
        (("{file}", "--android", "--affinity", "0"), ["hexadecimal", "'0'"]),
        (("{file}", "--android", "--profile", "/none/such"), ["/none/such", "Create it first"]),
        (("{file}", "--android", "--delegate", "nnapi"), ["nnapi", "gpu"]),
    ],
)
def test_options_that_do_not_fit_are_one_line(files, arguments, words):
    result = run(*(argument.format(file=files[0]) for argument in arguments))
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


FIGURES = """INFO: Initialized session in 1.5ms.
INFO: count=10 first=9 curr=8 min=8 max=9 avg=8.5 std=1 p5=8 median=9 p95=9
INFO: {}
"""


@pytest.mark.parametrize(
    ("line", "figures"),
    [
        # Formats of stats_calculator.h: runs that took equally long, and large numbers in C++'s
        # short form.
        ("count=50 curr=120(all same) p5=120 median=120 p95=120", (0.12, 0.12, 0.12)),
        (
            "count=50 first=1.2e+06 curr=1 min=1 max=2 avg=3 std=4 p5=1 median=1.5e+06 p95=2000000",
            (1500, 2000, 0.001),
        ),
    ],
)
def test_figures_of_the_tool(line, figures):
    found = native.parse_output(FIGURES.format(line))
    assert (found.median, found.p95, found.minimum) == pytest.approx(figures)
    assert found.initialization == 1.5


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("", "without the lines"),
        (FIGURES.format("count=0"), "without the lines"),
        (FIGURES.format("count=5 first=9 curr=8 min=8 max=9 avg=8.5 std=1"), "newer version"),
    ],
)
def test_output_without_figures_is_refused(output, words):
    with pytest.raises(ValueError, match=words):
        native.parse_output(output)


def test_older_devices_tell_less():
    """There is no thermal service before Android 10."""
    assert device.parse_thermal("Can't find service: thermalservice") == {
        "thermal_status": None,
        "temperatures": {},
    }
    assert device.parse_battery("Can't find service: battery") == {}


def test_devices_are_read_as_adb_lists_them():
    listing = (
        "* daemon started successfully\nList of devices attached\n"
        "emulator-5554\tdevice\n192.168.1.7:5555\toffline\n\n"
    )
    expected = {"emulator-5554": "device", "192.168.1.7:5555": "offline"}
    assert adb.parse_devices(listing) == expected
