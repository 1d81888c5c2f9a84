"""Tests that version, addresses and configuration agree in all files."""

import re
import subprocess
import tomllib

import pytest

import keras_mobileone

TEXTS = (".cff", ".md", ".py", ".toml", ".yaml", ".yml")


@pytest.fixture(scope="module")
def pyproject(project) -> dict:
    return tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))


def test_one_version(project):
    """The package, the newest entry of the changelog and the citation agree."""
    changelog = (project / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[([^]]+)\]", changelog, re.M).group(1) == keras_mobileone.__version__
    citation = (project / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {keras_mobileone.__version__}\n" in citation


def test_one_address_of_the_repository(project, pyproject):
    """Every file that names a repository of this name uses the address of pyproject.toml."""
    address = pyproject["project"]["urls"]["Repository"]
    listed = subprocess.run(["git", "ls-files"], cwd=project, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("needs a checkout by git")
    found = set()
    for name in listed.stdout.splitlines():
        path = project / name
        if path.suffix in TEXTS and path.is_file():
            text = path.read_text(encoding="utf-8")
            found |= set(re.findall(r"https://github\.com/[\w-]+/keras-mobileone\b", text))
    assert found == {address}


def test_every_python_that_is_named_is_tested(project, pyproject):
    """Classifiers and the workflow list the same versions, from the lowest required one."""
    prefix = "Programming Language :: Python :: 3."
    classifiers = pyproject["project"]["classifiers"]
    named = [f"3.{c.removeprefix(prefix)}" for c in classifiers if c.startswith(prefix)]
    workflow = (project / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    matrices = re.findall(r"python-version: \[(.*)\]", workflow)
    assert named == re.findall(r'"([\d.]+)"', matrices[0])
    assert pyproject["project"]["requires-python"] == f">={named[0]}"


def test_private_names_of_keras_have_an_upper_bound(pyproject):
    keras = [d for d in pyproject["project"]["dependencies"] if d.startswith("keras>")]
    assert len(keras) == 1 and ",<" in keras[0]


def test_types_are_part_of_the_package(project, pyproject):
    assert (project / "keras_mobileone" / "py.typed").is_file()
    assert "py.typed" in pyproject["tool"]["setuptools"]["package-data"]["keras_mobileone"]
