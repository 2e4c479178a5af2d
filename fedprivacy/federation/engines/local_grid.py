"""What the engines of this machine share: a Flower grid without a runtime behind it."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedprivacy.federation.engines.base import RunConfig

FIRST_NODE, SERVER_NODE = 1001, 1
CLIENT_ERROR = 0
_run_ids = itertools.count(1)
# Flower's task identity and the runtime of a cell belong to the process: one run at a time.
_running = threading.RLock()


def running() -> AbstractContextManager[object]:
    """Hold the process for one run; others wait for their turn."""
    return _running


def site_contexts(run_id: int, sites: int, run_config: RunConfig) -> dict[int, Context]:
    """The state of each site at the beginning of a run, by node id."""
    return {
        FIRST_NODE + index: Context(
            run_id=run_id,
            node_id=FIRST_NODE + index,
            node_config={"partition-id": index, "num-partitions": sites},
            state=RecordDict(),
            run_config=dict(run_config),
        )
        for index in range(sites)
    }


class LocalGrid(Grid):  # type: ignore[misc]
    """A grid whose nodes are there from the start; how messages reach them is left open.

    Args:
        sites: number of nodes; their ids are 1001, 1002, ...
        run_config: what the apps read their settings from.

    Attributes:
        lost: whether a site did not answer in time. It may still be at work.
        contexts: state of each site, by node id.
    """

    def __init__(self, sites: int, run_config: RunConfig) -> None:
        self.lost = False
        self._run = Run.create_empty(run_id=next(_run_ids))
        self._ids = itertools.count(1)
        self._replies: dict[str, Message] = {}
        self.contexts = site_contexts(self._run.run_id, sites, run_config)

    def set_run(self, run: Run) -> None:
        """Adopt another run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run of this grid."""
        return self._run

    def get_node_ids(self) -> Iterable[int]:
        """All nodes: they are there from the start."""
        return list(self.contexts)

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

    def stamp(self, message: Message) -> None:
        """What Flower's runtime writes into a message that is sent."""
        message.metadata.__dict__["_run_id"] = self._run.run_id
        message.metadata.__dict__["_message_id"] = str(next(self._ids))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver now; the replies wait to be pulled."""
        delivered = self.send_and_receive(messages)
        self._replies.update((r.metadata.reply_to_message_id, r) for r in delivered)
        return [reply.metadata.reply_to_message_id for reply in delivered]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to the given messages that have not been pulled yet."""
        return [self._replies.pop(key) for key in message_ids if key in self._replies]


def server_context(grid: LocalGrid, run_config: RunConfig) -> Context:
    """The ServerApp's own state at the beginning of a run."""
    return Context(
        run_id=grid.run.run_id,
        node_id=SERVER_NODE,
        node_config={},
        state=RecordDict(),
        run_config=dict(run_config),
    )


def private_copy(message: Message) -> Message:
    """The message with records of its own; what they hold and cannot be changed stays shared.

    Messages of a round share their records; without a copy a site could see another's.
    """
    content = message.content
    private = content.copy()
    for key, record in content.items():
        own = record.copy()
        for name, value in record.items():
            if isinstance(record, ArrayRecord) or isinstance(value, list):
                own[name] = copy.copy(value)
        private[key] = own
    return Message(private, metadata=message.metadata)


@contextmanager
def task_identity(run_id: int) -> Iterator[None]:
    """Give this process the identity that Flower's messages ask for, and take it back."""
    saved: dict[str, Any] = {
        name: getattr(TaskIdentity, name) for name in ("_task_id", "_run_id", "_node_id")
    }
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run_id, SERVER_NODE
    try:
        yield
    finally:
        for name, value in saved.items():
            setattr(TaskIdentity, name, value)
