"""A worker whose parent is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads children from /proc")
CELLS = (
    "algorithm=none",
    "dataset=wisconsin",
    "seed=0,1",
    "federation.rounds=100000",
    "sweep.workers=1",
    "tracking.enabled=false",
)


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Running, and not a zombie that nobody has collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@linux
@pytest.mark.slow
def test_a_killed_parent_leaves_no_worker_and_no_result(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fedprivacy", "run", "-m", *CELLS]
    parent = subprocess.Popen(
        [*command, f"hydra.sweep.dir={tmp_path}"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/fedprivacy.log")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(3)
    workers = children(parent.pid)
    assert workers
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in workers if alive(pid)]
    assert list(tmp_path.glob("*/fedprivacy.log"))
    assert not list(tmp_path.glob("*/result.json"))
