"""The engine that trains all sites of a round at once before they are asked for their updates."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import Message, MessageType

from fedprivacy.federation.engines.base import RunConfig
from fedprivacy.federation.engines.inprocess import (
    InProcessEngine,
    InProcessGrid,
    waiting_limit,
)
from fedprivacy.federation.messages import CELL
from fedprivacy.federation.stacked_round import prepare_round


class StackedGrid(InProcessGrid):
    """The in-process grid; what sites would do one after another is done before, in one stack.

    The sites' app then runs for every message as ever: it finds its training done, protects the
    update and answers. What cannot be stacked it trains by itself.
    """

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """See ``InProcessGrid.send_and_receive``; the stack may take all its sites' time."""
        sent = list(messages)
        training = [
            (int(self.contexts[m.metadata.dst_node_id].node_config["partition-id"]), m)
            for m in sent
            if m.metadata.message_type == MessageType.TRAIN
        ]
        if training and not self.lost:
            cell = str(self.contexts[sent[0].metadata.dst_node_id].run_config[CELL])
            limit = waiting_limit(timeout, len(training))
            done = self._thread.run([lambda: prepare_round(cell, training)], limit)
            self.lost = not done
        return super().send_and_receive(sent, timeout=timeout)


class StackedEngine(InProcessEngine):
    """Runs a cell's apps in this process, their training stacked."""

    def make_grid(self, sites: int, run_config: RunConfig) -> InProcessGrid:
        """See ``InProcessEngine.make_grid``."""
        return StackedGrid(self.client_app, sites, run_config)
