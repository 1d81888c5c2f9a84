"""Android resources and the manifest, by aapt2."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import kotlin
from context import Build
from project import APPLICATION_ID, MIN_SDK, TARGET_SDK, package_version, version_code
from tools import BuildError, run, tool

# aapt2 of Debian does not know this element, which apps for Android 12 and later need for OpenCL.
_UNKNOWN_ELEMENT = "uses-native-library"
_ANDROID = "{http://schemas.android.com/apk/res/android}"
_COMPONENTS = ("application", "activity", "service", "receiver", "provider")


def merged_manifest(source: str) -> str:
    """The manifest as the Android Gradle Plugin completes it.

    It has the package's name, whole names of classes, and native libraries that stay in the APK.
    """
    if re.search(r"<manifest[^>]*\spackage=", source):
        raise BuildError("AndroidManifest.xml must not have a package: the build writes it.")
    text = source.replace("<manifest ", f'<manifest package="{APPLICATION_ID}" ', 1)
    if "android:extractNativeLibs" not in text:
        text = text.replace("<application", '<application android:extractNativeLibs="false"', 1)
    text = re.sub(
        r'android:(name|targetActivity|parentActivityName)="\.',
        rf'android:\1="{APPLICATION_ID}.',
        text,
    )
    return text.replace("${applicationId}", APPLICATION_ID)


def component_classes(manifest: str) -> set[str]:
    """Names of the classes that a merged manifest has Android create."""
    application = ElementTree.fromstring(manifest).find("application")
    elements = [application, *application] if application is not None else []
    names = (element.get(f"{_ANDROID}name") for element in elements if element.tag in _COMPONENTS)
    return {name for name in names if name}


@dataclass(frozen=True)
class Linked:
    """The APK without code, the manifest in it as text, and what R8 must keep for both."""

    base: Path
    manifest: Path
    rules: Path


def link_resources(build: Build) -> Linked:
    """Compiles resources and manifest."""
    directory = build.out / "resources"
    linked = Linked(
        directory / "base.apk", directory / "AndroidManifest.xml", directory / "rules.pro"
    )
    source = build.root / "app" / "src" / "main"
    version = package_version()

    def action():
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        build.resource_classes.parent.mkdir(parents=True, exist_ok=True)
        text = (source / "AndroidManifest.xml").read_text(encoding="utf-8")
        linked.manifest.write_text(merged_manifest(text), encoding="utf-8")
        compiled = []
        if (source / "res").is_dir():
            compiled = [directory / "compiled.zip"]
            run(tool("aapt2"), "compile", "--dir", source / "res", "-o", compiled[0])
        _link(build, directory, version, compiled)
        generated = sorted((directory / "java").rglob("*.java"))
        if generated:
            kotlin.javac(generated, build.resource_classes)

    inputs = [source / "AndroidManifest.xml", version]
    inputs += [path for path in [source / "res"] if path.is_dir()]
    build.steps.run("aapt2", action, inputs, [linked.base, linked.manifest, linked.rules])
    return linked


def _link(build: Build, directory: Path, version: str, compiled: list[Path]) -> None:
    output = run(
        tool("aapt2"),
        "link",
        "-o",
        directory / "base.apk",
        "-I",
        build.library("android-api34"),
        "--manifest",
        directory / "AndroidManifest.xml",
        "--java",
        directory / "java",
        "--proguard",
        directory / "rules.pro",
        *("--min-sdk-version", MIN_SDK, "--target-sdk-version", TARGET_SDK),
        *("--version-code", version_code(version), "--version-name", version),
        *("--compile-sdk-version-code", TARGET_SDK, "--compile-sdk-version-name", TARGET_SDK - 20),
        *("--warn-manifest-validation", "--auto-add-overlay"),
        *compiled,
    )
    refused = [
        line for line in output.splitlines() if "warn" in line and _UNKNOWN_ELEMENT not in line
    ]
    if refused:
        raise BuildError(f"aapt2 warns: {refused[0].strip()}")
