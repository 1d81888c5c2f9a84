"""Robustness benchmarks: the layouts of the test sets, the scored classes, mCE, resuming."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras import layers
from PIL import Image

import keras_mobileone as km
from keras_mobileone.choices import BENCHMARKS, CORRUPTED
from keras_mobileone.cli import main
from keras_mobileone.data.corruptions import CORRUPTIONS, corrupt_image, image_seed
from keras_mobileone.data.imagenet import classes
from keras_mobileone.data.robustness_sets import ROBUSTNESS_SETS, open_robustness_set, subset
from keras_mobileone.evaluation.corruptions import ALEXNET_ERRORS, CorruptionEvaluation

SIDE = 32
needs_corruptions = pytest.mark.skipif(
    importlib.util.find_spec("imagecorruptions") is None,
    reason="needs imagecorruptions-imaug: pip install keras-mobileone[robustness]",
)


def reader(count, name="reader"):
    """A classifier whose best class is the number in an image: 4 · red + green / 64."""
    image = keras.Input((SIDE, SIDE, 3))
    levels = layers.Rescaling(255.0)(layers.GlobalAveragePooling2D()(image))
    # −(x − c)² without the x² that all classes share.
    numbers = np.arange(count, dtype=np.float32)
    kernel = np.zeros((3, count), np.float32)
    kernel[0], kernel[1] = 2 * numbers * 4, 2 * numbers / 64
    dense = layers.Dense(count)
    model = keras.Model(image, dense(levels), name=name)
    dense.set_weights([kernel, -(numbers**2)])
    return km.set_image_config(
        model, km.ImageConfig((SIDE, SIDE), mean=(0.0,) * 3, std=(255.0,) * 3, crop_fraction=1.0)
    )


def write_number(path, number):
    """Writes a picture that `reader` recognizes as `number`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIDE, SIDE), (number // 4, 64 * (number % 4), 0)).save(path)


@pytest.fixture(scope="module")
def thousand():
    return reader(1000)


@pytest.fixture(scope="module")
def sketch(tmp_path_factory):
    """A set of 1,000 folders by WordNet id, each with a picture of its class."""
    root = tmp_path_factory.mktemp("sketch")
    for index, (wnid, _) in enumerate(classes()):
        write_number(root / wnid / "a.png", index)
    return root


@pytest.mark.parametrize("name", ["imagenet-a", "imagenet-r"])
def test_only_the_classes_of_a_subset_are_compared(name, thousand, tmp_path):
    """A picture of a class that is not scored counts for the nearest class that is."""
    scored = subset(name)
    assert len(scored) == len(set(scored)) == 200 and list(scored) == sorted(scored)
    others = [index for index in range(1000) if index not in scored]
    for index in scored:
        write_number(tmp_path / classes()[index][0] / "right.png", index)
    first = scored[0]
    nearest = min(others, key=lambda other: abs(other - first))
    below = min(scored, key=lambda index: abs(index - nearest))
    write_number(tmp_path / classes()[below][0] / "unscored.png", nearest)
    (tmp_path / "README.txt").write_text("as distributed")
    result = km.evaluate_robustness(thousand, tmp_path, name)
    assert (result.images, result.scored_classes) == (201, 200)
    assert (result.top1, result.top5) == (201, 201)
    # Among all 1,000 classes the last picture would be wrong.
    assert km.evaluate(thousand, tmp_path).top1 == 200


def test_sketch_is_scored_over_all_classes(thousand, sketch):
    result = km.evaluate_robustness(thousand, sketch, "imagenet-sketch")
    assert (result.images, result.scored_classes, result.top1) == (1000, 1000, 1000)
    assert km.evaluate_robustness(thousand, sketch, "imagenet-sketch", limit=7).images == 7


def test_numeric_folders_are_sorted_as_numbers(thousand, tmp_path):
    for index in range(1000):
        write_number(tmp_path / str(index) / "a.png", index)
    result = km.evaluate_robustness(thousand, tmp_path, "imagenet-v2")
    assert result.top1 == 1000
    # The mistake of reading the folders in the order of their names.
    assert km.evaluate(thousand, tmp_path).top1 < 50


@pytest.fixture
def real(tmp_path):
    """Six validation images in class folders, and the label sets of all 50,000."""
    labels = [[] for _ in range(50_000)]
    pictures = {1: (5, [5]), 2: (7, [3, 7]), 3: (9, [10]), 4: (2, []), 50_000: (0, [0, 1])}
    for number, (shown, right) in pictures.items():
        labels[number - 1] = right
        folder = classes()[shown][0]
        write_number(tmp_path / "val" / folder / f"ILSVRC2012_val_{number:08}.png", shown)
    (tmp_path / "real.json").write_text(json.dumps(labels))
    return tmp_path / "val"


def test_every_label_of_a_set_is_right(real, thousand):
    result = km.evaluate_robustness(thousand, real, "imagenet-real")
    assert (result.images, result.top1, result.left_out) == (4, 3, 1)
    assert result.top5 == 4  # 10 is among the five classes nearest to 9


def test_damaged_label_sets_are_refused(real, thousand):
    for text in ("no json", "[[1]]", json.dumps([[1000]] * 50_000)):
        (real.parent / "real.json").write_text(text)
        with pytest.raises(ValueError, match=r"50000 lists of class indices.*real\.json"):
            km.evaluate_robustness(thousand, real, "imagenet-real")
    (real.parent / "real.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"Expected the file real\.json"):
        km.evaluate_robustness(thousand, real, "imagenet-real")
    with pytest.raises(FileNotFoundError, match=r"other\.json"):
        km.evaluate_robustness(thousand, real, "imagenet-real", real_labels="other.json")


def test_another_set_is_refused(sketch, thousand, tmp_path):
    with pytest.raises(ValueError, match=r"200 class folders of ImageNet-A.*800 other folders"):
        open_robustness_set("imagenet-a", sketch)
    with pytest.raises(ValueError, match=r"0 … 999.*1000 other folders: n01440764.*missing: 0, 1"):
        open_robustness_set("imagenet-v2", sketch)
    for index in range(999):
        (tmp_path / classes()[index][0]).mkdir()
    with pytest.raises(ValueError, match="1 folders missing: n15075141"):
        open_robustness_set("imagenet-sketch", tmp_path)
    with pytest.raises(ValueError, match=r"imagenet-sketch.*Received: 'imagenet-x'"):
        open_robustness_set("imagenet-x", sketch)
    with pytest.raises(ValueError, match=r"1000 classes. Received: ten with 10 outputs"):
        km.evaluate_robustness(reader(10, "ten"), sketch, "imagenet-sketch")


needs_tfds = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_datasets") is None,
    reason="needs tensorflow-datasets: pip install keras-mobileone[tfds]",
)


def store(directory, name, split, shown, config=None):
    """Lets tensorflow-datasets write images with the pairs (number shown, label)."""
    import tensorflow_datasets as tfds

    rows = []
    for number, label in shown:
        write_number(directory / f"{number}.png", number)
        rows.append((len(rows), {"image": str(directory / f"{number}.png"), "label": label}))
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        config=config,
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(encoding_format="png"),
                "label": tfds.features.ClassLabel(names=[wnid for wnid, _ in classes()]),
            }
        ),
        split_datasets={split: rows},
        data_dir=directory / "data",
    )


