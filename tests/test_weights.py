"""Tests weight files: all formats and namings, errors that name the entry, and their search."""

import hashlib
import sys
import zipfile
from dataclasses import replace

import keras
import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from keras_mobileone import VARIANTS, MobileOne, Variant, fuse
from keras_mobileone.weights import loading, naming, pretrained
from keras_mobileone.weights.checkpoint import read_checkpoint, write_safetensors

SIZE = (64, 64, 3)
LAST_BLOCK = "stage4.1"


@pytest.fixture(scope="module")
def fused_model(tiny_model):
    return fuse(tiny_model)


@pytest.fixture(scope="module")
def models(tiny_model, fused_model):
    """Returns a train-time model with random parameters and its fused model."""
    return {"train": tiny_model, "fused": fused_model}


def tensors_of(model, variant, scheme=naming.APPLE) -> dict[str, np.ndarray]:
    named = naming.slots(model, variant, scheme).items()
    return {name: np.ascontiguousarray(slot.to_torch()) for name, slot in named}


@pytest.fixture
def load(tiny):
    """Returns a function that makes a model with the weights of a file."""

    def build(path, **arguments):
        defaults = {"input_shape": SIZE, "classes": 10, "classifier_activation": None}
        return MobileOne(tiny, weights=path, **{**defaults, **arguments})

    return build


@pytest.fixture
def save(models, tiny, tmp_path):
    """Returns a function that writes a model of `models` to a file in a given format."""

    def write(kind, file_format):
        model = models[kind]
        if file_format in (".keras", ".weights.h5"):
            path = tmp_path / f"{kind}{file_format}"
            (model.save if file_format == ".keras" else model.save_weights)(path)
            return path
        scheme, suffix = file_format.split(".")
        tensors = tensors_of(model, tiny, {"apple": naming.APPLE, "timm": naming.TIMM}[scheme])
        path = tmp_path / f"{scheme}_{kind}.{suffix}"
        if suffix == "safetensors":
            save_file(tensors, path)
        else:
            torch = pytest.importorskip("torch", reason="pickles are read by torch")
            counters = {"stage0.rbr_scale.bn.num_batches_tracked": torch.tensor(3)}
            state = {k: torch.from_numpy(v.copy()) for k, v in tensors.items()}
            torch.save({"state_dict": {**state, **counters}}, path)
        return path

    return write


COMMON_FORMATS = ["apple.safetensors", "timm.safetensors", ".keras", ".weights.h5"]
FORMATS = [*COMMON_FORMATS, "apple.pth", "timm.tar"]


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(
    ("kind", "deploy"),
    [pytest.param("train", False, marks=pytest.mark.slow), ("train", True), ("fused", True)],
)
def test_every_format_brings_the_weights_back(
    file_format, kind, deploy, save, load, models, noise, relative_error
):
    model = load(save(kind, file_format), deploy=deploy)
    images = noise(2, *SIZE)
    expected = models["train"](images, training=False)
    assert relative_error(model(images, training=False), expected) < 1e-5
    if kind == "train" and not deploy:
        for found, stored in zip(model.get_weights(), models[kind].get_weights(), strict=True):
            np.testing.assert_array_equal(found, stored)


