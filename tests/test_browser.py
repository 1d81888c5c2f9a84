"""Tests the benchmark page in Chromium: real files, the way of a result, the static folder.

`make test` installs what they need where it may. The unit tests of the page's modules are in
browser/unit.test.js.
"""

import json
import os
import subprocess
import threading
import urllib.request
from collections import Counter

import keras
import numpy as np
import pytest
from chromium import (
    BROWSER,
    PAGE,
    ROOT,
    RUN,
    WEBGPU,
    Chromium,
    load_fixtures,
    require_node,
    serving,
)
from click.testing import CliRunner

import keras_mobileone
from keras_mobileone.benchmarking import load_benchmark
from keras_mobileone.benchmarking.browser import benchmark_in_browser, export_page, runtime
from keras_mobileone.cli import browser as browser_command
from keras_mobileone.cli import main
from keras_mobileone.data.imagenet import classes, preprocess_input, unique_labels
from keras_mobileone.data.images import (
    evaluation_crop,
    example_path,
    list_images,
    load_image,
    spread,
)
from keras_mobileone.export.tflite import export_tflite
from keras_mobileone.litert import metadata
from keras_mobileone.litert.runner import LiteRTRunner

pytestmark = pytest.mark.slow
PHOTOGRAPHS = 6


@pytest.fixture(scope="module")
def chromium():
    with Chromium() as started:
        yield started


@pytest.fixture(scope="module")
def s0(shared):
    path = shared / "weights" / "mobileone_s0_apple_fused.safetensors"
    return keras_mobileone.MobileOneS0(weights=path, deploy=True, classifier_activation=None)


@pytest.fixture(scope="module")
def photographs(shared):
    return spread(list_images(shared / "imagenet-sample" / "images"), PHOTOGRAPHS)


@pytest.fixture(scope="module")
def models(s0, photographs, tmp_path_factory):
    """Returns S0 in three precisions, and a small network of uint8 and of int8."""
    folder = tmp_path_factory.mktemp("models")
    crops = np.stack([evaluation_crop(load_image(path), 224, 0.875) for path in photographs])
    for precision in ("float32", "float16"):
        export_tflite(s0, folder / f"{precision}.tflite", precision)
    # The same photographs calibrate, for speed. Accuracy on others is tested elsewhere.
    export_tflite(s0, folder / "int8.tflite", "int8", crops)
    keras.utils.set_random_seed(1)
    inputs = keras.Input((224, 224, 3))
    x = keras.layers.Conv2D(8, 7, strides=8, activation="relu")(inputs)
    x = keras.layers.Dense(5, name="scores")(keras.layers.GlobalAveragePooling2D()(x))
    for dtype in ("uint8", "int8"):
        types = {"input_dtype": dtype, "labels": ["ant", "bee", "cat", "dog", "elk"]}
        export_tflite(keras.Model(inputs, x), folder / f"in_{dtype}.tflite", "int8", crops, **types)
    return folder


@pytest.fixture(scope="module")
def site(models, tmp_path_factory):
    """Returns the address of the static folder under Python's plain file server."""
    folder = tmp_path_factory.mktemp("static") / "site"
    names = ("float32", "float16", "int8", "in_uint8")
    paths = [models / f"{name}.tflite" for name in names]
    export_page(paths, folder, threads=[2], runs=2, rounds=2, warmup_runs=1)
    with serving(folder) as server:
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()


def visit(link, action):
    """Runs what a user does in another thread; if that fails, the page counts as closed."""

    def run():
        try:
            action()
        except Exception:
            body = json.dumps({"name": "closed"}).encode()
            headers = {"Content-Type": "application/json"}
            urllib.request.urlopen(urllib.request.Request(f"{link}state", body, headers)).close()
            raise

    threading.Thread(target=run, daemon=True).start()


def opener(chromium):
    """Returns a function that opens the page in Chromium and lets it begin."""

    def open_page(link, device):
        visit(link, lambda: chromium.call("open", url=f"{link}#start"))

    return open_page


@pytest.fixture
def fixtures(tmp_path):
    """Returns a directory with the numbers and files that the unit tests compare with."""
    module = load_fixtures()
    for name in ("crops", "files"):
        (tmp_path / name).mkdir()
    module.write_statistics(tmp_path)
    module.write_crops(tmp_path / "crops")
    module.write_files(tmp_path / "files")
    (tmp_path / "int8.tflite").write_bytes(module.small_file(code=9))
    config = module.ImageConfig((2, 4), (9.0,) * 3, (5.0,) * 3)
    image = module.small_file(quantize=True)
    described = metadata.with_metadata(image, "m", module.About(), ["tench", "ox"], config)
    (tmp_path / "image.tflite").write_bytes(described)
    return tmp_path