@pytest.mark.slow
@needs_tfds
def test_a_prepared_data_set_is_scored(thousand, tmp_path, monkeypatch):
    """A set that tensorflow-datasets itself wrote, with ImageNet's 1,000 class names."""
    import tensorflow_datasets as tfds

    shown = [*subset("imagenet-a")[:5], subset("imagenet-a")[-1]]
    store(tmp_path, "mini_a", "test", [(index, index) for index in shown])
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "data"))
    result = km.evaluate_robustness(thousand, "tfds:mini_a", "imagenet-a")
    assert (result.images, result.top1, result.scored_classes) == (6, 6, 200)
    assert km.evaluate_robustness(thousand, "tfds:mini_a", "imagenet-a", limit=2).top1 == 2
    with pytest.raises(ValueError, match=r"classes of ImageNet-R\. Received: tfds:mini_a"):
        km.evaluate_robustness(thousand, "tfds:mini_a", "imagenet-r")
    with pytest.raises(ValueError, match=r"ImageNet-ReaL is read from files"):
        km.evaluate_robustness(thousand, "tfds:mini_a", "imagenet-real")


# ImageNet-C


def test_mce_is_that_of_a_calculation_by_hand():
    """60 of 100 right at severity 1, 10 less at each higher one, alike for all corruptions."""
    right = dict.fromkeys(CORRUPTIONS, (60, 50, 40, 30, 20))
    result = CorruptionEvaluation("m", 100, (1, 2, 3, 4, 5), 70, right, 0, (224, 224), 1.0)
    assert result.mean_error == pytest.approx(0.6)
    by_hand = [0.6 / error for error in ALEXNET_ERRORS.values()]
    assert result.mce == pytest.approx(100 * sum(by_hand) / 15)
    assert result.mce == pytest.approx(77.607, abs=1e-3)
    fewer = {name: right[name] for name in CORRUPTIONS[:14]}
    assert CorruptionEvaluation("m", 100, (1, 2), 70, fewer, 0, (224, 224), 1.0).mce is None
    assert set(result.to_dict()) >= {"mce", "mean_error", "right", "seed"}


