"""Worker processes that survive each other: a death fails one cell, never the sweep."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from fedprivacy.sweep.worker import CellDone, Job, RoundDone, work

Note = RoundDone | CellDone


@dataclass
class Worker:
    """One process, its pipe, and the job it has in hand."""

    process: BaseProcess
    pipe: Connection
    job: Job | None = None


class WorkerPool:
    """Runs jobs on a fixed number of processes.

    Args:
        size: number of processes; each is started when there is work for it.
    """

    def __init__(self, size: int) -> None:
        # A fork would inherit torch's and the parent's threads half-dead.
        self._context = multiprocessing.get_context("spawn")
        self._size = size
        self._workers: list[Worker] = []

    def run(
        self,
        jobs: Iterable[Job],
        started: Callable[[Job], None],
        told: Callable[[Note], None],
        died: Callable[[Job, int | None], None],
    ) -> None:
        """Run all jobs.

        Args:
            jobs: in the order in which they are handed out.
            started: called when a job is handed to a worker.
            told: called with everything workers say.
            died: called with the job whose worker ended without a result, and its exit code.
        """
        waiting = list(jobs)
        while waiting or any(worker.job for worker in self._workers):
            self._hand_out(waiting, started)
            busy = [worker for worker in self._workers if worker.job is not None]
            ready = wait([worker.pipe for worker in busy])
            for worker in [worker for worker in busy if worker.pipe in ready]:
                self._hear(worker, told, died)

    def _hand_out(self, waiting: list[Job], started: Callable[[Job], None]) -> None:
        while waiting:
            idle = next((w for w in self._workers if w.job is None), None)
            if idle is None and len(self._workers) < self._size:
                idle = self._start()
            if idle is None:
                return
            idle.job = waiting.pop(0)
            idle.pipe.send(idle.job)
            started(idle.job)

    def _start(self) -> Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=work, args=(theirs,), name="fedprivacy-worker")
        process.start()
        theirs.close()
        worker = Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _hear(
        self,
        worker: Worker,
        told: Callable[[Note], None],
        died: Callable[[Job, int | None], None],
    ) -> None:
        assert worker.job is not None
        try:
            note: Note = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(timeout=5)
            self._workers.remove(worker)
            died(worker.job, worker.process.exitcode)
            return
        if isinstance(note, CellDone):
            worker.job = None
            if note.tainted:
                self._workers.remove(worker)
                _dismiss(worker)
                _end(worker)
        told(note)

    def stop(self) -> None:
        """End all workers; a cell in hand is interrupted and leaves no result."""
        for worker in self._workers:
            _dismiss(worker)  # all at once: each takes a while to end
        for worker in self._workers:
            _end(worker)
        self._workers.clear()


def _dismiss(worker: Worker) -> None:
    if worker.job is None and worker.process.is_alive():
        with suppress(OSError):
            worker.pipe.send(None)


def _end(worker: Worker) -> None:
    if worker.job is None:
        worker.process.join(timeout=2)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join(timeout=5)
    if worker.process.is_alive():
        print(f"worker {worker.process.pid} did not end", file=sys.stderr)
    worker.pipe.close()
