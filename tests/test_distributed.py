"""Tests training on several devices and machines with real processes that use the loopback.

The reference is a single process. The runs compute in float64, which the recipes do not offer. In
float32, sums over two shares differ in the last digit from the sum over all images. This sometimes
changes the sign at a ReLU, and after ten steps of such a small network the weights differ by 1e-3.
In float64 (with logits and losses in float32), the same runs differ by at most 2e-6.
"""

import csv
import os
import signal
import socket
import subprocess
import sys
from collections import defaultdict
from contextlib import ExitStack
from importlib.util import find_spec

import keras
import numpy as np
import pytest
from PIL import Image

import keras_mobileone
from keras_mobileone.data.folders import ClassFolders
from keras_mobileone.data.pipeline import Augmentation, training_batches
from keras_mobileone.training import recipe as recipes
from keras_mobileone.training.callbacks import CHECKPOINT, LOG
from keras_mobileone.training.checkpoint import load_checkpoint, state_variables
from keras_mobileone.training.distribution import Devices, lost_machine, serve
from keras_mobileone.training.finalize import DEPLOY, TRAINED
from keras_mobileone.training.finetuning import finetune
from keras_mobileone.training.recipe import Phase, Recipe
from keras_mobileone.training.train import make_trainer, train

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5  # relative to the largest; see above
SURVIVOR_SECONDS = 60  # time in which a machine must notice that another one is lost
START_SECONDS = 600  # a limit for a hanging process on a busy machine
LONGER_THAN_A_HEARTBEAT = 15  # seconds; TensorFlow waits 10
TRAINING_IMAGES = 42  # five batches of 8 in an epoch, and two images left over
VALIDATION_IMAGES = 15  # two batches, the second padded

PRELUDE = """
import sys
from keras_mobileone.training import recipe
recipe.DTYPES += ("float64",)
"""

# Runs the command line in a process that dies in a given step or idles before the end.
COMMAND = (
    PRELUDE
    + """
import os, signal, time
from keras_mobileone.cli.commands import main
from keras_mobileone.training import train

class MortalRecorder(train.Recorder):
    def on_train_batch_end(self, batch, logs=None):
        if self.progress.step + 1 == int(os.environ.get("DIE_IN_STEP", 0)):
            os.kill(os.getpid(), signal.SIGKILL)
        super().on_train_batch_end(batch, logs)

def save_models(*arguments, save=train.save_models):
    time.sleep(int(os.environ.get("IDLE_SECONDS", 0)))
    return save(*arguments)

train.Recorder, train.save_models = MortalRecorder, save_models
main()
"""
)

MIRRORED = (
    PRELUDE
    + """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from keras_mobileone.training.distribution import Devices
from keras_mobileone.training.finetuning import finetune
data, weights, path, output = sys.argv[1:]
devices = Devices(strategy=tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
assert devices.replicas == 2 and devices.synchronized
finetune(data, output, weights=weights, recipe=recipe.get_recipe(path), devices=devices)
"""
)

JAX = (
    PRELUDE
    + """
import jax, keras
jax.config.update("jax_enable_x64", True)
from keras_mobileone.layers import one_pass
one_pass.MEASURED_BACKENDS += ("jax",)
from keras_mobileone.training.distribution import Devices
from keras_mobileone.training.finetuning import finetune
data, weights, path, output = sys.argv[1:]
devices = Devices()
assert keras.backend.backend() == "jax" and devices.replicas == 2
finetune(data, output, weights=weights, recipe=recipe.get_recipe(path), devices=devices)
"""
)

SERVICE = """
import sys
import tensorflow as tf
service = tf.data.experimental.service
dispatcher = service.DispatchServer(service.DispatcherConfig(protocol="grpc"))
address = dispatcher.target.removeprefix("grpc://")
workers = [
    service.WorkerServer(service.WorkerConfig(dispatcher_address=address))
    for _ in range(int(sys.argv[1]))
]
print(dispatcher.target, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def variant() -> keras_mobileone.Variant:
    return keras_mobileone.Variant(
        "tiny",
        (1.0, 1.0, 1.0, 1.0),
        num_conv_branches=2,
        depths=(1, 1, 1, 1),
        base_filters=(8, 8, 16, 16),
    )


@pytest.fixture(scope="module")
def recipe(variant):
    """Returns a recipe of two epochs in float64."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "DTYPES", (*recipes.DTYPES, "float64"))
        yield Recipe(
            "tiny",
            variant,
            epochs=2,
            phases=(Phase(0, 64),),
            batch_size=8,
            learning_rate=4.0,
            warmup_epochs=0.5,
            ema_decay=0.9,
            dtype="float64",
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory, variant, recipe, randomize):
    """Returns a directory with data/, recipe.json and train-time weights of the features."""
    place = tmp_path_factory.mktemp("distributed")
    rng = np.random.default_rng(0)
    for split, count in (("train", TRAINING_IMAGES), ("val", VALIDATION_IMAGES)):
        for i in range(count):
            folder = place / "data" / split / f"class{i % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 120, (40, 48, 3)) + 60 * (i % 3)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.jpg")
    recipe.save(place / "recipe.json")
    model = keras_mobileone.MobileOne(variant, weights=None, input_shape=(64, 64, 3), classes=3)
    randomize(model).save_weights(place / "features.weights.h5")
    return place


