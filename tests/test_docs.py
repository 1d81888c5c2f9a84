"""Tests that the pages match the stored results, build without broken links, and run."""

import ast
import os
import re
import shutil
import subprocess
import sys

import click
import numpy as np
import pytest
from PIL import Image

import keras_mobileone
from keras_mobileone.cli.commands import main
from keras_mobileone.export.formats import FORMATS

REPOSITORY = "https://github.com/keras-mobileone/keras-mobileone"
RAW = "https://raw.githubusercontent.com/keras-mobileone/keras-mobileone/main/"
PAGES = ("README.md", "docs/getting_started.md", "docs/guides/freezing.md")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def run(*arguments, cwd=None) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd)


@pytest.fixture
def photographs(project, tmp_path, monkeypatch):
    """Changes to a directory with cat.png and photos/ of two classes, 36 images in total."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(project / "keras_mobileone" / "assets" / "cat.png", tmp_path / "cat.png")
    cat = np.asarray(Image.open("cat.png").convert("RGB"))
    for name in ("cat", "negative"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(18):
            pixels = np.roll(cat if name == "cat" else 255 - cat, 5 * i, axis=1)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path


@pytest.mark.slow
def test_pages_are_generated_from_the_stored_results(project):
    process = run(project / "benchmarks" / "results_pages.py", "--check")
    assert process.returncode == 0, "run `make results`: " + process.stderr[-500:]


@pytest.mark.slow
def test_the_site_builds_without_a_broken_link(project, tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    process = run("-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path, cwd=project)
    assert process.returncode == 0, process.stderr[-3000:]
    text = (tmp_path / "cli.html").read_text(encoding="utf-8")
    for name in main.list_commands(click.Context(main)):
        assert f"keras-mobileone {name}" in text
    assert text.count("keras-mobileone export onnx") > 1
    table = (tmp_path / "api" / "export.html").read_text(encoding="utf-8")
    for name in FORMATS:
        assert f"<td><code>{name}</code></td>" in table
    for page in tmp_path.rglob("*.html"):
        assert not re.search(r'<(script|img)[^>]+src="https?:', page.read_text(encoding="utf-8"))


def test_readme_is_whole_on_a_package_index(project):
    text = (project / "README.md").read_text(encoding="utf-8")
    addresses = re.findall(r"\]\(([^)\s]+)\)", text)
    assert addresses and all(address.startswith("https://") for address in addresses)
    for address in addresses:
        for root in (f"{REPOSITORY}/blob/main/", f"{REPOSITORY}/tree/main/", RAW):
            if address.startswith(root):
                assert (project / address.removeprefix(root).split("#")[0]).exists(), address


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(project, shared, photographs, monkeypatch, page):
    monkeypatch.setenv("KERAS_MOBILEONE_WEIGHTS", str(shared / "weights"))
    source = "\n".join(blocks((project / page).read_text(encoding="utf-8"), "python"))
    if page.endswith("freezing.md"):  # the first block shows code that does not work
        source = "import keras, keras_mobileone\nmodel = keras.Sequential()\n" + source
        source += "\nassert not any(layer.trainable_variables for layer in model.layers[:-1])"
    process = run("-c", source)
    assert process.returncode == 0, process.stderr[-3000:]


@pytest.mark.slow
def test_the_commands_of_the_first_page_run(project, shared, photographs, monkeypatch):
    """The commands of the page, which include those of the README, run one after the other."""
    monkeypatch.setenv("KERAS_MOBILEONE_WEIGHTS", str(shared / "weights"))
    lines, first = (
        [line for block in blocks(text, "shell") for line in block.splitlines()]
        for text in (
            (project / page).read_text(encoding="utf-8")
            for page in ("docs/getting_started.md", "README.md")
        )
    )
    assert set(first) <= set(lines)
    commands = [line.split()[1:] for line in lines if line.startswith("keras-mobileone ")]
    assert len(commands) == 4
    for command in commands:
        process = run("-m", "keras_mobileone", *command)
        assert process.returncode == 0, process.stderr[-3000:]
        if command[0] == "predict":
            assert process.stderr == ""
            assert "cat" in process.stdout


def test_the_commands_of_the_pages_exist(project):
    """Each command parses with its options. Its function is tested with the command line."""
    for page in [project / "README.md", *sorted((project / "docs").rglob("*.md"))]:
        for block in blocks(page.read_text(encoding="utf-8"), "shell"):
            for line in block.splitlines():
                if line.startswith("keras-mobileone "):
                    parse(main, line.split()[1:])


def parse(command: click.Command, words: list[str]) -> None:
    if isinstance(command, click.Group):
        child = command.get_command(click.Context(command), words[0])
        assert child is not None, f"no command {words[0]}"
        return parse(child, words[1:])
    command.make_context(command.name, words)
    return None


def test_every_public_name_has_its_page(project):
    text = "".join(p.read_text(encoding="utf-8") for p in (project / "docs/api").glob("*.md"))
    named = set(re.findall(r"::: [\w.]*?(\w+)$", text, flags=re.MULTILINE))
    constants = {"RECIPES", "VARIANTS", *(f"MobileOneS{i}" for i in range(5))}
    expected = {n for n in keras_mobileone.__all__ if not n.endswith("Error")} - constants
    assert expected <= named


def test_errors_of_the_questions_are_those_of_the_package(project):
    texts = []
    for path in (project / "keras_mobileone").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    faq = (project / "docs/faq.md").read_text(encoding="utf-8")
    titles = re.findall(r"^### `(.+)`$", faq, flags=re.MULTILINE)
    assert len(titles) > 10
    for title in titles:
        assert any(title in text for text in texts), title


@pytest.mark.slow
def test_the_example_of_fine_tuning(project, tmp_path):
    options = ("--epochs", "1", "--batch-size", "16", "--image-size", "64")
    process = run(project / "examples/finetune.py", *options, "--output", tmp_path / "run")
    assert process.returncode == 0, process.stderr[-3000:]
    assert "2 classes, 48 images, 3 steps" in process.stdout
    assert (tmp_path / "run" / "deploy_int8.tflite").is_file()


@pytest.mark.slow
def test_the_example_of_quantization(project, tmp_path):
    process = run(project / "examples/quantize_your_model.py", "--output", tmp_path)
    assert process.returncode == 0, process.stderr[-3000:]
    ratios = [float(ratio) for ratio in re.findall(r"SQNR ([\d.]+) dB", process.stdout)]
    assert len(ratios) == 2 and min(ratios) > 10
    assert len(list(tmp_path.glob("*.tflite"))) == 2


@pytest.mark.slow
def test_the_notebook_runs(project, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="needs the extra notebook")
    client = pytest.importorskip("nbclient", reason="needs the extra notebook")
    paths = filter(None, (str(project), os.environ.get("PYTHONPATH")))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    notebook = nbformat.read(project / "examples/finetune_export_compare.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    resources = {"metadata": {"path": str(tmp_path)}}
    client.NotebookClient(notebook, timeout=600, resources=resources).execute()
    printed = "".join(output.get("text", "") for output in notebook.cells[-1]["outputs"])
    assert all(precision in printed for precision in ("float32", "float16", "int8"))
    assert len(list(tmp_path.glob("*.tflite"))) == 3
