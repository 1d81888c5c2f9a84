"""Tests the server of the benchmark page, what it accepts, and the command, without a browser."""

import base64
import copy
import hashlib
import http.client
import json
import socket
import ssl
import threading
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from keras_mobileone.benchmarking import Benchmark, Failure, load_benchmark
from keras_mobileone.benchmarking.browser import contract, export_page, runtime, target
from keras_mobileone.benchmarking.browser.server import PageServer
from keras_mobileone.benchmarking.results import latency_of, round_of
from keras_mobileone.benchmarking.settings import TargetError
from keras_mobileone.cli import browser as browser_command
from keras_mobileone.cli import main

JSON = {"Content-Type": "application/json"}
PLAN = contract.PagePlan(("cpu",), (1,), 2, 2, 1)


@pytest.fixture(autouse=True)
def without_runtime(monkeypatch):
    monkeypatch.setattr(contract, "runtime_files", lambda: {"litert/core.js": b"export {};"})


def result_of(*names, **conditions) -> dict:
    """What the page posts for files that took 2 and 4 ms."""
    rounds = [round_of([2.0, 4.0], 1.0) for _ in range(2)]
    how = {"accelerator": "cpu", "threads": 1, "ran_on": "cpu", "difference": None}
    described = {name: {"file": name.partition(" ")[0], **how} for name in names}
    stored = {"target": "browser", "configurations": described, **conditions}
    failures = [Failure("x.tflite", "LiteRT.js can't run x.tflite: no memory.")]
    latencies = [latency_of(name, 12, rounds) for name in names]
    return json.loads(json.dumps(Benchmark(latencies, stored, failures).to_dict()))


@pytest.fixture
def server(tmp_path):
    files = contract.page_files({"a.tflite": b"content"}, PLAN, posts=True)
    read = lambda body: contract.read_result(body, {"a.tflite": tmp_path / "a.tflite"})  # noqa: E731
    with PageServer(files, read) as started:
        yield started