@pytest.fixture(scope="module")
def inputs(place):
    """Returns the arguments of the scripts above and of `finetune`."""
    return place / "data", place / "features.weights.h5", place / "recipe.json"


@pytest.fixture(scope="module")
def single(place, recipe, inputs):
    """Returns the directory of the reference, with one process and one device."""
    output = place / "single"
    finetune(inputs[0], output, weights=inputs[1], recipe=recipe, devices=Devices())
    return output


class Pair:
    """Two processes of a training that are started together.

    Args:
        place: Directory of data, recipe and outputs.
        name: Prefix of the outputs, which are NAME0 for the first machine and NAME1 for the second.
        options: Options of both commands.
        first, second: Options of one of the commands.
        environments: Environments of the first and the second process, for `COMMAND`.
    """

    def __init__(self, place, name, *options, first=(), second=(), environments=({}, {})):
        self.outputs = [place / f"{name}{index}" for index in range(2)]
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
            for free in sockets:
                free.bind(("localhost", 0))
            addresses = [f"localhost:{free.getsockname()[1]}" for free in sockets]
        common = ["--data", place / "data", "--recipe", place / "recipe.json"]
        common += ["--workers", ",".join(addresses)]
        self.processes = []
        for index, own in enumerate((first, second)):
            arguments = [*common, "--index", index, "--output", self.outputs[index]]
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", COMMAND, *map(str, (*options, *arguments, *own))],
                    env={**os.environ, **environments[index]},
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )

    def wait(self, index, seconds=START_SECONDS):
        """Returns the exit code and the last line on stderr of one of the processes."""
        try:
            _, errors = self.processes[index].communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            for process in self.processes:
                process.kill()
            raise
        return self.processes[index].returncode, (errors.strip().splitlines() or [""])[-1]


def finetune_options(place):
    return ["finetune", "--weights", place / "features.weights.h5", "--save-every", 2]


@pytest.fixture(scope="module")
def unbroken(place):
    """Returns the directory of a run of two machines, of which the first continues much longer."""
    idle = {"IDLE_SECONDS": str(LONGER_THAN_A_HEARTBEAT)}
    options = [*finetune_options(place), "--export", "float32"]
    pair = Pair(place, "unbroken", *options, environments=(idle, {}))
    results = [pair.wait(1), pair.wait(0)]
    assert [code for code, _ in results] == [0, 0], results
    assert not pair.outputs[1].exists()
    return pair.outputs[0]


def log_of(directory):
    with open(directory / LOG, newline="") as file:
        rows = list(csv.reader(file))
    return rows[0], np.array(rows[1:], float)


def weights_of(directory):
    model = keras.models.load_model(directory / TRAINED)
    return {w.path: keras.ops.convert_to_numpy(w) for w in model.weights}


def assert_same_run(found, expected, tolerance=TOLERANCE, resumed=False):
    """Asserts that the losses, accuracies and weights of two runs are equal.

    In the epoch in which a run is resumed, the training metrics are those of the steps since then.
    """
    (names, figures), (others, found_figures) = log_of(expected), log_of(found)
    assert others == names and "val_average_top1" in names
    columns = [names.index(name) for name in ("loss", "top1", "top5")]
    if resumed:
        figures[0, columns] = found_figures[0, columns]
    np.testing.assert_allclose(found_figures, figures, rtol=tolerance, atol=tolerance)
    weights, others = weights_of(expected), weights_of(found)
    assert len(weights) > 50
    for path, weight in weights.items():
        error = np.abs(others[path] - weight).max()
        assert error <= tolerance * np.abs(weight).max(), (path, error)


def test_two_machines_compute_what_one_does(unbroken, single):
    """BatchNorm, gradients, metrics and averages agree if only the first loads the weights."""
    assert_same_run(unbroken, single)


def test_the_comparison_sees_a_step_that_differs(single, tmp_path):
    """A planted error of the size that one ReLU causes is found."""
    model = keras.models.load_model(single / TRAINED)
    weight = model.get_layer("predictions").kernel
    weight.assign(weight * (1 + 1e-4))
    model.save(tmp_path / TRAINED)
    (tmp_path / LOG).write_text((single / LOG).read_text())
    with pytest.raises(AssertionError, match="predictions"):
        assert_same_run(tmp_path, single)


