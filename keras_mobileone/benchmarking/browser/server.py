"""Serves the page and listed files, and collects what the page posts.

Only addresses that begin with a random token are answered, and only under names of this machine, so
that neither others in the network nor pages of other sites (by DNS rebinding) reach it.
"""

import contextlib
import errno
import hmac
import queue
import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Collection, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from types import TracebackType
from typing import Any, Self

from keras_mobileone.benchmarking.browser.contract import (
    RESULT,
    STATE,
    State,
    read_state,
)
from keras_mobileone.benchmarking.results import Benchmark
from keras_mobileone.benchmarking.settings import TargetError
from keras_mobileone.errors import InputError

# Threads and exact timers need the first two (https://web.dev/articles/coop-coep).
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "frame-ancestors 'none'",  # the rest is in index.html
}
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".tflite": "application/octet-stream",
}
LIMITS = {RESULT: 1 << 22, STATE: 1 << 10}  # bytes of a post
IDLE = 60  # seconds after which a silent connection is closed
LOCAL = ("localhost", "127.0.0.1", "[::1]")
EVERYWHERE = ("0.0.0.0", "::")  # addresses that mean every network of this machine


class PageServer(ThreadingHTTPServer):
    """Serves files below a random token until the context is left.

    Args:
        files: Content by address, with the page under `index.html`.
        read: Function that makes a `Benchmark` of a posted result, or raises a ValueError.
        host: Address of this machine to listen at.
        port: Port; 0 means any that is free.
        context: Certificate with which HTTPS is served. None: HTTP.

    Attributes:
        inbox: The states and results that the page has posted.

    Raises:
        TargetError: If the port is taken, or if this machine does not have the address.
    """

    daemon_threads = True

    def __init__(
        self,
        files: Mapping[str, bytes],
        read: Callable[[bytes], Benchmark],
        host: str = "127.0.0.1",
        port: int = 0,
        context: ssl.SSLContext | None = None,
    ):
        self.files, self.read, self._context = files, read, context
        self.inbox: queue.SimpleQueue[State | Benchmark] = queue.SimpleQueue()
        self.token = secrets.token_urlsafe(16)
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise _not_listening(host, port, error) from error
        self.name = own_address() if host in EVERYWHERE else host
        names = (*LOCAL, f"[{self.name}]" if ":" in self.name else self.name)
        self.hosts: Collection[str] = {f"{name}:{self.server_port}".lower() for name in names}

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.shutdown()
        self.server_close()

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the server."""
        return self.name in ("localhost", "127.0.0.1", "::1")

    @property
    def link(self) -> str:
        """Address of the page."""
        name = "localhost" if self.is_local else self.name
        scheme = "http" if self._context is None else "https"
        name = f"[{name}]" if ":" in name else name
        return f"{scheme}://{name}:{self.server_port}/{self.token}/"

    def get_request(self) -> tuple[Any, Any]:
        """Accepts a connection. The handshake of TLS takes place in the connection's own thread."""
        connection, address = super().get_request()
        if self._context is not None:
            connection = self._context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores connections that break: browsers cancel requests, and scanners talk nonsense."""


class Handler(BaseHTTPRequestHandler):
    """Answers a request to a `PageServer`."""

    server: PageServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "keras-mobileone", ""
    timeout = IDLE

    def log_message(self, *arguments: Any) -> None:
        """Writes nothing, since addresses contain the token."""

    def do_GET(self) -> None:
        """Sends a listed file."""
        name = self._name()
        content = None if name is None else self.server.files.get(name or "index.html")
        if content is None:
            return self._answer(404)
        return self._answer(200, content, TYPES[PurePosixPath(name or "index.html").suffix])

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Takes a state or a result."""
        name = self._name()
        # What follows an unread body can't be told from it.
        self.close_connection = True
        if name not in LIMITS:
            return self._answer(404)
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or self.headers.get("Transfer-Encoding"):
            return self._answer(411)
        if int(length) > LIMITS[name]:
            return self._answer(413)
        if self.headers.get_content_type() != "application/json":
            return self._answer(415)
        body = self.rfile.read(int(length))
        if len(body) < int(length):  # the page was closed while it was sending
            return None
        try:
            found = self.server.read(body) if name == RESULT else read_state(body)
        except InputError as error:
            return self._answer(400, str(error).encode(), "text/plain; charset=utf-8")
        try:
            self._answer(204)
        finally:
            self.server.inbox.put(found)  # which may end the program
        return None

    def _name(self) -> str | None:
        """The address below the token; None if the token or the host is wrong."""
        if self.headers.get("Host", "").lower() not in self.server.hosts:
            return None
        token, slash, name = self.path.partition("?")[0].lstrip("/").partition("/")
        same = hmac.compare_digest(token.encode(), self.server.token.encode())
        return name if same and slash else None

    def _answer(self, code: int, body: bytes = b"", kind: str = "text/plain") -> None:
        self.send_response(code)
        length = {} if code == 204 else {"Content-Length": str(len(body))}
        for header, value in {**HEADERS, "Content-Type": kind, **length}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def own_address() -> str:
    """Returns the address under which other machines of the network reach this one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        # Nothing is sent: connecting a datagram socket only chooses the network. The address is
        # reserved for documentation (RFC 5737).
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])
    return "127.0.0.1"


def _not_listening(host: str, port: int, error: Exception) -> TargetError:
    code = getattr(error, "errno", None)
    if code == errno.EADDRINUSE:
        return TargetError(
            f"Expected a free port. Received: {port}, which another program uses. Pass another "
            "one, or leave --port out."
        )
    if code == errno.EACCES:
        return TargetError(
            f"Expected a port that this user may open. Received: {port}. Pass one above 1023."
        )
    return TargetError(
        f"Expected an address of this machine. Received: {host}, port {port} ({error}). Pass one "
        "that its network settings show."
    )
