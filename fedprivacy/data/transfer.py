"""One file from one address: HTTP with resume, retries and a progress bar."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from fedprivacy import __version__
from fedprivacy.data.files import write_atomic
from fedprivacy.errors import DataError

CHUNK = 1 << 16
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
# urllib.error.URLError, connection resets and time-outs are OSErrors.
NETWORK_ERRORS = (OSError, http.client.HTTPException)


class MirrorError(Exception):
    """This address cannot give the file; another one may."""


@dataclass(frozen=True)
class Network:
    """How patient a transfer is, and what it uses of the machine.

    Attributes:
        timeout_s: seconds without a byte before a connection counts as lost.
        attempts: failures in a row, without a new byte, before an address is given up.
        backoff_s: wait after the first failure; doubles with each, up to a minute.
        sleep: waits that many seconds.
        free_bytes: free space on the disk of a folder.
    """

    timeout_s: float = 30.0
    attempts: int = 5
    backoff_s: float = 1.0
    sleep: Callable[[float], None] = time.sleep
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free


@dataclass(frozen=True)
class _Answer:
    """What a response promises: where its body starts, and the file's full size if it says."""

    start: int
    total: int | None


class _Restart(Exception):
    """What is on disk does not continue into what the server has: begin again."""


def transfer(url: str, part: Path, size: int | None, same_bytes: bool, network: Network) -> None:
    """Fetch ``url`` into ``part``, continuing what is there.

    Continues with an HTTP Range request from the length of ``part``; a server that ignores it
    (200 instead of 206) restarts the file, and If-Range makes one whose file has changed do so.
    A lost connection is retried and continued as long as bytes keep coming.

    Args:
        url: http or https.
        part: the partial file; ``<part>.json`` beside it remembers where it came from.
        size: exact bytes, None where nobody publishes them.
        same_bytes: whether other mirrors' bytes may be continued: only where a digest checks
            the result.
        network: patience.

    Raises:
        MirrorError: this address does not give the file.
        DataError: this machine cannot take it (disk full).
    """
    continues = same_bytes or _read_origin(part).get("url") == url
    failures, furthest = 0, _length(part) if continues else 0
    while True:
        try:
            _attempt(url, part, size, same_bytes, network)
            return
        except urllib.error.HTTPError as error:
            error.close()
            if error.code not in TRANSIENT:
                raise MirrorError(f"HTTP {error.code} {error.reason}") from error
            problem: Exception = error
        except _Restart as error:
            part.unlink(missing_ok=True)
            problem = error
        except NETWORK_ERRORS as error:
            if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
                raise MirrorError(str(error)) from error
            problem = error
        # A server that cannot resume starts over each time: only bytes beyond all before count.
        failures = 1 if _length(part) > furthest else failures + 1
        furthest = max(furthest, _length(part))
        if failures >= network.attempts:
            raise MirrorError(f"gave up after {failures} attempts: {problem}") from problem
        network.sleep(min(60.0, network.backoff_s * 2.0 ** (failures - 1)))


def _attempt(url: str, part: Path, size: int | None, same_bytes: bool, network: Network) -> None:
    """One request; returns when the file is complete."""
    origin = _read_origin(part)
    here = origin.get("url") == url
    offset = _length(part) if here or same_bytes else 0
    if size is not None and offset == size:
        return
    headers = {"User-Agent": f"fedprivacy/{__version__}", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if here and origin.get("validator"):
            headers["If-Range"] = str(origin["validator"])
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=network.timeout_s
        )
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        error.close()
        # The range starts at or beyond the end: complete if the server's file is just as long.
        if size is None and _total(error.headers.get("Content-Range")) == offset:
            return
        raise _Restart(f"the server has no byte {offset}") from error
    with response:
        _receive(response, url, part, offset, size, network)


def _receive(
    response: Any, url: str, part: Path, offset: int, size: int | None, network: Network
) -> None:
    """Append the body to ``part`` (or replace it), and check that all of it came."""
    answer = _answer(response)
    if answer.start not in (0, offset):
        raise _Restart(f"asked for byte {offset}, got byte {answer.start}")
    if size is not None and answer.total not in (None, size):
        raise MirrorError(f"has {answer.total} bytes, expected {size}")
    expected = size if answer.total is None else answer.total
    if expected is not None:
        require_space(part.parent, expected - answer.start, network)
    _write_origin(part, url, response)
    with (
        open(part, "ab" if answer.start else "wb") as handle,
        tqdm(
            desc=part.name.removesuffix(".part"),
            total=expected,
            initial=answer.start,
            unit="B",
            unit_scale=True,
            disable=None,  # no bar where stderr is not a terminal
        ) as bar,
    ):
        while chunk := response.read(CHUNK):
            _write(handle, chunk, part)
            bar.update(len(chunk))
    if expected is not None and _length(part) < expected:
        raise ConnectionError(f"connection lost at byte {_length(part)} of {expected}")
    if expected is not None and _length(part) > expected:
        raise _Restart(f"{_length(part)} bytes came, {expected} were announced")


def require_space(folder: Path, needed: int, network: Network) -> None:
    """Refuse early what the disk cannot hold.

    Raises:
        DataError: less than ``needed`` bytes are free.
    """
    free = network.free_bytes(folder)
    if free < needed:
        raise DataError(
            f"{folder} has {free / 1e9:.2f} GB free and needs {needed / 1e9:.2f} GB: free some "
            "space, or choose a dataset.root (--root) on another disk"
        )


def _answer(response: Any) -> _Answer:
    """Start and full size that the response states."""
    if response.status == 206:
        found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range") or "")
        if found is None:
            raise _Restart("a partial answer that does not say which part it is")
        return _Answer(int(found.group(1)), _total(response.headers.get("Content-Range")))
    length = response.headers.get("Content-Length")
    return _Answer(0, int(length) if length and length.isdecimal() else None)


def _total(content_range: str | None) -> int | None:
    """Full size in a Content-Range header, if it states one."""
    found = re.search(r"/(\d+)$", (content_range or "").strip())
    return int(found.group(1)) if found else None


def _write(handle: BinaryIO, chunk: bytes, part: Path) -> None:
    """Write, so that a full disk is not mistaken for a lost connection."""
    try:
        handle.write(chunk)
    except OSError as error:
        raise DataError(f"{part} cannot be written: {error}") from error


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _origin_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_origin(part: Path) -> dict[str, Any]:
    """Where the partial file came from; empty where that is not known."""
    try:
        origin = json.loads(_origin_path(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return origin if isinstance(origin, dict) else {}


def _write_origin(part: Path, url: str, response: Any) -> None:
    """Remember the address and what identifies the server's version of the file."""
    tag = response.headers.get("ETag") or ""
    # A weak tag promises equal meaning, not equal bytes, and must not be sent in If-Range.
    validator = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")
    write_atomic(_origin_path(part), json.dumps({"url": url, "validator": validator}))


def forget(part: Path) -> None:
    """Delete the partial file and what is remembered of it."""
    part.unlink(missing_ok=True)
    _origin_path(part).unlink(missing_ok=True)


def origin_url(part: Path) -> str | None:
    """The address that the partial file came from, if there is one."""
    return str(_read_origin(part).get("url") or "") or None if part.exists() else None