def test_first_machine_finishes_alone(unbroken):
    """The model is fused, evaluated and exported after the other machine has stopped."""
    files = {path.name for path in unbroken.iterdir()}
    assert {TRAINED, DEPLOY, "model_float32.tflite", "report.json"} <= files


@pytest.fixture(scope="module")
def broken(request, place):
    """Returns a pair with one process killed in step 4, and the survivor's exit code and line."""
    victim = request.param
    environments = [{}, {}]
    environments[victim] = {"DIE_IN_STEP": "4"}
    pair = Pair(place, f"broken{victim}", *finetune_options(place), environments=environments)
    assert pair.wait(victim)[0] == -signal.SIGKILL
    code, message = pair.wait(1 - victim, SURVIVOR_SECONDS)
    return victim, code, message, pair.outputs


@pytest.mark.parametrize("broken", [1, 0], indirect=True)
def test_survivor_stops_with_one_line(broken):
    victim, code, message, outputs = broken
    assert code == 2
    assert message == (
        f"Error: The connection to machine {victim} of this training was lost, so machine "
        f"{1 - victim} stops. Start the same command with --resume on all of them."
    )
    assert (outputs[0] / CHECKPOINT).is_file() and not outputs[1].exists()


@pytest.mark.parametrize("broken", [1], indirect=True)
def test_resumed_run_ends_as_the_unbroken_one(broken, place, unbroken):
    """The run is resumed from the files of the first machine, because the second has no files."""
    outputs = broken[3]
    pair = Pair(place, "broken1", *finetune_options(place), "--resume")
    results = [pair.wait(1), pair.wait(0)]
    assert [code for code, _ in results] == [0, 0], results
    assert not outputs[1].exists()
    assert_same_run(outputs[0], unbroken, tolerance=0, resumed=True)


def test_neither_waits_for_one_that_stops_early(place):
    """The causes are an output that is not empty, and another recipe on the second machine."""
    (place / "taken0").mkdir()
    (place / "taken0" / "something").touch()
    taken = Pair(place, "taken", "train")
    differing = Pair(place, "differing", "train", second=["--epochs", 3])
    code, message = taken.wait(0)
    assert code == 2 and "Expected a new or empty directory" in message
    code, message = taken.wait(1, SURVIVOR_SECONDS)
    assert code == 2 and "The connection to machine 0 of this training was lost" in message
    code, message = differing.wait(1)
    assert code == 2 and "Expected the same recipe and data on all machines" in message
    code, message = differing.wait(0, SURVIVOR_SECONDS)
    assert code == 2 and "The connection to machine 1 of this training was lost" in message


def test_two_devices_of_one_machine(place, inputs, single, run_python):
    run_python(MIRRORED, *inputs, place / "mirrored")
    assert_same_run(place / "mirrored", single)


@pytest.mark.skipif(not find_spec("jax"), reason="needs jax: the extra `test` has it")
def test_two_devices_on_jax(place, inputs, single, run_python):
    """`finetune` on two devices gives the result of TensorFlow on one device."""
    flags = "--xla_force_host_platform_device_count=2"
    run_python(JAX, *inputs, place / "jax", KERAS_BACKEND="jax", XLA_FLAGS=flags)
    assert_same_run(place / "jax", single)


class Numbered(ClassFolders):
    """Labels each image with its position in the stream."""

    def stream(self, *arguments, **options):
        stream = super().stream(*arguments, **options)
        return stream.map(lambda element: {**element, "label": element["position"]})


def positions(batches, count):
    """Returns the positions in the first `count` batches."""
    return [int(label) for _, labels in batches.take(count) for label in labels]


def test_every_image_comes_once_in_a_pass_over_two_machines(place):
    """Together, the shares are the stream of one machine, image by image."""
    source = Numbered(place / "data" / "train")
    options = {"augmentation": Augmentation(32), "seed": 3}
    half = TRAINING_IMAGES // 2
    shares = [
        next(iter(training_batches(source, batch_size=half, worker=i, workers=2, **options)))
        for i in range(2)
    ]
    whole = next(iter(training_batches(source, batch_size=TRAINING_IMAGES, **options)))
    for i, (images, labels) in enumerate(shares):
        assert labels.numpy().tolist() == list(range(i, TRAINING_IMAGES, 2))
        np.testing.assert_array_equal(images, whole[0][i::2])
    names = [element["name"].numpy() for element in source.stream(seed=3).take(TRAINING_IMAGES)]
    assert len(set(names)) == TRAINING_IMAGES


