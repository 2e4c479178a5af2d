"""Size first, then digests."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fedprivacy.data.checksums import file_digest, problem_of
from fedprivacy.data.sources import Checks


def test_every_check_can_fail_alone(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"records")
    md5, sha256 = hashlib.md5(b"records").hexdigest(), hashlib.sha256(b"records").hexdigest()
    assert file_digest(path, "sha256") == sha256
    assert problem_of(path, Checks()) is None
    assert problem_of(path, Checks(size=7, md5=md5, sha256=sha256)) is None
    assert "7 bytes, expected 8" in str(problem_of(path, Checks(size=8)))
    assert f"md5 {md5}" in str(problem_of(path, Checks(md5="0" * 32)))
    assert f"sha256 {sha256}" in str(problem_of(path, Checks(size=7, md5=md5, sha256="0" * 64)))


def test_only_a_digest_pins() -> None:
    assert not Checks(size=3).pinned
    assert Checks(md5="0").pinned
    assert Checks(sha256="0").pinned
