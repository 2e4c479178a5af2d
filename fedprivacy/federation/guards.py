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
from fedprivacy.federation.messages import PARTITION, read_report


class StrictGrid(Grid):
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
            ClientFailure: fewer than ``expect`` appeared in time.
        """
        deadline = time.monotonic() + self.timeout_s
        while len(nodes := sorted(self.inner.get_node_ids())) < self.expect:
            if time.monotonic() > deadline:
                raise ClientFailure(
                    f"{len(nodes)} of {self.expect} sites appeared within {self.timeout_s:g} s"
                )
            time.sleep(0.02)
        return nodes

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Exchange messages; replies come back in the order of the sites' indices.

        Raises:
            ClientFailure: a site raised, died, did not answer in time or sent nonsense; carries
                the site's own traceback where it left one.
        """
        sent = list(messages)
        if not sent:
            return []
        replies = list(self.inner.send_and_receive(sent, timeout=timeout or self.timeout_s))
        for reply in replies:
            _raise_if_failed(reply)
        asked = sorted(m.metadata.dst_node_id for m in sent)
        answered = sorted(m.metadata.src_node_id for m in replies)
        if asked != answered:
            missing = sorted(set(asked) - set(answered))
            raise ClientFailure(
                f"{len(answered)} of {len(asked)} sites answered within "
                f"{timeout or self.timeout_s:g} s; no answer from nodes {missing}"
            )
        indices = {id(reply): int(read_report(reply)[PARTITION]) for reply in replies}
        if len(set(indices.values())) != len(replies):
            raise ClientFailure(f"two nodes answered as one site: {sorted(indices.values())}")
        return sorted(replies, key=lambda reply: indices[id(reply)])

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
        return self.inner.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pass on."""
        return self.inner.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pass on."""
        return self.inner.pull_messages(message_ids)


def _raise_if_failed(reply: Message) -> None:
    node = reply.metadata.src_node_id
    if reply.has_error():
        raise ClientFailure(f"node {node} failed: {reply.error.reason}")
    report = read_report(reply)
    if report.get("status") == "failed":
        raise ClientFailure(
            f"site {report.get('site', node)} raised {report['type']}: {report['message']}",
            site=str(report.get("site", node)),
            traceback_text=str(report.get("traceback", "")),
        )
    if report.get("status") not in ("ok", "collapsed"):
        raise ClientFailure(f"node {node} sent a malformed reply: status {report.get('status')!r}")
