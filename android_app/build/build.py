"""Builds and tests the Android app with what Maven Central and Debian have.

Usage: python android_app/build/build.py apk|test|lint|release|native|checksums [--out DIR]

Android Studio builds the same sources with Gradle and Google's Maven repository.
"""

import argparse
import sys
import time
from pathlib import Path

import apk
import jvm_tests
import lint
import maven
import native
import project
import release
from context import Build
from tools import BuildError, MissingTool

DEFAULT_OUT = project.PROJECT / "build" / "android"


def make_apk(build: Build, _: argparse.Namespace) -> None:
    """A signed, verified APK."""
    build.fetch(*apk.LIBRARIES)
    apk.build_apk(build)
    target = build.apk
    print(f"{target} ({target.stat().st_size / 1e6:.1f} MB, {len(build.model_files())} models)")


def run_tests(build: Build, options: argparse.Namespace) -> None:
    """Tests of core and engines on the JVM, and of the app with Robolectric."""
    build.fetch(*jvm_tests.LIBRARIES)
    jvm_tests.run_tests(build, options.fixtures, options.screenshots)


def run_lint(build: Build, _: argparse.Namespace) -> None:
    """Android Lint, and calls that the oldest supported Android lacks."""
    build.fetch(*lint.LIBRARIES)
    lint.run_lint(build)


def make_release(build: Build, _: argparse.Namespace) -> None:
    """The APK without unused code, its shrunk classes tested."""
    build.fetch(*release.LIBRARIES)
    target = release.build_release(build)
    print(f"{target} ({target.stat().st_size / 1e6:.1f} MB)")


def check_native(build: Build, _: argparse.Namespace) -> None:
    """The APK's native libraries for x86-64 on this machine."""
    build.fetch(*native.LIBRARIES)
    native.check_native(build)


def make_checksums(build: Build, _: argparse.Namespace) -> None:
    """Writes checksums.txt for the versions in the catalog."""
    count = maven.write_checksums(build.cache, build.catalog, build.plugin_version)
    print(f"checksums.txt has {count} files now; look at the difference before you commit it.")


COMMANDS = {
    "apk": make_apk,
    "test": run_tests,
    "lint": run_lint,
    "release": make_release,
    "native": check_native,
    "checksums": make_checksums,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns 1 if it fails and 2 if a program is missing on this machine."""
    parser = argparse.ArgumentParser(description="Builds and tests the Android app.")
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="where the results go")
    parser.add_argument("--models", type=Path, help="directory of .tflite files for the APK")
    parser.add_argument("--fixtures", type=Path, help="directory of files that tests read")
    parser.add_argument("--screenshots", type=Path, help="where tests of the app write pictures")
    parsed = parser.parse_args(arguments)
    for name in ("models", "fixtures"):
        path = getattr(parsed, name)
        if path and not path.is_dir():
            parser.error(f"--{name} must be a directory. Received: {path}")
    for name in ("models", "fixtures", "screenshots"):
        path = getattr(parsed, name)
        setattr(parsed, name, path and path.resolve())
    start = time.monotonic()
    try:
        COMMANDS[parsed.command](Build(parsed.out, parsed.models), parsed)
    except MissingTool as error:
        print(error, file=sys.stderr)
        return 2
    except BuildError as error:
        print(f"{parsed.command}: {error}", file=sys.stderr)
        return 1
    print(f"{time.monotonic() - start:6.1f} s  {parsed.command}, all steps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
