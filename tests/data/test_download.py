"""Mirrors, checksums, receipts and unpacking, against a local server."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedprivacy.data.download import fetch_archive, obtain, real_folder
from fedprivacy.data.sources import Archive, Checks, Licence, Source, Unpack
from fedprivacy.data.transfer import Network
from fedprivacy.errors import DataError

BODY = np.random.default_rng(1).bytes(200_000)
CORRUPT = BODY[:-1] + bytes([BODY[-1] ^ 1])
NETWORK = Network(timeout_s=5.0, attempts=2, sleep=lambda seconds: None)


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return buffer.getvalue()


def keep(*urls: str, checks: Checks | None = None) -> Archive:
    checks = checks or Checks(size=len(BODY), sha256=digest(BODY))
    return Archive("toy", "records", "toy.bin", urls, checks, Unpack("keep"))


def source(*archives: Archive) -> Source:
    return Source("toy", Licence("L", "https://l", "s"), "cite", archives)


def paths(log: list[tuple[str, str | None]]) -> list[str]:
    return [path for path, _ in log]


# --------------------------------------------------------------------------- mirrors


def test_first_good_mirror_wins(server: Any, tmp_path: Path) -> None:
    bad = server.serve("/corrupt", CORRUPT)
    good = server.serve("/good", BODY)
    unused = server.serve("/unused", BODY)
    archive = keep(good + "-missing", bad, good, unused)
    assert fetch_archive(archive, tmp_path, NETWORK) == (tmp_path / "toy.bin", good)
    assert (tmp_path / "toy.bin").read_bytes() == BODY
    assert paths(server.log) == ["/good-missing", "/corrupt", "/good"]
    assert [path.name for path in tmp_path.iterdir()] == ["toy.bin"]


def test_all_mirrors_bad_deletes_the_file_and_names_every_reason(
    server: Any, tmp_path: Path
) -> None:
    corrupt, broken = (
        server.serve("/corrupt", CORRUPT),
        server.serve("/b", BODY, statuses=[500] * 9),
    )
    with pytest.raises(DataError) as caught:
        fetch_archive(keep(corrupt, broken, broken + "x"), tmp_path, NETWORK)
    message = str(caught.value)
    assert f"{corrupt}: toy.bin has sha256 {digest(CORRUPT)}, expected" in message
    assert f"{broken}: gave up after 2 attempts: HTTP Error 500" in message
    assert f"{broken}x: HTTP 404" in message
    assert list(tmp_path.iterdir()) == []


def test_short_copy_is_refused(server: Any, tmp_path: Path) -> None:
    url = server.serve("/short", BODY[:-1], announce=False)
    with pytest.raises(DataError, match="the server has no byte 199999"):
        fetch_archive(keep(url), tmp_path, NETWORK)
    assert not (tmp_path / "toy.bin").exists()


def test_verified_file_is_not_fetched_again_and_a_damaged_one_is(
    server: Any, tmp_path: Path
) -> None:
    url = server.serve("/good", BODY)
    (tmp_path / "toy.bin").write_bytes(BODY)
    assert fetch_archive(keep(url), tmp_path, NETWORK) == (tmp_path / "toy.bin", None)
    assert server.log == []
    (tmp_path / "toy.bin").write_bytes(CORRUPT)
    assert fetch_archive(keep(url), tmp_path, NETWORK)[1] == url
    assert (tmp_path / "toy.bin").read_bytes() == BODY


def test_interrupted_download_continues_with_the_mirror_it_came_from(
    server: Any, tmp_path: Path
) -> None:
    first = server.serve("/first", BODY, statuses=[404])
    second = server.serve("/second", BODY, drops=[150_000] * 2, ranges=False)
    archive = keep(first, second)
    with pytest.raises(DataError):
        fetch_archive(archive, tmp_path, NETWORK)
    server.serve("/second", BODY)
    server.log.clear()
    assert fetch_archive(archive, tmp_path, NETWORK)[1] == second
    assert server.log == [("/second", "bytes=150000-")]


def test_bad_partial_file_gives_its_mirror_a_second_chance(server: Any, tmp_path: Path) -> None:
    url = server.serve("/good", BODY)
    (tmp_path / "toy.bin.part").write_bytes(b"garbage of an earlier time")
    assert fetch_archive(keep(url), tmp_path, NETWORK)[1] == url
    assert server.log == [("/good", "bytes=26-"), ("/good", None)]
    assert (tmp_path / "toy.bin").read_bytes() == BODY


# --------------------------------------------------------------------------- whole datasets


def test_kept_file_lands_in_the_real_folder_with_a_receipt(server: Any, tmp_path: Path) -> None:
    url = server.serve("/good", BODY)
    said: list[str] = []
    obtain(source(keep(url)), tmp_path, NETWORK, said.append)
    target = real_folder(tmp_path, "toy")
    assert [path.name for path in target.iterdir()] == ["toy.bin"]
    receipt = json.loads((tmp_path / "downloads/toy/toy.bin.receipt.json").read_text())
    assert receipt == {
        "file": "toy.bin",
        "url": url,
        "size": len(BODY),
        "sha256": digest(BODY),
        "published_checksum": True,
        "names": ["toy.bin"],
    }
    assert not any("warning" in line for line in said)
    obtain(source(keep(url)), tmp_path, NETWORK, said.append)
    assert "already in" in said[-1]
    assert len(server.log) == 1


def test_file_that_is_not_the_published_one_is_never_replaced(server: Any, tmp_path: Path) -> None:
    target = real_folder(tmp_path, "toy")
    target.mkdir(parents=True)
    (target / "toy.bin").write_bytes(b"the user's own subset")
    with pytest.raises(DataError, match=r"not the published file.*move it away"):
        obtain(source(keep(server.serve("/good", BODY))), tmp_path, NETWORK)
    assert (target / "toy.bin").read_bytes() == b"the user's own subset"
    assert server.log == []


def test_unpinned_archive_is_recorded_once_and_held_to_it(server: Any, tmp_path: Path) -> None:
    body = zipped({"top/a.npy": b"records"})
    archive = Archive(
        "toy", "images", "toy.zip", (server.serve("/z", body),), Checks(), Unpack("zip", 1000)
    )
    said: list[str] = []
    obtain(source(archive), tmp_path, NETWORK, said.append)
    assert [line for line in said if line.startswith("warning") and digest(body) in line]
    target = real_folder(tmp_path, "toy")
    assert (target / "top/a.npy").read_bytes() == b"records"
    assert not (tmp_path / "downloads/toy/toy.zip").exists()

    (target / "top/a.npy").unlink()
    (target / "top").rmdir()
    server.serve("/z", zipped({"top/a.npy": b"changed"}))
    with pytest.raises(DataError, match=f"expected {len(body)}|expected {digest(body)}"):
        obtain(source(archive), tmp_path, NETWORK)
    assert not (target / "top").exists()
    server.serve("/z", body)
    obtain(source(archive), tmp_path, NETWORK)
    assert (target / "top/a.npy").read_bytes() == b"records"


def test_web_page_in_place_of_an_unpinned_archive_is_not_kept(server: Any, tmp_path: Path) -> None:
    url = server.serve("/z", b"<html>please log in</html>")
    archive = Archive("toy", "images", "toy.zip", (url,), Checks(), Unpack("zip", 1000))
    with pytest.raises(DataError, match="damaged or not a zip"):
        obtain(source(archive), tmp_path, NETWORK)
    assert [path.name for path in (tmp_path / "downloads/toy").iterdir()] == [".lock"]
    assert not real_folder(tmp_path, "toy").exists()


def test_alternative_archive_is_used_when_the_first_fails(server: Any, tmp_path: Path) -> None:
    """As HIGGS: the plain file, or a zip that holds it; the member is verified either way."""
    checks = Checks(size=len(BODY), sha256=digest(BODY))
    gone = keep(server.serve("/good", BODY) + "-gone")
    wrapped = Archive(
        dataset="toy",
        provides="records",
        filename="wrapped.zip",
        urls=(server.serve("/zip", zipped({"deep/toy.bin": BODY, "readme": b"x"})),),
        checks=Checks(),
        unpack=Unpack("zip", limit=1 << 20, only="toy.bin", checks=checks),
    )
    said: list[str] = []
    obtain(source(gone, wrapped), tmp_path, NETWORK, said.append)
    target = real_folder(tmp_path, "toy")
    assert [path.name for path in target.iterdir()] == ["toy.bin"]
    assert (target / "toy.bin").read_bytes() == BODY
    assert not any("warning" in line for line in said)  # the member's digest is published
    # The first archive now finds its file in place: nothing is downloaded again.
    before = len(server.log)
    obtain(source(gone, wrapped), tmp_path, NETWORK, said.append)
    assert len(server.log) == before

    server.serve("/zip", zipped({"deep/toy.bin": CORRUPT}))
    with pytest.raises(DataError) as caught:
        obtain(source(gone, wrapped), tmp_path / "other", NETWORK)
    assert "no source of its records worked" in str(caught.value)
    assert "HTTP 404" in str(caught.value)
    assert digest(CORRUPT) in str(caught.value)
    assert not real_folder(tmp_path / "other", "toy").exists()


def test_parts_are_all_fetched_and_share_a_folder(server: Any, tmp_path: Path) -> None:
    images = Archive(
        "toy",
        "images",
        "images.zip",
        (server.serve("/i", zipped({"data/p.npy": b"p"})),),
        Checks(),
        Unpack("zip", 1000),
    )
    lists_url = server.serve("/l", zipped({"data/site-1.json": b"{}"}))
    lists = replace(images, provides="lists", filename="lists.zip", urls=(lists_url,))
    obtain(source(images, lists), tmp_path, NETWORK)
    data = real_folder(tmp_path, "toy") / "data"
    assert sorted(path.name for path in data.iterdir()) == ["p.npy", "site-1.json"]


def test_interruption_after_unpacking_needs_no_second_download(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.serve("/z", zipped({"top/a": b"1"}))
    archive = Archive("toy", "images", "toy.zip", (url,), Checks(), Unpack("zip", 1000))

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fedprivacy.data.download.write_atomic", killed)
        with pytest.raises(KeyboardInterrupt):
            obtain(source(archive), tmp_path, NETWORK)
    obtain(source(archive), tmp_path, NETWORK)
    assert len(server.log) == 1
    assert (real_folder(tmp_path, "toy") / "top/a").read_bytes() == b"1"


def test_two_runs_at_once_download_once(server: Any, tmp_path: Path) -> None:
    url = server.serve("/good", BODY)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(obtain, source(keep(url)), tmp_path, NETWORK) for _ in range(2)]
    assert [run.result() for run in runs] == [None, None]
    assert len(server.log) == 1
