"""Freed memory stays with the process: a step of training asks for the same blocks again."""

from __future__ import annotations

import ctypes
import os
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, in <malloc.h>
_KEPT, _LARGEST = 512 << 20, 32 << 20
_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@cache
def keep_freed_memory() -> bool:
    """Let glibc keep up to 512 MiB at the end of a heap, and blocks of up to 32 MiB in heaps.

    What is freed below a block in use stays in any case, so that this bounds no process's memory.

    By default blocks of a few hundred KiB go back to the kernel when they are freed, and every page
    of the next step's blocks is a fault, and is zeroed. Without that a step of a small model takes
    about a tenth less, and times vary less. See mallopt(3).

    Returns:
        Whether it was set: not with another C library, nor where the user's environment says how
        memory is kept (``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_``, ``GLIBC_TUNABLES``).
    """
    if any(name in os.environ for name in _SETTINGS):
        return False
    try:
        library = ctypes.CDLL(None)
        _ = library.gnu_get_libc_version
        mallopt = library.mallopt
    except (OSError, TypeError, AttributeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))
