"""Tests the download of pretrained weights from a local server, which also simulates faults."""

import hashlib
import socket
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from safetensors.numpy import save

from keras_mobileone import VARIANTS, MobileOne, feature_extractor
from keras_mobileone.cli import commands
from keras_mobileone.weights import naming, pretrained

S0 = VARIANTS["s0"]
FILENAME = "mobileone_s0.apple_in1k.safetensors"
CONTENT = bytes(range(256)) * 2000  # half a megabyte: several chunks


class Server(ThreadingHTTPServer):
    """A server that sends `content` for every address in the manner of `behaviour`."""

    daemon_threads = True
    content = CONTENT
    behaviour = "good"

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requested = []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requested.append(self.path)
        if self.server.behaviour == "missing":
            self.send_error(404)
            return
        content = self.server.content
        self.send_response(200)
        if self.server.behaviour != "no length":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.is_cut else content)

    @property
    def is_cut(self):
        return self.server.behaviour == "cut"

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch, server):
    """Returns the path of an empty Keras cache, with the test's server as the hub."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.delenv("KERAS_MOBILEONE_WEIGHTS", raising=False)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    pin(monkeypatch, CONTENT)
    return tmp_path / "keras" / "models"


def pin(monkeypatch, content):
    file = pretrained.PRETRAINED[S0.name]
    checksum = hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(pretrained.PRETRAINED, S0.name, replace(file, sha256=checksum))


def files_below(directory):
    return [path.name for path in directory.rglob("*") if path.is_file()]


def test_a_good_file_lands_in_the_cache(cache, server, capsys):
    path = pretrained.find_imagenet_weights(S0, deploy=False)
    assert path == cache / FILENAME
    assert path.read_bytes() == CONTENT
    assert files_below(cache) == [FILENAME]
    revision = "95d8df5c6f15f61b6891514f26871e3ae957b4b4"
    assert server.requested == [
        f"/timm/mobileone_s0.apple_in1k/resolve/{revision}/model.safetensors"
    ]
    assert f"Downloading {server.address}" in capsys.readouterr().out


def test_a_file_in_the_cache_is_not_fetched_again(cache, server):
    first = pretrained.find_imagenet_weights(S0, deploy=False)
    assert pretrained.find_imagenet_weights(S0, deploy=True) == first
    assert len(server.requested) == 1


def test_the_trailing_slash_of_a_mirror_does_not_matter(cache, server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.address + "/")
    pretrained.find_imagenet_weights(S0, deploy=False)
    assert server.requested[0].startswith("/timm/")


def test_a_server_that_does_not_tell_the_length(cache, server):
    server.behaviour = "no length"
    assert pretrained.find_imagenet_weights(S0, deploy=False).read_bytes() == CONTENT


def test_a_wrong_checksum_is_an_error_and_the_file_removed(cache, server):
    server.content = b"something else" * 1000
    with pytest.raises(ValueError, match="must have sha256") as raised:
        pretrained.find_imagenet_weights(S0, deploy=False)
    message = str(raised.value)
    assert pretrained.PRETRAINED[S0.name].sha256 in message
    assert hashlib.sha256(server.content).hexdigest() in message
    assert server.address in message
    assert files_below(cache) == []


def test_a_cut_connection_is_an_error_and_the_part_removed(cache, server):
    server.behaviour = "cut"
    half = f"closed after {len(CONTENT) // 2} of {len(CONTENT)} bytes"
    with pytest.raises(FileNotFoundError, match=half):
        pretrained.find_imagenet_weights(S0, deploy=False)
    assert files_below(cache) == []
    server.behaviour = "good"
    assert pretrained.find_imagenet_weights(S0, deploy=False).read_bytes() == CONTENT


@pytest.mark.parametrize("behaviour", ["missing", "cut", "no server"])
def test_the_error_tells_what_was_sought_and_where(behaviour, cache, server, monkeypatch, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setenv("KERAS_MOBILEONE_WEIGHTS", str(own))
    server.behaviour = behaviour
    if behaviour == "no server":
        with socket.socket() as unused:  # a port without a listener
            unused.bind(("127.0.0.1", 0))
            monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
    file = pretrained.PRETRAINED[S0.name]
    with pytest.raises(FileNotFoundError) as raised:
        pretrained.find_imagenet_weights(S0, deploy=False)
    message = str(raised.value)
    for told in (FILENAME, file.url, file.sha256, str(own), str(cache)):
        assert told in message
    reason = {"missing": "404", "cut": "closed after", "no server": "refused"}[behaviour]
    assert reason in message
    assert files_below(cache) == []


def test_a_variable_that_is_not_set_is_not_printed_as_empty(cache, server):
    server.behaviour = "missing"
    with pytest.raises(FileNotFoundError) as raised:
        pretrained.find_imagenet_weights(S0, deploy=False)
    assert "KERAS_MOBILEONE_WEIGHTS=" not in str(raised.value)
    assert f"Searched: {cache};" in str(raised.value)


def test_an_unknown_checksum_is_said_to_be_unknown(cache, server, monkeypatch):
    server.behaviour = "missing"
    with pytest.raises(FileNotFoundError, match="sha256 not known"):
        pretrained.find_imagenet_weights(VARIANTS["s4"], deploy=False)
    server.behaviour = "good"
    path = pretrained.find_imagenet_weights(VARIANTS["s4"], deploy=False)
    assert path.read_bytes() == CONTENT


def test_a_file_that_stood_there_survives_a_failed_download(cache, server):
    cache.mkdir(parents=True)
    (cache / FILENAME).write_bytes(b"old")
    server.behaviour = "cut"
    with pytest.raises(OSError, match="closed after"):
        pretrained.download(pretrained.PRETRAINED[S0.name], cache)
    assert (cache / FILENAME).read_bytes() == b"old"
    assert files_below(cache) == [FILENAME]


def test_the_pins_are_the_published_ones():
    pins = {name: (f.revision, f.sha256) for name, f in pretrained.PRETRAINED.items()}
    assert list(pins) == [variant.name for variant in VARIANTS.values()]
    assert pins["mobileone_s0"] == (
        "95d8df5c6f15f61b6891514f26871e3ae957b4b4",
        "b624d5ab2a210791dff05fd4ec734b3ad271a47c2b053db625c5a5783eacb8bf",
    )
    for revision, checksum in pins.values():
        # The content is pinned by the checksum or by the full name of a commit.
        assert (checksum and len(checksum) == 64) or len(revision) == 40
    assert pins["mobileone_s4"] == ("4a76b9fcd26ec02d2cb7958dacb6bdb14f30e21c", None)


def test_from_the_server_to_a_model(
    cache, server, monkeypatch, tiny, tiny_model, noise, relative_error
):
    variant = replace(tiny, name=S0.name)  # a small network under a published name
    slots = naming.slots(tiny_model, variant, naming.TIMM)
    server.content = save({name: slot.to_torch().copy() for name, slot in slots.items()})
    pin(monkeypatch, server.content)
    model = MobileOne(variant, weights="imagenet", include_top=False, deploy=True)
    images = noise(1, 64, 64, 3)
    expected = feature_extractor(tiny_model)(images, training=False)[-1]
    assert relative_error(model(images), expected) < 1e-5


def test_a_demonstration_downloads_the_weights(cache, server, capsys):
    assert commands.default_weights("s0") == "imagenet"
    assert files_below(cache) == [FILENAME]
    assert "are not available" not in capsys.readouterr().out


@pytest.mark.parametrize("behaviour", ["missing", "cut", "no server"])
def test_a_demonstration_without_a_network_says_what_it_uses(
    behaviour, cache, server, monkeypatch, capsys
):
    server.behaviour = behaviour
    if behaviour == "no server":
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert commands.default_weights("s0") == "imagenette"
    printed = " ".join(capsys.readouterr().out.split())
    assert "are not available" in printed and "ten classes" in printed
    assert files_below(cache) == []


def test_other_variants_have_no_weights_to_fall_back_on(cache, server):
    server.behaviour = "missing"
    with pytest.raises(FileNotFoundError, match="No ImageNet weights for mobileone_s1"):
        commands.default_weights("s1")