@pytest.fixture(scope="module")
def ten():
    return reader(10, "ten")


@pytest.fixture
def distributed(tmp_path):
    """ImageNet-C's layout with two corruptions; at severity 2 of fog half the answers are wrong."""
    root = tmp_path / "c"
    for name in ("noise/gaussian_noise", "fog"):
        for level in (1, 2):
            for index in range(10):
                wrong = name == "fog" and level == 2 and index % 2
                place = root / name / str(level) / f"class{index}" / "a.png"
                write_number(place, 9 - index if wrong else index)
    return root


def test_the_distributed_set_is_read(ten, distributed):
    steps = []
    (result,) = km.evaluate_corruptions(
        [ten],
        distributed,
        corruptions=("gaussian_noise", "fog"),
        severities=(1, 2),
        progress=lambda *step: steps.append(step),
    )
    assert result.right == {"gaussian_noise": (10, 10), "fog": (10, 5)}
    assert (result.images, result.clean, result.seed, result.mce) == (10, None, None, None)
    assert result.error("fog") == pytest.approx(0.25)
    assert steps[-1] == (40, 40)


@pytest.mark.slow
@needs_tfds
def test_prepared_corruptions_are_read(thousand, ten, tmp_path, monkeypatch):
    """One configuration of tensorflow-datasets for each pass; at severity 2 one label is wrong."""
    import tensorflow_datasets as tfds

    for level, labels in ((1, (3, 500, 999)), (2, (3, 500, 0))):
        shown = list(zip((3, 500, 999), labels, strict=True))
        store(tmp_path, "mini_c", "validation", shown, config=f"fog_{level}")
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "data"))
    chosen = {"corruptions": ("fog",), "severities": (1, 2)}
    (result,) = km.evaluate_corruptions([thousand], "tfds:mini_c", **chosen)
    assert (result.images, result.right, result.seed) == (3, {"fog": (3, 2)}, None)
    with pytest.raises(ValueError, match=r"Received: 'mini_c/fog_3'"):
        km.evaluate_corruptions([thousand], "tfds:mini_c", corruptions=("fog",), severities=(3,))
    with pytest.raises(ValueError, match=r"1000 classes for tfds:mini_c.* 10 outputs"):
        km.evaluate_corruptions([ten], "tfds:mini_c", **chosen)


