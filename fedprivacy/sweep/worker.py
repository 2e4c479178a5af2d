"""A worker process: keeps imports, data and compiled state warm while it runs cell after cell."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

from fedprivacy.config.schema import CellConfig

_ORPHANED = 1


@dataclass(frozen=True)
class Job:
    """A cell to run."""

    cell_id: str
    folder: Path
    config: CellConfig
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class RoundDone:
    """A finished round of the cell that a worker runs."""

    cell_id: str
    round: int
    score: float | None


@dataclass(frozen=True)
class CellDone:
    """A cell has left its result.

    Attributes:
        cell_id: which.
        tainted: whether a site was given up on; the worker must be replaced, because the lost
            site may still run in it.
    """

    cell_id: str
    tainted: bool


def work(pipe: Connection) -> None:
    """Run jobs from the pipe until it says None, then end the process: a worker's loop.

    Without its parent the process ends at once: the cell in hand is interrupted and leaves no
    result.
    """
    threading.Thread(target=_follow_parent, name="fedprivacy-orphan", daemon=True).start()
    # Ctrl-C reaches the whole process group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger().addHandler(logging.NullHandler())
    import torch

    from fedprivacy.cell import run_cell
    from fedprivacy.federation.site import close_runtime
    from fedprivacy.federation.strategy import RoundOutcome

    torch.set_num_threads(1)
    while (job := _next_job(pipe)) is not None:

        def tell(outcome: RoundOutcome, job: Job = job) -> None:
            score = outcome.scores.value if outcome.scores else None
            _tell(pipe, RoundDone(job.cell_id, outcome.round, score))

        with logged(job.folder):
            result = run_cell(job.config, job.folder, listener=tell, overrides=job.overrides)
        close_runtime()
        _tell(pipe, CellDone(job.cell_id, tainted="no answer from nodes" in result.reason))
    # Everything is written; taking torch down in good order would take a second.
    logging.shutdown()
    os._exit(0)


def _follow_parent() -> None:
    """Wait for the parent to end, by whatever signal, and end with it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        _end_as_orphan()


def _end_as_orphan() -> NoReturn:
    # An exception would be taken for a failure of the cell and written into its result.
    os._exit(_ORPHANED)


def _next_job(pipe: Connection) -> Job | None:
    try:
        job: Job | None = pipe.recv()
    except (EOFError, OSError):
        _end_as_orphan()
    return job


def _tell(pipe: Connection, note: RoundDone | CellDone) -> None:
    try:
        pipe.send(note)
    except OSError:
        _end_as_orphan()


class logged:
    """Write the log of a cell into its folder while the block runs."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._handler = logging.FileHandler(folder / "fedprivacy.log", encoding="utf-8")
        self._handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
        )

    def __enter__(self) -> None:
        root = logging.getLogger()
        self._level = root.level
        root.setLevel(logging.INFO)
        root.addHandler(self._handler)

    def __exit__(self, *_: object) -> None:
        root = logging.getLogger()
        root.removeHandler(self._handler)
        root.setLevel(self._level)
        self._handler.close()