@pytest.mark.slow
@pytest.mark.parametrize("file_format", COMMON_FORMATS)
@pytest.mark.parametrize("kind", ["train", "fused"])
def test_the_same_files_serve_without_top(file_format, kind, save, load, models, noise):
    path, images = save(kind, file_format), noise(2, *SIZE)
    model = load(path, include_top=False, pooling="avg", deploy=kind == "fused")
    source = models[kind]
    pooled = keras.Model(source.input, source.get_layer("avg_pool").output)
    np.testing.assert_allclose(
        model(images, training=False), pooled(images, training=False), rtol=1e-5, atol=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize("deploy", [False, True], ids=["train", "deploy"])
def test_a_file_without_classifier_serves_without_top(deploy, tiny, load, tmp_path):
    headless = MobileOne(tiny, weights=None, include_top=False)
    for suffix in (".keras", ".weights.h5"):
        path = tmp_path / f"headless{suffix}"
        (headless.save if suffix == ".keras" else headless.save_weights)(path)
        assert load(path, include_top=False, deploy=deploy).output_shape[-1] == 32
        with pytest.raises(ValueError, match=r"[Mm]issing: linear\.weight, linear\.bias"):
            load(path, deploy=deploy)


def test_prefixes_and_step_counters_of_pytorch_are_dropped(models, tiny, load, tmp_path, noise):
    tensors = tensors_of(models["train"], tiny)
    tensors = {f"module.{name}": value for name, value in tensors.items()}
    counter = {"module.stage0.rbr_scale.bn.num_batches_tracked": np.array(7)}
    save_file({**tensors, **counter}, tmp_path / "w.safetensors")
    images = noise(1, *SIZE)
    np.testing.assert_array_equal(
        load(tmp_path / "w.safetensors")(images, training=False),
        models["train"](images, training=False),
    )


def test_half_precision_files_are_read(models, tiny, load, tmp_path, noise, relative_error):
    halves = {k: v.astype(np.float16) for k, v in tensors_of(models["train"], tiny).items()}
    save_file(halves, tmp_path / "w.safetensors")
    model = load(tmp_path / "w.safetensors")
    assert {v.dtype for v in model.variables} == {"float32"}
    images = noise(1, *SIZE)
    expected = models["train"](images, training=False)
    assert relative_error(model(images, training=False), expected) < 1e-2


@pytest.mark.parametrize("file_format", COMMON_FORMATS)
def test_no_train_time_model_from_fused_weights(file_format, save, load):
    with pytest.raises(ValueError, match=r"contains fused weights.*deploy=True"):
        load(save("fused", file_format))


# Entries that do not match.


@pytest.fixture
def load_edited(models, tiny, load, tmp_path):
    """Returns a function that loads a file after another function has changed its entries."""

    def edit_and_load(change, kind="train", **arguments):
        tensors = tensors_of(models[kind], tiny)
        change(tensors)
        path = tmp_path / "edited.safetensors"
        save_file(tensors, path)
        return load(path, deploy=kind == "fused", **arguments)

    return edit_and_load


MISTAKES = {
    "kernel": ("train", f"{LAST_BLOCK}.rbr_conv.1.conv.weight"),
    "batch norm": ("train", "stage1.0.rbr_scale.bn.running_var"),
    "skip": ("train", "stage1.3.rbr_skip.bias"),
    "se": ("train", f"{LAST_BLOCK}.se.reduce.weight"),
    "classifier": ("train", "linear.bias"),
    "fused kernel": ("fused", f"{LAST_BLOCK}.reparam_conv.weight"),
    "fused se": ("fused", f"{LAST_BLOCK}.se.expand.bias"),
}


@pytest.fixture(params=MISTAKES.values(), ids=MISTAKES.keys())
def entry(request):
    return request.param


def test_a_missing_entry_is_named(entry, load_edited):
    kind, name = entry
    with pytest.raises(ValueError, match=rf"edited.safetensors do not fit.*Missing: {name}\."):
        load_edited(lambda tensors: tensors.pop(name), kind)


def test_an_extra_entry_is_named(entry, load_edited):
    kind, name = entry
    with pytest.raises(ValueError, match=rf"Unknown: {name}_more\."):
        load_edited(lambda tensors: tensors.update({f"{name}_more": tensors[name]}), kind)


def test_a_misshapen_entry_is_named_with_both_shapes(entry, load_edited):
    kind, name = entry
    with pytest.raises(ValueError, match=rf"Misshapen: {name} \([\d, ]+\) instead of \([\d, ]+\)"):
        load_edited(lambda tensors: tensors.update({name: tensors[name][:-1].copy()}), kind)


def test_a_transposed_kernel_is_misshapen(load_edited):
    name = "stage3.1.rbr_conv.0.conv.weight"

    def transpose(tensors):
        tensors[name] = np.ascontiguousarray(tensors[name].transpose(1, 0, 2, 3))

    with pytest.raises(ValueError, match=rf"Misshapen: {name} \(16, 32, 1, 1\)"):
        load_edited(transpose)


def test_several_mistakes_are_told_at_once(load_edited):
    def change(tensors):
        tensors["linear.weights"] = tensors.pop("linear.weight")

    with pytest.raises(ValueError, match=r"Missing: linear\.weight; unknown: linear\.weights\."):
        load_edited(change)


def test_many_mistakes_are_counted(load_edited):
    def change(tensors):
        for name in [name for name in tensors if "rbr_scale" in name]:
            del tensors[name]

    with pytest.raises(ValueError, match=r"Missing: (\S+, ){4}\S+ and \d+ more"):
        load_edited(change)


def test_another_class_count_is_misshapen(load_edited):
    with pytest.raises(ValueError, match=r"linear\.weight \(10, 32\) instead of \(7, 32\)"):
        load_edited(lambda tensors: None, classes=7)


def test_nothing_is_half_loaded(models, tiny, tiny_model):
    """`assign` checks everything before it writes anything."""
    target = MobileOne(tiny, weights=None, input_shape=SIZE, classes=10)
    before = target.get_weights()
    tensors = tensors_of(tiny_model, tiny)
    del tensors["linear.bias"]  # the last entry
    with pytest.raises(ValueError, match=r"linear\.bias"):
        loading.assign(target, tiny, tensors, "memory")
    assert all((a == b).all() for a, b in zip(before, target.get_weights(), strict=True))


@pytest.fixture
def deeper(tiny) -> Variant:
    return Variant("deeper", tiny.widths, 2, tiny.se_pairs, (2, 2, 1, 1), tiny.base_filters)


@pytest.mark.parametrize("file_format", COMMON_FORMATS)
@pytest.mark.parametrize("kind", ["train", "fused"])
def test_the_file_of_another_variant_is_refused(file_format, kind, save, deeper):
    path = save(kind, file_format)
    with pytest.raises(ValueError, match="deeper") as raised:
        MobileOne(deeper, weights=path, input_shape=SIZE, classes=10, deploy=kind == "fused")
    assert path.name in str(raised.value)


@pytest.mark.parametrize("file_format", [".keras", ".weights.h5"])
def test_the_file_of_a_deeper_variant_is_refused(file_format, deeper, load, tmp_path):
    """The file has all required entries and more."""
    path = tmp_path / f"deeper{file_format}"
    model = MobileOne(deeper, weights=None, input_shape=SIZE, classes=10)
    (model.save if file_format == ".keras" else model.save_weights)(path)
    with pytest.raises(ValueError, match="tiny"):
        load(path)


def test_names_of_no_known_scheme_are_shown(tmp_path, load):
    save_file({"conv1.weight": np.zeros(3, np.float32)}, tmp_path / "resnet.safetensors")
    with pytest.raises(ValueError, match=r"authors' or timm's names.*which has conv1\.weight\."):
        load(tmp_path / "resnet.safetensors")


def test_an_empty_file_of_tensors_is_refused(tmp_path, load):
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(ValueError, match=r"empty\.safetensors, which has no tensors\."):
        load(tmp_path / "empty.safetensors")


# Damaged files.


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_named(file_format, kept, save, load):
    path = save("train", file_format)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=path.name):
        load(path)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_file_of_something_else_is_named(file_format, save, load):
    path = save("train", file_format)
    path.write_bytes(b"<html>Not found</html>" * 100)
    with pytest.raises(ValueError, match=path.name):
        load(path)


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [("config.json", "Expecting value"), ("model.weights.h5", "signature not found")],
)
def test_a_keras_file_with_a_damaged_member_is_named_with_the_reason(
    damaged, reason, save, load, tmp_path
):
    """The archive itself is intact."""
    path = tmp_path / "damaged.keras"
    with zipfile.ZipFile(save("train", ".keras")) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, b"damaged" if name == damaged else source.read(name))
    with pytest.raises(ValueError, match=f"Keras can't load {path}: .*{reason}") as raised:
        load(path)
    assert "Save or copy the file again" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_keras_file_with_an_unknown_layer_tells_what_to_import(tmp_path, load):
    class Unregistered(keras.layers.Layer):
        def call(self, x):
            return x

    keras.Sequential([keras.Input(SIZE), Unregistered()]).save(tmp_path / "custom.keras")
    with pytest.raises(ValueError, match=r"custom\.keras: .*'Unregistered'.*import the modules"):
        load(tmp_path / "custom.keras")