def test_a_cache_is_for_corruptions_that_are_made(ten, distributed, tmp_path):
    with pytest.raises(ValueError, match=r"`cache` keeps .* Received: .*none without corrupt=True"):
        km.evaluate_corruptions([ten], distributed, cache=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_passes_of_unequal_size_are_refused(ten, distributed):
    """Errors are shares of the images of a pass, of which there must be as many in each."""
    (distributed / "fog" / "2" / "class3" / "a.png").rename(distributed / "more.png")
    (distributed / "more.png").rename(distributed / "fog" / "2" / "class4" / "b.png")
    (distributed / "fog" / "2" / "class3").rmdir()
    with pytest.raises(ValueError, match="10 outputs"):
        km.evaluate_corruptions([ten], distributed, corruptions=("fog",), severities=(1, 2))
    write_number(distributed / "fog" / "2" / "class3" / "a.png", 3)
    with pytest.raises(ValueError, match=r"each pass\. Received: 10 in fog/1, 11 in fog/2\."):
        km.evaluate_corruptions([ten], distributed, corruptions=("fog",), severities=(1, 2))


def test_arguments_out_of_range_and_models_of_other_sizes_are_refused(ten, sketch, distributed):
    for options, words in (({"crop_fraction": 2}, r"\(0, 1\]"), ({"limit": 0}, "at least 1")):
        with pytest.raises(ValueError, match=words):
            km.evaluate_robustness(ten, sketch, "imagenet-sketch", **options)
        with pytest.raises(ValueError, match=words):
            km.evaluate_corruptions([ten], distributed, **options)
    larger = km.MobileOneS0(weights=None, classes=10, input_shape=(64, 64, 3), deploy=True)
    with pytest.raises(ValueError, match=r"one image size\. Received: \[\(32, 32\), \(64, 64\)\]"):
        km.evaluate_corruptions([ten, larger], distributed)
    wide = km.MobileOneS0(weights=None, input_shape=(32, 64, 3), deploy=True)
    with pytest.raises(ValueError, match=r"square images\. Received: input size \(32, 64\)"):
        km.evaluate_robustness(wide, sketch, "imagenet-sketch")


def test_missing_folders_are_named(ten, distributed):
    write_number(distributed / "snow" / "3" / "class0" / "a.png", 0)
    with pytest.raises(FileNotFoundError, match=r"2 of 4 missing: fog/3, snow/1\. .*--corrupt"):
        km.evaluate_corruptions([ten], distributed, corruptions=("fog", "snow"), severities=(3, 1))
    with pytest.raises(FileNotFoundError, match="not a directory"):
        km.evaluate_corruptions([ten], distributed / "none")
    with pytest.raises(ValueError, match=r"among gaussian_noise.*Received: mist"):
        km.evaluate_corruptions([ten], distributed, corruptions=("mist",))
    with pytest.raises(ValueError, match=r"severities.*Received: \[6\]"):
        km.evaluate_corruptions([ten], distributed, severities=(6,))


@pytest.fixture(scope="module")
def cat():
    return np.asarray(km.load_image(keras_example()).resize((64, 64)))


def keras_example():
    from keras_mobileone.data.images import example_path

    return example_path()


@needs_corruptions
@pytest.mark.slow
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_follows_its_seed(name, cat):
    first, again = (corrupt_image(cat, name, 3, seed=5) for _ in range(2))
    assert first.shape == cat.shape and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != cat).any()
    drawn = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
    assert (corrupt_image(cat, name, 3, seed=6) != first).any() == (name not in drawn)
    mild, strong = (
        np.abs(corrupt_image(cat, name, level, seed=5).astype(int) - cat).mean() for level in (1, 5)
    )
    assert mild < strong


def test_each_image_of_each_pass_has_a_seed_of_its_own():
    seeds = {
        image_seed(seed, name, level, index)
        for seed in (0, 1)
        for name in CORRUPTIONS
        for level in range(1, 6)
        for index in range(100)
    }
    assert len(seeds) > 0.9999 * 2 * 15 * 5 * 100


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, cat):
    """Two class folders of photographs, one class brighter than the other."""
    root = tmp_path_factory.mktemp("pictures")
    for name, factor in (("bright", 1.0), ("dark", 0.3)):
        for index in range(6):
            (root / name).mkdir(exist_ok=True)
            pixels = np.roll(cat, 7 * index, axis=1) * factor
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def brightness(tmp_path_factory):
    """A classifier in a file: class 0 is bright, class 1 is dark."""
    image = keras.Input((SIDE, SIDE, 3))
    dense = layers.Dense(2)
    model = keras.Model(image, dense(layers.GlobalAveragePooling2D()(image)), name="brightness")
    dense.set_weights([np.array([[1, -1]] * 3, np.float32), np.array([-1.0, 1.0], np.float32)])
    config = km.ImageConfig((SIDE, SIDE), mean=(0.0,) * 3, std=(255.0,) * 3)
    path = tmp_path_factory.mktemp("model") / "brightness.keras"
    km.set_image_config(model, config).save(path)
    return path


SOME = {"corruptions": ("impulse_noise", "fog"), "severities": (2, 5), "corrupt": True}


@needs_corruptions
@pytest.mark.slow
def test_made_corruptions_do_not_depend_on_the_processes(brightness, pictures, tmp_path):
    """The cache of three processes equals that of one, and is read as the distributed set."""
    results = []
    for workers in (1, 3):
        cache = tmp_path / str(workers)
        results += km.evaluate_corruptions(
            [brightness], pictures, workers=workers, cache=cache, **SOME
        )
    assert results[0] == results[1]
    assert results[0].clean is not None and results[0].seed == 0
    files = sorted(path.relative_to(tmp_path / "1") for path in (tmp_path / "1").rglob("*.png"))
    assert len(files) == 2 * 2 * 12
    for file in files:
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "3" / file).read_bytes()
    (read,) = km.evaluate_corruptions(
        [brightness], tmp_path / "1", corruptions=SOME["corruptions"], severities=(2, 5)
    )
    assert read.right == results[0].right
    (other,) = km.evaluate_corruptions([brightness], pictures, seed=1, cache=tmp_path / "o", **SOME)
    assert (tmp_path / "o" / files[-1]).read_bytes() != (tmp_path / "1" / files[-1]).read_bytes()
    assert other.images == 12


