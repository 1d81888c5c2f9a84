"""From sources to a signed, verified APK."""

import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import archive
import kotlin
from context import Build
from project import ABIS, APPLICATION_ID, MIN_SDK, TARGET_SDK, package_version, version_code
from resources import Linked, component_classes, link_resources
from steps import fingerprint
from tools import BuildError, java, jdk, run, tool

LIBRARIES = (
    "kotlin-compiler",
    "kotlin-stdlib",
    "bytedeco",
    *(f"bytedeco-{abi}" for abi in ABIS),
    "tflite",
    "r8",
    "android-api36",
    "android-api34",
)
_KEY_PASSWORD = "android"  # as the debug key that Android Studio makes


def build_apk(build: Build) -> Path:
    """Builds `build.apk` with the debug key and checks it; returns the manifest in it as text."""
    linked = compile_all(build)
    dex = [*_own_dex(build), *_library_dex(build)]
    package(build, linked, dex, build.apk)
    return linked.manifest


def compile_all(build: Build) -> Linked:
    """Links the resources and compiles all modules."""
    linked = link_resources(build)
    for module in build.modules:
        kotlin.compile_module(build, module)
    return linked


def package(build: Build, linked: Linked, dex: list[Path], target: Path) -> None:
    """Puts an APK together, signs and verifies it."""
    unsigned = build.out / "unsigned.apk"
    key = debug_key(build)
    models = build.model_files()

    assets = build.root / "app" / "src" / "main" / "assets"
    inputs = [linked.base, *dex, *models, *build.program_libraries, *_native_archives(build), key]
    inputs += [assets] if assets.is_dir() else []

    def action():
        archive.write_apk(unsigned, _entries(build, linked.base, dex, models))
        _sign(unsigned, key, target)
        unsigned.unlink()

    build.steps.run(f"package and sign {target.name}", action, inputs, [target])
    build.steps.run(f"verify {target.name}", lambda: verify(target, linked.manifest), [target])


def own_jars(build: Build) -> list[Path]:
    """Jars of the classes that the sources of the app give, those of resources included."""
    jars = [build.module_jar(module.name) for module in build.modules]
    return jars + [path for path in [build.resource_classes] if path.is_file()]


def _own_dex(build: Build) -> list[Path]:
    """Dex files of the app's own classes."""
    jars = own_jars(build)
    target = build.out / "dex"

    def action():
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        d8(build, jars, target, "--classpath", build.program_libraries)

    build.steps.run("D8", action, [*jars, *build.program_libraries], [target / "classes.dex"])
    return sorted(target.glob("*.dex"))