def test_a_pickle_that_runs_code_is_refused(tmp_path, load):
    torch = pytest.importorskip("torch", reason="pickles are read by torch")

    class Touch:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    torch.save({"state_dict": Touch()}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match="weights_only=True"):
        load(tmp_path / "bad.pth")
    assert not (tmp_path / "touched").exists()


def test_without_torch_the_error_names_the_extra(tmp_path, load, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "w.pth.tar").write_bytes(b"anything")
    with pytest.raises(ImportError, match=r"pip install keras-mobileone\[torch\]"):
        load(tmp_path / "w.pth.tar")


def test_an_unknown_suffix_is_answered_with_the_known_ones(tmp_path, load):
    (tmp_path / "weights.onnx").write_bytes(b"anything")
    with pytest.raises(ValueError, match=r"\.safetensors.*\.keras.*weights\.onnx"):
        load(tmp_path / "weights.onnx")


def test_a_keras_file_of_another_model_is_refused(tmp_path, load):
    inputs = keras.Input(SIZE)
    keras.Model(inputs, keras.layers.Flatten()(inputs)).save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match=r"other\.keras does not have the layers of tiny"):
        load(tmp_path / "other.keras")


def test_writing_safetensors_is_all_or_nothing(tmp_path):
    path = tmp_path / "out.safetensors"
    transposed = np.arange(6, dtype=np.float32).reshape(2, 3).T
    write_safetensors(path, {"a": transposed})
    np.testing.assert_array_equal(load_file(path)["a"], transposed)
    np.testing.assert_array_equal(read_checkpoint(path)["a"], transposed)
    content = path.read_bytes()
    with pytest.raises(SafetensorError):
        write_safetensors(path, {"a": np.array(["text"])})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == content
    with pytest.raises(FileNotFoundError, match="missing"):
        write_safetensors(tmp_path / "missing" / "out.safetensors", {"a": transposed})


