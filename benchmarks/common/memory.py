"""The most memory that a process and those below it hold in a while, as far as samples show."""

from __future__ import annotations

import threading

import psutil


class PeakMemory:
    """Watches the resident memory of this process, of a ``tree`` with all below it, in a block.

    Looks every 20 ms (a tree every 200 ms) and at the end. Of a tree, pages that processes share
    count once for each of them, which overstates.
    """

    def __init__(self, *, tree: bool) -> None:
        self._tree, self._every_s = tree, 0.2 if tree else 0.02
        self.peak_mib = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()  # a block may be over before the first look

    def _watch(self) -> None:
        while not self._over.wait(self._every_s):
            self._look()

    def _look(self) -> None:
        own, total = psutil.Process(), 0
        for process in [own, *(own.children(recursive=True) if self._tree else ())]:
            try:
                total += process.memory_info().rss
            except psutil.Error:
                continue
        self.peak_mib = max(self.peak_mib, total / 2**20)