def _library_dex(build: Build) -> list[Path]:
    """Dex files of the libraries, which are kept in the cache."""
    libraries = build.program_libraries
    key = fingerprint([MIN_SDK, *build.libraries("r8"), *libraries])
    target = build.cache / "dex" / key[:16]

    def action():
        temporary = target.with_suffix(f".{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        d8(build, libraries, temporary)
        if not target.is_dir():  # another build may have been faster
            temporary.rename(target)

    if not target.is_dir():
        build.steps.always("D8 of the libraries", action)
    return sorted(target.glob("*.dex"))


def platform(build: Build) -> tuple[object, ...]:
    """Arguments of D8 and R8 that name the classes of Android, and those of Java itself."""
    return ("--lib", jdk(17), "--lib", build.library("android-api36"))


def d8(build: Build, jars: list[Path], target: Path, *context) -> None:
    """Runs D8. `context` is an option followed by the paths to give with it."""
    option, paths = context or ("--classpath", [])
    java(
        "-cp",
        build.library("r8"),
        "com.android.tools.r8.D8",
        "--release",
        *("--min-api", MIN_SDK),
        *platform(build),
        *(argument for path in paths for argument in (option, path)),
        *("--output", target),
        *jars,
        name="D8",
    )


def _native_archives(build: Build) -> list[Path]:
    """Archives that contain native libraries, those of AARs before they were unpacked."""
    names = {name for module in build.modules for name in module.libraries}
    archives = []
    if "bytedeco" in names:
        archives += build.libraries(*(f"bytedeco-{abi}" for abi in ABIS))
    if "tflite" in names:
        archives += build.archives("tflite")
    return archives


def native_libraries(build: Build) -> dict[str, bytes]:
    """Native libraries by their names in the APK, such as `lib/arm64-v8a/libx.so`."""
    found = {}
    for path in _native_archives(build):
        with zipfile.ZipFile(path) as source:
            for name in source.namelist():
                match = re.fullmatch(r"(?:lib|jni)/([^/]+)/([^/]+\.so)", name)
                if match and match[1] in ABIS:
                    found[f"lib/{match[1]}/{match[2]}"] = source.read(name)
    return dict(sorted(found.items()))


def _entries(
    build: Build, base: Path, dex: list[Path], models: list[Path]
) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(base) as linked:
        for name in linked.namelist():
            yield name, linked.read(name)
    for index, path in enumerate(dex):
        yield f"classes{index + 1 if index else ''}.dex", path.read_bytes()
    yield from _java_resources(build)
    yield from native_libraries(build).items()
    assets = build.root / "app" / "src" / "main" / "assets"
    for path in sorted(assets.rglob("*")):
        if path.is_file():
            yield f"assets/{path.relative_to(assets)}", path.read_bytes()
    for path in models:
        yield f"assets/models/{path.name}", path.read_bytes()


def _java_resources(build: Build) -> Iterator[tuple[str, bytes]]:
    """Files that classes of the libraries read: JavaCPP's descriptions of platforms, services."""
    for path in build.program_libraries:
        with zipfile.ZipFile(path) as library:
            for name in library.namelist():
                left_out = name.endswith(("/", ".class", ".kotlin_builtins", ".kotlin_module"))
                if not left_out and not re.match(r"META-INF/(?!services/)", name):
                    yield name, library.read(name)


def debug_key(build: Build) -> Path:
    """Key store with the key that signs, made once on each machine: updates need the same key."""
    path = build.cache / "debug.p12"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        run(
            jdk(17) / "bin" / "keytool",
            *("-genkeypair", "-keystore", path, "-storetype", "PKCS12"),
            *("-storepass", _KEY_PASSWORD, "-alias", "debug", "-keyalg", "RSA"),
            *("-keysize", 2048, "-validity", 10000, "-dname", "CN=Android Debug"),
        )
    return path


def _sign(unsigned: Path, key: Path, target: Path) -> None:
    schemes = (
        "--v1-signing-enabled=false",
        "--v2-signing-enabled=true",
        "--v3-signing-enabled=true",
    )
    run(
        tool("apksigner"),
        "sign",
        *("--ks", key, "--ks-pass", f"pass:{_KEY_PASSWORD}", "--min-sdk-version", MIN_SDK),
        *schemes,
        *("--out", target, unsigned),
    )
    target.with_name(f"{target.name}.idsig").unlink(missing_ok=True)


def verify(apk: Path, manifest: Path) -> None:
    """Checks signatures, alignment, what the manifest says, and that its classes are there.

    Raises:
        BuildError: for the first thing that is wrong.
    """
    signatures = run(tool("apksigner"), "verify", "--verbose", "--min-sdk-version", MIN_SDK, apk)
    for scheme in ("v2", "v3"):
        if not re.search(rf"Verified using {scheme} scheme .*: true", signatures):
            raise BuildError(f"{apk.name} has no valid {scheme} signature.")
    for fault in archive.alignment_faults(apk):
        raise BuildError(f"{apk.name}: {fault}")
    run(tool("zipalign"), "-c", archive.RESOURCE_ALIGNMENT, apk)
    _check_badging(run(tool("aapt2"), "dump", "badging", apk))
    _check_manifest(apk, manifest)


def _check_badging(badging: str) -> None:
    version = package_version()
    expected = (
        f"package: name='{APPLICATION_ID}' versionCode='{version_code(version)}' "
        f"versionName='{version}'",
        f"sdkVersion:'{MIN_SDK}'",
        f"targetSdkVersion:'{TARGET_SDK}'",
        "launchable-activity: name=",
        "native-code: " + " ".join(f"'{abi}'" for abi in sorted(ABIS)),
    )
    for line in expected:
        if line not in badging:
            raise BuildError(f"The APK's badging lacks: {line}")
    if "application-debuggable" in badging:
        raise BuildError("The APK is debuggable, which makes Android run its code more slowly.")


def _check_manifest(apk: Path, manifest: Path) -> None:
    """Every class that the manifest names is in a dex file, and the GPU's library is declared."""
    text = manifest.read_text(encoding="utf-8")
    if "libOpenCL.so" not in text:
        raise BuildError(
            "The manifest lacks <uses-native-library> for libOpenCL.so: without it Android 12 and "
            "later hide it from the GPU delegate, which then falls back to OpenGL."
        )
    named = component_classes(text)
    dump = run(tool("dexdump"), "-f", apk)
    classes = re.findall(r"Class descriptor *: 'L([^;]+);'", dump)
    missing = sorted(named - {name.replace("/", ".") for name in classes})
    if missing:
        raise BuildError(f"The manifest names {missing[0]}, which no dex file of the APK has.")
