"""The default engine: Flower's apps in this process, through Flower's public Grid interface.

No polling and no serialisation beyond the vectors themselves. Sites run one after another in one
worker thread, so that a site that hangs can be given up on.
"""

from __future__ import annotations

import ctypes
import functools
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from flwr.app import Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedprivacy.config.schema import EngineConf
from fedprivacy.federation.engines.base import RunConfig
from fedprivacy.federation.engines.local_grid import (
    CLIENT_ERROR,
    LocalGrid,
    private_copy,
    running,
    server_context,
    task_identity,
)
from fedprivacy.federation.flower import quiet_flower
from fedprivacy.federation.site import close_runtime
from fedprivacy.threads import SITE_THREAD

_STOP_WITHIN_S = 2.0


class _Stop:
    """Tells the site thread to end."""


class _Abandoned(BaseException):
    """Raised in the middle of a site's work that nobody waits for any more."""


class _Batch:
    """Work for the site thread, handed over at once: a handoff for each piece costs more than some.

    Attributes:
        answers: what the pieces that are done returned, or the exception that escaped from them.
        began: when the piece in hand began.
        ended: set when nothing is left to do.
        given_up: that nobody waits any more; what is left is not begun.
    """

    def __init__(self, tasks: Sequence[Callable[[], Any]]) -> None:
        self._tasks = tasks
        self.answers: list[Any] = []
        self.began = time.monotonic()
        self.ended = threading.Event()
        self.given_up = False
        # A piece that ends just when nobody waits any more must not let the next one begin.
        self._turn = threading.Lock()

    def work(self) -> None:
        """Do everything, one after another."""
        for task in self._tasks:
            with self._turn:
                if self.given_up:
                    break
                self.began = time.monotonic()
            try:
                self.answers.append(task())
            except _Abandoned:
                raise
            except BaseException as error:
                self.answers.append(error)
        self.ended.set()

    def wait(self, timeout: float) -> bool:
        """Whether all of it ended, each piece within ``timeout`` seconds from its own beginning."""
        left = timeout
        while not self.ended.wait(min(left, threading.TIMEOUT_MAX)):
            with self._turn:
                left = self.began + timeout - time.monotonic()
                if left <= 0:
                    self.given_up = True
                    return self.ended.is_set()
        return True


class SiteThread:
    """Does the sites' work in a thread of its own, one piece after another."""

    def __init__(self) -> None:
        self._batches: queue.SimpleQueue[_Batch | _Stop] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=SITE_THREAD, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            while not isinstance(batch := self._batches.get(), _Stop):
                batch.work()
        except _Abandoned:
            return

    def run(self, tasks: Sequence[Callable[[], Any]], timeout: float) -> list[Any]:
        """What the tasks return in the thread, or the exceptions that escaped from them.

        Fewer answers than tasks mean that the next one did not end in time: the thread is lost.

        Args:
            tasks: done in this order.
            timeout: seconds for each by itself, from its own beginning.
        """
        batch = _Batch(tasks)
        self._batches.put(batch)
        whole = batch.wait(timeout)
        return batch.answers if whole else batch.answers[: len(tasks) - 1]

    def stop(self) -> None:
        """Let the thread end; one that hangs is left behind as a daemon."""
        self._batches.put(_Stop())

    def abandon(self, wait_s: float) -> None:
        """Break off the work in hand, for which nobody waits any more.

        The thread notices between two of its bytecodes, so a call into torch is finished first.

        Args:
            wait_s: how long to wait for its end; what is inside a longer call stays a daemon.
        """
        self.stop()
        identity = self._thread.ident
        if identity is not None and self._thread.is_alive():
            raised = ctypes.py_object(_Abandoned)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(identity), raised)
        self._thread.join(wait_s)


class InProcessGrid(LocalGrid):
    """A Flower grid whose nodes are calls of the ClientApp.

    Args:
        client_app: the sites' app.
        sites: number of nodes; their ids are 1001, 1002, ...
        run_config: what the apps read their settings from.

    Attributes:
        lost: whether a site did not answer in time. It may still be at work.
    """

    def __init__(self, client_app: ClientApp, sites: int, run_config: RunConfig) -> None:
        super().__init__(sites, run_config)
        self._client_app = client_app
        self._thread = SiteThread()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Call the app for each message; stop at the first site that exceeds the time.

        Args:
            messages: one for each site.
            timeout: seconds for each site by itself: waiting for its turn does not count, as it
                would not where sites work side by side.
        """
        if self.lost:
            return []
        sent = list(messages)
        for message in sent:
            self.stamp(message)
        tasks = [functools.partial(self._deliver, message) for message in sent]
        replies = self._thread.run(tasks, waiting_limit(timeout))
        self.lost = len(replies) < len(sent)
        return replies

    def _deliver(self, message: Message) -> Message:
        """The app's reply; an error reply where it raised. Runs in the site thread."""
        private = private_copy(message)
        try:
            answer = self._client_app(private, self.contexts[message.metadata.dst_node_id])
        except _Abandoned:
            raise
        except BaseException as error:
            # SystemExit included: a site that exits must not take the whole program with it.
            reason = "".join(traceback.format_exception(error))
            return Message(Error(CLIENT_ERROR, reason), reply_to=private)
        if isinstance(answer, Message):
            return answer
        reason = f"the app returned {type(answer).__name__}, not a Message"
        return Message(Error(CLIENT_ERROR, reason), reply_to=private)

    def close(self) -> None:
        """End the site thread."""
        self._thread.stop()

    def abandon(self) -> None:
        """End the site thread in the middle of its work, if that is possible in a short time."""
        self._thread.abandon(_STOP_WITHIN_S)


def waiting_limit(timeout: float | None, sites: int = 1) -> float:
    """Seconds that some sites' work may take, within what a thread can wait.

    Args:
        timeout: seconds for each site; None: no limit.
        sites: how many work.
    """
    limit = threading.TIMEOUT_MAX if timeout is None else timeout * sites
    return min(limit, threading.TIMEOUT_MAX)


class InProcessEngine:
    """Runs a cell's apps in this process.

    Args:
        server_app: instead of the package's own.
        client_app: instead of the package's own.
    """

    def __init__(
        self, server_app: ServerApp | None = None, client_app: ClientApp | None = None
    ) -> None:
        from fedprivacy.federation import client_app as sites
        from fedprivacy.federation import server_app as server

        self.server_app = server_app or server.app
        self.client_app = client_app or sites.app

    def make_grid(self, sites: int, run_config: RunConfig) -> InProcessGrid:
        """What delivers the messages of one run."""
        return InProcessGrid(self.client_app, sites, run_config)

    def run(self, sites: int, run_config: RunConfig, conf: EngineConf) -> RecordDict:
        """See ``Engine.run``. Runs in other threads wait for their turn."""
        with running():
            grid = self.make_grid(sites, run_config)
            context = server_context(grid, run_config)
            try:
                with quiet_flower(), task_identity(grid.run.run_id):
                    self.server_app(grid, context)
            except (KeyboardInterrupt, SystemExit):
                # A thread inside torch while Python shuts down aborts the whole process.
                grid.abandon()
                close_runtime()
                raise
            finally:
                grid.close()
                if grid.lost:
                    # The lost site may still write to the model it was given.
                    close_runtime()
            return context.state
