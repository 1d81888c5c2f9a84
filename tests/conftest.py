"""Fixtures shared by the tests: the reference files, small networks, random parameters."""

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# OpenVINO reports its use to its makers, except where this variable says that a machine tests.
os.environ.setdefault("CI", "true")

import keras
import numpy as np
import pytest

import keras_mobileone
from keras_mobileone.quantization import qat_model

PROJECT = Path(__file__).parents[1]
STAND_IN = Path(__file__).with_name("stand_in_adb.py")
SHARED = PROJECT.parent / "shared"

# The files that take longer than a minute, longest first. Processes that distribute the tests by
# file (`--dist loadfile --no-loadscope-reorder`) then end at about the same time.
LONGEST = (
    "test_distributed.py",
    "test_finetuning.py",
    "test_dense_training.py",
    "test_export_coreml.py",
    "test_quantization.py",
    "test_export_tflite.py",
    "test_unfusing.py",
    "test_dense_export.py",
    "test_export_formats.py",
    "test_browser.py",
    "test_training.py",
    "test_golden.py",
    "test_fusing.py",
    "test_jax.py",
)


def pytest_collection_modifyitems(items):
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def project() -> Path:
    """Returns the root of the checkout."""
    return PROJECT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Returns the directory of reference outputs, weights and photographs outside the project."""
    if not SHARED.is_dir():
        pytest.skip("needs the reference files of ../shared, which this machine does not have")
    return SHARED


@pytest.fixture(autouse=True)
def fixed_seed():
    """Makes initializers draw the same values in any order of the tests."""
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def tf_keras_stays_keras_3():
    """Fails the test that makes `tf.keras` Keras 2 for the tests after it.

    Importing tensorflow-model-optimization other than by `qat_packages` does.
    """
    before = os.environ.get(qat_model.LEGACY_VARIABLE)
    yield
    assert os.environ.get(qat_model.LEGACY_VARIABLE) == before


@pytest.fixture(scope="session")
def qat_packages():
    """Returns tensorflow-model-optimization and tf-keras, imported without side effects."""
    for name in ("tensorflow_model_optimization", "tf_keras"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}: pip install keras-mobileone[qat]")
    return qat_model.packages()


@pytest.fixture(scope="session")
def tiny() -> keras_mobileone.Variant:
    """Returns a variant with all features of the family: k = 2, skips, SE, both strides."""
    return keras_mobileone.Variant(
        "tiny",
        widths=(1.0, 1.0, 1.0, 1.0),
        num_conv_branches=2,
        se_pairs=(0, 1, 0, 1),
        depths=(2, 1, 1, 1),
        base_filters=(16, 16, 32, 32),
    )


@pytest.fixture(scope="session")
def randomize():
    """Returns a function that fills every variable of a model or layer with random values.

    New batch normalization (gamma 1, beta 0, mean 0, variance 1) hides wrong formulas. No value of
    the function is 0 or 1, and one gamma in five is negative. Kernels are scaled by their fan-in,
    so that the input still has an effect after forty layers.
    """

    def fill(model, seed=0):
        rng = np.random.default_rng(seed)
        for variable in model.variables:
            if not keras.backend.is_float_dtype(variable.dtype):
                continue
            shape, leaf = tuple(variable.shape), variable.path.rsplit("/", 1)[-1]
            if leaf == "kernel":
                depthwise = len(shape) == 4 and shape[3] == 1
                fan_in = np.prod(shape[:2] if depthwise else shape[:-1])
                value = rng.normal(0, (1.5 / fan_in) ** 0.5, shape)
            elif leaf == "gamma":
                value = rng.uniform(0.5, 1.0, shape) * np.where(rng.random(shape) < 0.2, -1, 1)
            elif leaf == "moving_variance":
                value = rng.uniform(0.5, 1.5, shape)
            else:
                value = rng.normal(0, 0.1, shape)
            variable.assign(value)
        return model

    return fill


@pytest.fixture(scope="session")
def relative_error():
    """Returns a function for the largest difference divided by the largest reference magnitude."""

    def error(found, expected) -> float:
        found, expected = (np.asarray(keras.ops.convert_to_numpy(a)) for a in (found, expected))
        assert found.shape == expected.shape
        assert np.isfinite(found).all()
        return float(np.abs(found - expected).max() / np.abs(expected).max())

    return error


@pytest.fixture(scope="module")
def load_script(project):
    """Returns a function that imports a script of benchmarks/ as Python does when it is run."""
    sys.path.insert(0, str(project / "benchmarks"))
    yield importlib.import_module
    sys.path.remove(str(project / "benchmarks"))


@pytest.fixture(scope="session")
def noise():
    """Returns a function for standard normal float32 arrays."""

    def draw(*shape, seed=0) -> np.ndarray:
        return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)

    return draw


@pytest.fixture(scope="session")
def enlarge_head():
    """Returns a function that multiplies the kernels of a detector's predictions.

    Those of random weights give all classes nearly the same score, and all boxes the same offsets.
    """

    def enlarge(model, **factors: float):
        for layer in model.layers:
            for prefix, factor in factors.items():
                if layer.name.startswith(prefix) and isinstance(layer, keras.layers.Conv2D):
                    kernel, bias = layer.get_weights()
                    layer.set_weights([factor * kernel, bias])
        return model

    return enlarge


@pytest.fixture(scope="session")
def run_python(project):
    """Returns a function that runs Python source in a new process and returns its output."""

    def run(source: str, *arguments, cwd=project, **environment: str) -> str:
        process = subprocess.run(
            [sys.executable, "-c", source, *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stderr[-4000:]
        return process.stdout

    return run


@pytest.fixture(scope="session")
def steps_done():
    """Returns a function for the number of steps in the checkpoint of a run, 0 without one."""
    from safetensors import SafetensorError, safe_open

    def steps(directory) -> int:
        try:
            with safe_open(directory / "checkpoint.safetensors", "numpy") as file:
                return json.loads(file.metadata()["state"])["step"]
        except (OSError, SafetensorError):
            return 0

    return steps


@pytest.fixture(scope="session")
def refused():
    """Returns a function that checks for a one-line error with some words and exit code 2."""

    def check(result, words, untouched):
        assert result.exit_code == 2, result.output
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1
        for word in words:
            assert word in result.stderr
        assert not list(untouched.iterdir())

    return check


@pytest.fixture(scope="session")
def tiny_model(tiny, randomize):
    """Returns a train-time model with ten classes and logits, which tests must not change."""
    model = keras_mobileone.MobileOne(
        tiny, weights=None, input_shape=(64, 64, 3), classes=10, classifier_activation=None
    )
    return randomize(model)


class Phone:
    """Directory of the stand-in for adb and a phone."""

    app_directory = "sdcard/Android/data/io.github.kerasmobileone.bench/files"

    def __init__(self, root: Path):
        self.root = root
        self.change()

    def change(self, **scenario):
        """Changes what the stand-in does; see its SCENARIO."""
        (self.root / "scenario.json").write_text(json.dumps(scenario), encoding="utf-8")

    @property
    def calls(self) -> list[list[str]]:
        """Returns the received commands without adb and its serial, with shell commands split."""
        calls = [
            shlex.split(line)
            for line in (self.root / "calls.txt").read_text(encoding="utf-8").splitlines()
        ]
        calls = [call[2:] if call[0] == "-s" else call for call in calls]
        return [["shell", *shlex.split(c[1])] if c[0] == "shell" else c for c in calls]

    @property
    def runs(self) -> list[list[str]]:
        """Returns the calls that ran the tool."""
        return [call for call in self.calls if any("--graph=" in word for word in call)]

    @property
    def starts(self) -> list[dict[str, str]]:
        """Returns the extras of each intent that started the app, by name."""
        calls = [call[8:] for call in self.calls if call[:3] == ["shell", "am", "start"]]
        return [dict(zip(words[1::3], words[2::3], strict=True)) for words in calls]

    @property
    def left_for_app(self) -> list[Path]:
        """Returns the files in the app's directory."""
        return list((self.root / "phone" / self.app_directory).iterdir())

    @property
    def left(self) -> list[Path]:
        """Returns the files under /data/local/tmp."""
        return list((self.root / "phone" / "data" / "local" / "tmp").iterdir())


