"""Tests the sources of training images: class folders, TFRecords, tensorflow-datasets."""

import importlib.util
import json
import shutil
import sys
from itertools import islice, permutations

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_mobileone.data import imagenet, shuffling
from keras_mobileone.data.folders import ClassFolders, folder_splits
from keras_mobileone.data.records import Records
from keras_mobileone.data.sources import describe, open_source
from keras_mobileone.data.tfrecord_writer import write_tfrecords

needs_tfds = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_datasets") is None,
    reason="needs tensorflow-datasets: pip install keras-mobileone[tfds]",
)


def save_image(path, number):
    """Saves a JPEG whose pixels identify it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), np.uint8)
    Image.fromarray(pixels).save(path, "JPEG")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Returns three classes with 9 + 8 + 6 training images, two of them with validation images."""
    root = tmp_path_factory.mktemp("folders")
    for k, (name, count) in enumerate((("cat", 9), ("ant", 8), ("bee", 6))):
        for i in range(count):
            save_image(root / "train" / name / f"{name}{i}.JPEG", 100 * k + i)
    for name in ("bee", "cat"):
        save_image(root / "val" / name / f"{name}.jpg", 7)
    return root


@pytest.fixture(scope="module")
def records(folders, tmp_path_factory):
    """Returns the class folders as TFRecords, in five training shards."""
    return write_tfrecords(folders, tmp_path_factory.mktemp("records") / "out", 5, 1).directory


@pytest.fixture(scope="module")
def wordnet_records(tmp_path_factory):
    """Returns TFRecords of another program, with sixteen images of ImageNet's first classes."""
    root = tmp_path_factory.mktemp("wordnet")
    for label, (wnid, _) in enumerate(imagenet.classes()[:2]):
        for i in range(8):
            save_image(root / "images" / wnid / f"{i}.jpg", 8 * label + i)
    write_tfrecords(root / "images", root / "out", 4)
    for name in ("dataset.json", "prepare.json"):
        (root / "out" / name).unlink()
    return root / "out"


@pytest.fixture(scope="module")
def sources(folders, records):
    """Returns both kinds of source, the second with two shards and a buffer of three images."""
    found = open_source(records, "train")
    small = Records(found.files, found.lengths, found.stored, buffer=3)
    small._shards_of_part = lambda: 2
    return {"folders": open_source(folders, "train"), "records": small, "whole": found}


def read(source, count=None, **arguments):
    """Returns (position, name, label) of the first elements of a stream."""
    stream = source.stream(**arguments)
    return [
        (int(e["position"]), e["name"].decode(), int(e["label"]))
        for e in islice(stream.as_numpy_iterator(), count)
    ]


