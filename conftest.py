"""The surroundings of doctests: names, a directory of their own, and files to work on."""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# OpenVINO reports its use to its makers, except where this variable says that a machine tests.
os.environ.setdefault("CI", "true")

CAT = Path(__file__).parent / "keras_mobileone" / "assets" / "cat.png"
PHOTOGRAPHS = 4  # in each class folder

# Modules whose examples need a package that is not always installed.
EXTRAS = {
    "keras_mobileone.export.coreml": "coremltools",
    "keras_mobileone.export.onnx": "tf2onnx",
    "keras_mobileone.export.openvino": "openvino",
    "keras_mobileone.export.qat": "tensorflow_model_optimization",
    "keras_mobileone.quantization.qat": "tensorflow_model_optimization",
    "keras_mobileone.quantization.qat_model": "tensorflow_model_optimization",
}


@pytest.fixture(scope="session")
def example_files(tmp_path_factory) -> Path:
    """Directory with cat.png and photos/: class folders of parts of that photograph."""
    from PIL import Image

    root = tmp_path_factory.mktemp("examples")
    shutil.copy(CAT, root / "cat.png")
    with Image.open(CAT) as cat:
        photograph = cat.convert("RGB").resize((320, 320))
    for offset, name in enumerate(("tench", "dog")):
        folder = root / "photos" / name
        folder.mkdir(parents=True)
        for index in range(PHOTOGRAPHS):
            left, top = 24 * index, 40 * offset
            photograph.crop((left, top, left + 240, top + 240)).save(folder / f"{index}.jpg")
    return root


@pytest.fixture(autouse=True)
def example_surroundings(request):
    """Gives each doctest its names and a copy of the files as its working directory."""
    if not isinstance(request.node, pytest.DoctestItem):
        return
    package = EXTRAS.get(request.node.dtest.globs.get("__name__"))
    if package and not importlib.util.find_spec(package):
        pytest.skip(f"needs {package}")
    import keras
    import numpy as np

    import keras_mobileone

    keras.utils.set_random_seed(0)
    namespace = request.getfixturevalue("doctest_namespace")
    namespace.update(keras=keras, np=np, keras_mobileone=keras_mobileone, km=keras_mobileone)
    directory = request.getfixturevalue("tmp_path")
    shutil.copytree(request.getfixturevalue("example_files"), directory, dirs_exist_ok=True)
    request.getfixturevalue("monkeypatch").chdir(directory)
