"""The Android app run from the desk, and how results of several sources are shown.

No phone was at hand: what adb, Android and the app answer is taken from their sources and from the
app's contract, see stand_in_adb.py and stand_in_app.py.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from keras_mobileone.benchmarking import (
    Benchmark,
    Failure,
    Latency,
    android_app,
    app_contract,
    app_results,
    benchmark_with_app,
    load_benchmark,
)
from keras_mobileone.benchmarking.settings import TargetError
from keras_mobileone.cli import main
from keras_mobileone.cli.benchmarking import benchmark_command

PACKAGE = "io.github.kerasmobileone.bench"


@pytest.fixture(autouse=True)
def naps(monkeypatch):
    """Seconds between two looks at the state, which are not slept through."""
    found = []
    monkeypatch.setattr(android_app, "sleep", found.append)
    monkeypatch.setattr(android_app, "PATIENCE", 90.0)
    return found


@pytest.fixture
def apk(tmp_path):
    path = tmp_path / "bench.apk"
    path.write_bytes(b"PK\x03\x04 an archive")
    return path


def run(*arguments):
    return CliRunner().invoke(main, ["benchmark", *map(str, arguments)])


def sizes(files) -> list[float]:
    """Milliseconds that the stand-in takes with one thread on the CPU."""
    return [path.stat().st_size / 1e3 for path in files]


def flat(text) -> str:
    """Output on one line, whatever the width of the console."""
    return " ".join(text.split())


def test_files_are_measured_in_every_way(phone, sized_files, naps):
    progress = []
    result = benchmark_with_app(
        sized_files,
        accelerators=["cpu", "gpu-fp16"],
        threads=[1, 4],
        runs=20,
        rounds=2,
        warmup_runs=3,
        progress=lambda *numbers: progress.append(numbers),
    )
    ways = [("cpu", 1), ("cpu", 4), ("gpu-fp16", 1), ("gpu-fp16", 4)]
    expected = [
        (f"{path} ({accelerator}, {threads} threads)", pytest.approx(time / speed))
        for path, time in zip(sized_files, sizes(sized_files), strict=True)
        for (accelerator, threads), speed in zip(ways, (1, 4, 2, 8), strict=True)
    ]
    assert [(latency.path, latency.median) for latency in result.latencies] == expected
    assert set(result.conditions["configurations"]) == {path for path, _ in expected}
    files = {c["file"] for c in result.conditions["configurations"].values()}
    assert files == {str(path) for path in sized_files}
    how = app_results.configuration(result, result.latencies[3])
    assert (how.accelerator, how.threads, how.ran_on) == ("gpu-fp16", 4, "gpu-fp16")
    assert result.failures == []
    assert progress == [(0, 4), (2, 4)]
    assert naps == [android_app.POLL] * 4
    (extras,) = phone.starts
    directory = f"/{phone.app_directory}/"
    assert all(file.startswith(directory) for file in extras.pop("files").split(","))
    assert extras.pop("output").endswith(".json")
    assert extras == {
        "accelerators": "cpu,gpu-fp16",
        "threads": "1,4",
        "runs": "20",
        "rounds": "2",
        "warmup_runs": "3",
    }
    assert phone.left == phone.left_for_app == []


def test_the_numbers_of_the_intent_are_numbers(phone, sized_files):
    """Android drops an extra that was given with another type than it is read with."""
    benchmark_with_app(sized_files[:1])
    (start,) = (call for call in phone.calls if call[:3] == ["shell", "am", "start"])
    kinds = dict(zip(start[9::3], start[8::3], strict=True))
    assert {key for key, kind in kinds.items() if kind == "--ei"} == {
        "runs",
        "rounds",
        "warmup_runs",
    }


def test_the_same_table_as_ever(phone, sized_files, tmp_path):
    out = tmp_path / "phone.json"
    result = run(
        *sized_files, "--android", "--app", "--accelerators", "cpu,gpu-fp16", "--threads", "1,2",
        "--json", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    small, large = sizes(sized_files)
    for words in ("Ratio", "gpu-fp16 ×2", f"{large / 4:.2f}", f"{large / small:.2f}", "Pixel 8"):
        assert words in result.output
    assert max(map(len, result.output.splitlines())) <= 80
    stored = load_benchmark(out)
    assert len(stored.latencies) == 8
    again = run("--show", out)
    assert again.exit_code == 0, again.stderr
    assert flat(result.output)[-400:] == flat(again.output)[-400:]
    assert flat(run(out).output) == flat(again.output)


def test_the_apk_is_installed_first(phone, sized_files, apk):
    phone.change(app={"installed": False})
    result = run(sized_files[0], "--android", "--app", apk, "--rounds", 1)
    assert result.exit_code == 0, result.stderr
    names = [call[0] for call in phone.calls]
    assert names.index("install") < names.index("push")
    assert ["install", "-r", str(apk)] in phone.calls


def test_the_app_makes_its_own_directory(phone, sized_files):
    phone.change(app={"opened": False})
    benchmark_with_app(sized_files[:1])
    first, second = phone.starts
    assert first["files"] == ""
    assert second["files"]
    assert phone.left_for_app == []


def test_names_that_a_shell_interprets(phone, sized_files, tmp_path):
    odd = [tmp_path / "a, b'$(x).tflite", tmp_path / "sub" / "A.tflite", tmp_path / "a.tflite"]
    odd[1].parent.mkdir()
    for path in odd:
        path.write_bytes(sized_files[0].read_bytes())
    result = benchmark_with_app(odd)
    assert [latency.path for latency in result.latencies] == list(map(str, odd))
    names = [Path(file).name for file in phone.starts[0]["files"].split(",")]
    assert names == ["a__b___x_.tflite", "A.tflite", "2-a.tflite"]


@pytest.mark.parametrize(
    ("app", "words"),
    [
        ({"installed": False}, ["not installed", "--app APK", "make apk"]),
        ({"start": "Error type 3\nError: Activity class {x} does not exist."}, ["Activity class"]),
        (
            {"start": "java.lang.SecurityException: Permission Denial: not exported"},
            ["Permission Denial", "--app APK"],
        ),
        ({"opened": None}, ["Unlock the device", "open the app once"]),
        (
            {"states": ["running 0/4", "failed: No memory for 1.tflite."]},
            ["No memory for 1.tflite"],
        ),
        (
            {"states": ["running 1/4", "crash running 1/4"], "crash": "java"},
            ["OutOfMemoryError", "running 1/4", "fewer files"],
        ),
        (
            {"states": ["running 1/4", "crash running 1/4"], "crash": "native"},
            ["signal 11 (SIGSEGV) in /vendor/lib64/libOpenCL.so", "without the accelerator"],
        ),
        ({"states": ["", "crash "]}, ["without a crash report", "before its first state"]),
        ({"states": ["running 1/4", ""]}, ["go on within 90 s", "running 1/4", "in front"]),
        ({"states": [""]}, ["go on within 60 s", "no state", "Unlock"]),
        ({"result": "{"}, ["write a result", "--app APK"]),
        ({"result": ""}, ["write a result", "No such file"]),
        ({"result": {"format": 2}}, ["format 1", "format 2"]),
    ],
)
def test_an_app_that_can_not_measure_is_one_line(phone, sized_files, app, words):
    phone.change(app=app)
    result = run(*sized_files, "--android", "--app", "--rounds", 1)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert "Received" in result.stderr
    for word in words:
        assert word in result.stderr
    if "crash" in app:
        assert len(phone.calls) < 25  # at the next look, and not at the end of patience
    assert "desk-" not in result.stderr or "opened" in app or "result" in app
    assert "Ratio" not in result.output
    if "installed" not in app:
        assert phone.left == []
        assert ["shell", "am", "force-stop", PACKAGE] in phone.calls
        assert app.get("opened", True) is None or phone.left_for_app == []


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("INSTALL_FAILED_UPDATE_INCOMPATIBLE", "adb uninstall"),
        ("INSTALL_FAILED_INSUFFICIENT_STORAGE", "Free some space"),
        ("INSTALL_FAILED_USER_RESTRICTED", "developer options"),
        ("INSTALL_FAILED_NO_MATCHING_ABIS", "its processor"),
        ("INSTALL_PARSE_FAILED_NO_CERTIFICATES", "not signed"),
        ("INSTALL_FAILED_OF_THE_FUTURE", "by hand"),
    ],
)
def test_a_refused_installation(phone, sized_files, apk, code, words):
    phone.change(app={"installed": False, "refusal": code})
    result = run(sized_files[0], "--android", "--app", apk)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    for word in (code, words, str(apk)):
        assert word in result.stderr
    assert not any(call[0] == "push" for call in phone.calls)


@pytest.mark.parametrize("commands", [1, 2, 6, 9, 13])
def test_a_lost_device(phone, sized_files, commands):
    """At any command: finding the app, copying, waiting."""
    phone.change(lost_after=commands, app={"states": ["running 0/4"]})
    result = run(*sized_files, "--android", "--app")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    for word in ("stay connected", "not found", "Reconnect"):
        assert word in result.stderr


def test_it_is_stopped_and_cleaned_up_when_interrupted(phone, sized_files, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(android_app, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        benchmark_with_app(sized_files)
    assert phone.left == phone.left_for_app == []
    assert ["shell", "am", "force-stop", PACKAGE] in phone.calls


def test_an_app_that_is_closed_when_it_has_finished(phone, sized_files):
    """Its process ends between the look at the state and that at the process."""
    phone.change(app={"states": ["running 3/4", "crash running 3/4", "done"]})
    assert len(benchmark_with_app(sized_files).latencies) == 2


def test_one_file_does_not_stop_the_others(phone, sized_files, tmp_path):
    """Damaged here, no room there, refused by the app: each is named."""
    (tmp_path / "text.tflite").write_text("not a model", encoding="utf-8")
    (tmp_path / "third.tflite").write_bytes(sized_files[0].read_bytes())
    phone.change(
        app={"unwritable": ["third.tflite"], "failing": {"1.tflite": "Expected known operators."}}
    )
    out = tmp_path / "result.json"
    files = [tmp_path / "text.tflite", *sized_files, tmp_path / "third.tflite"]
    result = run(*files, "--android", "--app", "--json", out)
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    expected = [("text.tflite", "TFL3"), ("third.tflite", "No space left"), ("1.tflite", "known")]
    assert len(lines) == len(expected)
    for line, words in zip(lines, expected, strict=True):
        assert all(word in line for word in words), line
    assert f"Received: {sized_files[0]}" in lines[2]
    stored = load_benchmark(out)
    assert [latency.path for latency in stored.latencies] == [str(sized_files[1])]
    assert stored.failures[2].path == str(sized_files[0])
    shown = run("--show", out)
    assert shown.exit_code == 0
    assert shown.output.count("Not measured: ") == 3
    assert phone.left == phone.left_for_app == []


def test_an_error_without_keep_going(phone, sized_files):
    phone.change(app={"failing": {"1.tflite": "Expected known operators."}})
    with pytest.raises(RuntimeError, match="known operators"):
        benchmark_with_app(sized_files)


def test_no_device_is_needed_for_files_that_are_none(phone, tmp_path):
    (tmp_path / "text.tflite").write_text("not a model", encoding="utf-8")
    result = run(tmp_path / "text.tflite", "--android", "--app")
    assert result.exit_code == 2
    assert not (phone.root / "calls.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{file}", "--app"), ["--app", "--android"]),
        (("{file}", "--android", "--app", "{file}"), ["APK", "files first"]),
        (("{file}", "--android", "--app", "/none.apk"), ["/none.apk", "does not exist"]),
        (("{file}", "--android", "--app", "{text}"), ["no ZIP archive", "make apk"]),
        (("{file}", "--android", "--app", "--tool", "x"), ["--tool", "native tool"]),
        (("{file}", "--android", "--app", "--cool-down", "1"), ["--cool-down", "native tool"]),
        (("{file}", "--android", "--app", "--accelerators", "cpu,tpu"), ["tpu", "gpu-fp16"]),
        (("{file}", "--android", "--accelerators", "cpu"), ["--accelerators", "--app"]),
        (("{file}", "--threads", "1,2"), ["Several --threads", "--app"]),
        (("{file}", "--threads", "0"), ["--threads", "0"]),
        (("{file}", "--threads", "two"), ["--threads", "two"]),
        (("{file}", "--show"), ["stored results", ".json"]),
        (("none.json", "--show", "--peers"), ["--peers", "Leave"]),
        (("none.json", "--show"), ["none.json", "does not exist"]),
    ],
)
def test_options_that_do_not_fit_are_one_line(sized_files, tmp_path, arguments, words):
    text = tmp_path / "text.apk"
    text.write_text("no archive", encoding="utf-8")
    result = run(*(a.format(file=sized_files[0], text=text) for a in arguments))
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"accelerators": ["tpu"]}, "gpu-fp16"),
        ({"accelerators": []}, "none"),
        ({"threads": []}, "at least one number"),
        ({"threads": [1, 0]}, "threads=1, 0"),
        ({"rounds": 0}, "rounds=0"),
    ],
)
def test_wrong_arguments_are_refused(sized_files, arguments, words):
    with pytest.raises(ValueError, match=words):
        benchmark_with_app(sized_files, **arguments)


def test_help_needs_no_library():
    text = run("--help").output
    for word in ("--show", "--app [APK]", "--accelerators", "--threads N"):
        assert word in text
    assert benchmark_command.name == "benchmark"


@pytest.mark.parametrize(
    ("app", "words"),
    [
        ({"elsewhere": ["gpu-fp16"]}, "1.tflite did not run on gpu-fp16 but on cpu"),
        ({"difference": 0.31}, "1.tflite gives other outputs on gpu-fp16 than on the CPU"),
        ({"difference": 0.31}, "0.31 of the largest"),
        ({"after": {"thermal_status": "severe"}}, "thermal status severe in the run"),
        ({"conditions": {"thermal": [{"seconds": 3, "status": 4}]}}, "thermal status critical"),
        ({"before": {"power_save": True}}, "battery saver"),
        ({"conditions": {"left_foreground": True}}, "The app was in the background"),
        ({"conditions": {"cancelled": True}}, "The run was cancelled"),
        ({"medians": [1.0, 1.1, 1.5]}, "1.50 times as long as the first"),
    ],
)
def test_doubts_are_told(phone, sized_files, tmp_path, app, words):
    phone.change(app=app)
    out = tmp_path / "phone.json"
    arguments = ("--android", "--app", "--accelerators", "cpu,gpu-fp16", "--json", out)
    result = run(sized_files[0], *arguments)
    assert result.exit_code == 0, result.stderr
    for shown in (result.output, run("--show", out).output, run("--show", out, out).output):
        assert words in flat(shown).partition("Warning: ")[2]
        assert shown.count("Warning: ") == (2 if shown.count("app: ") == 2 else 1)
        assert "seconds" not in shown
    assert ("gpu-fp16 ×1!" in result.output) == ("elsewhere" in app)


def test_nothing_is_doubted_without_a_reason(phone, sized_files):
    phone.change(
        app={"difference": 0.02, "medians": [1.0, 1.1], "after": {"thermal_status": "moderate"}}
    )
    result = run(*sized_files, "--android", "--app", "--accelerators", "cpu,gpu-fp16")
    assert "Warning" not in result.output


def stored(path, target, *times, **conditions) -> Path:
    """A stored result of files that took `times` ms."""
    latencies = [
        Latency(f"{'long' * 9}{i}.tflite", 10, time, time + 1, time, 1.0, medians=[time])
        for i, time in enumerate(times)
    ]
    Benchmark(latencies, {"target": target, "threads": 2, **conditions}).save(path)
    return path


def test_every_figure_says_where_it_comes_from(tmp_path):
    phone = stored(tmp_path / "phone.json", "android-app", 1.25, 2.5, model="Pixel 8")
    desk = stored(tmp_path / "desk.json", "this machine", 4.75)
    tool = stored(tmp_path / "tool.json", "Android", 3.25, delegate="gpu")
    other = stored(tmp_path / "other.json", "android-app", 1.75, model="Pixel 9")
    result = run("--show", phone, desk, tool, other)
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.output.splitlines()]
    rows = [line for line in lines if line and line[0].endswith(("long0", "long1"))]
    found = [(row[0][-1], " ".join(row[3:-4]), row[-4], row[-3]) for row in rows]
    assert found == [
        ("0", "1 app", "1.25", "1.00"),
        ("1", "1 app", "2.50", "2.00"),
        ("0", "2 app", "1.75", "1.00"),
        ("0", "3 this machine", "4.75", "1.00"),
        ("0", "4 native tool", "3.25", "1.00"),
    ]
    assert [row[1:3] for row in rows][-2:] == [["cpu", "×2"], ["gpu", "×2"]]
    for words in (f"1 app: {phone}", f"2 app: {other}", f"4 native tool: {tool}", "Pixel 9"):
        assert words in result.output


def test_failures_of_a_stored_result_are_shown(tmp_path):
    path = stored(tmp_path / "result.json", "this machine", 1.0)
    result = load_benchmark(path)
    replace(result, failures=[Failure("bad.tflite", "Expected a model.")]).save(path)
    nothing = tmp_path / "nothing.json"
    Benchmark([], {}, [Failure("worse.tflite", "Expected more.")]).save(nothing)
    for arguments in ((path, nothing), ("--show", path, nothing)):
        shown = run(*arguments)
        assert shown.exit_code == 0, shown.stderr
        assert "Not measured: bad.tflite: Expected a model." in flat(shown.output)
        assert "Not measured: worse.tflite: Expected more." in flat(shown.output)


def test_one_result_that_can_not_be_read_does_not_hide_the_others(tmp_path):
    path = stored(tmp_path / "result.json", "this machine", 1.5)
    result = run("--show", path, path, tmp_path / "none.json")
    assert result.exit_code == 2
    assert "1.50" in result.output
    assert result.stderr.count("\n") == 1


def test_crashes_are_read_from_the_log():
    from stand_in_app import JAVA_CRASH, NATIVE_CRASH

    reason = app_contract.crash_reason
    assert reason(JAVA_CRASH, "17") == "java.lang.IllegalStateException: of an earlier process"
    assert reason(JAVA_CRASH, None).startswith("java.lang.OutOfMemoryError")
    assert reason(JAVA_CRASH, "5") is reason(NATIVE_CRASH, "99") is reason("", None) is None
    assert reason(NATIVE_CRASH, "4321") == "signal 11 (SIGSEGV) in /vendor/lib64/libOpenCL.so"


def test_a_target_error_is_for_the_device(phone, sized_files):
    phone.change(app={"states": ["failed: Planted."]})
    with pytest.raises(TargetError, match="Planted"):
        benchmark_with_app(sized_files, keep_going=True)


def test_the_contract_is_that_of_the_pages(project):
    """The page states it for those who write the other side."""
    text = (project / "docs" / "android.md").read_text(encoding="utf-8")
    for words in (PACKAGE, app_contract.ACTION, app_contract.DIRECTORY, "running DONE/TOTAL"):
        assert words in text
    assert json.dumps(list(app_contract.Plan(["cpu"], [1], 1, 1, 0).extras()))
