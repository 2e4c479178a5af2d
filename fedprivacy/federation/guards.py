"""Guards around any Flower grid: a cell never goes on with fewer sites than it was asked for.

Stock FedAvg averages over whoever answered, and samples round 1 from the nodes that happen to be
registered. Both would make a cell's score and its ledger speak of different federations.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedprivacy.errors import ClientFailure
from fedprivacy.federation.answers import read_report, told_events
from fedprivacy.federation.messages import PARTITION


class StrictGrid(Grid):  # type: ignore[misc]
    """A grid on which every site must answer every message, soundly and in time.

    Args:
        inner: the grid that really sends.
        expect: number of sites.
        timeout_s: time for one exchange, and for the sites to appear.
    """

    def __init__(self, inner: Grid, expect: int, timeout_s: float) -> None:
        self.inner, self.expect, self.timeout_s = inner, expect, timeout_s

    def wait_for_sites(self) -> list[int]:
        """Node ids once all sites are registered.

        Raises:
            ClientFailure: fewer than ``expect`` appeared in time, or more did.
        """
        deadline = time.monotonic() + self.timeout_s
        while len(nodes := sorted(self.inner.get_node_ids())) < self.expect:
            if time.monotonic() > deadline:
                raise ClientFailure(
                    f"{len(nodes)} of {self.expect} sites appeared within {self.timeout_s:g} s"
                )
            time.sleep(0.02)
        if len(nodes) > self.expect:
            raise ClientFailure(f"{len(nodes)} sites appeared, but the cell has {self.expect}")
        return nodes

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Exchange messages; replies come back in the order of the sites' indices.

        Raises:
            ClientFailure: a site raised, died, did not answer in time or sent nonsense; carries
                the site's own traceback where it left one, and what the others released.
        """
        sent = list(messages)
        if not sent:
            return []
        limit = self.timeout_s if timeout is None else timeout
        replies = list(self.inner.send_and_receive(sent, timeout=limit))
        try:
            return self._complete(sent, replies, limit)
        except ClientFailure as failure:
            failure.released = told_events(replies)
            raise

    def _complete(self, sent: list[Message], replies: list[Message], limit: float) -> list[Message]:
        """The replies in the order of the sites' indices, one to each message."""
        indices = {id(reply): self._index(reply) for reply in replies}
        asked = sorted(m.metadata.dst_node_id for m in sent)
        answered = sorted(m.metadata.src_node_id for m in replies)
        if asked != answered:
            missing = sorted(set(asked) - set(answered))
            raise ClientFailure(
                f"{len(set(answered))} of {len(asked)} sites answered within {limit:g} s; "
                f"no answer from nodes {missing}"
            )
        if len(set(indices.values())) != len(replies):
            raise ClientFailure(f"two nodes answered as one site: {sorted(indices.values())}")
        return sorted(replies, key=lambda reply: indices[id(reply)])

    def _index(self, reply: Message) -> int:
        """Index of the site that sent a sound reply."""
        node = f"node {reply.metadata.src_node_id}"
        if reply.has_error():
            raise ClientFailure(f"{node} failed: {_last_line(reply)}", node, reply.error.reason)
        report = read_report(reply)
        site, status = str(report.get("site", node)), report.get("status")
        if status == "failed":
            raise ClientFailure(
                f"site {site} raised {report.get('type')}: {report.get('message')}",
                site=site,
                traceback_text=str(report.get("traceback", "")),
            )
        index = int(report[PARTITION])
        if status not in ("ok", "collapsed") or not 0 <= index < self.expect:
            raise ClientFailure(
                f"{node} sent a malformed reply: status {status!r}, index {index} of "
                f"{self.expect} sites",
                node,
            )
        return index

    def set_run(self, run: Run) -> None:
        """Pass on."""
        self.inner.set_run(run)

    @property
    def run(self) -> Run:
        """Pass on."""
        return self.inner.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Pass on."""
        return self.inner.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Pass on."""
        nodes: Iterable[int] = self.inner.get_node_ids()
        return nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pass on."""
        ids: Iterable[str] = self.inner.push_messages(messages)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pass on."""
        replies: Iterable[Message] = self.inner.pull_messages(message_ids)
        return replies


def _last_line(reply: Message) -> str:
    lines = (reply.error.reason or "").strip().splitlines()
    return lines[-1].strip() if lines else f"error {reply.error.code}"
