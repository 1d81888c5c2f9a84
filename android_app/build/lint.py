"""Android Lint, and a check that the classes use only what the oldest supported Android has."""

import re
from collections import Counter
from pathlib import Path
from xml.sax.saxutils import quoteattr

import apk
from context import Build
from project import MIN_SDK, TARGET_SDK, package_version, version_code
from resources import Linked
from tools import BuildError, classpath, java

LIBRARIES = (*apk.LIBRARIES, "lint", "animal-sniffer", "gummy-bears")
_API_CHECK = Path(__file__).parent / "api_check" / "ApiCheck.java"
# Packages that the APK brings with it.
_OWN_PACKAGES = ("kotlin.*", "org.bytedeco.*", "org.tensorflow.*", "io.github.kerasmobileone.*")
_REFERENCE = re.compile(r"\[ERROR\] [^:]*:(?P<name>[^:]+)\.class:(?P<line>\d+): (?P<what>.*)")
# Calls that are newer than the lowest API level are allowed if one of these words stands at most
# this number of lines before them.
_GUARD = re.compile(r"SDK_INT|@RequiresApi|@TargetApi")
_GUARD_LINES = 15


def run_lint(build: Build) -> None:
    """Compiles the app and checks it.

    Raises:
        BuildError: if Lint finds an error, or calls that old phones lack.
    """
    linked = apk.compile_all(build)
    jars = [build.module_jar(module.name) for module in build.modules]
    sources = _sources(build)

    def check():
        _check_api(build, jars, sources)

    build.steps.run(f"calls that API {MIN_SDK} lacks", check, [*jars, *sources, _API_CHECK])
    main = build.root / "app" / "src" / "main"
    resources = sorted(path for path in (main / "res").rglob("*") if path.is_file())
    configuration = [path for path in [build.root / "app" / "lint.xml"] if path.is_file()]
    libraries = [
        *build.libraries("android-api36"),
        *[path for path in [build.resource_classes] if path.is_file()],
        *build.program_libraries,
    ]

    def lint():
        project = _describe(build, linked, sources, resources, libraries)
        _run_lint(build, project, configuration)

    inputs = [linked.manifest, *sources, *resources, *configuration, *libraries]
    build.steps.run("Lint", lint, inputs)


def _sources(build: Build) -> list[Path]:
    directories = [place for m in build.modules for place in m.source_directories(build.root)]
    return sorted(path for place in directories for path in place.rglob("*.kt"))


def _check_api(build: Build, jars: list[Path], sources: list[Path]) -> None:
    output = java(
        "-cp",
        classpath(build.libraries("animal-sniffer")),
        _API_CHECK,
        build.library("gummy-bears"),
        ",".join(_OWN_PACKAGES),
        *jars,
        name="animal-sniffer",
        log=build.out / "reports" / "api.txt",
    )
    texts = {path: path.read_text(encoding="utf-8") for path in sources}
    faults = unguarded(output, texts)
    if faults:
        print("\n".join(faults))
        raise BuildError(f"API {MIN_SDK} lacks what the classes above use: {len(faults)} calls.")


def unguarded(output: str, sources: dict[Path, str]) -> list[str]:
    """What animal-sniffer found, apart from calls that are made on newer phones only.

    Args:
        output: what animal-sniffer printed.
        sources: texts of the source files.

    Returns:
        Class, line and call of each fault. Calls of Java's library are always faults; those of
        Android's are none if `SDK_INT`, `@RequiresApi` or `@TargetApi` stands shortly before.
    """
    faults = []
    for found in _REFERENCE.finditer(output):
        line = int(found["line"])
        lines = _source_of(found["name"], sources).splitlines()
        before = "\n".join(lines[max(0, line - _GUARD_LINES) : line])
        android = re.search(r"(?:^|[ (])android\.", found["what"].split(": ", 1)[-1])
        if not android or not _GUARD.search(before):
            faults.append(f"{found['name'].replace('/', '.')}:{line} ({found['what']})")
    return faults


def _source_of(name: str, sources: dict[Path, str]) -> str:
    """Text of the file that declares a class, by the name of its outermost class."""
    package, _, simple = name.rpartition("/")
    outer = simple.split("$")[0]
    declared = re.compile(rf"\b(?:class|object|interface) {re.escape(outer)}\b")
    header = re.compile(rf"^package {re.escape(package.replace('/', '.'))}\s*$", re.MULTILINE)
    for path, text in sources.items():
        is_file_class = outer == f"{path.stem}Kt"
        if header.search(text) and (is_file_class or declared.search(text)):
            return text
    return ""


def _describe(
    build: Build, linked: Linked, sources: list[Path], resources: list[Path], libraries: list[Path]
) -> Path:
    """Writes the description of the project that Lint reads; returns its path."""
    directory = build.out / "lint"
    (directory / "cache").mkdir(parents=True, exist_ok=True)
    version = package_version()
    levels = (
        f'<uses-sdk android:minSdkVersion="{MIN_SDK}" android:targetSdkVersion="{TARGET_SDK}" />'
    )
    text = linked.manifest.read_text(encoding="utf-8")
    text = text.replace("<application", f"{levels}\n    <application", 1).replace(
        "<manifest ",
        f'<manifest android:versionCode="{version_code(version)}" android:versionName="{version}" ',
        1,
    )
    manifest = directory / "AndroidManifest.xml"
    manifest.write_text(text, encoding="utf-8")
    elements = [
        f"<manifest file={quoteattr(str(manifest))}/>",
        *(f"<src file={quoteattr(str(path))}/>" for path in sources),
        *(f"<resource file={quoteattr(str(path))}/>" for path in resources),
        *(f"<classpath jar={quoteattr(str(path))}/>" for path in libraries),
    ]
    project = directory / "project.xml"
    project.write_text(
        f"<project>\n<root dir={quoteattr(str(build.root))}/>\n"
        f"<cache dir={quoteattr(str(directory / 'cache'))}/>\n"
        f'<module name="app" android="true" library="false" compile-sdk-version="{TARGET_SDK}">\n'
        + "\n".join(elements)
        + "\n</module>\n</project>\n",
        encoding="utf-8",
    )
    return project


def _run_lint(build: Build, project: Path, configuration: list[Path]) -> None:
    report = build.out / "reports" / "lint.txt"
    output = java(
        "-Djava.awt.headless=true",
        "-cp",
        classpath(build.libraries("lint")),
        "com.android.tools.lint.Main",
        *("--project", project, "--text", "stdout", "--exitcode", "--quiet", "--offline"),
        *(argument for path in configuration for argument in ("--config", path)),
        name="Lint",
        log=report,
    )
    found = Counter(re.findall(r": Warning: .* \[(\w+)", output))
    listed = ", ".join(f"{name} {count}" for name, count in found.most_common())
    print(f"           Lint: no errors; warnings: {listed or 'none'} ({report})")
