"""Tests class folders as TFRecords: written files, errors, and resuming after a kill."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from PIL import Image

from keras_mobileone.cli.console import OneLineErrors
from keras_mobileone.cli.data import write_tfrecords_command
from keras_mobileone.data.sources import open_source
from keras_mobileone.data.tfrecord_writer import write_tfrecords

WNIDS = ("n01440764", "n02102040")


def picture(mode="RGB", seed=0, size=(48, 40)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def save(image, path, kind="JPEG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, kind)


def encoded(image, kind="JPEG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Returns two ImageNet classes with 2 × 9 training and 2 × 3 validation images."""
    root = tmp_path_factory.mktemp("folders")
    for split, count in (("train", 9), ("val", 3)):
        for k, wnid in enumerate(WNIDS):
            for i in range(count):
                save(picture(seed=10 * k + i), root / split / wnid / f"{i}.JPEG")
    save(picture("L"), root / "train" / WNIDS[0] / "gray.JPEG")
    save(picture("CMYK"), root / "train" / WNIDS[0] / "cmyk.JPEG")
    save(picture(), root / "train" / WNIDS[1] / "png.JPEG", "PNG")
    save(picture("P"), root / "train" / WNIDS[1] / "palette.png", "PNG")
    return root


@pytest.fixture
def bad_folders(tmp_path):
    """Returns twenty good and three bad images, and the names of the bad ones."""
    root = tmp_path / "bad"
    for i in range(20):
        save(picture(seed=i), root / "ab"[i % 2] / f"{i}.jpg")
    whole = encoded(picture())
    (root / "a" / "cut.jpg").write_bytes(whole[:-300])
    (root / "a" / "empty.jpg").write_bytes(b"")
    (root / "b" / "scan.jpg").write_bytes(encoded(picture(), "TIFF"))
    return root


def contents(directory):
    """Returns the bytes of each file of a set of records."""
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def examples(directory, split):
    """Returns the features of each record of a split, by file name."""
    found = {}
    for path in sorted(directory.glob(f"{split}*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            feature = tf.train.Example.FromString(record).features.feature
            row = {
                key: (value.bytes_list.value or value.int64_list.value)[0]
                for key, value in feature.items()
            }
            found[row["image/filename"].decode()] = row
    return found


# Written files


def test_every_feature_of_imagenets_records(folders, tmp_path):
    prepared = write_tfrecords(folders, tmp_path / "out", 4)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "dataset.json",
        "prepare.json",
        *(f"train-0000{i}-of-00004" for i in range(4)),
        "validation-00000-of-00001",
    ]
    assert prepared.classes == WNIDS
    assert {n: (s.images, s.shards) for n, s in prepared.splits.items()} == {
        "train": (22, 4),
        "validation": (6, 1),
    }
    rows = examples(tmp_path / "out", "train")
    assert len(rows) == 22
    for name, row in rows.items():
        assert row["image/encoded"] == (folders / "train" / name).read_bytes()
        label = row["image/class/label"]
        assert row["image/class/synset"].decode() == WNIDS[label - 1] == name.split("/")[0]
        assert row["image/class/text"] == (b"tench", b"English springer")[label - 1]
        assert (row["image/height"], row["image/width"]) == (40, 48)
    kinds = {
        name.split("/")[1]: (
            row["image/format"].decode(),
            row["image/colorspace"].decode(),
            row["image/channels"],
        )
        for name, row in rows.items()
    }
    assert kinds["0.JPEG"] == ("JPEG", "RGB", 3)
    assert kinds["gray.JPEG"] == ("JPEG", "L", 1)
    assert kinds["cmyk.JPEG"] == ("JPEG", "CMYK", 4)
    assert kinds["png.JPEG"] == ("PNG", "RGB", 3)
    assert kinds["palette.png"] == ("PNG", "P", 1)


def test_classes_are_mixed_over_shards_of_equal_size(folders, tmp_path):
    write_tfrecords(folders, tmp_path / "out", 3)
    dataset = json.loads((tmp_path / "out" / "dataset.json").read_text())
    train = dataset["splits"]["train"]
    assert [shard["images"] for shard in train["shards"]] == [7, 7, 8]
    for shard in train["shards"]:
        labels = {
            r["image/class/label"] for r in examples(tmp_path / "out", shard["file"]).values()
        }
        assert labels == {1, 2}


def test_other_names_have_no_text(tmp_path):
    for name in ("cat", "dog"):
        save(picture(), tmp_path / "images" / name / "0.jpg")
    write_tfrecords(tmp_path / "images", tmp_path / "out", 1)
    for row in examples(tmp_path / "out", "train").values():
        assert "image/class/text" not in row
    assert open_source(tmp_path / "out", "train").classes == ("cat", "dog")


def test_threads_do_not_change_a_byte(folders, tmp_path):
    progress = []
    for threads in (1, 4):
        write_tfrecords(
            folders,
            tmp_path / str(threads),
            5,
            2,
            threads=threads,
            progress=lambda *row: progress.append(row),
        )
    assert contents(tmp_path / "1") == contents(tmp_path / "4")
    assert progress[-1] == (28, 28)


@pytest.mark.slow
def test_imagenette_reads_the_same_from_folders_and_records(shared, tmp_path):
    source = shared / "imagenette"
    for split, count in (("train", 30), ("val", 5)):
        for folder in sorted((source / split).iterdir()):
            (tmp_path / "data" / split / folder.name).mkdir(parents=True)
            for file in sorted(folder.iterdir())[:count]:
                (tmp_path / "data" / split / folder.name / file.name).symlink_to(file)
    write_tfrecords(tmp_path / "data", tmp_path / "out", 7)
    for split, count in (("train", 300), ("val", 50)):
        found = []
        for place in ("data", "out"):
            stream = open_source(tmp_path / place, split).stream(seed=1).take(count)
            found.append(
                {e["name"]: (e["encoded"], e["label"]) for e in stream.as_numpy_iterator()}
            )
        assert len(found[0]) == count
        assert found[0] == found[1]


# Interruptions


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path):
    for i in range(160):
        save(picture(seed=i, size=(240, 200)), tmp_path / "images" / "ab"[i % 2] / f"{i}.jpg")
    write_tfrecords(tmp_path / "images", tmp_path / "unbroken", 40)
    out = tmp_path / "out"
    program = (
        "import sys; from keras_mobileone.data.tfrecord_writer import write_tfrecords;"
        "write_tfrecords(sys.argv[1], sys.argv[2], 40, threads=1)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "images", out], stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not (out / "train-00003-of-00040").exists():
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("train-*")}
    assert 3 < len(before) < 40
    with pytest.raises(ValueError, match="not finished"):
        open_source(out, "train")

    (out / ".train-00009-of-00040-half").write_bytes(b"of a killed run")
    write_tfrecords(tmp_path / "images", out, 40)
    assert contents(out) == contents(tmp_path / "unbroken")
    kept = [n for n, changed in before.items() if (out / n).stat().st_mtime_ns == changed]
    assert len(kept) >= len(before) - 1  # one may have been finished but not noted