def ask(server, method, path, body=None, headers=(), token=None):
    """Returns status, headers and content of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, f"/{token or server.token}/{path}", body, dict(headers))
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def test_only_listed_files_are_served(server):
    for path, kind in (
        ("", "text/html; charset=utf-8"),
        ("main.js", "text/javascript; charset=utf-8"),
        ("page.css", "text/css; charset=utf-8"),
        ("models/a.tflite", "application/octet-stream"),
    ):
        status, headers, content = ask(server, "GET", path)
        assert (status, headers["Content-Type"]) == (200, kind)
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert int(headers["Content-Length"]) == len(content) > 0
        assert ask(server, "HEAD", path)[2] == b""
    for path in (
        "../pyproject.toml",
        "%2e%2e/setup.py",
        "models/",
        "models/b.tflite",
        "/etc/passwd",
    ):
        assert ask(server, "GET", path)[0] == 404


def test_only_the_token_and_names_of_this_machine_are_answered(server):
    assert ask(server, "GET", "", token="wrong")[0] == 404
    assert ask(server, "GET", "", token=server.token[:-1])[0] == 404
    assert ask(server, "GET", "", headers={"Host": "evil.example"})[0] == 404
    port = server.server_port
    assert ask(server, "GET", "", headers={"Host": f"evil.example:{port}"})[0] == 404
    assert ask(server, "GET", "", headers={"Host": f"LOCALHOST:{port}"})[0] == 200
    state = json.dumps({"name": "opened"})
    assert ask(server, "POST", "state", state, JSON, token="wrong")[0] == 404
    assert server.inbox.empty()
    assert len(server.token) >= 20


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("result", "{}", {"Content-Type": "text/plain"}, 415),
        ("result", "{}", {**JSON, "Content-Length": str((1 << 22) + 1)}, 413),
        ("state", "x" * 2000, JSON, 413),
        ("elsewhere", "{}", JSON, 404),
        ("result", "{}", {**JSON, "Content-Length": "-1"}, 411),
        ("result", "{}", {**JSON, "Content-Length": "two"}, 411),
        ("result", "{}", {**JSON, "Transfer-Encoding": "chunked"}, 411),
        ("result", "not JSON", JSON, 400),
        ("result", "[" * 100_000, JSON, 400),
        ("result", "[]", JSON, 400),
        ("result", b"\xff\xfe", JSON, 400),
        ("state", json.dumps({"name": "root"}), JSON, 400),
        ("state", json.dumps({"name": "running", "done": 3, "total": 2}), JSON, 400),
        ("state", json.dumps({"name": "running", "done": "1", "total": 2}), JSON, 400),
    ],
)
def test_what_is_posted_is_limited(server, path, body, headers, status):
    found, _, content = ask(server, "POST", path, body, headers)
    assert found == status and server.inbox.empty()
    if status == 400:
        assert content.startswith(b"Expected") and content.count(b"\n") == 0


def changed(path, value) -> str:
    """A result in which one place has another value."""
    result = copy.deepcopy(result_of("a.tflite", "b.tflite"))
    place = result
    for key in path[:-1]:
        place = place[key]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(result)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), 2),
        (("conditions", "target"), "this machine"),
        (("conditions", "configurations"), []),
        (("conditions", "configurations", "a.tflite"), KeyError),
        (("conditions", "configurations", "a.tflite", "threads"), "1"),
        (("conditions", "configurations", "a.tflite", "difference"), "none"),
        (("conditions", "browser"), "\x1b[31mred"),
        (("conditions", "browser"), "x" * 5000),
        (("conditions", "timer_ms"), float("nan")),
        (("latencies", 0, "median"), 0),
        (("latencies", 0, "median"), "2"),
        (("latencies", 0, "median"), True),
        (("latencies", 0, "medians"), [2.0]),
        (("latencies", 0, "medians"), []),
        (("latencies", 0, "medians"), 2.0),
        (("latencies", 0, "bytes"), 1.5),
        (("latencies", 0, "minimum"), -1),
        (("latencies", 0, "path"), "b.tflite"),
        (("latencies", 0, "path"), 7),
        (("latencies", 0, "surplus"), 7),
        (("latencies", 0, "p95"), KeyError),
        (("latencies",), {"a": 1}),
        (("failures", 0, "message"), "two\nlines"),
        (("failures",), KeyError),
    ],
)
def test_nonsense_is_refused_in_one_sentence(server, path, value):
    status, _, content = ask(server, "POST", "result", changed(path, value), JSON)
    assert status == 400 and content.startswith(b"Expected") and server.inbox.empty()


def test_a_result_gets_the_paths_of_this_machine(server, tmp_path):
    result = result_of("a.tflite (cpu, 1 thread)", "own.tflite")
    result["failures"][0]["message"] = "LiteRT.js can't run a.tflite: bad. Not xa.tflite."
    assert ask(server, "POST", "result", json.dumps(result), JSON)[0] == 204
    found = server.inbox.get()
    path = tmp_path / "a.tflite"
    assert [latency.path for latency in found.latencies] == [
        f"{path} (cpu, 1 thread)",
        "own.tflite",
    ]
    assert found.conditions["configurations"][f"{path} (cpu, 1 thread)"]["file"] == str(path)
    assert found.failures[0].message == f"LiteRT.js can't run {path}: bad. Not xa.tflite."


def test_a_port_that_is_taken_is_told(server):
    with pytest.raises(TargetError, match=rf"free port. Received: {server.server_port}, which"):
        PageServer({}, None, port=server.server_port)
    with pytest.raises(TargetError, match=r"address of this machine. Received: 192\.0\.2\.1"):
        PageServer({}, None, host="192.0.2.1")


def test_every_network_has_one_link(monkeypatch):
    monkeypatch.setattr(
        "keras_mobileone.benchmarking.browser.server.own_address", lambda: "10.0.0.7"
    )
    with PageServer({"index.html": b"page"}, None, host="0.0.0.0") as server:
        assert server.link == f"http://10.0.0.7:{server.server_port}/{server.token}/"
        host = {"Host": f"10.0.0.7:{server.server_port}"}
        assert ask(server, "GET", "", headers=host)[0] == 200


def test_https_does_not_wait_for_silent_connections():
    pytest.importorskip("trustme", reason="needs the extra browser")
    from keras_mobileone.benchmarking.browser.certificate import certificate

    context = certificate("127.0.0.2")
    with PageServer({"index.html": b"page"}, None, "127.0.0.2", context=context) as server:
        address = ("127.0.0.2", server.server_port)
        with socket.create_connection(address):  # says nothing
            trusting = ssl._create_unverified_context()
            connection = http.client.HTTPSConnection(*address, timeout=10, context=trusting)
            connection.request("GET", f"/{server.token}/")
            assert connection.getresponse().read() == b"page"
            connection.close()


class Visitor:
    """A page that posts what it is told as soon as the command has opened it."""

    def __init__(self, *posts):
        self.posts, self.links = posts, []

    def __call__(self, link, *_):
        self.links.append(link)
        threading.Thread(target=self.visit, args=(urlsplit(link),), daemon=True).start()
        return True

    def visit(self, link):
        for name, content in self.posts:
            connection = http.client.HTTPConnection("127.0.0.1", link.port, timeout=10)
            connection.request("POST", f"{link.path}{name}", json.dumps(content), JSON)
            connection.getresponse().read()
            connection.close()


@pytest.fixture
def command(monkeypatch, sized_files):
    """Returns a function that runs the command with a visitor and two files."""

    def run(visitor, *options):
        monkeypatch.setattr(browser_command.webbrowser, "open", visitor)
        words = [*sized_files, "--browser", *options]
        return CliRunner().invoke(main, ["benchmark", *map(str, words)])

    return run


def test_the_command_prints_and_saves_the_result(command, sized_files, tmp_path):
    names = [path.name for path in sized_files]
    states = [{"name": "opened"}, {"name": "running", "done": 1, "total": 4}, {"name": "alive"}]
    result = result_of(*names, browser="Chromium 1", requested_threads=[4], threads=1)
    visitor = Visitor(*(("state", state) for state in states), ("result", result))
    found = command(visitor, "--json", tmp_path / "r.json")
    assert found.exit_code == 2 and "no memory" in found.stderr  # the page's failure
    assert visitor.links[0].endswith("/#start")
    assert "cpu ×1" in found.stdout and "browser Chromium 1" in found.stdout
    assert "Warning: Threads: 4 were wanted, and 1 ran" in " ".join(found.stdout.split())
    stored = load_benchmark(tmp_path / "r.json")
    assert [latency.path for latency in stored.latencies] == list(map(str, sized_files))
    shown = CliRunner().invoke(main, ["benchmark", "--show", *[str(tmp_path / "r.json")] * 2])
    assert "1 browser" in shown.stdout and "Not measured: x.tflite" in shown.stdout


def test_a_page_that_is_closed_or_silent_stores_nothing(command, monkeypatch, tmp_path):
    monkeypatch.setattr(target, "RELOAD", 0.2)
    monkeypatch.setattr(target, "SILENCE", 0.2)
    running = {"name": "running", "done": 1, "total": 4}
    for last, words in (({"name": "closed"}, "it was closed"), (running, "nothing for 0.2 s")):
        visitor = Visitor(("state", {"name": "opened"}), ("state", last))
        found = command(visitor, "--json", tmp_path / "r.json")
        assert found.exit_code == 2 and words in found.stderr
        assert found.stderr.count("\n") == 1 and not (tmp_path / "r.json").exists()


def test_a_page_that_is_loaded_again_goes_on(command, sized_files, monkeypatch):
    monkeypatch.setattr(target, "RELOAD", 5.0)
    result = result_of(sized_files[0].name)
    result["failures"] = []
    states = ("opened", "closed", "opened")
    posts = [*(("state", {"name": name}) for name in states), ("result", result)]
    assert command(Visitor(*posts)).exit_code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--browser", "--app"), "--app is for another target"),
        (("--browser", "--cool-down", "3"), "--cool-down is for another target"),
        (("--no-open",), "--no-open is for a browser. Received: no --browser"),
        (("--host", "0.0.0.0"), "--host is for a browser"),
        (("--browser", "--port", "99999"), "99999"),
        (("--browser", "--android"), "adb"),
    ],
)
def test_options_that_do_not_fit(sized_files, monkeypatch, options, words):
    monkeypatch.setenv("PATH", "")
    found = CliRunner().invoke(main, ["benchmark", *map(str, sized_files), *options])
    assert found.exit_code == 2 and words in found.stderr and found.stderr.count("\n") == 1


def test_a_phone_on_a_cable_sees_a_page_of_its_own(phone, sized_files, monkeypatch):
    from keras_mobileone.benchmarking.adb import Adb

    result = result_of(sized_files[0].name)
    result["failures"] = []
    visitor = Visitor(("result", result))
    monkeypatch.setattr(Adb, "view", lambda self, link: visitor(link))
    found = CliRunner().invoke(main, ["benchmark", str(sized_files[0]), "--browser", "--android"])
    assert found.exit_code == 0, found.stderr
    port = f"tcp:{urlsplit(visitor.links[0]).port}"
    reversed_ports = [call for call in phone.calls if call[0] == "reverse"]
    assert reversed_ports == [["reverse", port, port], ["reverse", "--remove", port]]
    phone.change(reverse="cannot bind listener")
    found = CliRunner().invoke(main, ["benchmark", str(sized_files[0]), "--browser", "--android"])
    assert found.exit_code == 2 and "cannot bind listener" in found.stderr


def test_a_folder_is_written_whole_or_not_at_all(sized_files, tmp_path):
    folder = tmp_path / "page"
    words = [
        "benchmark",
        *map(str, sized_files),
        "--browser-export",
        str(folder),
        "--threads",
        "1,2",
    ]
    found = CliRunner().invoke(main, words)
    assert found.exit_code == 0 and "http.server" in found.stdout
    config = json.loads((folder / "config.json").read_text())
    assert config["result"] is None and config["plan"]["threads"] == [1, 2]
    for file in config["files"]:
        assert (folder / file["url"]).stat().st_size == file["bytes"]
    assert CliRunner().invoke(main, words).exit_code == 0  # again
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("text")
    with pytest.raises(FileExistsError, match="has other content"):
        export_page(sized_files, other)
    with pytest.raises(FileNotFoundError):
        export_page([tmp_path / "none.tflite"], tmp_path / "new")
    assert not (tmp_path / "new").exists() and [p.name for p in other.iterdir()] == ["thesis.txt"]


def test_a_runtime_that_can_not_be_had_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match=r"npm is not installed\. Install Node") as found:
        runtime.find_package(runtime.CORE)
    assert runtime.DIRECTORY_VARIABLE in str(found.value)
    monkeypatch.setenv(runtime.DIRECTORY_VARIABLE, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"litertjs-core-2\.5\.3\.tgz"):
        runtime.find_package(runtime.CORE)
    (tmp_path / runtime.CORE.filename).write_bytes(b"something else")
    with pytest.raises(ValueError, match="with sha512"):
        runtime.find_package(runtime.CORE)


def test_npm_fetches_the_runtime_once(monkeypatch, tmp_path):
    package = runtime.NpmPackage("@a/b", "1.0", "")
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(
        '#!/bin/sh\n[ -e "$FAIL" ] && echo no network >&2 && exit 1\necho hi > $4/a-b-1.0.tgz\n'
    )
    npm.chmod(0o755)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(npm.parent))
    (tmp_path / "fail").touch()
    monkeypatch.setenv("FAIL", str(tmp_path / "fail"))
    with pytest.raises(FileNotFoundError, match="fetching it failed: no network"):
        runtime.find_package(package)
    (tmp_path / "fail").unlink()
    with pytest.raises(ValueError, match="with sha512"):  # the wrong content is not kept
        runtime.find_package(package)
    assert not list((tmp_path / "home").rglob("*.tgz"))
    digest = base64.b64encode(hashlib.sha512(b"hi\n").digest()).decode()
    package = runtime.NpmPackage("@a/b", "1.0", digest)
    assert runtime.find_package(package) == runtime.find_package(package)


def test_a_code_for_the_camera(capsys, monkeypatch):
    pytest.importorskip("segno", reason="needs the extra browser")
    browser_command.announce("https://10.0.0.7:4000/token/", None, no_open=False)
    printed = capsys.readouterr().out
    assert "Open https://10.0.0.7:4000/token/" in printed and "█" in printed
    assert "confirm the certificate" in printed
    browser_command.announce("http://10.0.0.7:4000/token/", None, no_open=False)
    assert "one thread and no GPU" in capsys.readouterr().out
