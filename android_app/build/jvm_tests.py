"""Tests on this machine's JVM: core and engines with JUnit 5, the app with Robolectric.

Models run through the Linux build of the runtime that the APK contains.
"""

import shutil
from pathlib import Path

import kotlin
from apk import LIBRARIES as APK_LIBRARIES
from apk import build_apk
from context import Build
from project import APPLICATION_ID, MODULES
from tools import classpath, java

_FRAMEWORKS = ("android-api24-instrumented", "android-api36-instrumented")
LIBRARIES = (*APK_LIBRARIES, "bytedeco-linux", "junit", "robolectric", *_FRAMEWORKS)
# Robolectric needs it for Android 16.
ROBOLECTRIC_JDK = 21
# Packages of the JDK in whose private parts Robolectric works.
_OPENED = ("java.lang", "java.io", "java.net", "java.nio", "java.util", "jdk.internal.access")


def run_tests(build: Build, fixtures: Path | None, screenshots: Path | None) -> None:
    """Runs the tests of all modules; the app's need the APK, which is built before."""
    manifest = build_apk(build)
    _run_jvm_tests(build, fixtures)
    _run_robolectric(build, manifest, fixtures, screenshots or build.out / "screenshots")


def _properties(build: Build, **more: Path | str | None) -> list[str]:
    """Arguments of Java that set system properties, such as where the tests find models."""
    known = {"models": build.models, **more}
    known["org.bytedeco.javacpp.cachedir"] = build.cache / "javacpp"
    return [f"-D{name}={value}" for name, value in known.items() if value]


def _given(*paths: Path | None) -> list[Path]:
    return [path for path in paths if path]


def _run_jvm_tests(build: Build, fixtures: Path | None) -> None:
    modules = [module for module in build.modules if module.name != "app"]
    jars = [build.module_jar(module.name) for module in modules]
    libraries = [
        *jars,
        *build.program_libraries,
        *build.libraries("bytedeco-linux", "junit", "android-api36"),
    ]
    compiled = [kotlin.compile_tests(build, module, libraries) for module in modules]
    directories = [path for path in compiled if path]
    if not directories:
        return

    def action():
        _junit(
            build,
            "JUnit",
            directories,
            [*directories, *libraries],
            *_properties(build, fixtures=fixtures),
        )

    inputs = [*directories, *libraries, *_given(build.models, fixtures)]
    build.steps.run("tests of core and engines", action, inputs)


def _run_robolectric(
    build: Build, manifest: Path, fixtures: Path | None, screenshots: Path
) -> None:
    (app,) = [module for module in MODULES if module.name == "app"]
    libraries = [
        *(build.module_jar(module.name) for module in build.modules if module is not app),
        *[path for path in [build.resource_classes] if path.is_file()],
        *build.program_libraries,
        *build.libraries("bytedeco-linux", "robolectric", "junit", "android-api36"),
    ]
    tests = kotlin.compile_tests(build, app, libraries)
    if tests is None:
        return
    libraries = [build.module_jar("app"), *libraries]

    def action():
        screenshots.mkdir(parents=True, exist_ok=True)
        places = {"fixtures": fixtures, "screenshots": screenshots}
        robolectric(build, "Robolectric", tests, manifest, build.apk, libraries, **places)

    inputs = [tests, *libraries, build.apk, *_given(build.models, fixtures), str(screenshots)]
    build.steps.run("tests of the app", action, inputs, [screenshots])


def robolectric(
    build: Build,
    name: str,
    tests: Path,
    manifest: Path,
    resources: Path,
    libraries: list[Path],
    **properties: Path | str | None,
) -> None:
    """Runs the tests in a directory of class files under Robolectric.

    Args:
        build: the build.
        name: what the report and errors call the run.
        tests: directory of class files.
        manifest: the app's manifest as text.
        resources: APK with the app's resources.
        libraries: class files that the tests need.
        **properties: system properties that the tests read.
    """
    configuration = _write_configuration(build.out / name, manifest, resources)
    _junit(
        build,
        name,
        [tests],
        [configuration, tests, *libraries],
        *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED),
        "--add-exports=java.base/jdk.internal.access=ALL-UNNAMED",
        "-Xmx2g",
        "-Drobolectric.offline=true",
        f"-Drobolectric.dependency.dir={_frameworks(build)}",
        # JavaCPP's classes load native code, which only one class loader may do.
        "-Dorg.robolectric.packagesToNotAcquire=org.bytedeco.",
        *_properties(build, **properties),
        minimum=ROBOLECTRIC_JDK,
    )


def _junit(build: Build, name: str, scanned: list[Path], paths: list[Path], *options, minimum=17):
    """Runs every test class in some directories and prints the counts."""
    reports = build.out / "reports" / name
    shutil.rmtree(reports, ignore_errors=True)
    output = java(
        "--enable-native-access=ALL-UNNAMED",
        *options,
        "-cp",
        classpath(paths),
        "org.junit.platform.console.ConsoleLauncher",
        "execute",
        f"--scan-classpath={classpath(scanned)}",
        "--include-classname=.*",
        "--fail-if-no-tests",
        "--disable-banner",
        "--disable-ansi-colors",
        "--details=tree",
        f"--reports-dir={reports}",
        name=name,
        minimum=minimum,
        log=build.out / "reports" / f"{name}.txt",
    )
    counts = [line.strip("[] ") for line in output.splitlines() if " tests " in line]
    run_count = [line for line in counts if line.endswith(("successful", "skipped", "failed"))]
    print(f"           {name}: {', '.join(run_count)}")


def _write_configuration(directory: Path, manifest: Path, resources: Path) -> Path:
    """Directory with the file by which Robolectric finds resources and manifest of the app."""
    path = directory / "com" / "android" / "tools" / "test_config.properties"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"android_merged_manifest={manifest}\n"
        f"android_resource_apk={resources}\n"
        f"android_custom_package={APPLICATION_ID}\n",
        encoding="utf-8",
    )
    return directory


def _frameworks(build: Build) -> Path:
    """Directory with Robolectric's builds of Android, which it else would fetch itself."""
    directory = build.cache / "robolectric"
    directory.mkdir(parents=True, exist_ok=True)
    for path in build.libraries(*_FRAMEWORKS):
        link = directory / path.name
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(path)
    return directory