def test_finished_shards_are_kept_and_damaged_ones_written_again(folders, tmp_path):
    out = tmp_path / "out"
    write_tfrecords(folders, out, 4)
    whole = contents(out)
    times = {p.name: p.stat().st_mtime_ns for p in out.glob("*-of-*")}
    (out / "train-00001-of-00004").write_bytes(b"short")
    (out / "train-00002-of-00004").unlink()
    write_tfrecords(folders, out, 4)
    assert contents(out) == whole
    again = {p.name for p in out.glob("*-of-*") if p.stat().st_mtime_ns != times[p.name]}
    assert again == {"train-00001-of-00004", "train-00002-of-00004"}


@pytest.mark.slow
def test_an_error_in_one_shard_ends_the_run_and_leaves_no_half_file(folders, tmp_path, run_python):
    """As on a full disk, no file may grow beyond 20 kB."""
    program = (
        "import resource, signal, sys; import tensorflow;"
        "from keras_mobileone.data.tfrecord_writer import write_tfrecords\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "try: write_tfrecords(sys.argv[1], sys.argv[2], 1, threads=2)\n"
        "except OSError as error: print('caught', error)"
    )
    printed = run_python(program, folders, tmp_path / "out")
    assert "caught Can't write" in printed
    assert "train-00000-of-00001" in printed
    assert not {".train", "train-00000-of-00001", "dataset.json"} & {
        path.name.split("-000")[0] if path.name.startswith(".") else path.name
        for path in (tmp_path / "out").iterdir()
    }


