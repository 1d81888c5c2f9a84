"""Tests `make test-arm64` without qemu: its comparison, its requirements, and its result."""

import json
import platform
import subprocess
import sys

import numpy as np
import pytest
from arm64 import check, emulator

import keras_mobileone

X86 = {"machine": "x86_64", "distribution": "debian", "root": True}


@pytest.fixture
def logits(noise):
    """Returns logits of 5 images and 10 classes, with class 0 far ahead in image 0."""
    values = noise(5, 10)
    values[0, 0] = 8.0
    return values


@pytest.mark.parametrize("precision", check.IMAGES)
def test_equal_logits_pass(logits, precision):
    result = check.compare(precision, logits, logits.copy())
    assert result["passed"]
    assert result["error"] == 0
    assert result["equal_answers"] == 5
    assert result["equal_logits"] == result["logits"] == 50


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("tolerances", [0.5, 2, np.nan])
def test_a_perturbed_logit_is_caught(logits, precision, tolerances):
    """The perturbed logit is in the last image, which has none of the largest logits."""
    perturbed = logits.copy()
    perturbed[4, 7] += tolerances * check.TOLERANCE * 8.0
    result = check.compare(precision, logits, perturbed)
    assert result["passed"] == (tolerances < 1)
    assert result["equal_logits"] == 49


def test_a_changed_int8_answer_is_caught(logits):
    changed = logits.copy()
    changed[0, 1] = 9.0
    result = check.compare("int8", logits, changed)
    assert not result["passed"]
    assert result["equal_answers"] == 4


def test_int8_logits_may_differ_below_the_answer_and_are_counted(logits):
    rounded = logits.copy()
    rounded[0, 1:3] += 0.1
    result = check.compare("int8", logits, rounded)
    assert result["passed"]
    assert result["equal_logits"] == 48
    rounded[0, 1] = np.nan
    assert not check.compare("int8", logits, rounded)["passed"]


def test_missing_images_are_caught(logits):
    with pytest.raises(ValueError, match="of the same shape"):
        check.compare("int8", logits, logits[:4])


def test_only_a_passed_check_is_stored(logits, tmp_path, monkeypatch, capsys):
    output = tmp_path / "arm64.json"
    perturbed = logits + np.float32(1)

    def outcome(arm64):
        monkeypatch.setattr(
            check, "check", lambda *_: {"files": [check.compare("float32", logits, arm64)]}
        )
        return check.main(["--output", str(output)])

    assert outcome(perturbed) == 1
    printed = capsys.readouterr()
    assert "FAILED" in printed.out
    assert "float32" in printed.err
    assert not output.exists()
    assert outcome(logits) == 0
    assert json.loads(output.read_text(encoding="utf-8"))["files"][0]["passed"]


def test_an_obstacle_is_one_sentence_and_an_exit_code(monkeypatch, capsys):
    def refuse(*_):
        raise OSError("Expected this. Received: that. Do something.")

    monkeypatch.setattr(check, "arm64_python", refuse)
    assert check.main([]) == 2
    assert capsys.readouterr().err == "Error: Expected this. Received: that. Do something.\n"


@pytest.mark.slow
def test_the_script_runs_a_file_and_tells_the_machine(tiny_model, noise, tmp_path):
    model, inputs = tmp_path / "tiny.tflite", tmp_path / "inputs.npy"
    keras_mobileone.export_tflite(tiny_model, model, normalize=False)
    images = noise(3, 64, 64, 3)
    np.save(inputs, images)
    here, elsewhere = "x86", "arm64"
    if platform.machine() != check.MACHINES[here]:
        here, elsewhere = elsewhere, here
    found, conditions = check.run_litert([sys.executable], model, inputs, here)
    assert check.compare("float32", tiny_model.predict(images, verbose=0), found)["passed"]
    assert conditions["machine"] == platform.machine()
    with pytest.raises(RuntimeError, match=f"Expected to run on {elsewhere}"):
        check.run_litert([sys.executable], model, inputs, elsewhere)
    model.write_bytes(b"none")
    with pytest.raises(RuntimeError, match=rf"to run tiny\.tflite on {here}"):
        check.run_litert([sys.executable], model, inputs, here)


