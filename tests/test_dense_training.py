"""Tests the training of segmentation models and detectors by the loop of `train`."""

import csv
import dataclasses
import json

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from safetensors.numpy import load_file

import keras_mobileone as km
from keras_mobileone.cli import main
from keras_mobileone.data.dense.mask_codes import IGNORE
from keras_mobileone.data.dense.shapes import NAMES, write_shapes
from keras_mobileone.data.imagenet import preprocess_input
from keras_mobileone.data.pipeline import BadImages
from keras_mobileone.evaluation.metrics import sqnr
from keras_mobileone.litert.metadata import read_labels
from keras_mobileone.models.tasks import task_config
from keras_mobileone.training.callbacks import Recorder
from keras_mobileone.training.dense_tasks import Segmentation
from keras_mobileone.training.distribution import Devices
from keras_mobileone.training.recipe import Phase, Recipe, get_recipe
from keras_mobileone.training.tasks import make_task
from keras_mobileone.training.train import make_trainer, train
from keras_mobileone.variants import Variant
from keras_mobileone.weights.loading import load_keras

pytest.importorskip("faster_coco_eval", reason="needs keras-mobileone[detect]")

IMAGES, BATCH = 8, 4
MINI = Variant("mini", (1, 1, 1, 1), 1, depths=(1, 1, 1, 1), base_filters=(8, 8, 16, 16))
SEGMENT = Recipe(
    "mini-segment",
    MINI,
    task="segment",
    epochs=2,
    phases=(Phase(0, 32, 0.5), Phase(1, 48, 0.5)),
    batch_size=BATCH,
    optimizer="adamw",
    learning_rate=0.6,
    warmup_epochs=0,
    weight_decay=0.01,
    final_weight_decay=0.01,
    label_smoothing=0.0,
    ema_decay=0.5,
    evaluation_size=(48, 64),
    scale=(0.8, 1.5),
    head={"aspp_filters": 16, "rates": [1, 2]},
)
DETECT = dataclasses.replace(
    SEGMENT,
    name="mini-detect",
    task="detect",
    phases=(Phase(0, 64, 0.5),),
    evaluation_size=None,
    scale=None,
    expand=1.5,
    object_crop=True,
    validate_every=2,
    head={"extra_filters": [16], "scales": [0.2, 0.4, 0.6, 0.8]},
)
RECIPES = {recipe.task: recipe for recipe in (SEGMENT, DETECT)}
TASKS = pytest.mark.parametrize("task", list(RECIPES))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("training") / "shapes"
    write_shapes(root, IMAGES, 48, 64)
    return root


@pytest.fixture(scope="module")
def runs(shapes, tmp_path_factory):
    """Returns (report, directory) of a run from start to end, by task.

    The detector is trained by the command.
    """
    root = tmp_path_factory.mktemp("runs")
    segmented = train(
        SEGMENT, shapes, root / "segment", save_every=2, tensorboard=True, exports=("int8",)
    )
    DETECT.save(root / "detect.json")
    options = ("--task", "detect", "--tensorboard", "--export", "int8")
    result = command(shapes, root / "detect", root / "detect.json", *options)
    assert result.exit_code == 0, result.output
    assert "8 images with" in result.output and "boxes of 2 classes" in result.output
    assert "map50" in result.output
    report = json.loads((root / "detect" / "report.json").read_text())
    detected = dataclasses.replace(
        segmented, **{name: report[name] for name in ("history", "scores", "steps", "exports")}
    )
    return {"segment": (segmented, root / "segment"), "detect": (detected, root / "detect")}


def same_state(a, b):
    a, b = (load_file(directory / "checkpoint.safetensors") for directory in (a, b))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.slow
