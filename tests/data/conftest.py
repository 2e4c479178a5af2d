"""A small web server that misbehaves on demand."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass
class Served:
    """One path of the server.

    Attributes:
        body: the file.
        etag: sent, and compared with If-Range.
        ranges: whether Range is understood; False answers 200 with everything.
        drops: for each of the first requests, the body bytes after which the connection is cut.
        statuses: for each of the first requests, an error to answer instead (0: none).
        announce: whether Content-Length is sent.
        shift: bytes that a partial answer starts too late.
    """

    body: bytes
    etag: str | None = None
    ranges: bool = True
    drops: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    announce: bool = True
    shift: int = 0


class FileServer:
    """Files by path, and a log of (path, Range header) of every request."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.log: list[tuple[str, str | None]] = []
        self.agents: set[str | None] = set()
        handler = type("Handler", (_Handler,), {"site": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def serve(self, path: str, body: bytes, **options: Any) -> str:
        self.files[path] = Served(body, **options)
        return f"http://127.0.0.1:{self._server.server_address[1]}{path}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    site: FileServer

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.site.log.append((self.path, asked))
        self.site.agents.add(self.headers.get("User-Agent"))
        file = self.site.files.get(self.path)
        status = file.statuses.pop(0) if file and file.statuses else 0
        if file is None or status:
            self.send_error(status or 404)
            return
        if_range = self.headers.get("If-Range")
        start = 0
        if asked and file.ranges and if_range in (None, file.etag):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(file.body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(file.body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start += file.shift
            self.send_response(206)
            last, total = len(file.body) - 1, len(file.body)
            self.send_header("Content-Range", f"bytes {start}-{last}/{total}")
        else:
            self.send_response(200)
        self._send(file, file.body[start:])

    def _send(self, file: Served, body: bytes) -> None:
        if file.announce:
            self.send_header("Content-Length", str(len(body)))
        if file.etag:
            self.send_header("ETag", file.etag)
        self.end_headers()
        cut = file.drops.pop(0) if file.drops else len(body)
        self.wfile.write(body[:cut])
        self.close_connection = True


@pytest.fixture
def server() -> Iterator[FileServer]:
    """A running ``FileServer``."""
    running = FileServer()
    yield running
    running.close()
