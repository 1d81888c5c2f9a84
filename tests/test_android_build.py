"""The two builds of the Android app agree, and our own checks an APK. No Java runs here."""

import importlib
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

import keras_mobileone

ANDROID = Path(__file__).parents[1] / "android_app"
MODULE_NAMES = ("archive", "build", "lint", "maven", "project", "resources", "steps", "tools")


@pytest.fixture(scope="module")
def scripts():
    """The modules of android_app/build by name."""
    sys.path.insert(0, str(ANDROID / "build"))
    try:
        yield {name: importlib.import_module(name) for name in MODULE_NAMES}
    finally:
        sys.path.remove(str(ANDROID / "build"))
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", "")).startswith(str(ANDROID / "build")):
                del sys.modules[name]


def gradle(name: str) -> str:
    """A Gradle script without its comments."""
    text = (ANDROID / name / "build.gradle.kts").read_text(encoding="utf-8")
    return re.sub(r"//.*", "", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL))


def dependencies(name: str) -> set[str]:
    """Aliases of the libraries, with classifiers, that a Gradle script puts into the app."""
    text = (ANDROID / name / "build.gradle.kts").read_text(encoding="utf-8")
    plain = re.findall(r"^\s*(?:implementation|api|runtimeOnly)\(libs\.([\w.]+)\)", text, re.M)
    variants = re.findall(
        r'^\s*runtimeOnly\(variantOf\(libs\.([\w.]+)\) \{ classifier\("([^"]+)"\)', text, re.M
    )
    return {alias.replace(".", "-") for alias in plain} | {
        f"{alias.replace('.', '-')}:{classifier}" for alias, classifier in variants
    }


def test_sdk_levels_come_from_the_catalog(scripts):
    project = scripts["project"]
    assert (project.MIN_SDK, project.TARGET_SDK) == (24, 36)
    app = gradle("app")
    assert "minSdk = libs.versions.min.sdk.get().toInt()" in app
    assert "targetSdk = libs.versions.target.sdk.get().toInt()" in app
    for name in ("app", "engine-tflite", "engine-litert"):
        assert "compileSdk = libs.versions.target.sdk.get().toInt()" in gradle(name)
        assert not re.search(r"Sdk\s*=\s*\d", gradle(name))
        assert re.search(r"minSdk = libs\.versions\.min\.sdk", gradle(name))


def test_application_id(scripts):
    app = gradle("app")
    for name in ("applicationId", "namespace"):
        assert re.findall(rf'{name} = "([^"]+)"', app) == [scripts["project"].APPLICATION_ID]


def test_abis_and_native_libraries(scripts):
    abis = scripts["project"].ABIS
    (filters,) = re.findall(r"abiFilters \+= listOf\(([^)]*)\)", gradle("app"))
    assert re.findall(r'"([^"]+)"', filters) == list(abis)
    expected = {f"{a}:{c}" for a in ("bytedeco-tflite", "javacpp") for c in abis.values()}
    assert {name for name in dependencies("app") if ":" in name} == expected


def test_flavor_of_our_build_is_the_default(scripts):
    flavors = gradle("app").split("productFlavors")[1].split("buildTypes")[0]
    found = re.findall(r'create\("(\w+)"\)(?:\s*\{\s*isDefault = (true))?', flavors)
    assert dict(found)[scripts["project"].FLAVOR] == "true"
    assert [name for name, default in found if default] == [scripts["project"].FLAVOR]


def test_modules_and_their_libraries(scripts):
    modules, sets = scripts["project"].MODULES, scripts["maven"].SETS
    settings = (ANDROID / "settings.gradle.kts").read_text(encoding="utf-8")
    (included,) = re.findall(r"include\(([^)]*)\)", settings)
    names = [module.name for module in modules]
    assert sorted([*names, "engine-litert"]) == sorted(re.findall(r'":([\w-]+)"', included))
    for module in modules:
        aliases = {wanted.alias for name in module.libraries for wanted in sets[name].wanted}
        assert {name for name in dependencies(module.name) if ":" not in name} == aliases
        used = re.findall(r'mplementation"?\(project\(":([\w-]+)"\)\)', gradle(module.name))
        assert set(used) - {"engine-litert"} == set(module.modules)
        is_android = "libs.plugins.android" in gradle(module.name)
        assert is_android == module.android


def test_gradle_reads_only_names_that_the_catalog_has(scripts):
    catalog = scripts["project"].read_catalog()
    aliases = {alias.replace("-", ".") for alias in catalog}
    for script in ANDROID.glob("*/build.gradle.kts"):
        text = script.read_text(encoding="utf-8")
        used = set(re.findall(r"libs\.((?!versions|plugins)[\w.]+)", text))
        assert used <= aliases, script


