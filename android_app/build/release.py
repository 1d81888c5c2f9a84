"""The APK without unused code: R8 shrinks the classes, which then run on this machine's JVM.

R8 writes class files, and D8 makes the dex files from them: what was tested is what is packaged.
"""

import shutil
import zipfile
from pathlib import Path

import apk
import jvm_tests
import kotlin
from context import Build
from resources import Linked
from tools import BuildError, java

LIBRARIES = jvm_tests.LIBRARIES
_CHECK_SOURCES = Path(__file__).parent / "release_check"


def build_release(build: Build) -> Path:
    """Builds the shrunk APK, signed with the debug key, and checks it; returns its path."""
    linked = apk.compile_all(build)
    shrunk = _shrink(build, linked)
    directory = build.out / "release-dex"

    def action():
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        apk.d8(build, [shrunk], directory)

    build.steps.run("D8 of the shrunk classes", action, [shrunk], [directory / "classes.dex"])
    target = build.apk.with_name(build.apk.name.replace("-debug", "-release"))
    apk.package(build, linked, sorted(directory.glob("*.dex")), target)
    _run_check(build, linked, shrunk, target)
    return target


def _consumer_rules(build: Build) -> list[Path]:
    """Rules that libraries bring with them."""
    found = []
    for name in {name for module in build.modules for name in module.libraries}:
        for path in build.archives(name):
            with zipfile.ZipFile(path) as library:
                if path.suffix == ".aar" and "proguard.txt" in library.namelist():
                    target = build.out / "rules" / f"{path.stem}.pro"
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(library.read("proguard.txt"))
                    found.append(target)
    return sorted(found)


def _shrink(build: Build, linked: Linked) -> Path:
    """Jar of the classes of the app and its libraries that the rules leave."""
    target = build.out / "shrunk.jar"
    inputs = [*apk.own_jars(build), *build.program_libraries]
    rules = [build.root / "app" / "proguard-rules.pro", linked.rules, *_consumer_rules(build)]

    def action():
        java(
            "-cp",
            build.library("r8"),
            "com.android.tools.r8.R8",
            "--release",
            "--classfile",
            *apk.platform(build),
            *(argument for path in rules for argument in ("--pg-conf", path)),
            *("--output", target),
            *inputs,
            name="R8",
            log=build.out / "reports" / "r8.txt",
        )

    build.steps.run("R8", action, [*inputs, *rules], [target])
    before, after = (sum(path.stat().st_size for path in paths) for paths in (inputs, [target]))
    print(f"           classes: {before / 1e6:.2f} MB, shrunk {after / 1e6:.2f} MB")
    return target


def _run_check(build: Build, linked: Linked, shrunk: Path, release: Path) -> None:
    """Starts the app and runs the models with the shrunk classes, under Robolectric."""
    if not build.model_files():
        raise BuildError("The check of the release runs a model: give a directory with --models.")
    tools = build.libraries("robolectric", "junit", "android-api36")
    compiled = build.out / "release-check"
    jar = build.out / "release-check.jar"
    unshrunk = [*apk.own_jars(build), *build.program_libraries]

    def compile_check():
        shutil.rmtree(compiled, ignore_errors=True)
        kotlin.javac(
            [*_CHECK_SOURCES.glob("*.java")], jar, [*unshrunk, *tools], jvm_tests.ROBOLECTRIC_JDK
        )

    build.steps.run("javac release check", compile_check, [_CHECK_SOURCES, *unshrunk], [compiled])
    libraries = [shrunk, *build.libraries("bytedeco-linux"), *tools]

    def check():
        engine = _engine_class(shrunk)
        jvm_tests.robolectric(
            build, "ReleaseCheck", compiled, linked.manifest, release, libraries, engine=engine
        )

    inputs = [compiled, *libraries, release, *build.model_files()]
    build.steps.run("check of the shrunk classes", check, inputs)


def _engine_class(jar: Path) -> str:
    """Name of the class of the engine that runs on this machine too."""
    with zipfile.ZipFile(jar) as archive:
        for name in archive.namelist():
            if name.endswith("/BytedecoEngine.class"):
                return name.removesuffix(".class").replace("/", ".")
    raise BuildError("R8 has removed the engine: no BytedecoEngine is left.")
