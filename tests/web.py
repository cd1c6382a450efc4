"""A web server of a folder, on loopback, with ranges and with faults made to order."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Web(ThreadingHTTPServer):
    """Serves `folder`. Each GET of a file meets the next of its `faults`: an HTTP status, "stall", "slow" or "cut"."""

    daemon_threads = True

    def __init__(self, folder: Path, *, ranges: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.ranges = folder, ranges
        self.faults: dict[str, deque[int | str]] = defaultdict(deque)
        self.gets: list[tuple[str, str | None]] = []  # (file, range)
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        """Of the folder."""
        return f"http://127.0.0.1:{self.server_port}"

    def asked(self, suffix: str) -> int:
        """How many GETs of files with this suffix there were."""
        return sum(name.endswith(suffix) for name, _ in self.gets)


class _Handler(BaseHTTPRequestHandler):
    server: Web
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.server.gets.append((name, self.headers.get("Range")))
        faults = self.server.faults[name]
        fault = faults.popleft() if faults else None
        if fault == "stall":
            self.server.closing.wait(30)
            self.close_connection = True
            return
        if fault == "slow":
            self.server.closing.wait(0.5)
        if isinstance(fault, int):
            self._empty(fault)
            return
        self._answer(body=True, cut=fault == "cut")

    def _answer(self, *, body: bool, cut: bool = False) -> None:
        path = self.server.folder / self.path.lstrip("/")
        if not path.is_file():
            self._empty(404)
            return
        data = path.read_bytes()
        size, asked = len(data), self.headers.get("Range")
        if asked and self.server.ranges:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            if int(first) >= size:
                self._empty(416)
                return
            data = data[int(first) : int(last) + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(data) - 1}/{size}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        if self.server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if body:
            self.wfile.write(data[: len(data) // 2] if cut else data)
            self.close_connection = cut

    def _empty(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def serving(folder: Path, **options: bool) -> Iterator[Web]:
    """A server of `folder` while the block runs."""
    web = Web(folder, **options)
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.closing.set()
        web.shutdown()
        web.server_close()
        thread.join()