def test_modules_of_the_page(fixtures):
    node = require_node()
    command = [node, "--test", "--test-reporter=spec", str(BROWSER / "unit.test.js")]
    environment = {**os.environ, "FIXTURES": str(fixtures)}
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stdout[-5000:] + process.stderr[-2000:]


def test_page_is_linted_and_formatted():
    node = require_node()
    modules = BROWSER / "node_modules"
    own = [path.relative_to(ROOT) for path in sorted(BROWSER.glob("*.js"))]
    places = [PAGE.relative_to(ROOT), *own]
    for command in (
        ["eslint/bin/eslint.js", "--config", "tests/browser/eslint.config.js"],
        ["prettier/bin/prettier.cjs", "--check", "--config", "tests/browser/.prettierrc.json"],
    ):
        program, *options = command
        words = [node, str(modules / program), *options, *map(str, places)]
        process = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
        assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-2000:]


def pixels() -> np.ndarray:
    return evaluation_crop(load_image(example_path()), 224, 0.875)


def largest_error(found, models, name) -> float:
    """Difference of the page's outputs from native LiteRT's, relative to the largest output."""
    runner = LiteRTRunner((models / f"{name}.tflite").read_bytes())
    (expected,) = runner(pixels()[None]).values()
    values = np.array(found["outputs"][0], np.float32).reshape(expected.shape)
    info = runner.outputs[0]
    if info.dtype == "uint8":
        values = (values - info.zero_point) * info.scale
    return float(np.abs(values - expected).max() / np.abs(expected).max())


def run_file(chromium, name, **settings):
    job = {"name": f"{name}.tflite", "accelerator": "cpu", "threads": 1, "times": 2, **settings}
    return chromium.call("evaluate", source=RUN, value=job | {"values": pixels().ravel().tolist()})


@pytest.mark.parametrize("threads", [1, 2])
def test_outputs_are_those_of_native_litert(chromium, site, models, threads):
    chromium.open(site)
    build = "threaded" if threads > 1 else "plain"
    for name, limit in (("float32", 1e-5), ("float16", 1e-5), ("int8", 1e-5), ("in_uint8", 0.01)):
        found = run_file(chromium, name, threads=threads)
        assert (found["build"], found["threads"], found["ranOn"]) == (build, threads, "cpu")
        assert largest_error(found, models, name) <= limit, name


def test_outputs_of_the_gpu(site, models):
    """SwiftShader computes WebGPU on the CPU, which tells nothing of times."""
    with Chromium(*WEBGPU) as chromium:
        chromium.open(site)
        for name, limit in (("float32", 1e-4), ("float16", 1e-3), ("int8", 0.1)):
            found = run_file(chromium, name, accelerator="gpu", times=3)
            assert found["ranOn"] == "gpu" and "swiftshader" in found["gpu"].lower()
            assert largest_error(found, models, name) <= limit, name
            # `run` returns long before the GPU has finished.
            assert min(found["runs"]) > 20, found["runs"]
        for selector, on in (("#cpu", False), ("#gpu", True)):
            chromium.call("check", selector=selector, on=on)
        for index in (1, 2, 3):
            chromium.call("check", selector=f"#files li:nth-child({index + 1}) input", on=False)
        for selector in ("#rounds", "#runs"):
            chromium.call("fill", selector=selector, text="1")
        chromium.measure()
        assert "float32 GPU" in chromium.call("text", selector="#table")
        assert chromium.problem() == ""


def test_a_static_folder_measures_and_classifies(chromium, site):
    """The service worker gives the page of a plain file server its threads."""
    chromium.open(site)
    assert chromium.call("evaluate", source="() => crossOriginIsolated")
    assert chromium.call("text", selector="#limitations") == (
        "No GPU: this browser does not offer WebGPU on this device."
    )
    chromium.measure()
    table = chromium.call("text", selector="#table")
    assert table.count("2 threads") == 4 and chromium.problem() == ""
    for width in (360, 1280):  # nothing hangs over the edge
        chromium.call(
            "evaluate", source="(w) => { document.body.style.width = `${w}px`; }", value=width
        )
    chromium.call("files", selector="#photograph", paths=[str(example_path())])
    chromium.call("wait", source="() => answers.querySelectorAll('.track').length === 5")
    first, *_ = chromium.call("text", selector="#answers").splitlines()
    assert first == "Egyptian cat"
    assert [e for e in chromium.call("errors") if "favicon" not in e] == []


