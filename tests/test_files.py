"""Tests atomic writes: permissions, full disks, threads."""

import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from keras_mobileone import files
from keras_mobileone.files import atomic_write, staged_directory, staged_path


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_file_has_the_permissions_of_an_ordinary_one(mask, tmp_path):
    """The test uses a separate process, because a umask belongs to the whole process."""
    code = (
        "import os, sys; os.umask(int(sys.argv[1]));"
        "from keras_mobileone.files import atomic_write\n"
        "with atomic_write(sys.argv[2]) as temporary: temporary.write_text('x')"
    )
    path = tmp_path / "x.txt"
    subprocess.run([sys.executable, "-c", code, str(mask), path], check=True)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_the_umask_is_never_changed(tmp_path, monkeypatch):
    """Changing the umask would affect all other threads of the process for a moment."""

    def refuse(mask):
        raise AssertionError("os.umask was called")

    monkeypatch.setattr(os, "umask", refuse)

    def write(number):
        with atomic_write(tmp_path / f"{number}.txt") as temporary:
            temporary.write_text(str(number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(64)))
    assert {path.name for path in tmp_path.iterdir()} == {f"{i}.txt" for i in range(64)}


@pytest.mark.parametrize("writer", ["atomic_write", "staged_directory", "staged_path"])
def test_a_full_disk_is_named_and_leaves_nothing(writer, tmp_path):
    """A real process has a real limit on the size of files."""
    code = (
        "import sys; from keras_mobileone import files\n"
        f"with files.{writer}(sys.argv[1]) as temporary:\n"
        "    target = temporary / 'x' if temporary.is_dir() else temporary\n"
        "    target.write_bytes(bytes(50_000))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "wanted.bin"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    last = process.stderr.splitlines()[-1]
    assert last.startswith("OSError") and "File too large; free disk space" in last
    assert str(tmp_path / "wanted.bin") in last
    assert not list(tmp_path.iterdir())


def test_other_errors_pass_unchanged(tmp_path):
    with pytest.raises(OSError, match="planted") as caught, atomic_write(tmp_path / "x.txt"):
        raise OSError("planted")
    assert caught.value.filename is None
    assert not list(tmp_path.iterdir())


def test_an_error_keeps_what_stood_there(tmp_path):
    (tmp_path / "x.txt").write_text("old")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x.txt").write_text("old")
    for writer, path in ((atomic_write, "x.txt"), (staged_directory, "out"), (staged_path, "out")):
        with pytest.raises(KeyError), writer(tmp_path / path):
            raise KeyError
    assert (tmp_path / "x.txt").read_text() == "old"
    assert (tmp_path / "out" / "x.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_staged_directory_replaces_a_directory(tmp_path):
    for content in ("old", "new"):
        with staged_path(tmp_path / "m.mlpackage") as temporary:
            temporary.mkdir()
            (temporary / content).touch()
    assert [p.name for p in (tmp_path / "m.mlpackage").iterdir()] == ["new"]


def test_a_companion_moves_along(tmp_path):
    (tmp_path / "m.bin").write_text("old")
    with pytest.raises(KeyError), staged_path(tmp_path / "m.xml") as temporary:
        temporary.with_suffix(".bin").write_text("half")
        raise KeyError
    assert [p.name for p in tmp_path.iterdir()] == ["m.bin"]
    assert (tmp_path / "m.bin").read_text() == "old"
    with staged_path(tmp_path / "m.xml") as temporary:
        temporary.write_text("graph")
        temporary.with_suffix(".bin").write_text("weights")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "m.xml": "graph",
        "m.bin": "weights",
    }


def test_where_nothing_can_be_written(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere, which is not a directory"):
        files.require_writable(tmp_path / "nowhere" / "x.txt")
    with pytest.raises(IsADirectoryError, match="Expected a file name"):
        files.require_writable(tmp_path)
