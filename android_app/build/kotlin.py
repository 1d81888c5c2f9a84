"""Compiling Kotlin and Java sources to class files."""

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

from context import Build
from project import Module
from tools import classpath, java, jdk, run

# Java 8 is what both Android's D8 and API 24 understand without further work.
_TARGET = ("-jvm-target", "1.8", "-Xjdk-release=8")
TEST_TARGET = ("-jvm-target", "17", "-Xjdk-release=17")


def kotlinc(
    build: Build, sources: list[Path], target: Path, libraries: list[Path], *options
) -> str:
    """Compiles directories and files of Kotlin, and reads Java sources among them.

    Returns:
        What the compiler wrote: warnings.
    """
    return java(
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-cp",
        classpath(build.libraries("kotlin-compiler")),
        "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler",
        "-no-stdlib",
        "-no-reflect",
        *options,
        "-cp",
        classpath(libraries),
        "-d",
        target,
        *sources,
        name="kotlinc",
    )


def _compile_classpath(build: Build, module: Module) -> list[Path]:
    paths = [build.module_jar(name) for name in module.modules]
    if module.name == "app":
        paths.append(build.resource_classes)
        paths += build.program_libraries
    else:
        paths += build.libraries("kotlin-stdlib", *module.libraries)
    return paths + (build.libraries("android-api36") if module.android else [])


def compile_module(build: Build, module: Module) -> None:
    """Compiles a module into its jar."""
    sources = module.source_directories(build.root)
    libraries = [path for path in _compile_classpath(build, module) if path.exists()]
    target = build.module_jar(module.name)

    def action():
        target.unlink(missing_ok=True)
        print(
            kotlinc(build, sources, target, libraries, *_TARGET, "-module-name", module.name),
            end="",
        )

    build.steps.run(f"kotlinc {module.name}", action, [*sources, *libraries], [target])


def compile_tests(build: Build, module: Module, libraries: list[Path]) -> Path | None:
    """Compiles the tests of a module into a directory; None if there are none.

    Args:
        build: the build.
        module: module with the tests, which see what is internal in it.
        libraries: everything that the tests use, apart from the module itself.
    """
    sources = module.source_directories(build.root, "test")
    if not sources:
        return None
    target = build.out / "test-classes" / module.name
    own = build.module_jar(module.name)

    def action():
        shutil.rmtree(target, ignore_errors=True)
        print(
            kotlinc(
                build,
                sources,
                target,
                [own, *libraries],
                *TEST_TARGET,
                f"-Xfriend-paths={own}",
                "-module-name",
                f"{module.name}_test",
            ),
            end="",
        )

    build.steps.run(
        f"kotlinc tests of {module.name}", action, [*sources, own, *libraries], [target]
    )
    return target


def javac(
    sources: list[Path], target: Path, libraries: Sequence[Path] = (), minimum: int = 17
) -> None:
    """Compiles Java sources for Java 8 into a jar, and into the directory that its name has.

    Args:
        sources: the source files.
        target: the jar.
        libraries: classes that the sources use.
        minimum: version of the JDK that can read these classes.
    """
    directory = target.with_suffix("")
    options = ["-nowarn", "-Xlint:-options", "--release", "8"]
    options += ["-cp", classpath(list(libraries))] if libraries else []
    run(jdk(minimum) / "bin" / "javac", *options, "-d", directory, *sources)
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(directory.rglob("*.class")):
            name = str(path.relative_to(directory))
            archive.writestr(zipfile.ZipInfo(name), path.read_bytes())
