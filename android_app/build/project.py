"""What is built: the modules, their libraries, and the facts that both builds share.

Versions and SDK levels stand in the version catalog, which Gradle reads as well. The rest stands in
Gradle's Kotlin scripts too; tests/test_android_build.py compares them.
"""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

APP_DIRECTORY = Path(__file__).resolve().parents[1]
PROJECT = APP_DIRECTORY.parent

CATALOG = APP_DIRECTORY / "gradle" / "libs.versions.toml"

APPLICATION_ID = "io.github.kerasmobileone.bench"
# Android's names of the processors that the app supports, and bytedeco's classifiers for them.
ABIS = {"arm64-v8a": "android-arm64", "x86_64": "android-x86_64"}
# The product flavor that needs nothing from Google's Maven repository.
FLAVOR = "tflite"


@dataclass(frozen=True)
class Module:
    """A directory of Kotlin sources that is compiled by itself.

    `libraries` are sets of libraries in `maven.SETS`, and `modules` are other modules that the
    sources use. A module with `android` set may use the Android framework.
    """

    name: str
    modules: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    android: bool = False

    def source_directories(self, root: Path, kind: str = "main") -> list[Path]:
        """Directories of the Kotlin sources, or with kind "test" of the tests, that exist."""
        names = (kind, FLAVOR if kind == "main" else f"{kind}{FLAVOR.capitalize()}")
        places = [root / self.name / "src" / name / "kotlin" for name in names]
        return [place for place in places if any(place.rglob("*.kt"))]


# In the order in which they are compiled.
MODULES = (
    Module("core"),
    Module("engine-bytedeco", modules=("core",), libraries=("bytedeco",)),
    Module("engine-tflite", modules=("core",), libraries=("tflite",), android=True),
    Module("app", modules=("core", "engine-bytedeco", "engine-tflite"), android=True),
)


@dataclass(frozen=True)
class Library:
    """An entry of the version catalog."""

    group: str
    name: str
    version: str


def read_versions(path: Path = CATALOG) -> dict[str, str]:
    """Versions of a Gradle version catalog by their names in it."""
    return tomllib.loads(path.read_text(encoding="utf-8"))["versions"]


def read_catalog(path: Path = CATALOG) -> dict[str, Library]:
    """Libraries of a Gradle version catalog by their names in it."""
    versions = read_versions(path)
    libraries = {}
    for alias, entry in tomllib.loads(path.read_text(encoding="utf-8"))["libraries"].items():
        group, name = entry["module"].split(":")
        libraries[alias] = Library(group, name, versions[entry["version"]["ref"]])
    return libraries


MIN_SDK = int(read_versions()["min-sdk"])
TARGET_SDK = int(read_versions()["target-sdk"])


def package_version(project: Path = PROJECT) -> str:
    """Version of the Python package, read without importing it."""
    path = project / "keras_mobileone" / "__init__.py"
    found = re.search(r'^__version__ = "([^"]+)"', path.read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise ValueError(f'{path} has no line __version__ = "…".')
    return found[1]


def version_code(version: str) -> int:
    """Android's integer of a version, greater for a later one: 10203 for "1.2.3"."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if not found:
        raise ValueError(
            f"The version must begin with three numbers. Received: {version!r}. "
            'Write it as in "1.2.3".'
        )
    major, minor, patch = map(int, found.groups())
    return major * 10000 + minor * 100 + patch