def test_names_of_the_catalog_make_accessors_of_kotlin(scripts):
    project = scripts["project"]
    for alias in [*project.read_catalog(), *project.read_versions()]:
        assert all(part[0].isalpha() for part in re.split("[-_.]", alias)), alias


def test_every_version_of_the_catalog_is_used(scripts):
    text = (ANDROID / "gradle" / "libs.versions.toml").read_text(encoding="utf-8")
    referenced = set(re.findall(r'version\.ref = "([^"]+)"', text))
    outside = {"min-sdk", "target-sdk", "maven-dependency-plugin"}
    assert set(scripts["project"].read_versions()) == referenced | outside


def test_sets_name_libraries_of_the_catalog(scripts):
    catalog = scripts["project"].read_catalog()
    for name, members in scripts["maven"].SETS.items():
        assert members.wanted, name
        for wanted in members.wanted:
            assert wanted.alias in catalog


def test_checksums_know_the_libraries_of_the_catalog(scripts):
    catalog, known = scripts["project"].read_catalog(), scripts["maven"].read_checksums()
    for members in scripts["maven"].SETS.values():
        for wanted in members.wanted:
            library = catalog[wanted.alias]
            classifier = f"-{wanted.classifier}" if wanted.classifier else ""
            name = f"{library.name}-{library.version}{classifier}.{wanted.type}"
            assert re.fullmatch("[0-9a-f]{64}", known.get(name, "")), name


def test_version_is_that_of_the_package(scripts):
    assert scripts["project"].package_version() == keras_mobileone.__version__
    assert "keras_mobileone/__init__.py" in (ANDROID / "app/build.gradle.kts").read_text()


@pytest.mark.parametrize(
    ("version", "code"), [("0.2.0", 200), ("1.2.3", 10203), ("1.12.0.dev1", 11200)]
)
def test_version_code(scripts, version, code):
    assert scripts["project"].version_code(version) == code


def test_version_code_refuses_other_forms(scripts):
    with pytest.raises(ValueError, match="three numbers"):
        scripts["project"].version_code("1.2")


def test_the_wrapper_has_the_gradle_that_the_plugin_needs():
    text = (ANDROID / "gradle/wrapper/gradle-wrapper.properties").read_text(encoding="utf-8")
    (version,) = re.findall(r"gradle-(\d+)\.(\d+)[\d.]*-bin\.zip", text)
    assert tuple(map(int, version)) >= (9, 6)


def test_gradle_writes_nothing_beside_the_scripts():
    root = (ANDROID / "build.gradle.kts").read_text(encoding="utf-8")
    assert "layout.buildDirectory = " in root


def elf(page: int) -> bytes:
    """A 64-bit ELF file with one mapped segment."""
    header = bytearray(64)
    header[:5] = b"\x7fELF\x02"
    struct.pack_into("<Q", header, 32, 64)
    struct.pack_into("<HH", header, 54, 56, 1)
    segment = bytearray(56)
    struct.pack_into("<I", segment, 0, 1)
    struct.pack_into("<Q", segment, 48, page)
    return bytes(header + segment)


@pytest.fixture
def entries() -> dict[str, bytes]:
    return {
        "resources.arsc": b"resources",
        "classes.dex": b"dex" * 100,
        "lib/arm64-v8a/liba.so": elf(0x4000),
        "lib/arm64-v8a/libtensorflowlite_jni.so": elf(0x1000),
        "assets/models/m.tflite": b"model",
    }


def test_an_apk_of_ours_has_no_faults(scripts, tmp_path, entries):
    archive, apk = scripts["archive"], tmp_path / "a.apk"
    archive.write_apk(apk, entries.items())
    assert archive.alignment_faults(apk) == []
    with zipfile.ZipFile(apk) as written:
        assert {name: written.read(name) for name in written.namelist()} == entries
        for info in written.infolist():
            stored = info.compress_type == zipfile.ZIP_STORED
            assert stored == (info.filename != "classes.dex")
    first = apk.read_bytes()
    archive.write_apk(apk, entries.items())
    assert apk.read_bytes() == first


@pytest.mark.parametrize(
    ("name", "page", "words"),
    [
        ("lib/x86_64/liba.so", 0x1000, "not aligned to 16384"),
        ("lib/x86_64/libtensorflowlite_jni.so", 0x4000, "take it from SMALL_PAGES"),
    ],
)
def test_segments_of_native_libraries(scripts, tmp_path, entries, name, page, words):
    scripts["archive"].write_apk(tmp_path / "a.apk", [*entries.items(), (name, elf(page))])
    (fault,) = scripts["archive"].alignment_faults(tmp_path / "a.apk")
    assert name in fault
    assert words in fault