@needs_corruptions
@pytest.mark.slow
def test_passes_that_are_done_are_not_repeated(brightness, pictures, tmp_path, monkeypatch):
    """A process is killed between two passes; the next run makes the rest, with equal results."""
    state = tmp_path / "state.json"
    command = [sys.executable, "-m", "keras_mobileone", "evaluate", str(pictures)]
    command += ["--model", str(brightness), "--benchmark", "imagenet-c", "--corrupt"]
    command += ["--workers", "1", "--state", str(state)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    end = time.monotonic() + 120
    while not state.is_file() or len(json.loads(state.read_text())["passes"]) < 3:
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    stored = json.loads(state.read_text())
    assert 3 <= len(stored["passes"]) < 76
    # What is stored is taken as it is: a wrong number stays.
    name = next(key for key in stored["passes"] if key != "clean/0")
    true, stored["passes"][name] = stored["passes"][name], [0]
    state.write_text(json.dumps(stored))
    corruption, level = name.split("/")
    options = {"corruptions": (corruption,), "severities": (int(level),), "corrupt": True}
    (found,) = km.evaluate_corruptions([brightness], pictures, state=state, **options)
    assert found.right == {corruption: (0,)}
    (fresh,) = km.evaluate_corruptions([brightness], pictures, **options)
    assert fresh.right == {corruption: tuple(true)}
    with pytest.raises(ValueError, match=r"settings of the first run.*seed 3.*has 0"):
        km.evaluate_corruptions([brightness], pictures, seed=3, state=state, **options)
    state.write_text("{}")
    with pytest.raises(ValueError, match=r"state of an evaluation.*state\.json"):
        km.evaluate_corruptions([brightness], pictures, state=state, **options)


@needs_corruptions
@pytest.mark.slow
def test_without_the_extra_it_is_named(brightness, pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(ImportError, match=r"keras-mobileone\[robustness\]"):
        km.evaluate_corruptions([brightness], pictures, corrupt=True)


# The command


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_evaluates_a_set(sketch, thousand, tmp_path):
    thousand.save(tmp_path / "reader.keras")
    common = ("evaluate", sketch, "--model", tmp_path / "reader.keras")
    json_file = tmp_path / "result.json"
    result = run(*common, "--benchmark", "imagenet-sketch", "--limit", 50, "--json", json_file)
    assert result.exit_code == 0, result.output
    assert "50 (100.00 %)" in result.output and "best of 1000 classes" in result.output
    assert json.loads(json_file.read_text())["benchmark"] == "imagenet-sketch"
    result = run(*common, "--limit", 40, "--calibration")
    assert result.exit_code == 0, result.output
    assert "expected calibration error" in result.output
    result = run(*common, "--benchmark", "imagenet-a")
    assert result.exit_code == 2 and "200 class folders of ImageNet-A" in result.stderr


def test_the_command_evaluates_corruptions(ten, distributed, tmp_path):
    ten.save(tmp_path / "ten.keras")
    common = ("evaluate", distributed, "--model", tmp_path / "ten.keras")
    options = ("--corruptions", "gaussian_noise,fog", "--severities", "1,2")
    result = run(*common, "--benchmark", "imagenet-c", *options)
    assert result.exit_code == 0, result.output
    assert "Mean error: 12.5 %" in result.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--corrupt",), "--corrupt does not belong to an evaluation without --benchmark"),
        (("--benchmark", "imagenet-a", "--calibration"), "--calibration does not belong to"),
        (("--benchmark", "imagenet-c", "--real-labels", "x"), "--real-labels does not belong"),
        (("--benchmark", "imagenet-c", "--severities", "1,x"), "Received: 1,x"),
        (("--benchmark", "imagenet-c", "--workers", "2"), "--workers needs --corrupt"),
        (("--benchmark", "imagenet-x"), "imagenet-sketch"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, words, tmp_path):
    result = run("evaluate", tmp_path, *options)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())


def test_every_set_says_where_it_comes_from():
    assert all(known.source.count("/") == 1 for known in ROBUSTNESS_SETS.values())
    assert (*ROBUSTNESS_SETS, CORRUPTED) == BENCHMARKS
