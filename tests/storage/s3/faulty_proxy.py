"""An HTTP proxy that does wrong what it is told to, and counts what passes.

An operation is the HTTP method, `LIST` for a GET that lists a bucket, or `RANGE` for a
GET of a part. The next `times` requests
that match a fault suffer it; a storm gives every request a fault by chance, but never the same
request more than twice in a row, so that a patient client gets through.
"""

import contextlib
import http.client
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding"}


class Kind(StrEnum):
    ANSWER = "answer"  # an S3 error instead of the true answer
    NONSENSE = "nonsense"  # an error page that is no S3 answer
    RESET = "reset"  # the connection breaks before the server hears of the request
    LOST = "lost"  # the server does it, then the connection breaks
    SLOW = "slow"  # the true answer, after `seconds`
    CUT = "cut"  # half of the true answer's body


@dataclass
class Fault:
    """What happens to requests of an operation (to all without one) whose path holds `path`."""

    kind: Kind
    operation: str = ""
    path: str = ""
    times: int = 1
    status: int = 500
    code: str = "InternalError"
    message: str = "We encountered an internal error. Please try again."
    seconds: float = 0.0

    def matches(self, operation: str, path: str) -> bool:
        return self.times > 0 and self.operation in ("", operation) and self.path in path


STORM = (
    Fault(Kind.ANSWER),
    Fault(Kind.ANSWER, status=503, code="SlowDown", message="Please reduce your request rate."),
    Fault(Kind.NONSENSE, status=502),
    Fault(Kind.RESET),
    Fault(Kind.LOST),
    Fault(Kind.CUT),
    Fault(Kind.SLOW, seconds=0.02),
)


class FaultyProxy(ThreadingHTTPServer):
    """Serves on a free port of 127.0.0.1 and hands on to another port there."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, target: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self.clear()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def clear(self) -> None:
        """No faults, and nothing counted."""
        with self._lock:
            self.requests: list[tuple[str, str]] = []
            self.faults: list[Fault] = []
            self.suffered: Counter[Kind] = Counter()
            self._in_a_row: Counter[tuple[str, str]] = Counter()
            self._chance = 0.0
            self._spared: tuple[str, ...] = ()
            self._random = random.Random(0)

    def fail(self, kind: Kind, operation: str = "", path: str = "", **more) -> None:
        """The next requests that match suffer this fault."""
        with self._lock:
            self.faults.append(Fault(kind, operation, path, **more))

    def storm(self, chance: float, seed: int, spared: tuple[str, ...] = ()) -> None:
        """From now on each request suffers some fault with this chance, but spared operations."""
        with self._lock:
            self._chance, self._random, self._spared = chance, random.Random(seed), spared

    @property
    def counts(self) -> dict[str, int]:
        """How many requests of each operation came since the last `clear`."""
        with self._lock:
            return dict(Counter(operation for operation, _ in self.requests))

    def next_fault(self, operation: str, path: str) -> Fault | None:
        with self._lock:
            self.requests.append((operation, path))
            fault = next((each for each in self.faults if each.matches(operation, path)), None)
            if fault:
                fault.times -= 1
            elif operation not in self._spared and self._in_a_row[operation, path] < 2:
                fault = self._random.choice(STORM) if self._random.random() < self._chance else None
            self._in_a_row[operation, path] = self._in_a_row[operation, path] + 1 if fault else 0
            if fault:
                self.suffered[fault.kind] += 1
            return fault

    def handle_error(self, request, client_address) -> None:
        """A client that went away is part of the game."""


@contextlib.contextmanager
def faulty_proxy(target: int) -> Iterator[FaultyProxy]:
    """A running proxy in front of the server at port `target`."""
    with FaultyProxy(target) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.ended.set()
            proxy.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle_one(self) -> None:
        place = urlsplit(self.path)
        operation = self._operation(place.query)
        body = self._body()
        fault = self.server.next_fault(operation, unquote(place.path))
        if fault is None:
            return self._answer(*self._forward(body))
        match fault.kind:
            case Kind.ANSWER:
                self._answer(fault.status, {"content-type": "application/xml"}, _xml(fault))
            case Kind.NONSENSE:
                self._answer(fault.status, {"content-type": "text/html"}, b"<html>Bad gateway")
            case Kind.SLOW:
                if self.server.ended.wait(fault.seconds):
                    return self._break()
                self._answer(*self._forward(body))
            case Kind.CUT:
                self._answer(*self._forward(body), cut=True)
            case Kind.LOST:
                self._forward(body)
                self._break()
            case Kind.RESET:
                self._break()
        return None

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one

    def _operation(self, query: str) -> str:
        if self.command == "GET" and "list-type=2" in query:
            return "LIST"
        return "RANGE" if "Range" in self.headers else self.command

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=30)
        dropped = HOP_BY_HOP | {"expect"}
        headers = {k: v for k, v in self.headers.items() if k.lower() not in dropped}
        with contextlib.closing(connection):
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            # moto says `Server` twice, which aiohttp refuses.
            headers = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, headers, answer.read()

    def _answer(self, status: int, headers: dict[str, str], body: bytes, cut: bool = False) -> None:
        kept = {name: value for name, value in headers.items() if name not in HOP_BY_HOP}
        if self.command != "HEAD":
            kept["content-length"] = str(len(body))
        self.send_response_only(status)
        for name, value in kept.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            body = b""
        self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True

    def _break(self) -> None:
        self.close_connection = True
        # To close without lingering sends a reset.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""


def _xml(fault: Fault) -> bytes:
    error = f"<Code>{fault.code}</Code><Message>{fault.message}</Message>"
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{error}</Error>'.encode()
