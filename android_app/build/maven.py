"""Fetching libraries from Maven Central into Maven's local repository.

Maven resolves each set of libraries separately, so that the versions in one set do not affect
those in the others. All sets are modules of one generated Maven project.
"""

import hashlib
import os
import shutil
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from project import ABIS, Library
from tools import BuildError, run, tool

CHECKSUMS = Path(__file__).with_name("checksums.txt")
_GROUP = "io.github.kerasmobileone.build"


@dataclass(frozen=True)
class Wanted:
    """A library of the catalog with a type or a classifier of Maven's."""

    alias: str
    type: str = "jar"
    classifier: str = ""


@dataclass(frozen=True)
class LibrarySet:
    """Libraries that are used together; `transitive` includes those that they need."""

    wanted: tuple[Wanted, ...] = field(default=())
    transitive: bool = False


def _jars(*aliases: str, transitive: bool = False) -> LibrarySet:
    return LibrarySet(tuple(Wanted(alias) for alias in aliases), transitive)


def _bytedeco(classifier: str) -> LibrarySet:
    names = ("bytedeco-tflite", "javacpp")
    return LibrarySet(tuple(Wanted(name, classifier=classifier) for name in names))


_TFLITE = ("tensorflow-lite", "tensorflow-lite-api", "tensorflow-lite-gpu")

SETS = {
    "kotlin-compiler": _jars("kotlin-compiler", transitive=True),
    "kotlin-stdlib": _jars("kotlin-stdlib"),
    "bytedeco": _jars("bytedeco-tflite", "javacpp"),
    **{f"bytedeco-{abi}": _bytedeco(classifier) for abi, classifier in ABIS.items()},
    "bytedeco-linux": _bytedeco("linux-x86_64"),
    "tflite": LibrarySet(
        tuple(Wanted(name, "aar") for name in (*_TFLITE, "tensorflow-lite-gpu-api"))
    ),
    "r8": _jars("r8"),
    "android-api36": _jars("android-api36"),
    "android-api34": _jars("android-api34"),
    "junit": _jars("junit-console"),
    "robolectric": _jars("robolectric", "junit4", transitive=True),
    "android-api36-instrumented": _jars("android-api36-instrumented"),
    "android-api24-instrumented": _jars("android-api24-instrumented"),
    "lint": _jars("lint", transitive=True),
    "animal-sniffer": _jars("animal-sniffer", transitive=True),
    "gummy-bears": LibrarySet((Wanted("gummy-bears", "signature"),)),
}


def _dependency(library: Library, wanted: Wanted, transitive: bool) -> str:
    classifier = f"<classifier>{wanted.classifier}</classifier>" if wanted.classifier else ""
    every = "<exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion>"
    exclusions = "" if transitive else f"<exclusions>{every}</exclusions>"
    return (
        f"<dependency><groupId>{library.group}</groupId><artifactId>{library.name}</artifactId>"
        f"<version>{library.version}</version><type>{wanted.type}</type>{classifier}{exclusions}"
        "</dependency>"
    )


def _model(content: str) -> str:
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>\n'
        f"{content}\n</project>\n"
    )


def _write_module(directory: Path, name: str, catalog: dict[str, Library]) -> None:
    members = SETS[name]
    dependencies = "\n".join(
        _dependency(catalog[wanted.alias], wanted, members.transitive) for wanted in members.wanted
    )
    parent = (
        f"<parent><groupId>{_GROUP}</groupId><artifactId>libraries</artifactId>"
        "<version>1</version></parent>"
    )
    text = _model(
        f"{parent}<artifactId>{name}</artifactId>"
        "<properties><mdep.outputFile>${project.basedir}/classpath</mdep.outputFile></properties>\n"
        f"<dependencies>\n{dependencies}\n</dependencies>"
    )
    path = directory / name / "pom.xml"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")


def _read_classpath(directory: Path, name: str) -> list[Path] | None:
    """Files of a set, or None if they have to be fetched."""
    stored = directory / name / "classpath"
    if not stored.is_file():
        return None
    paths = [Path(path) for path in stored.read_text(encoding="utf-8").strip().split(":")]
    if len(paths) < len(SETS[name].wanted):
        raise BuildError(f"The set '{name}' asks for two versions of one library.")
    return paths if all(path.is_file() for path in paths) else None


def fetch(
    cache: Path, catalog: dict[str, Library], plugin_version: str, names: list[str]
) -> dict[str, list[Path]]:
    """Fetches sets of libraries, those that are not there yet.

    Args:
        cache: directory for the Maven project and for what is taken out of archives.
        catalog: libraries by their names in the version catalog.
        plugin_version: version of Maven's dependency plugin.
        names: keys of `SETS`.

    Returns:
        The files of each set.

    Raises:
        BuildError: if a file has not the checksum that checksums.txt has.
    """
    directory = cache / "maven"
    for name in names:
        _write_module(directory, name, catalog)
    missing = [name for name in names if _read_classpath(directory, name) is None]
    if missing:
        _run_maven(directory, missing, plugin_version)
    found = {}
    for name in names:
        paths = _read_classpath(directory, name)
        if paths is None:
            raise BuildError(f"Maven did not fetch the libraries of '{name}'.")
        if name in missing:
            try:
                _check(paths)
            except BuildError:
                (directory / name / "classpath").unlink()
                raise
        found[name] = paths
    return found


def _run_maven(directory: Path, names: list[str], plugin_version: str) -> None:
    modules = "".join(f"<module>{name}</module>" for name in names)
    (directory / "pom.xml").write_text(
        _model(
            f"<groupId>{_GROUP}</groupId><artifactId>libraries</artifactId><version>1</version>"
            f"<packaging>pom</packaging><modules>{modules}</modules>"
        ),
        encoding="utf-8",
    )
    plugin = f"org.apache.maven.plugins:maven-dependency-plugin:{plugin_version}"
    run(
        tool("mvn"),
        "-B",
        "-q",
        "-f",
        directory / "pom.xml",
        f"{plugin}:build-classpath",
        name="Maven",
    )


def sha256(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_checksums(path: Path = CHECKSUMS) -> dict[str, str]:
    """Checksums by file name, as the program sha256sum writes them."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {name: checksum for checksum, name in (line.split("  ", 1) for line in lines)}


def _check(paths: list[Path]) -> None:
    known = read_checksums()
    for path in paths:
        if path.name not in known:
            raise BuildError(
                f"checksums.txt lacks {path.name}: look where the file comes from, and add it with "
                "`python android_app/build/build.py checksums`."
            )
        if sha256(path) != known[path.name]:
            raise BuildError(f"{path} is not the file that checksums.txt describes; delete it.")


def write_checksums(cache: Path, catalog: dict[str, Library], plugin_version: str) -> int:
    """Fetches all sets and writes checksums.txt from what came; returns the number of files."""
    directory = cache / "maven"
    for name in SETS:
        _write_module(directory, name, catalog)
    _run_maven(directory, list(SETS), plugin_version)
    paths = {path for name in SETS for path in _read_classpath(directory, name) or []}
    lines = sorted({f"{sha256(path)}  {path.name}" for path in paths}, key=lambda line: line[66:])
    CHECKSUMS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def classes(aar: Path, cache: Path) -> Path:
    """classes.jar of an AAR, taken out into the cache."""
    target = cache / "aar" / f"{aar.stem}.jar"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not there, for other builds that use the cache at the same time.
        temporary = target.with_suffix(f".{os.getpid()}")
        with zipfile.ZipFile(aar) as archive:
            temporary.write_bytes(archive.read("classes.jar"))
        temporary.replace(target)
    return target