@pytest.fixture
def phone(tmp_path, monkeypatch):
    """Returns a connected phone, a stand-in for adb in an otherwise empty PATH."""
    root = tmp_path / "stand-in"
    (root / "phone" / "data" / "local" / "tmp").mkdir(parents=True)
    (root / "bin").mkdir()
    program = root / "bin" / "adb"
    # Without site-packages it starts faster.
    program.write_text(f"#!{sys.executable} -ES\n{STAND_IN.read_text(encoding='utf-8')}")
    program.chmod(0o755)
    shutil.copy(STAND_IN.with_name("stand_in_app.py"), program.parent)
    monkeypatch.setenv("PATH", str(root / "bin"))
    monkeypatch.setenv("STAND_IN_ADB", str(root))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return Phone(root)


@pytest.fixture
def sized_files(tmp_path):
    """Returns two files of very different sizes, which the stand-in uses as their times."""
    from ai_edge_litert import schema_py_generated as schema

    from keras_mobileone.litert import flatbuffer

    paths = []
    for length in (1, 1000):
        graph = schema.SubGraphT()
        graph.inputs, graph.outputs, graph.tensors, graph.operators = [], [], [], []
        model = schema.ModelT()
        model.version, model.subgraphs, model.description = 3, [graph], "x" * length
        paths.append(tmp_path / f"{length}.tflite")
        paths[-1].write_bytes(flatbuffer.serialize(model))
    return paths
