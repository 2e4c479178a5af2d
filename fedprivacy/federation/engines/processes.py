"""Sites side by side in worker processes: the engine for one large cell on several cores."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable
from multiprocessing.connection import wait

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import ServerApp

from fedprivacy.config.schema import EngineConf
from fedprivacy.federation.engines.base import RunConfig
from fedprivacy.federation.engines.local_grid import (
    CLIENT_ERROR,
    LocalGrid,
    running,
    server_context,
    task_identity,
)
from fedprivacy.federation.engines.site_worker import (
    Batch,
    Begin,
    SiteWorker,
    SiteWorkers,
    close_workers,
    open_workers,
)
from fedprivacy.federation.flower import quiet_flower

APP = "fedprivacy.federation.client_app:app"
_LONGEST_S = 1e6


class ProcessGrid(LocalGrid):
    """A Flower grid whose nodes live in worker processes, each node in one of them.

    Args:
        workers: who plays the sites.
        app: where the workers find the ClientApp, ``module:attribute``.
        sites: number of nodes.
        run_config: what the apps read their settings from.

    Attributes:
        lost: whether a worker died or did not answer in time; the workers must be replaced.
    """

    def __init__(self, workers: SiteWorkers, app: str, sites: int, run_config: RunConfig) -> None:
        super().__init__(sites, run_config)
        self._of_node: dict[int, SiteWorker] = dict(
            zip(self.contexts, itertools.cycle(workers.workers), strict=False)
        )
        for worker in workers.workers:
            own = {n: c for n, c in self.contexts.items() if self._of_node[n] is worker}
            worker.pipe.send(Begin(self._run.run_id, app, own))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Hand every worker the messages of its sites, and collect the replies.

        Args:
            messages: one for each site.
            timeout: seconds for each site by itself: waiting for its turn does not count.
        """
        if self.lost:
            return []
        asked: dict[SiteWorker, list[Message]] = {}
        for message in messages:
            self.stamp(message)
            worker = self._of_node[message.metadata.dst_node_id]
            asked.setdefault(worker, []).append(message)
        limit = _LONGEST_S if timeout is None else timeout
        try:
            for worker, own in asked.items():
                # One pickle: what the messages share, the global weights, travels once.
                worker.started.value = time.monotonic()
                worker.pipe.send(Batch(tuple(own)))
        except OSError:
            return [self._death(worker, own[0])]
        return self._collect(asked, limit)

    def _collect(self, asked: dict[SiteWorker, list[Message]], timeout: float) -> list[Message]:
        """All replies; those so far where a worker died or a site took too long."""
        replies: list[Message] = []
        waiting = {id(worker.pipe): worker for worker in asked}
        while waiting and not self.lost:
            deadline = min(worker.started.value for worker in waiting.values()) + timeout
            left = max(deadline - time.monotonic(), 0.0)
            ready = wait([worker.pipe for worker in waiting.values()], left)
            # Sites that began meanwhile have moved the deadline.
            moved = min(worker.started.value for worker in waiting.values()) + timeout > deadline
            self.lost = not ready and not moved
            for pipe in ready:
                worker = waiting.pop(id(pipe))
                try:
                    replies += worker.pipe.recv()
                except (EOFError, OSError):
                    return [*replies, self._death(worker, asked[worker][0])]
        return replies

    def _death(self, worker: SiteWorker, message: Message) -> Message:
        self.lost = True
        return Message(Error(CLIENT_ERROR, worker.epitaph), reply_to=message)


class ProcessEngine:
    """Runs the ServerApp here and the sites in worker processes, which stay for the next run.

    Args:
        server_app: instead of the package's own.
        client_app: instead of the package's own; ``module:attribute``, which workers import.
    """

    def __init__(self, server_app: ServerApp | None = None, client_app: str = APP) -> None:
        from fedprivacy.federation import server_app as server

        self.server_app, self.client_app = server_app or server.app, client_app

    def run(self, sites: int, run_config: RunConfig, conf: EngineConf) -> RecordDict:
        """See ``Engine.run``. Runs in other threads wait for their turn.

        Raises:
            ConfigError: this process may not have processes of its own.
        """
        with running():
            workers = open_workers(min(sites, conf.workers or os.cpu_count() or 1))
            grid = ProcessGrid(workers, self.client_app, sites, run_config)
            context = server_context(grid, run_config)
            try:
                with quiet_flower(), task_identity(grid.run.run_id):
                    self.server_app(grid, context)
            except BaseException:
                close_workers()  # replies may still be under way
                raise
            if grid.lost:
                close_workers()
            return context.state
