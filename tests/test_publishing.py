"""Tests model cards, and that published models load where this package is not installed."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest

import keras_mobileone as km

# Stands in for huggingface_hub: a repository is a directory below the working directory.
HUB = """
import shutil
from pathlib import Path
from types import SimpleNamespace


class HfApi:
    def __init__(self, **library):
        pass

    def create_repo(self, name, exist_ok):
        Path("hub", name).mkdir(parents=True, exist_ok=exist_ok)
        return SimpleNamespace(repo_id=name)

    def upload_folder(self, repo_id, folder_path, commit_message):
        shutil.copytree(folder_path, Path("hub", repo_id), dirs_exist_ok=True)


def snapshot_download(repo_id, **library):
    return str(Path("hub", repo_id))
"""
LOAD = """
import json, sys
sys.modules["keras_mobileone"] = None
import numpy as np
import keras
model = keras.saving.load_model("hf://ada/tiny")
try:
    import keras_mobileone
except ImportError:
    images = np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype("float32")
    print(json.dumps(np.asarray(model(images, training=False)).tolist()))
"""


@pytest.mark.slow
def test_a_deploy_model_loads_from_the_hub_without_this_package(
    tiny_model, tmp_path, run_python, monkeypatch, relative_error, noise
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "huggingface_hub.py").write_text(HUB, encoding="utf-8")
    deploy = km.fuse(tiny_model)
    km.set_image_config(deploy, km.ImageConfig((64, 64), labels=tuple("abcdefghij")))
    deploy.save("deploy.keras")
    # The process of the author, which has this package.
    save = """
import sys
sys.path.insert(0, ".")
import keras, keras_mobileone
keras.saving.load_model("deploy.keras").save("hf://ada/tiny")
"""
    run_python(save, cwd=tmp_path)
    files = {path.name for path in (tmp_path / "hub" / "ada" / "tiny").iterdir()}
    assert {"config.json", "model.weights.h5", "README.md"} <= files
    load = 'import sys\nsys.path.insert(0, ".")\n' + LOAD
    found = json.loads(run_python(load, cwd=tmp_path).splitlines()[-1])
    assert relative_error(np.array(found), deploy(noise(2, 64, 64, 3), training=False)) < 1e-6


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    image = keras.Input((16, 16, 3))
    x = keras.layers.GlobalMaxPooling2D()(keras.layers.Conv2D(8, 3)(image))
    model = keras.Model(image, keras.layers.Dense(2, name="scores")(x), name="small")
    about = km.About("Tells: tenches & dogs", author="Ada", license="Apache 2.0")
    path = tmp_path_factory.mktemp("card") / "small.tflite"
    return km.export(model, path, labels=["tench", "dog"], about=about)


def front_matter(card) -> dict:
    yaml = pytest.importorskip("yaml", reason="needs the extra docs")
    _, text, _ = card.split("---\n", 2)
    return yaml.safe_load(text)


def test_the_front_matter_is_that_of_the_hub(report):
    assert front_matter(km.model_card(report)) == {
        "license": "apache-2.0",
        "pipeline_tag": "image-classification",
        "tags": ["tflite", "keras"],
    }


def test_the_card_has_facts_and_code(report):
    card = km.model_card(report)
    for words in (
        "# small",
        "Tells: tenches & dogs",
        f"| `small.tflite` | TFLite | float32 | {report.bytes / 1e6:.2f} MB |",
        f" MB | {report.difference} |",
        "- Author: Ada",
        "2, `labels.txt` inside the file: tench, dog",
        report.snippets["python"],
    ):
        assert words in card


def test_one_card_for_several_files(report):
    other = replace(report, precision="float16", path=report.path.with_name("half.tflite"))
    card = km.model_card([report, other])
    assert card.count("| TFLite |") == 2 and "## half.tflite" in card
    for wrong in ([], [report, replace(report, name="other")]):
        with pytest.raises(ValueError, match=r"of one model. Received: (none|'small', 'other')"):
            km.model_card(wrong)


def test_an_unknown_license_is_called_other(report):
    about = replace(report.about, license="Apple: Sample Code")
    fields = front_matter(km.model_card(replace(report, about=about)))
    assert (fields["license"], fields["license_name"]) == ("other", "Apple: Sample Code")
    nothing = replace(report, about=km.About())
    assert "license" not in front_matter(km.model_card(nothing))


def test_the_card_is_written_whole(report, tmp_path):
    km.write_model_card(report, tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == km.model_card(report)
    with pytest.raises(FileNotFoundError):
        km.write_model_card(report, tmp_path / "no" / "README.md")
