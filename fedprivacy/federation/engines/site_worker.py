"""A worker process that plays some of the sites of a cell, and the pool of them.

Workers stay between cells: imports, data and model are found again. Each site belongs to one
worker for the whole run, so its state and its records are in one place.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeAlias

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from fedprivacy.errors import ClientFailure, ConfigError
from fedprivacy.federation.engines.local_grid import CLIENT_ERROR, private_copy, task_identity
from fedprivacy.federation.flower import quiet_flower

READY = "ready"
Clock: TypeAlias = Any
"""A double in shared memory; the standard library's has no public type."""
_ORPHANED = 3
_END_WITHIN_S = 2.0


@dataclass(frozen=True)
class Begin:
    """A run begins.

    Attributes:
        run_id: of the run.
        app: where the sites' ClientApp is found, ``module:attribute``.
        contexts: of the worker's sites, by node id.
    """

    run_id: int
    app: str
    contexts: Mapping[int, Context]


@dataclass(frozen=True)
class Batch:
    """Messages to a worker's sites; the replies are sent back together, in their order.

    One by one they would wake the server for each, on a core that the sites could use.
    """

    messages: tuple[Message, ...]


# ------------------------------------------------------------------------ in the worker process


def serve(pipe: Connection, started: Clock) -> None:
    """Answer messages until the pipe says None; the loop of a worker process.

    It ends with its parent, by whatever signal that goes.

    Args:
        pipe: to the parent.
        started: shared with the parent: when the site in hand began, by the system's clock.
    """
    threading.Thread(target=_follow_parent, daemon=True).start()
    # Ctrl-C reaches the whole process group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from fedprivacy.federation import client_app  # noqa: F401  (what takes long to import)

    begun: Begin | None = None
    with contextlib.suppress(EOFError, OSError), quiet_flower():
        pipe.send(READY)
        while (task := pipe.recv()) is not None:
            if isinstance(task, Begin):
                begun = task
                continue
            assert begun is not None
            app = _app(begun.app)
            with task_identity(begun.run_id):
                replies = []
                for message in task.messages:
                    started.value = time.monotonic()
                    replies.append(_answer(app, message, begun.contexts))
                pipe.send(replies)
    os._exit(0)  # nothing is left to write, and torch takes a second to come down


def _answer(app: ClientApp, message: Message, contexts: Mapping[int, Context]) -> Message:
    private = private_copy(message)
    try:
        answer = app(private, contexts[message.metadata.dst_node_id])
        if isinstance(answer, Message):
            return answer
        reason = f"the app returned {type(answer).__name__}, not a Message"
    except BaseException as error:
        reason = "".join(traceback.format_exception(error))
    return Message(Error(CLIENT_ERROR, reason), reply_to=private)


def _app(where: str) -> ClientApp:
    module, _, attribute = where.partition(":")
    app: ClientApp = getattr(importlib.import_module(module), attribute)
    return app


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(_ORPHANED)


# ------------------------------------------------------------------------------- in the parent


@dataclass(frozen=True, eq=False)
class SiteWorker:
    """A worker process, seen from its parent.

    Attributes:
        process: the process.
        pipe: to it.
        started: when its site in hand began, by the system's clock.
    """

    process: BaseProcess
    pipe: Connection
    started: Clock

    @property
    def epitaph(self) -> str:
        """How it ended, in words."""
        self.process.join(_END_WITHIN_S)
        return (
            f"the worker process ended with exit code {self.process.exitcode} "
            "(killed, or out of memory?)"
        )


@dataclass
class SiteWorkers:
    """Worker processes that are started once and serve one run after another.

    Args:
        size: how many.
    """

    size: int
    workers: list[SiteWorker] = field(default_factory=list)

    def start(self) -> None:
        """Start them.

        Raises:
            ConfigError: this process may not have processes of its own.
            ClientFailure: one of them ended at once.
        """
        if multiprocessing.current_process().daemon:
            raise ConfigError(
                "engine", "processes", "a process that may start others", "engine=inprocess"
            )
        # A fork would inherit torch's and the parent's threads half-dead.
        spawn = multiprocessing.get_context("spawn")
        for _ in range(self.size):
            ours, theirs = spawn.Pipe()
            clock: Any = spawn.Value("d", 0.0, lock=False)
            process: Any = spawn.Process(
                target=serve, args=(theirs, clock), name="fedprivacy-sites"
            )
            process.start()
            theirs.close()
            self.workers.append(SiteWorker(process, ours, clock))
        for worker in self.workers:
            try:
                worker.pipe.recv()  # what follows is timed
            except (EOFError, OSError) as error:
                raise ClientFailure(f"before the first round, {worker.epitaph}") from error

    @property
    def sound(self) -> bool:
        """Whether all are there."""
        return len(self.workers) == self.size and all(w.process.is_alive() for w in self.workers)

    def end(self) -> None:
        """End them, whatever they are doing."""
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.join(_END_WITHIN_S)
            worker.pipe.close()
        self.workers.clear()


_pool: SiteWorkers | None = None


def open_workers(size: int) -> SiteWorkers:
    """This process's workers: those of the run before, if they are as many and all there."""
    global _pool
    if _pool is None or _pool.size != size or not _pool.sound:
        close_workers()
        _pool = SiteWorkers(size)
        _pool.start()
    return _pool


def close_workers() -> None:
    """End this process's workers; a later run starts new ones."""
    global _pool
    if _pool is not None:
        _pool.end()
    _pool = None


atexit.register(close_workers)
