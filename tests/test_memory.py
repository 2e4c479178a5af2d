"""Freed memory stays with the process, unless the user has said how it is to be kept."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from fedprivacy.memory import keep_freed_memory
torch.set_num_threads(1)
print(keep_freed_memory())

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        kept = [torch.ones(200_000) for _ in range(8)]
        del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


def run(**more: str) -> tuple[bool, int]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={"PATH": "", **more}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_blocks_that_are_asked_for_again_are_no_new_pages() -> None:
    kept, faults = run()
    asked, as_asked = run(MALLOC_MMAP_THRESHOLD_="131072")
    assert (kept, asked) == (True, False)
    assert faults < 0.05 * as_asked


def test_what_the_user_says_stands() -> None:
    assert run(GLIBC_TUNABLES="glibc.malloc.trim_threshold=1000000")[0] is False