# Search for the ImageNet weights.


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Returns the user's directory and the Keras cache, both empty, and disables the download."""
    own, home = tmp_path / "own", tmp_path / "home"
    cache = home / "models"
    own.mkdir()
    cache.mkdir(parents=True)
    monkeypatch.setenv("KERAS_MOBILEONE_WEIGHTS", str(own))
    monkeypatch.setenv("KERAS_HOME", str(home))

    def refuse(url, target):
        raise OSError("no network in this test")

    monkeypatch.setattr(pretrained, "_fetch", refuse)
    return own, cache


S0 = VARIANTS["s0"]
TRAIN, FUSED = "mobileone_s0.apple_in1k.safetensors", "mobileone_s0_apple_fused.safetensors"


@pytest.mark.parametrize("deploy", [False, True], ids=["train", "deploy"])
def test_ones_own_directory_comes_before_the_cache(places, deploy):
    own, cache = places
    (cache / TRAIN).touch()
    assert pretrained.find_imagenet_weights(S0, deploy) == cache / TRAIN
    (own / TRAIN).touch()
    assert pretrained.find_imagenet_weights(S0, deploy) == own / TRAIN


def test_the_download_comes_last_and_goes_to_the_cache(places, monkeypatch):
    _, cache = places
    content = b"weights"
    file = replace(pretrained.PRETRAINED[S0.name], sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(pretrained.PRETRAINED, S0.name, file)
    monkeypatch.setattr(pretrained, "_fetch", lambda url, target: target.write_bytes(content))
    assert pretrained.find_imagenet_weights(S0, deploy=False) == cache / TRAIN
    assert (cache / TRAIN).read_bytes() == content


def test_without_the_variable_the_cache_serves(places, monkeypatch):
    own, cache = places
    (own / TRAIN).touch()
    (cache / TRAIN).touch()
    monkeypatch.delenv("KERAS_MOBILEONE_WEIGHTS")
    assert pretrained.find_imagenet_weights(S0, deploy=False) == cache / TRAIN


def test_fused_files_serve_only_for_deploy(places):
    own, cache = places
    (own / FUSED).touch()
    assert pretrained.find_imagenet_weights(S0, deploy=True) == own / FUSED
    with pytest.raises(FileNotFoundError, match=f"{FUSED} exists, but it is fused.*deploy=True"):
        pretrained.find_imagenet_weights(S0, deploy=False)
    (cache / TRAIN).touch()
    assert pretrained.find_imagenet_weights(S0, deploy=False) == cache / TRAIN


@pytest.mark.parametrize(
    "name", ["mobileone_s0_unfused.safetensors", "mobileone_s0_unfused.pth.tar"]
)
def test_the_authors_own_file_names_are_known(places, name):
    own, _ = places
    (own / name).touch()
    assert pretrained.find_imagenet_weights(S0, deploy=False) == own / name


def test_files_of_another_variant_do_not_serve(places):
    own, _ = places
    (own / TRAIN.replace("s0", "s1")).touch()
    with pytest.raises(FileNotFoundError, match="No ImageNet weights for mobileone_s0"):
        pretrained.find_imagenet_weights(S0, deploy=True)


def test_the_variable_must_name_a_directory(places, monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_MOBILEONE_WEIGHTS", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"KERAS_MOBILEONE_WEIGHTS.*nowhere"):
        pretrained.find_imagenet_weights(S0, deploy=False)


def test_imagenet_weights_end_to_end(places, shared, noise):
    own, _ = places
    (own / FUSED).symlink_to(shared / "weights" / FUSED)
    model = MobileOne("s0", weights="imagenet", deploy=True, classifier_activation=None)
    direct = MobileOne("s0", weights=own / FUSED, deploy=True, classifier_activation=None)
    images = noise(1, 224, 224, 3)
    np.testing.assert_array_equal(model(images), direct(images))