@pytest.fixture(scope="module")
def service():
    """Returns a function that starts a tf.data service with workers and returns its address."""
    with ExitStack() as stack:

        def start(workers):
            process = subprocess.Popen(
                [sys.executable, "-c", SERVICE, str(workers)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process.stdout.readline().strip()

        yield start


def test_data_service(place, recipe, service, tmp_path):
    """One worker keeps the order. Two distribute the passes, each without a repeated image."""
    source = Numbered(place / "data" / "train")
    batches = training_batches(source, Augmentation(32), 6, seed=0)
    passes, steps = 6, TRAINING_IMAGES // 6
    one, two = service(1), service(2)
    assert positions(serve(batches, one), 2 * steps) == list(range(2 * TRAINING_IMAGES))
    found = defaultdict(list)
    for _, labels in serve(batches, two).take(50 * steps):
        for position in labels.numpy():
            found[position // TRAINING_IMAGES].append(position % TRAINING_IMAGES)
        if all(len(found[i]) >= TRAINING_IMAGES for i in range(passes)):
            break
    # One worker may be far ahead of the other. The received part of a pass is its beginning.
    assert all(images == list(range(len(images))) for images in found.values())
    assert all(len(found[i]) == TRAINING_IMAGES for i in range(passes))
    short = recipe.changed(["epochs=1"])
    report = train(short, place / "data", tmp_path / "served", data_service=two)
    assert report.steps == 5 and np.isfinite(report.history[0]["loss"])


@pytest.mark.parametrize(
    ("address", "options", "message"),
    [
        ("localhost:5000", {}, "as grpc://host:port. Received: 'localhost:5000'"),
        ("grpc://localhost", {}, "as grpc://host:port"),
        ("grpc://localhost:1", {"skip_bad": True}, "`skip_bad` needs the images to be decoded in"),
        ("grpc://localhost:1", {}, "where nothing answers .* Start its dispatcher"),
    ],
)
def test_data_service_errors(place, recipe, tmp_path, address, options, message):
    output = tmp_path / "run"
    with pytest.raises((ValueError, ConnectionError), match=message):
        train(recipe, place / "data", output, data_service=address, **options)
    assert not output.exists()


@pytest.mark.parametrize(
    ("workers", "index", "message"),
    [
        (("a:1", "b:2"), 2, "`index` from 0 to 1, the place of this machine in `workers`"),
        (("a:1", "b:2"), None, "Received: index=None"),
        (("a:1", "b"), 0, "Expected `workers` as host:port. Received: 'b'"),
        (("a:1", "b:x"), 0, "Received: 'b:x'"),
        ((), 1, "Received: index=1 without workers"),
    ],
)
def test_addresses(workers, index, message, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match=message):
        Devices(workers, index)
    assert "TF_CONFIG" not in os.environ


def test_several_machines_need_tensorflow(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match=r"need the TensorFlow backend. Received: .* 'jax'"):
        Devices(("a:1", "b:2"), 0)


def test_a_batch_is_shared_equally():
    devices = Devices()
    devices.replicas = 3
    assert devices.share(12) == 4
    with pytest.raises(ValueError, match=r"that 3 devices can share equally. .*batch_size=8"):
        devices.share(8)


def test_one_machine_alone_loses_no_other():
    """An error of TensorFlow that has another cause keeps its message."""
    import tensorflow as tf

    error = tf.errors.UnavailableError(None, None, "lost /job:worker/replica:0/task:2")
    devices = Devices()
    assert lost_machine(error, devices) is None
    devices.workers = 3
    assert "connection to machine 2 of" in lost_machine(error, devices)
    assert "another machine" in lost_machine(tf.errors.AbortedError(None, None, ""), devices)
    assert lost_machine(tf.errors.ResourceExhaustedError(None, None, "task:2"), devices) is None


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(place, recipe, tmp_path, dtype):
    """Training works, and the loss scale of float16 is part of the checkpoint."""
    short = recipe.changed(["epochs=1", f'dtype="{dtype}"'])
    report = train(short, place / "data", tmp_path / "run")
    assert np.isfinite(list(report.history[0].values())).all()
    trainer = make_trainer(short, 3, 5, Devices())
    assert load_checkpoint(tmp_path / "run" / CHECKPOINT, trainer).step == 5
    skipped = 5 - int(trainer.optimizer.iterations)
    scales = [float(v.value) for v in state_variables(trainer) if "dynamic_scale" in v.path]
    # Keras starts at 2^15 and halves the scale in each step that it skips because of an overflow.
    assert scales == ([2.0 ** (15 - skipped)] if dtype == "mixed_float16" else [])
    assert skipped == 0 if dtype == "mixed_bfloat16" else 0 <= skipped < 5