def save_examples(path, *rows):
    """Writes a TFRecord file of examples with the given features."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in rows:
            features = {
                key: tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
                if isinstance(value, int)
                else tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
                for key, value in row.items()
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())


# The order


@pytest.mark.parametrize("count", [1, 2, 3, 7, 1000])
def test_permutation_has_each_number_once(count):
    for number in range(20):
        order = shuffling.permutation(count, 5, number).numpy()
        np.testing.assert_array_equal(np.sort(order), np.arange(count))


def test_every_permutation_is_as_likely():
    drawn = tf.data.Dataset.range(2400).map(lambda number: shuffling.permutation(4, 8, number))
    seen = [tuple(order) for order in drawn.as_numpy_iterator()]
    counts = np.array([seen.count(order) for order in permutations(range(4))])
    assert ((counts - 100) ** 2 / 100).sum() < 50  # 23 degrees of freedom: one in a thousand


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folders", "records", "whole"])
def test_each_pass_has_every_image_once_in_its_own_order(sources, kind):
    source = sources[kind]
    found = read(source, 3 * source.images, seed=4)
    assert [position for position, _, _ in found] == list(range(3 * source.images))
    names = [name for _, name, _ in found]
    orders = [names[i * source.images : (i + 1) * source.images] for i in range(3)]
    stored = sorted(name for _, name, _ in read(source))
    assert len(set(stored)) == source.images == 23
    assert all(sorted(order) == stored for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert orders[0] != [name for _, name, _ in read(source)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "workers", "starts"),
    [
        *(("folders", workers, (0, 1, 10, 22, 23, 24, 50)) for workers in (1, 2, 3)),
        ("records", 1, (1, 10, 22, 23, 50)),
        ("records", 2, (10, 24)),
        ("records", 3, (31,)),
        ("whole", 1, (10, 50)),
    ],
)
def test_a_stream_from_a_position_is_the_rest_of_the_whole(sources, kind, workers, starts):
    source = sources[kind]
    whole = read(source, 80, seed=1)
    for start in starts:
        for worker in range(workers):
            expected = [row for row in whole if row[0] >= start and row[0] % workers == worker]
            found = read(source, len(expected), seed=1, start=start, worker=worker, workers=workers)
            assert found == expected


@pytest.mark.parametrize("kind", ["folders", "records"])
def test_without_a_seed_there_is_one_pass_in_stored_order(sources, kind):
    source = sources[kind]
    whole = read(source)
    assert [position for position, _, _ in whole] == list(range(23))
    assert read(source, start=9) == whole[9:]
    assert read(source, start=9, worker=1, workers=3) == whole[10::3]
    assert read(source, start=23) == []


@pytest.mark.parametrize("kind", ["folders", "records"])
def test_more_workers_than_images(sources, kind):
    source = sources[kind]
    whole = read(source, 4 * 23, seed=2)
    for worker in (0, 29):
        expected = [row for row in whole if row[0] % 30 == worker]
        assert read(source, len(expected), seed=2, worker=worker, workers=30) == expected


@pytest.mark.parametrize("kind", ["folders", "records"])
def test_only_the_seed_decides(sources, kind):
    keras.utils.set_random_seed(1)
    first = read(sources[kind], 60, seed=3)
    keras.utils.set_random_seed(2)
    again = read(sources[kind], 60, seed=3)
    assert again == first
    assert read(sources[kind], 60, seed=4) != first


def test_the_buffer_is_shuffled_anew_in_each_pass(records):
    """With one shard, the order of the shards has no effect."""
    found = open_source(records, "train")
    source = Records(found.files[:1], found.lengths[:1], found.stored)
    count = source.images
    names = [tuple(name for _, name, _ in read(source, 3 * count, seed=s)) for s in (0, 1)]
    orders = {row[i * count : (i + 1) * count] for row in names for i in range(3)}
    assert len(orders) >= 5  # of 24 possible ones: rarely are two the same


def test_every_label_and_image_is_its_own(sources, folders):
    for source in sources.values():
        assert source.classes == ("ant", "bee", "cat")
        for element in source.stream(seed=0).take(23).as_numpy_iterator():
            name = element["name"].decode()
            assert source.classes[element["label"]] == name.split("/")[0]
            assert element["encoded"] == (folders / "train" / name).read_bytes()


def test_shuffling_reaches_across_shards(sources):
    """If the buffer holds a whole pass, any image may be at any place."""
    source = sources["whole"]
    place = {name: i for i, (_, name, _) in enumerate(read(source))}
    order = np.array([place[name] for _, name, _ in read(source, 30 * 23, seed=0)]).reshape(30, 23)
    assert np.abs(order.mean(axis=0) - 11).max() < 5.5
    assert len(np.unique(order[:, 0])) > 10


@pytest.mark.slow
def test_a_far_position_reads_only_its_part(records, tmp_path):
    """Shards of other parts are not opened."""
    found = open_source(records, "train")
    stored = [name for _, name, _ in read(found)]

    def one_shard_parts(files):
        source = Records(files, found.lengths, found.stored, buffer=3)
        source._shards_of_part = lambda: 1
        return source

    expected = read(one_shard_parts(found.files), 23, seed=0)[-2:]
    last = np.searchsorted(np.cumsum(found.lengths), stored.index(expected[1][1]), side="right")
    files = [file if i == last else tmp_path / "gone" for i, file in enumerate(found.files)]
    assert read(one_shard_parts(files), 2, seed=0, start=21) == expected
    with pytest.raises(tf.errors.NotFoundError, match="gone"):
        read(one_shard_parts(files), 1, seed=0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"start": -1}, "start=-1"), ({"worker": 2, "workers": 2}, "worker=2")],
)
@pytest.mark.parametrize("kind", ["folders", "records"])
def test_shares_that_cannot_be(sources, kind, arguments, words):
    with pytest.raises(ValueError, match=words):
        sources[kind].stream(**arguments)


# Class folders


def test_wordnet_folders_have_the_order_of_imagenet(tmp_path):
    wnids = [wnid for wnid, _ in imagenet.classes()]
    assert sorted(wnids) == wnids
    for i, wnid in enumerate((wnids[217], wnids[0], wnids[482])):
        save_image(tmp_path / wnid / "x.jpg", i)
    few = ClassFolders(tmp_path)
    assert few.classes == (wnids[0], wnids[217], wnids[482])
    assert few.labels.tolist() == [0, 1, 2]
    assert ClassFolders(tmp_path, wnids).labels.tolist() == [0, 217, 482]


def test_folders_below_class_folders_and_hidden_files(tmp_path):
    save_image(tmp_path / "a" / "images" / "1.JPEG", 0)
    save_image(tmp_path / "a" / "0.png", 1)
    for hidden in ("a/.x.jpg", "a/.cache/x.jpg", ".cache/x.jpg", ".x.jpg"):
        save_image(tmp_path / hidden, 2)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    assert ClassFolders(tmp_path).files == ["a/0.png", "a/images/1.JPEG"]


def test_validation_takes_the_classes_of_training(folders):
    val = open_source(folders, "val")
    assert val.classes == ("ant", "bee", "cat")
    assert val.labels.tolist() == [1, 2]
    assert open_source(folders / "train", "val") is None
    assert open_source(folders / "train", "train").images == 23


def test_other_names_of_the_folders(folders, tmp_path):
    shutil.copytree(folders, tmp_path / "data")
    (tmp_path / "data" / "val").rename(tmp_path / "data" / "validation")
    assert open_source(str(tmp_path / "data"), "val").images == 2


@pytest.mark.parametrize(
    ("train", "val"),
    [("Training", "Testing"), ("train", "valid"), ("TRAIN", "Test"), ("training", "validation")],
)
def test_usual_names_of_splits(train, val, tmp_path):
    """The folders of splits are never taken for two classes."""
    for folder, count in ((train, 3), (val, 1)):
        for index in range(count):
            save_image(tmp_path / folder / "a" / f"{index}.jpg", index)
            save_image(tmp_path / folder / "b" / f"{index}.jpg", index)
    source = open_source(tmp_path, "train")
    assert (source.classes, source.images) == (("a", "b"), 6)
    assert open_source(tmp_path, "val").images == 2
    assert describe(source) == f"6 images of 2 classes in {tmp_path / train}."


def test_validation_images_come_before_test_images(tmp_path):
    for name in ("train", "test", "valid"):
        save_image(tmp_path / name / "a" / "0.jpg", 0)
    assert folder_splits(tmp_path) == {"train": tmp_path / "train", "val": tmp_path / "valid"}


def test_classes_that_are_called_like_splits(tmp_path):
    for name in ("train", "test", "bus"):
        save_image(tmp_path / name / "0.jpg", 0)
    assert folder_splits(tmp_path) == {"train": tmp_path}
    assert open_source(tmp_path, "train").classes == ("bus", "test", "train")


def test_splits_without_classes_are_not_two_classes(tmp_path):
    for name in ("Training", "Testing"):
        save_image(tmp_path / name / "0.jpg", 0)
    with pytest.raises(ValueError, match=r"one folder of images for each class in .*Training"):
        open_source(tmp_path, "train")
    save_image(tmp_path / "train" / "a" / "0.jpg", 0)
    with pytest.raises(ValueError, match="Training and train"):
        open_source(tmp_path, "train")


def test_what_is_left_out_is_told(tmp_path):
    for name in ("a/0.jpg", "b/0.jpg"):
        save_image(tmp_path / name, 0)
    (tmp_path / "a" / "x.gif").write_bytes(b"")
    (tmp_path / "b" / "._0.jpg").write_bytes(b"")
    assert describe(open_source(tmp_path, "train")).endswith("Files left out: 1 .gif, 1 hidden.")


def strange_folders(root):
    """Returns class folders with different faults, by name."""
    for name in ("outside", "empty", "unknown", "novalue"):
        save_image(root / name / "train" / "a" / "0.jpg", 0)
    save_image(root / "outside" / "train" / "1.jpg", 1)
    (root / "empty" / "train" / "b").mkdir()
    save_image(root / "unknown" / "val" / "c" / "0.jpg", 2)
    save_image(root / "unordered" / "val" / "a" / "0.jpg", 3)
    (root / "nothing").mkdir()
    (root / "file.txt").write_text("text")


@pytest.mark.parametrize(
    ("data", "split", "error", "words"),
    [
        ("none", "train", FileNotFoundError, ["Expected a directory", "none"]),
        ("file.txt", "train", FileNotFoundError, ["Expected a directory", "file.txt"]),
        ("nothing", "train", ValueError, ["nothing", "no folder"]),
        ("outside", "train", ValueError, ["1.jpg", "outside"]),
        ("empty", "train", ValueError, ["none in", "empty/train/b"]),
        ("unknown", "val", ValueError, ["classes a", "'c'"]),
        ("unordered", "train", ValueError, ["unordered/train", "next to val"]),
        ("outside", "test", ValueError, ["'train' or 'val'", "'test'"]),
    ],
)
def test_bad_folders_are_one_sentence(data, split, error, words, tmp_path):
    strange_folders(tmp_path)
    with pytest.raises(error) as caught:
        open_source(tmp_path / data, split)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


# TFRecords


def test_records_of_prepare(records):
    val = open_source(records, "val")
    assert val.classes == ("ant", "bee", "cat")
    assert read(val) in (
        [(0, "bee/bee.jpg", 1), (1, "cat/cat.jpg", 2)],
        [(0, "cat/cat.jpg", 2), (1, "bee/bee.jpg", 1)],
    )
    renamed = open_source(records, "val", ["cat", "dog", "bee", "ant"])
    assert {(name, label) for _, name, label in read(renamed)} == {
        ("bee/bee.jpg", 2),
        ("cat/cat.jpg", 0),
    }
    with pytest.raises(ValueError, match=r"classes cat, dog.*ant, bee"):
        open_source(records, "train", ["cat", "dog"])


def test_other_programs_records(wordnet_records, tmp_path):
    source = open_source(wordnet_records, "train")
    assert (source.images, len(source.classes)) == (16, 1000)
    assert {label for _, _, label in read(source)} == {0, 1}
    assert open_source(wordnet_records, "val") is None
    # The layout of TensorFlow's TPU scripts: a folder for each split.
    for split in ("train", "validation"):
        (tmp_path / split).mkdir()
        for file in wordnet_records.iterdir():
            shutil.copy(file, tmp_path / split / file.name.replace("train", split))
    assert read(open_source(tmp_path, "train")) == read(source)
    assert open_source(tmp_path, "val").images == 16


def test_images_without_a_name_are_called_by_their_place(tmp_path):
    row = {"image/encoded": b"x", "image/class/label": 1000}
    save_examples(tmp_path / "val-00000-of-00001.tfrecord", row, row)
    path = f"{tmp_path}/val-00000-of-00001.tfrecord"
    assert read(open_source(tmp_path, "val")) == [(0, f"{path}#0", 999), (1, f"{path}#1", 999)]


@pytest.mark.parametrize("label", [0, 1001])
def test_a_label_out_of_range_names_its_file(label, tmp_path):
    rows = [{"image/encoded": b"x", "image/class/label": n} for n in (1, label)]
    save_examples(tmp_path / "train-00000-of-00001", *rows)
    words = f"Expected labels from 1 to 1000. Received: label {label} in .*train-00000-of-00001#1"
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        read(open_source(tmp_path, "train"))


def remove_shards(directory):
    (directory / "train-00001-of-00004").unlink()
    (directory / "train-00003-of-00004").unlink()


def mix_shards(directory):
    (directory / "train-00001-of-00004").rename(directory / "train-00001-of-00005")


def cut_shard(directory):
    path = directory / "train-00002-of-00004"
    path.write_bytes(path.read_bytes()[:-5])


def empty_shard(directory):
    (directory / "train-00002-of-00004").write_bytes(b"")


def compress_shard(directory):
    import gzip

    path = directory / "train-00002-of-00004"
    path.write_bytes(gzip.compress(path.read_bytes()))


def other_features(directory):
    save_examples(directory / "train-00000-of-00004", {"jpeg": b"x", "image/class/label": 1})


def labels_from_zero(directory):
    row = {"image/encoded": b"x", "image/class/label": 1, "image/class/synset": b"n01443537"}
    save_examples(directory / "train-00000-of-00004", row)


def no_examples(directory):
    with tf.io.TFRecordWriter(str(directory / "train-00000-of-00004")) as writer:
        writer.write(b"\xff\xff\xff")


def unfinished(directory):
    (directory / "prepare.json").write_text("{}")


def only_validation(directory):
    for path in directory.iterdir():
        path.rename(directory / path.name.replace("train", "val"))


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (remove_shards, FileNotFoundError, ["4 train shards", "without 1, 3"]),
        (mix_shards, ValueError, ["-of-4", "-of-5"]),
        (cut_shard, ValueError, ["train-00002-of-00004", "cut short after 3 records"]),
        (empty_shard, ValueError, ["train-00002-of-00004", "empty"]),
        (compress_shard, ValueError, ["train-00002-of-00004", "uncompressed TFRecord"]),
        (
            other_features,
            ValueError,
            ["'image/encoded'", "jpeg", "keras-mobileone write-tfrecords"],
        ),
        (labels_from_zero, ValueError, ["labels that count from 1", "label 1 for n01443537"]),
        (no_examples, ValueError, ["tf.train.Example", "train-00000-of-00004"]),
        (unfinished, ValueError, ["not finished", "again"]),
        (only_validation, ValueError, ["train-00000-of-", "none"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_bad_records_are_one_sentence(damage, error, words, wordnet_records, tmp_path):
    directory = shutil.copytree(wordnet_records, tmp_path / "records")
    damage(directory)
    with pytest.raises(error) as caught:
        open_source(directory, "train")
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_records_of_prepare(records, tmp_path):
    directory = shutil.copytree(records, tmp_path / "records")
    shard = directory / "train-00003-of-00005"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=rf"train-00003-of-00005 of {len(whole)} bytes"):
        open_source(directory, "train")
    shard.unlink()
    with pytest.raises(FileNotFoundError, match="no train-00003-of-00005"):
        open_source(directory, "train")
    assert open_source(directory, "val").images == 2
    for content in ("", "[]", json.dumps({"classes": ["a"], "splits": {"train": {}}})):
        (directory / "dataset.json").write_text(content)
        with pytest.raises(ValueError, match=r"dataset\.json.*damaged"):
            open_source(directory, "train")


def test_no_record_at_all(tmp_path):
    with pytest.raises(ValueError, match="no record"):
        Records([], [], ["a"])


# tensorflow-datasets


@pytest.fixture(scope="module")
def tfds_directory(tmp_path_factory):
    """Returns datasets written by tensorflow-datasets itself."""
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("tfds")
    for i in range(12):
        save_image(root / "images" / f"{i}.jpg", i)
    rows = [
        {"image": str(root / "images" / f"{i}.jpg"), "label": i % 3, "file_name": f"{i}.jpg"}
        for i in range(12)
    ]
    image = tfds.features.Image(encoding_format="jpeg")
    label = tfds.features.ClassLabel(names=["x", "b", "a"])
    full = {"image": image, "label": label, "file_name": tfds.features.Text()}

    def store(name, splits, file_format=None, features=full):
        chosen = {
            split: [(i, {k: row[k] for k in features}) for i, row in enumerate(part)]
            for split, part in splits.items()
        }
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version="1.0.0",
            features=tfds.features.FeaturesDict(features),
            split_datasets=chosen,
            data_dir=root / "data",
            file_format=file_format,
        )

    store("mini", {"train": rows, "test": rows[:3], "validation": rows[:5]})
    store("nameless", {"train": rows}, features={"image": image, "label": label})
    store("arrays", {"train": rows}, "array_record")
    store("unlabeled", {"train": rows}, features={"image": image})
    store("untrained", {"test": rows})
    return root


@pytest.fixture
def tfds_data(tfds_directory, monkeypatch):
    """Makes tensorflow-datasets use that directory, and no network."""
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tfds_directory / "data"))
    return tfds_directory


@pytest.mark.slow
@needs_tfds
def test_tfds_is_read_as_it_is_stored(tfds_data):
    source = open_source("tfds:mini", "train")
    assert source.classes == ("x", "b", "a")
    whole = read(source, 30, seed=0)
    assert len({name for _, name, _ in whole[:12]}) == 12
    assert read(source, 19, seed=0, start=11) == whole[11:]
    for element in source.stream().as_numpy_iterator():
        name = element["name"].decode()
        assert element["label"] == int(name.removesuffix(".jpg")) % 3
        assert element["encoded"] == (tfds_data / "images" / name).read_bytes()
    assert open_source("tfds:mini", "val").images == 5
    assert open_source("tfds:nameless", "val") is None
    assert all(
        "nameless-train" in name for _, name, _ in read(open_source("tfds:nameless", "train"))
    )
    renamed = open_source("tfds:mini", "train", ["a", "b", "c", "x"])
    assert {(int(n.removesuffix(".jpg")) % 3, label) for _, n, label in read(renamed)} == {
        (0, 3),
        (1, 1),
        (2, 0),
    }


@needs_tfds
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("imagenet2012", ["'imagenet2012'", "tfds build imagenet2012", "TFDS_DATA_DIR"]),
        ("no_such_thing", ["'no_such_thing'", "knows"]),
        ("", ["knows"]),
        ("arrays", ["TFRecords", "array_record"]),
        ("unlabeled", ["'image' and a class 'label'", "'unlabeled' with image"]),
        ("untrained", ["'train'", "test"]),
    ],
)
def test_tfds_mistakes_are_one_sentence(name, words, tfds_data):
    with pytest.raises(ValueError) as caught:
        open_source(f"tfds:{name}", "train")
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_tfds_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"pip install keras-mobileone\[tfds\]"):
        open_source("tfds:imagenet2012", "train")