@pytest.mark.parametrize("name", ["lib/arm64-v8a/liba.so", "assets/m.tflite", "resources.arsc"])
def test_compressed_and_misplaced_files_are_faults(scripts, tmp_path, name):
    data = elf(0x4000) if name.endswith(".so") else b"data"
    for method, words in (
        (zipfile.ZIP_DEFLATED, "is compressed"),
        (zipfile.ZIP_STORED, "multiple"),
    ):
        with zipfile.ZipFile(tmp_path / "a.apk", "w") as apk:
            apk.writestr("x" * 3, b"")
            apk.writestr(name, data, method)
        (fault,) = scripts["archive"].alignment_faults(tmp_path / "a.apk")
        assert words in fault


def test_manifest_is_completed(scripts):
    resources = scripts["resources"]
    source = (ANDROID / "app/src/main/AndroidManifest.xml").read_text(encoding="utf-8")
    merged = resources.merged_manifest(source)
    assert f'package="{scripts["project"].APPLICATION_ID}"' in merged
    assert 'android:extractNativeLibs="false"' in merged
    names = resources.component_classes(merged)
    assert names
    assert all("." in name.strip(".") for name in names)
    with pytest.raises(scripts["tools"].BuildError, match="must not have a package"):
        resources.merged_manifest(merged)


def strings(language: str) -> dict[str, str]:
    """Texts of the app in a language by their names; those of plurals have the quantity as well."""
    texts = {}
    for path in (ANDROID / "app/src/main/res" / f"values{language}").glob("*.xml"):
        for element in ElementTree.parse(path).getroot():
            name = element.get("name", "")
            if element.tag == "string" and element.get("translatable") != "false":
                texts[name] = "".join(element.itertext())
            elif element.tag in ("plurals", "string-array"):
                for index, item in enumerate(element):
                    quantity = item.get("quantity", index)
                    texts[f"{name}/{quantity}"] = "".join(item.itertext())
    return texts


def test_every_text_of_the_app_is_german_too():
    """Lint finds missing translations only in Gradle's builds."""
    english, german = strings(""), strings("-de")
    if not german:
        pytest.skip("the app has no German texts")
    assert set(english) == set(german)
    placeholders = re.compile(r"%(?:\d+\$)?[-#+ 0,(]*\d*(?:\.\d+)?[a-zA-Z%]")
    for name, text in english.items():
        assert sorted(placeholders.findall(text)) == sorted(placeholders.findall(german[name])), (
            name
        )


THERMAL = "int android.os.PowerManager.getCurrentThermalStatus()"


@pytest.mark.parametrize(
    ("what", "guard", "fault"),
    [
        (THERMAL, "if (Build.VERSION.SDK_INT >= 29) {", False),
        (THERMAL, "@RequiresApi(29)", False),
        (THERMAL, "", True),
        ("java.nio.file.Path", "if (Build.VERSION.SDK_INT >= 29) {", True),
    ],
)
def test_newer_calls_need_a_guard(scripts, what, guard, fault):
    source = f"package a.b\n\nclass Other\n\nclass Power {{\n{guard}\ncall()\n}}\n"
    output = f"[ERROR] app.jar:a/b/Power$status$1.class:7: Undefined reference: {what}\n"
    found = scripts["lint"].unguarded(output, {Path("Phone.kt"): source})
    assert len(found) == fault
    far = source.replace("call()", "\n" * 40 + "call()")
    output = output.replace(":7:", ":47:")
    assert scripts["lint"].unguarded(output, {Path("Phone.kt"): far})
    assert scripts["lint"].unguarded(output, {})


def test_a_step_runs_when_what_it_reads_has_changed(scripts, tmp_path, capsys):
    steps = scripts["steps"].Steps(tmp_path / "stamps")
    source, target, ran = tmp_path / "source", tmp_path / "target", []

    def action():
        ran.append(source.read_text())
        target.write_text("made")

    for text, expected in (("a", 1), ("a", 1), ("b", 2), ("a", 3)):
        source.write_text(text)
        steps.run("copy", action, [source], [target])
        assert len(ran) == expected
    target.unlink()
    steps.run("copy", action, [source], [target])
    assert len(ran) == 4
    assert capsys.readouterr().out.count("(unchanged)") == 1


def test_a_step_that_fails_runs_again(scripts, tmp_path):
    steps, error = scripts["steps"].Steps(tmp_path), scripts["tools"].BuildError
    with pytest.raises(error, match="has not written"):
        steps.run("nothing", lambda: None, ["x"], [tmp_path / "missing"])
    ran = []
    steps.run("nothing", lambda: ran.append(1), ["x"])
    assert ran


def test_a_missing_program_is_one_sentence(tmp_path):
    """On a machine without Maven, exit code 2 and the name of Debian's package."""
    done = subprocess.run(
        [sys.executable, ANDROID / "build" / "build.py", "apk", "--out", tmp_path],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == "The program mvn is missing: install Debian's package maven.\n"
