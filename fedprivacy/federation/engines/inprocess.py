"""The default engine: Flower's apps in this process, through Flower's public Grid interface.

No polling and no serialisation beyond the vectors themselves. Sites run one after another in one
worker thread, so that a site that hangs can be given up on.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedprivacy.config.schema import EngineConf
from fedprivacy.federation.engines.base import RunConfig
from fedprivacy.federation.flower import quiet_flower

FIRST_NODE = 1001
_SERVER_NODE = 1
_CLIENT_ERROR = 0
_run_ids = itertools.count(1)


class _Stop:
    """Tells the site thread to end."""


class SiteThread:
    """Runs the ClientApp in a thread of its own, one message at a time."""

    def __init__(self, client_app: ClientApp) -> None:
        self._app = client_app
        self._tasks: queue.SimpleQueue[tuple[Message, Context] | _Stop] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Message | BaseException] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="fedprivacy-sites", daemon=True).start()

    def _work(self) -> None:
        while not isinstance(task := self._tasks.get(), _Stop):
            try:
                self._done.put(self._app(*task))
            except BaseException as error:
                self._done.put(error)

    def call(self, message: Message, context: Context, timeout: float) -> Message | BaseException:
        """The reply, or the exception that escaped from the app.

        Raises:
            queue.Empty: no answer in time; the thread is then lost.
        """
        self._tasks.put((message, context))
        return self._done.get(timeout=timeout)

    def stop(self) -> None:
        """Let the thread end; one that hangs is left behind as a daemon."""
        self._tasks.put(_Stop())


class InProcessGrid(Grid):
    """A Flower grid whose nodes are calls of the ClientApp.

    Args:
        client_app: the sites' app.
        sites: number of nodes; their ids are 1001, 1002, ...
        run_config: what the apps read their settings from.
    """

    def __init__(self, client_app: ClientApp, sites: int, run_config: RunConfig) -> None:
        self._run = Run.create_empty(run_id=next(_run_ids))
        self._ids = itertools.count(1)
        self._replies: dict[str, Message] = {}
        self._thread = SiteThread(client_app)
        self._contexts = {
            FIRST_NODE + index: Context(
                run_id=self._run.run_id,
                node_id=FIRST_NODE + index,
                node_config={"partition-id": index, "num-partitions": sites},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for index in range(sites)
        }

    def set_run(self, run: Run) -> None:
        """Adopt another run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run of this grid."""
        return self._run

    def get_node_ids(self) -> Iterable[int]:
        """All nodes: they are there from the start."""
        return list(self._contexts)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message of this run."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Call the app for each message; stop at the first one that exceeds the time left."""
        deadline = time.monotonic() + (timeout if timeout is not None else threading.TIMEOUT_MAX)
        replies = []
        for message in messages:
            reply = self._deliver(message, deadline)
            if reply is None:
                break
            replies.append(reply)
        return replies

    def _deliver(self, message: Message, deadline: float) -> Message | None:
        metadata = message.metadata
        metadata.__dict__["_run_id"] = self._run.run_id
        metadata.__dict__["_message_id"] = str(next(self._ids))
        context = self._contexts[metadata.dst_node_id]
        # Messages of a round share their records; without a copy a site could see another's.
        private = Message(_copied(message.content), metadata=metadata)  # type: ignore[call-overload]
        left = max(0.0, min(deadline - time.monotonic(), threading.TIMEOUT_MAX))
        try:
            answer = self._thread.call(private, context, left)
        except queue.Empty:
            return None
        if isinstance(answer, Exception):
            return Message(Error(_CLIENT_ERROR, repr(answer)), reply_to=private)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver now; the replies wait to be pulled."""
        delivered = self.send_and_receive(messages)
        self._replies.update((r.metadata.reply_to_message_id, r) for r in delivered)
        return [reply.metadata.reply_to_message_id for reply in delivered]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to the given messages that have not been pulled yet."""
        return [self._replies.pop(key) for key in message_ids if key in self._replies]

    def close(self) -> None:
        """End the site thread."""
        self._thread.stop()


def _copied(content: RecordDict) -> RecordDict:
    return RecordDict({key: type(record)(dict(record)) for key, record in content.items()})


@contextmanager
def task_identity(run_id: int) -> Iterator[None]:
    """Give this process the identity that Flower's messages ask for, and take it back."""
    saved: dict[str, Any] = {
        name: getattr(TaskIdentity, name) for name in ("_task_id", "_run_id", "_node_id")
    }
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run_id, _SERVER_NODE
    try:
        yield
    finally:
        for name, value in saved.items():
            setattr(TaskIdentity, name, value)


class InProcessEngine:
    """Runs a cell's apps in this process."""

    def __init__(
        self, server_app: ServerApp | None = None, client_app: ClientApp | None = None
    ) -> None:
        from fedprivacy.federation import client_app as sites
        from fedprivacy.federation import server_app as server

        self.server_app = server_app or server.app
        self.client_app = client_app or sites.app

    def run(self, sites: int, run_config: RunConfig, conf: EngineConf) -> RecordDict:
        """See ``Engine.run``."""
        grid = InProcessGrid(self.client_app, sites, run_config)
        context = Context(
            run_id=grid.run.run_id,
            node_id=_SERVER_NODE,
            node_config={},
            state=RecordDict(),
            run_config=dict(run_config),
        )
        try:
            with quiet_flower(), task_identity(grid.run.run_id):
                self.server_app(grid, context)
        finally:
            grid.close()
        return context.state