def test_an_interruption_stops_soon_and_keeps_what_is_finished(folders, tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tfrecords(folders, tmp_path / "out", 22, threads=1, progress=interrupt)
    assert not [p.name for p in (tmp_path / "out").iterdir() if p.name.startswith(".")]
    write_tfrecords(folders, tmp_path / "out", 22)
    write_tfrecords(folders, tmp_path / "unbroken", 22)
    assert contents(tmp_path / "out") == contents(tmp_path / "unbroken")


def test_an_interruption_does_not_wait_for_the_end_of_a_shard(tmp_path):
    save(picture(size=(600, 500)), tmp_path / "large.jpg")
    (tmp_path / "images" / "a").mkdir(parents=True)
    for i in range(400):
        (tmp_path / "images" / "a" / f"{i}.jpg").symlink_to(tmp_path / "large.jpg")
    seen = []

    def interrupt(done, total):
        seen.append((done, total))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tfrecords(tmp_path / "images", tmp_path / "out", 1, progress=interrupt)
    assert seen[0][0] < seen[0][1] == 400
    assert os.listdir(tmp_path / "out") == ["prepare.json"]


# Bad images


def test_bad_images_are_named_and_may_be_left_out(bad_folders, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="3 that can't be decoded") as caught:
        write_tfrecords(bad_folders, out, 5)
    for word in ("a/cut.jpg", "a/empty.jpg", "b/scan.jpg", "bad-images.txt", "--skip-bad"):
        assert word in str(caught.value)
    assert not (out / "dataset.json").exists()
    listed = (out / "bad-images.txt").read_text().splitlines()
    formats = "JPEG, PNG, GIF, BMP, WEBP, MPO"
    assert listed[1:] == ["a/empty.jpg: no image", f"b/scan.jpg: TIFF is not one of {formats}"]
    assert listed[0].startswith("a/cut.jpg: image file is truncated")

    prepared = write_tfrecords(bad_folders, out, 5, skip_bad=True)
    assert set(prepared.splits["train"].bad) == {"a/cut.jpg", "a/empty.jpg", "b/scan.jpg"}
    assert open_source(out, "train").images == prepared.splits["train"].images == 20
    assert len(examples(out, "train")) == 20


def test_replaced_images_are_taken_up(bad_folders, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="cut"):
        write_tfrecords(bad_folders, out, 5)
    for name in ("a/cut.jpg", "a/empty.jpg", "b/scan.jpg"):
        save(picture(), bad_folders / name)
    assert write_tfrecords(bad_folders, out, 5).splits["train"].bad == {}
    assert len(examples(out, "train")) == 23
    assert not (out / "bad-images.txt").exists()


def test_many_bad_images_are_counted(tmp_path):
    save(picture(), tmp_path / "images" / "a" / "good.jpg")
    for i in range(14):
        (tmp_path / "images" / "a" / f"{i:02}.jpg").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"14 that .* a/09\.jpg and 4 more; see"):
        write_tfrecords(tmp_path / "images", tmp_path / "out", 2)
    assert len((tmp_path / "out" / "bad-images.txt").read_text().splitlines()) == 14


def test_a_set_of_bad_images_alone_is_refused(tmp_path):
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "0.jpg").write_bytes(b"text")
    with pytest.raises(ValueError, match="1 that can't be decoded"):
        write_tfrecords(tmp_path / "images", tmp_path / "out", 1, skip_bad=True)


# The command


def run(*arguments):
    group = OneLineErrors(commands=[write_tfrecords_command])
    return CliRunner().invoke(group, ["write-tfrecords", *(str(a) for a in arguments)])


def test_command_says_what_was_written(folders, bad_folders, tmp_path):
    result = run(folders, tmp_path / "out", "--shards", 2)
    assert result.exit_code == 0, result.stderr
    assert "train: 22 images of 2 classes in 2 shards." in result.output
    assert "validation: 6 images of 2 classes in 1 shards." in result.output
    result = run(bad_folders, tmp_path / "other", "--shards", 2, "--skip-bad")
    assert result.exit_code == 0, result.stderr
    assert "3 left out" in result.output
    assert "Example: keras-mobileone write-tfrecords" in run("--help").output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{tmp}/none", "{tmp}/out", "--shards", "2"), ["Expected a directory", "none"]),
        (("{root}", "{tmp}/none/out", "--shards", "2"), ["none", "Create it first"]),
        (("{root}", "{root}", "--shards", "2"), ["apart from the images"]),
        (("{root}", "{root}/train/out", "--shards", "2"), ["apart from the images"]),
        (("{root}/train", "{root}", "--shards", "2"), ["apart from the images"]),
        (("{root}", "{tmp}/out", "--shards", "23"), ["from 1 to 22 train shards", "23"]),
        (("{root}", "{tmp}/out", "--shards", "0"), ["--shards"]),
        (("{root}", "{tmp}/out"), ["--shards"]),
        (("{root}", "{tmp}/out", "--shards", "2", "--val-shards", "7"), ["6 validation", "7"]),
        (("{root}/train", "{tmp}/out", "--shards", "2", "--val-shards", "2"), ["val/ next to"]),
        (("{root}", "{tmp}/full", "--shards", "2"), ["full with notes.txt"]),
        (("{root}", "{tmp}/begun", "--shards", "3"), ["interrupted run in", "Empty"]),
        (("{root}", "{tmp}/damaged", "--shards", "2"), ["prepare.json", "damaged"]),
        (("{root}", "{tmp}/full/notes.txt", "--shards", "2"), ["notes.txt"]),
        (("{root}/train/n01440764", "{tmp}/out", "--shards", "2"), ["outside of them"]),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, words, folders, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "prepare.json").write_text("{")
    write_tfrecords(folders, tmp_path / "begun", 2)
    before = {name: contents(tmp_path / name) for name in ("full", "damaged", "begun")}
    result = run(*(a.format(root=folders, tmp=tmp_path) for a in arguments))
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr
    assert {name: contents(tmp_path / name) for name in before} == before
    assert sorted(os.listdir(tmp_path)) == sorted(before)


def test_an_unwritable_place_is_one_sentence(folders, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(PermissionError, match="writable"):
        write_tfrecords(folders, tmp_path / "out", 2)