def write_film(path) -> None:
    """Writes the example photograph as a raw film, which Chromium's fake camera shows."""
    image = load_image(example_path()).convert("YCbCr")
    half = image.resize((image.width // 2, image.height // 2))
    planes = [image.getchannel(0), half.getchannel(1), half.getchannel(2)]
    frame = b"FRAME\n" + b"".join(plane.tobytes() for plane in planes)
    header = f"YUV4MPEG2 W{image.width} H{image.height} F30:1 Ip A1:1 C420jpeg\n"
    path.write_bytes(header.encode() + 10 * frame)


def test_the_camera_is_classified(site, tmp_path):
    write_film(tmp_path / "cat.y4m")
    camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    film = f"--use-file-for-fake-video-capture={tmp_path / 'cat.y4m'}"
    with Chromium(*camera, film) as chromium:
        chromium.open(site, permissions=["camera"])
        chromium.call("click", selector="#camera")
        chromium.call("wait", source="() => video.videoWidth === 224 && video.currentTime > 0.2")
        assert chromium.call("text", selector="#camera") == "Take it"
        chromium.call("click", selector="#camera")
        chromium.call("wait", source="() => answers.querySelectorAll('.track').length === 5")
        first, *_ = chromium.call("text", selector="#answers").splitlines()
        assert "cat" in first, first
        # The camera is off again.
        assert chromium.call("evaluate", source="() => video.srcObject === null && video.hidden")


def test_a_camera_that_is_refused_is_told(chromium, site):
    chromium.open(site)
    chromium.call("click", selector="#camera")
    chromium.call("wait", source="() => !problem.hidden")
    assert "camera can't be used" in chromium.problem()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_needs_no_horizontal_scrolling(chromium, site, scheme):
    chromium.open(site, width=360, height=700, colorScheme=scheme)
    chromium.measure()
    width = "() => document.documentElement.scrollWidth"
    assert chromium.call("evaluate", source=width) == 360
    # What a finger has to hit is large enough.
    small = """() => [...document.querySelectorAll("button, .button, select, label:has(input)")]
        .filter((e) => e.offsetParent && e.getBoundingClientRect().height < 44)
        .map((e) => e.outerHTML)"""
    assert chromium.call("evaluate", source=small) == []


def test_bad_files_are_told_on_the_page(chromium, site, models, tmp_path):
    (tmp_path / "text.tflite").write_text("not a model at all")
    chromium.open(site)
    before = chromium.call("text", selector="#files")
    for path, words in (
        (tmp_path / "text.tflite", "text.tflite, which lacks the identifier TFL3"),
        (models / "in_int8.tflite", "is int8. Export it with --input-dtype uint8"),
    ):
        chromium.call("files", selector="#own", paths=[str(path)])
        chromium.call("wait", source="() => !problem.hidden")
        assert words in chromium.problem()
        assert chromium.call("text", selector="#files") == before
    chromium.call("fill", selector="#runs", text="0")
    chromium.measure()
    assert "whole numbers of at least 1" in chromium.problem()
    assert chromium.call("evaluate", source="() => document.querySelector('#result-card').hidden")


def test_a_browser_without_webassembly(chromium, site):
    chromium.call("open", url=site, script="delete globalThis.WebAssembly")
    chromium.call("wait", source="() => limitations.textContent !== ''")
    assert "no WebAssembly" in chromium.call("text", selector="#limitations")
    assert chromium.call("evaluate", source="() => document.querySelector('#start').disabled")


def test_a_result_goes_from_the_page_to_the_table(chromium, models, tmp_path, monkeypatch):
    """The command serves the page, waits for its result, prints and saves it."""
    errors = []

    def act(link):
        chromium.call("open", url=link)  # the page begins by itself
        chromium.wait_for_result()
        errors.extend(chromium.call("errors"))

    def in_thread(link):
        visit(link.removesuffix("#start"), lambda: act(link))
        return True

    monkeypatch.setattr(browser_command.webbrowser, "open", in_thread)
    paths = [models / f"{name}.tflite" for name in ("float32", "in_uint8", "in_int8")]
    target = tmp_path / "browser.json"
    options = ["--browser", "--threads", "1,2", "--rounds", "2", "--runs", "2", "--json", target]
    found = CliRunner().invoke(main, ["benchmark", *map(str, (*paths, *options))])
    assert found.exit_code == 2 and "in_int8.tflite, whose input" in found.stderr
    assert "cpu ×1" in found.stdout and "cpu ×2" in found.stdout
    result = load_benchmark(target)
    assert result.conditions["target"] == "browser" and result.conditions["isolated"]
    assert result.conditions["timer_ms"] <= 0.1
    files = [how["file"] for how in result.conditions["configurations"].values()]
    assert Counter(files) == {str(paths[0]): 2, str(paths[1]): 2}
    assert [len(latency.medians) for latency in result.latencies] == [2] * 4
    assert [failure.path for failure in result.failures] == [str(paths[2])]
    assert errors == []


def test_a_page_that_is_closed_ends_the_command(chromium, models, monkeypatch):
    monkeypatch.setattr("keras_mobileone.benchmarking.browser.target.RELOAD", 0.5)

    def act(link):
        chromium.call("open", url=f"{link}#start")
        chromium.call("wait", source="() => !progress.hidden")
        chromium.call("close")

    def open_and_close(link, device):
        visit(link, lambda: act(link))

    with pytest.raises(RuntimeError, match=r"Received: it was closed\. Keep it in front"):
        benchmark_in_browser([models / "float32.tflite"], rounds=500, open_page=open_and_close)


def test_a_browser_that_does_not_isolate_runs_one_thread(chromium, models, monkeypatch):
    """Another machine without HTTPS: the page measures with one thread and says why."""
    from keras_mobileone.benchmarking.browser import server

    headers = {k: v for k, v in server.HEADERS.items() if "Embedder" not in k}
    monkeypatch.setattr(server, "HEADERS", headers)

    result = benchmark_in_browser(
        [models / "in_uint8.tflite"], threads=[2], rounds=1, runs=2, open_page=opener(chromium)
    )
    (how,) = result.conditions["configurations"].values()
    assert (how["threads"], how["build"]) == (1, "plain")
    assert result.conditions["threads_reason"] == "the page is not isolated (COOP and COEP)"


def test_https_gives_other_devices_threads(chromium, models):
    pytest.importorskip("trustme", reason="needs the extra browser")

    def open_page(link, device):
        assert link.startswith("https://127.0.0.2:")
        opener(chromium)(link, device)

    result = benchmark_in_browser(
        [models / "in_uint8.tflite"],
        threads=[2],
        rounds=1,
        runs=2,
        host="127.0.0.2",
        open_page=open_page,
    )
    (how,) = result.conditions["configurations"].values()
    assert (how["threads"], how["build"]) == (2, "threaded")


CLASSIFY = """async ({files, photographs}) => {
  const at = (path) => new URL(path, location.href).href;
  const { FilesetResolver, ImageClassifier } = await import(at("vision_bundle.mjs"));
  const fileset = await FilesetResolver.forVisionTasks(at("wasm"));
  const answers = [];
  for (const file of files) {
    const classifier = await ImageClassifier.createFromOptions(fileset, {
      baseOptions: { modelAssetPath: at(file), delegate: "CPU" }, maxResults: 1,
    });
    for (const photograph of photographs) {
      const picture = new Image();
      picture.src = at(photograph);
      await picture.decode();
      answers.push(classifier.classify(picture).classifications[0].categories[0].categoryName);
    }
    classifier.close();
  }
  return answers;
}"""


def test_mediapipe_in_the_browser_names_photographs_as_keras_does(
    chromium, s0, models, photographs, tmp_path
):
    from PIL import Image

    crops = np.stack([evaluation_crop(load_image(path), 224, 0.875) for path in photographs])
    expected = s0.predict_on_batch(preprocess_input(crops)).argmax(1)
    names = [unique_labels(classes())[index] for index in expected]
    package = BROWSER / "node_modules" / "@mediapipe" / "tasks-vision"
    for name in ("vision_bundle.mjs", "wasm"):
        (tmp_path / name).symlink_to(package / name)
    (tmp_path / "index.html").write_text("<!doctype html><title>MediaPipe</title>")
    for index, crop in enumerate(crops):
        Image.fromarray(crop).save(tmp_path / f"{index}.png")
    files = ["float32.tflite", "float16.tflite", "int8.tflite", "in_uint8.tflite"]
    for name in files:
        (tmp_path / name).symlink_to(models / name)
    with serving(tmp_path) as server:
        chromium.call("open", url=f"http://localhost:{server.server_port}/")
        pictures = [f"{index}.png" for index in range(len(crops))]
        value = {"files": files, "photographs": pictures}
        found = chromium.call("evaluate", source=CLASSIFY, value=value)
        server.shutdown()
    float32, float16, int8, uint8 = (
        found[i : i + len(crops)] for i in range(0, len(found), len(crops))
    )
    assert float32 == names and float16 == names
    assert sum(a == b for a, b in zip(int8, names, strict=True)) >= len(names) - 1
    assert set(uint8) <= {"ant", "bee", "cat", "dog", "elk"}


def test_runtime_is_whole():
    """The one import that workers could not resolve is replaced."""
    require_node()
    files = runtime.runtime_files()
    assert b"@litertjs" not in files["litert/core.js"]
    assert len([name for name in files if name.endswith(".wasm")]) == 3
    assert json.loads((BROWSER / "package.json").read_text())["private"]