@TASKS
def test_what_a_run_leaves(task, runs):
    report, directory = runs[task]
    assert {path.name for path in directory.iterdir()} == {
        *("checkpoint.safetensors", "classes.txt", "deploy.keras", "log.csv", "model.keras"),
        *("model_int8.tflite", "recipe.json", "report.json", "tensorboard"),
    }
    assert get_recipe(directory / "recipe.json") == RECIPES[task]
    names = NAMES if task == "segment" else NAMES[1:]
    assert (directory / "classes.txt").read_text().split() == list(names)
    metric = {"segment": "miou", "detect": "map50"}[task]
    first, last = report.history
    validated = {"val_loss", f"val_{metric}", f"val_average_{metric}"}
    assert validated <= set(last)
    assert validated & set(first) == (validated if task == "segment" else set())
    with open(directory / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == [first["loss"], last["loss"]]
    assert rows[0]["val_loss"] == (str(first["val_loss"]) if task == "segment" else "")
    assert last["loss"] < first["loss"]
    stored = json.loads((directory / "report.json").read_text())
    assert stored["scores"] == report.scores
    model = load_model(directory)
    assert task_config(model).classes == len(names)
    assert model.input_shape[1:3] == RECIPES[task].input_size
    assert km.image_config(model).labels == names


@pytest.mark.slow
@TASKS
def test_the_files_of_a_run_follow_its_model(task, runs, shapes):
    """The range of the input is that of pixels, and the labels are those of the data."""
    report, directory = runs[task]
    assert report.exports == {"int8": "model_int8.tflite"}
    path = directory / report.exports["int8"]
    assert tuple(read_labels(path)) == (NAMES if task == "segment" else NAMES[1:])
    photograph = km.load_image(sorted(shapes.rglob("val*.jpg"))[0])
    if task == "segment":
        expected, found = (
            km.segment(m, photograph).logits for m in (directory / "deploy.keras", path)
        )
        assert sqnr(expected, found) > 5
        assert (found.argmax(-1) == expected.argmax(-1)).mean() > 0.8
    else:
        expected, found = (
            {o.label for o in km.detect(m, photograph, score_threshold=0.1).objects}
            for m in (directory / "deploy.keras", path)
        )
        assert found <= set(NAMES) and bool(found) == bool(expected)


@TASKS
def test_calibration_images_are_stretched_training_images(task, shapes):
    made = make_task(RECIPES[task])
    source = made.open(shapes, "train")
    images = made.calibration_images(source, RECIPES[task], 3, BadImages())
    assert images.shape == (3, *RECIPES[task].input_size, 3) and images.dtype == np.uint8
    known = {
        pixels.tobytes()
        for batch, _, _ in made.evaluation_batches(source, RECIPES[task], 4).as_numpy_iterator()
        for pixels in batch
    }
    assert {image.tobytes() for image in images} <= known
    assert len(made.calibration_images(source, RECIPES[task], 100, BadImages())) == source.images


@pytest.mark.slow
@TASKS
def test_pictures_of_predictions_are_in_the_logs(task, runs):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, directory = runs[task]
    logs = EventAccumulator(str(directory / "tensorboard" / "pictures"), {"tensors": 0})
    logs.Reload()
    tags = logs.Tags()["tensors"]
    assert tags == [f"prediction {number}" for number in range(4)]
    for tag in tags:
        width, height, picture = (value for value in logs.Tensors(tag)[-1].tensor_proto.string_val)
        assert int(width) == 640
        assert int(height) >= 480
        assert picture.startswith(b"\x89PNG")
        assert [event.step for event in logs.Tensors(tag)] == [0, 1]


@pytest.mark.slow
@TASKS
def test_evaluate_gives_the_metrics_of_training(task, runs, shapes):
    report, directory = runs[task]
    expected = report.scores["deploy.keras"]
    if task == "segment":
        assert km.evaluate_segmentation(directory / "deploy.keras", shapes).miou == pytest.approx(
            expected["miou"], abs=1e-6
        )
    else:
        found = km.evaluate_detection(directory / "deploy.keras", shapes).scores
        assert found.map == pytest.approx(expected["map"], abs=1e-6)


@pytest.mark.slow
@TASKS
def test_the_finished_models_agree_with_validation(task, runs):
    """The finished models have the averaged weights, and the same metrics as in training."""
    report, _ = runs[task]
    metric = {"segment": "miou", "detect": "map"}[task]
    scores = report.scores
    expected = report.history[-1][f"val_average_{metric}"]
    # The detector is validated after every second of its two epochs.
    assert ("val_loss" in report.history[0]) == (task == "segment")
    for name in ("model.keras", "deploy.keras"):
        assert scores[name][metric] == pytest.approx(expected, abs=1e-3)
    if task == "segment":
        assert report.agreement > 0.999


@pytest.mark.slow
@TASKS
def test_interrupted_and_resumed_ends_with_the_same_weights(task, runs, shapes, tmp_path):
    whole, directory = runs[task]
    saved = Recorder.save

    def interrupted(self):
        saved(self)
        if self.progress.step >= 3:  # in the middle of the second epoch
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(RECIPES[task], shapes, tmp_path / "run", save_every=3)
    report = train(RECIPES[task], shapes, tmp_path / "run", resume=True, save_every=3)
    same_state(directory, tmp_path / "run")
    assert report.history[-1]["val_loss"] == whole.history[-1]["val_loss"]


@pytest.mark.slow
@TASKS
def test_the_stored_results_of_a_run(task, runs, shapes, tmp_path, load_script, monkeypatch):
    """The script of the documentation stores what a page is made of."""
    script = load_script("dense_training")
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    arguments = ["script", "shapes", "--run", runs[task][1], "--data", shapes]
    monkeypatch.setattr("sys.argv", list(map(str, arguments)))
    script.main()
    names = {path.name for path in (tmp_path / "shapes").iterdir()}
    assert names == {
        *("recipe.json", "log.csv", "results.json", "curve.png"),
        *("picture0.jpg", "picture1.jpg", "picture2.jpg"),
    }
    stored = json.loads((tmp_path / "shapes" / "results.json").read_text())
    metric = {"segment": "miou", "detect": "map50"}[task]
    keras_scores = stored["evaluation"]["float32"]
    found = keras_scores.get("scores", keras_scores)[metric]
    assert found == pytest.approx(runs[task][0].scores["deploy.keras"][metric], abs=1e-6)
    page = script.markdown("shapes", "results")
    assert f"{100 * found:.1f} %" in page and "2 epochs" in page


TWO_DEVICES = """
import sys
import numpy as np
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from keras_mobileone.training.distribution import Devices
from keras_mobileone.training.recipe import get_recipe
from keras_mobileone.training.train import make_trainer

def halves(tree):  # the first device gets one image of four, the second the others
    return [tf.nest.map_structure(lambda t: t[part], tree) for part in (slice(1), slice(1, 4))]

rng = np.random.default_rng(0)
trainer = make_trainer(get_recipe(sys.argv[1]), 2, 1, Devices())
images = rng.integers(0, 256, (4, 64, 64, 3)).astype("uint8")
trainer.task.prepare(trainer.network, get_recipe(sys.argv[1]), (64, 64))
outputs = trainer(images, training=False)
masks = rng.integers(0, 2, (4, 64, 64)).astype("uint8")
masks[0, :50] = 255
boxes = np.tile(np.float32([[8, 8, 40, 40], [20, 10, 60, 60]]), (4, 1, 1))
labels = np.int64([[1, -1], [0, 1], [0, 1], [1, 0]])
targets = masks if trainer.task.name == "segment" else {"boxes": boxes, "labels": labels}
whole = float(trainer.compute_loss(images, targets, outputs))

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
parts = list(zip(halves(images), halves(targets), halves(outputs)))

def share(context):
    return parts[context.replica_id_in_sync_group]

distributed = strategy.experimental_distribute_values_from_function(share)
losses = strategy.run(lambda part: trainer.compute_loss(*part), (distributed,))
losses = [float(loss) for loss in strategy.experimental_local_results(losses)]
print(whole, *losses)
"""


@TASKS
def test_two_devices_compute_the_loss_of_one(task, tmp_path, run_python):
    """The shares of a batch hold different numbers of labeled pixels, or of objects."""
    RECIPES[task].save(tmp_path / "recipe.json")
    output = run_python(TWO_DEVICES, tmp_path / "recipe.json")
    whole, *parts = map(float, output.split()[-3:])
    assert sum(parts) == pytest.approx(whole, rel=1e-5)
    assert min(parts) > 0


@pytest.mark.slow
@TASKS
def test_distillation_follows_the_teacher(task, runs, shapes, tmp_path):
    _, directory = runs[task]
    teacher = load_model(directory)
    recipe = dataclasses.replace(
        RECIPES[task],
        distillation=0.5,
        temperature=2.0,
        epochs=1,
        phases=(dataclasses.replace(RECIPES[task].phases[-1], start=0),),
    )
    report = train(recipe, shapes, tmp_path / "run", teacher=teacher)
    assert np.isfinite(report.history[0]["loss"])
    with pytest.raises(ValueError, match="Expected a teacher with"):
        other = {"segment": "detect", "detect": "segment"}[task]
        train(recipe, shapes, tmp_path / "other", teacher=load_model(runs[other][1]))
    assert not (tmp_path / "other").exists()


def load_model(directory):
    return load_keras(directory / "model.keras")


@TASKS
def test_a_teacher_equal_to_the_student_has_no_divergence(task):
    recipe = RECIPES[task]
    made = make_task(recipe)
    network = made.build(recipe, 3)
    made.prepare(network, recipe, recipe.input_size)
    images = np.random.default_rng(0).standard_normal((2, *recipe.input_size, 3)).astype("float32")
    outputs = made.outputs(network, images, training=False)
    changed = keras.tree.map_structure(
        lambda tensor: tensor + keras.random.normal(tensor.shape), outputs
    )
    assert float(made.divergence(outputs, outputs, 2.0)) == pytest.approx(0, abs=1e-5)
    assert float(made.divergence(outputs, changed, 2.0)) > 0.01


def test_the_loss_of_masks_by_hand():
    logits = np.array([[[[2.0, 0.0], [0.0, 1.0], [5.0, 5.0]]]], np.float32)
    masks = np.array([[[0, 0, IGNORE]]], np.uint8)
    expected = np.mean([np.log(1 + np.exp(-2)), np.log(1 + np.exp(1))])
    task = Segmentation()
    assert float(task.losses(masks, logits, 0.0)) == pytest.approx(expected, abs=1e-6)
    assert float(task.loss_weight(masks, None)) == 2
    everything = float(task.losses(masks, logits, 1.0))
    assert everything == pytest.approx(np.mean([np.log(np.exp(2) + 1) - 1, np.log(1 + np.e) - 0.5]))
    assert float(task.losses(np.full((1, 1, 3), IGNORE), logits, 0.0)) == 0


def test_every_size_of_a_recipe_uses_the_same_weights():
    trainer = make_trainer(SEGMENT, 3, 2, Devices())
    network, graphs = trainer.network, trainer.task.networks
    assert set(graphs) == {(32, 32), (48, 48), (48, 64)}
    ids = {id(weight) for weight in network.weights}
    for size, graph in graphs.items():
        assert {id(weight) for weight in graph.weights} == ids
        images = np.random.default_rng(1).integers(0, 256, (2, *size, 3)).astype(np.uint8)
        expected = trainer.task.build(SEGMENT, 3, size)
        expected.set_weights(network.get_weights())
        normalized = keras.ops.convert_to_numpy(trainer(images, training=False))
        np.testing.assert_allclose(
            normalized, expected(preprocess_input(images), training=False), atol=1e-4
        )


def test_adamw_decays_only_kernels():
    trainer = make_trainer(SEGMENT, 3, 2, Devices())
    optimizer = trainer.optimizer
    decayed = [v for v in trainer.trainable_variables if optimizer._use_weight_decay(v)]
    assert decayed and all(len(v.shape) > 1 for v in decayed)
    assert len(decayed) < len(trainer.trainable_variables)


# Errors of the command.


def command(shapes, output, recipe, *options):
    arguments = ["train", "--data", str(shapes), "--output", str(output), "--recipe", str(recipe)]
    return CliRunner().invoke(main, [*arguments, *map(str, options)])


@pytest.mark.parametrize(
    "recipe, options, words",
    [
        ("s0", ["--task", "segment"], ["task 'segment' (segment)", "'s0'", "classifier"]),
        ("detect", ["--task", "classify"], ["'detect'", "--task"]),
        ("segment", ["--data-service", "grpc://a:1"], ["data_service", "'segment'"]),
        ("segment", ["--format", "voc"], ["formats masks", "'voc'"]),
        ("s0", ["--format", "voc"], ["data_format", "classifier"]),
        ("detect", ["--labels", "absent.txt"], ["absent.txt"]),
    ],
)
def test_unsuitable_options_are_refused(recipe, options, words, shapes, tmp_path, refused):
    (tmp_path / "empty").mkdir()
    result = command(shapes, tmp_path / "empty" / "run", recipe, *options)
    refused(result, words, tmp_path / "empty")


def test_bad_annotations_are_refused_before_anything_is_written(tmp_path, refused):
    write_shapes(tmp_path / "bad", IMAGES, 48, 64)
    mask = tmp_path / "bad" / "masks" / "train" / "train003.png"
    Image.new("L", (64, 48), 9).save(mask)
    (tmp_path / "empty").mkdir()
    result = command(tmp_path / "bad", tmp_path / "empty" / "run", "segment")
    refused(result, ["train003.png", "beyond the last", "--skip-bad"], tmp_path / "empty")