@pytest.mark.parametrize(
    ("machine", "absent", "words"),
    [
        ({"machine": "aarch64"}, (), ("Expected an x86-64 machine", "Received: aarch64")),
        ({"distribution": "ubuntu"}, (), ("Expected Debian", "Received: ubuntu")),
        ({}, ("apt-get",), ("Expected Debian's apt-get", "PATH")),
        ({}, ("dpkg-deb",), ("Expected Debian's dpkg-deb", "PATH")),
        ({"root": False}, (emulator.QEMU,), ("Expected the user root", "another user")),
    ],
)
def test_what_the_machine_lacks_is_said(machine, absent, words):
    def which(tool):
        return None if tool in absent else f"/usr/bin/{tool}"

    message = emulator.missing(**(X86 | machine), which=which)
    assert "\n" not in message
    for word in (*words, "Received: "):
        assert word in message


def test_root_is_needed_only_to_install_qemu():
    assert (
        emulator.missing(**X86, which=lambda tool: None if tool == emulator.QEMU else tool) is None
    )
    assert emulator.missing(**(X86 | {"root": False}), which=lambda tool: tool) is None


def test_the_command_refuses_a_machine_without_apt(tmp_path):
    """The message names a system other than Debian or a processor other than x86-64."""
    process = subprocess.run(
        [sys.executable, emulator.__file__],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2
    assert process.stderr.startswith("Error: Expected ")
    assert process.stderr.count("\n") == 1


def test_packages_that_cannot_be_fetched_are_named():
    failing = [sys.executable, "-c", "import sys; sys.exit('some warning\\nE: no such host')"]
    with pytest.raises(RuntimeError, match="fetch wheels") as caught:
        emulator._fetch(failing, "wheels")
    assert "E: no such host" in str(caught.value)
    assert "Check the network" in str(caught.value)


def test_a_half_finished_setup_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(emulator, "require_machine", lambda: None)
    monkeypatch.setattr(emulator.shutil, "which", lambda tool: tool)
    monkeypatch.setattr(
        emulator.platform, "freedesktop_os_release", lambda: {"VERSION_ID": "12"}, raising=False
    )
    steps, broken = [], True

    def unpack(root, _):
        assert not list(root.iterdir()), "remains of an earlier setup"
        (root / "python").touch()
        steps.append("debian")

    def install(root, litert):
        if broken:
            raise RuntimeError("no network")
        steps.append(litert)

    monkeypatch.setattr(emulator, "_unpack_debian", unpack)
    monkeypatch.setattr(emulator, "_install_litert", install)
    with pytest.raises(RuntimeError, match="no network"):
        emulator.arm64_python(tmp_path, "2.3.0")
    assert not (tmp_path / "root").exists()
    broken = False
    for version in ("2.3.0", "2.3.0", "2.4.0"):
        command = emulator.arm64_python(tmp_path, version)
        assert str(tmp_path / "root" / emulator.PYTHON) in command
    assert steps == ["debian", "debian", "2.3.0", "debian", "2.4.0"]


def test_the_readme_shows_the_stored_figures(load_script, tmp_path, monkeypatch):
    readme = load_script("results_pages")
    stored = json.loads(readme.ARM64.read_text(encoding="utf-8"))
    stored["files"][2] |= {"images": 9, "error": 0.03, "equal_answers": 8}
    stored["files"][2] |= {"equal_logits": 7654, "logits": 9000}
    (tmp_path / "arm64.json").write_text(json.dumps(stored), encoding="utf-8")
    monkeypatch.setattr(readme, "ARM64", tmp_path / "arm64.json")
    text = readme.arm64()
    assert "| int8 | 9 | 3e-02 | 8 | 7,654 of 9,000 |" in text
    assert "Timings under qemu mean nothing" in text
