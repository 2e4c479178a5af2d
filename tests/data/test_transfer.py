"""Transfers against a server that drops, ignores ranges, changes its file, and fails."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedprivacy import __version__
from fedprivacy.data.transfer import MirrorError, Network, forget, origin_url, transfer
from fedprivacy.errors import DataError

BODY = np.random.default_rng(0).bytes(300_000)


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def network(waits: list[float]) -> Network:
    return Network(timeout_s=5.0, attempts=3, sleep=waits.append)


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "file.bin.part"


def test_whole_file_in_one_request(server: Any, part: Path, network: Network) -> None:
    url = server.serve("/f", BODY)
    transfer(url, part, len(BODY), False, network)
    assert part.read_bytes() == BODY
    assert server.log == [("/f", None)]
    assert server.agents == {f"fedprivacy/{__version__}"}
    assert origin_url(part) == url


def test_unknown_size_is_accepted(server: Any, part: Path, network: Network) -> None:
    transfer(server.serve("/f", BODY, announce=False), part, None, False, network)
    assert part.read_bytes() == BODY


def test_dropped_connections_continue_where_they_broke(
    server: Any, part: Path, network: Network, waits: list[float]
) -> None:
    url = server.serve("/f", BODY, drops=[100_000, 1, 50_000, 7], etag='"v1"')
    transfer(url, part, None, False, network)
    assert part.read_bytes() == BODY
    starts = [0, 100_000, 100_001, 150_001, 150_008]
    assert [asked for _, asked in server.log] == [None, *(f"bytes={at}-" for at in starts[1:])]
    # Every failure brought new bytes, so none counts as a second one in a row.
    assert waits == [1.0] * 4


def test_drop_without_announced_length_is_noticed_by_the_known_size(
    server: Any, part: Path, network: Network
) -> None:
    url = server.serve("/f", BODY, drops=[1000], announce=False)
    transfer(url, part, len(BODY), False, network)
    assert part.read_bytes() == BODY


def test_server_that_ignores_range_starts_over(server: Any, part: Path, network: Network) -> None:
    url = server.serve("/f", BODY, ranges=False, drops=[200_000])
    transfer(url, part, len(BODY), False, network)
    assert part.read_bytes() == BODY
    assert server.log == [("/f", None), ("/f", "bytes=200000-")]


def test_server_that_ignores_range_and_always_breaks_is_given_up(
    server: Any, part: Path, network: Network, waits: list[float]
) -> None:
    url = server.serve("/f", BODY, ranges=False, drops=[1000] * 50)
    with pytest.raises(MirrorError, match=r"3 attempts.*byte 1000 of 300000"):
        transfer(url, part, len(BODY), False, network)
    assert len(server.log) == 3
    assert waits == [1.0, 2.0]


def test_file_changed_between_attempts_starts_over(
    server: Any, part: Path, network: Network
) -> None:
    url = server.serve("/f", b"x" * 300_000, etag='"old"', drops=[1000])
    failing = Network(attempts=1, sleep=lambda seconds: None)
    with pytest.raises(MirrorError):
        transfer(url, part, None, False, failing)
    assert part.read_bytes() == b"x" * 1000
    server.serve("/f", BODY, etag='"new"')
    transfer(url, part, None, False, network)
    assert part.read_bytes() == BODY
    assert server.log[-1] == ("/f", "bytes=1000-")


@pytest.mark.parametrize("size", [None, len(BODY)])
def test_complete_partial_file_needs_no_more_bytes(
    server: Any, part: Path, network: Network, size: int | None
) -> None:
    url = server.serve("/f", BODY)
    transfer(url, part, size, False, network)
    transfer(url, part, size, False, network)
    assert part.read_bytes() == BODY
    # With a known size nobody is asked; without, the server answers 416 with its total.
    assert len(server.log) == (2 if size is None else 1)


def test_partial_file_beyond_the_end_starts_over(server: Any, part: Path, network: Network) -> None:
    url = server.serve("/f", BODY)
    part.write_bytes(b"z" * (len(BODY) + 5))
    transfer(url, part, len(BODY), True, network)
    assert part.read_bytes() == BODY


def test_416_for_a_file_that_became_shorter_starts_over(
    server: Any, part: Path, network: Network
) -> None:
    url = server.serve("/f", BODY)
    transfer(url, part, None, False, network)
    server.serve("/f", BODY[:1000])
    transfer(url, part, None, False, network)
    assert part.read_bytes() == BODY[:1000]


def test_partial_answer_at_the_wrong_place_is_not_appended(
    server: Any, part: Path, network: Network
) -> None:
    url = server.serve("/f", BODY, drops=[1000], shift=3)
    transfer(url, part, len(BODY), False, network)
    assert part.read_bytes() == BODY


def test_another_mirrors_bytes_continue_only_under_a_digest(
    server: Any, part: Path, network: Network
) -> None:
    first = server.serve("/first", BODY, drops=[1000])
    second = server.serve("/second", BODY)
    once = Network(attempts=1)
    with pytest.raises(MirrorError):
        transfer(first, part, None, True, once)
    transfer(second, part, None, True, network)
    assert server.log[-1] == ("/second", "bytes=1000-")
    assert part.read_bytes() == BODY

    forget(part)
    server.files["/first"].drops = [1000]
    with pytest.raises(MirrorError):
        transfer(first, part, None, False, once)
    transfer(second, part, None, False, network)
    assert server.log[-1] == ("/second", None)
    assert part.read_bytes() == BODY


def test_missing_file_is_not_retried(
    server: Any, part: Path, network: Network, waits: list[float]
) -> None:
    url = server.serve("/f", BODY)
    with pytest.raises(MirrorError, match="HTTP 404"):
        transfer(url + "x", part, None, False, network)
    assert waits == []
    assert not part.exists()


def test_server_errors_are_retried_with_growing_waits(
    server: Any, part: Path, network: Network, waits: list[float]
) -> None:
    url = server.serve("/f", BODY, statuses=[503, 500])
    transfer(url, part, None, False, network)
    assert waits == [1.0, 2.0]
    assert part.read_bytes() == BODY
    server.files["/f"].statuses = [500] * 9
    forget(part)
    with pytest.raises(MirrorError, match=r"3 attempts.*500"):
        transfer(url, part, None, False, network)


def test_wrong_announced_size_is_refused_before_the_body(
    server: Any, part: Path, network: Network
) -> None:
    url = server.serve("/f", b"<html>gone</html>")
    with pytest.raises(MirrorError, match="has 17 bytes, expected 300000"):
        transfer(url, part, len(BODY), False, network)
    assert not part.exists()


def test_unreachable_and_silent_servers_are_given_up(part: Path, waits: list[float]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    network = Network(timeout_s=0.1, attempts=2, sleep=waits.append)
    with pytest.raises(MirrorError, match="2 attempts"):
        transfer(f"http://127.0.0.1:{port}/f", part, None, False, network)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/f"
        with pytest.raises(MirrorError, match="timed out"):
            transfer(address, part, None, False, network)
    assert waits == [1.0, 1.0]


def test_full_disk_is_refused_before_the_body_and_not_retried(
    server: Any, part: Path, waits: list[float]
) -> None:
    network = Network(sleep=waits.append, free_bytes=lambda folder: 1000)
    with pytest.raises(DataError, match=r"needs 0\.00 GB: free some"):
        transfer(server.serve("/f", BODY), part, None, False, network)
    assert waits == []
    assert not part.exists()
