"""Whether a file is the one that its owner published."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fedprivacy.data.sources import Checks


def file_digest(path: Path, algorithm: str) -> str:
    """Hex digest of a file of any size."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, algorithm).hexdigest()


def problem_of(path: Path, checks: Checks) -> str | None:
    """The first thing wrong with ``path``, in words, or None: size first, then digests."""
    size = path.stat().st_size
    if checks.size is not None and size != checks.size:
        return f"{path.name} has {size} bytes, expected {checks.size}"
    for algorithm, expected in (("md5", checks.md5), ("sha256", checks.sha256)):
        if expected is not None:
            found = file_digest(path, algorithm)
            if found != expected:
                return f"{path.name} has {algorithm} {found}, expected {expected}"
    return None
