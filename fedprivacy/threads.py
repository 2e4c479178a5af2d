"""Threads of this process: how many train, and leaving while a site may still be at work."""

from __future__ import annotations

import os
import sys
import threading

import torch

SITE_THREAD = "fedprivacy-sites"
_WAIT_S = 0.5


def use_threads(threads: int) -> None:
    """Let torch compute with that many threads on the CPU."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def leave(status: int) -> int:
    """The exit status, once no site is at work; ends the process at once where one still is.

    A daemon thread inside torch while Python shuts down aborts the process, whatever the exit
    status was to be. Skipping the shutdown is the only way around a site that hangs.
    """
    for thread in threading.enumerate():
        if thread.name == SITE_THREAD:
            thread.join(_WAIT_S)
            if thread.is_alive():
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
    return status
