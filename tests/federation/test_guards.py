"""StrictGrid against grids that lose, repeat, shuffle and invent."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from flwr.app import Error, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedprivacy.errors import ClientFailure
from fedprivacy.federation.guards import StrictGrid
from fedprivacy.federation.messages import instruction, train_reply, trouble_reply

pytestmark = pytest.mark.usefixtures("identity")
NODES = (11, 12, 13)
Answers = Callable[[list[Message]], list[Message]]


class FakeGrid(Grid):
    """Answers as it is told."""

    def __init__(self, answer: Answers, nodes: Sequence[int] = NODES) -> None:
        self.answer, self.nodes, self.asked = answer, list(nodes), 0
        self.timeouts: list[float | None] = []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        self.timeouts.append(timeout)
        return self.answer(list(messages))

    def get_node_ids(self) -> Iterable[int]:
        self.asked += 1
        return self.nodes

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any: ...

    def create_message(self, *_: Any, **__: Any) -> Message:
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError


def sent() -> list[Message]:
    return [Message(instruction(torch.zeros(2), 1), n, MessageType.TRAIN) for n in NODES]


def sound(message: Message, partition: int | None = None) -> Message:
    """The reply of a site whose index goes down as the node ids go up."""
    index = 13 - message.metadata.dst_node_id if partition is None else partition
    return train_reply(
        message,
        partition=index,
        update=torch.zeros(2),
        num_examples=1,
        report={"status": "ok", "site": f"s{index}"},
    )


def exchange(answer: Answers) -> list[Message]:
    return StrictGrid(FakeGrid(answer), expect=3, timeout_s=5).send_and_receive(sent())


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_replies_come_in_the_order_of_the_sites(order: Sequence[int]) -> None:
    replies = exchange(lambda messages: [sound(messages[i]) for i in order])
    assert [r.metadata.src_node_id for r in replies] == [13, 12, 11]


@pytest.mark.parametrize("missing", [[], [0], [0, 1]])
def test_a_missing_reply_fails(missing: list[int]) -> None:
    with pytest.raises(ClientFailure, match=rf"{len(missing)} of 3 sites .* no answer from nodes"):
        exchange(lambda messages: [sound(messages[i]) for i in missing])


def test_a_node_that_answers_twice_does_not_stand_for_another() -> None:
    with pytest.raises(ClientFailure, match=r"no answer from nodes \[13\]"):
        exchange(lambda m: [sound(m[0]), sound(m[0], 1), sound(m[1], 0)])


def test_two_nodes_as_one_site_fail() -> None:
    with pytest.raises(ClientFailure, match=r"two nodes answered as one site: \[0, 1, 1\]"):
        exchange(lambda m: [sound(m[0], 1), sound(m[1], 1), sound(m[2], 0)])


@pytest.mark.parametrize("index", [-1, 3])
def test_an_index_beyond_the_federation_fails(index: int) -> None:
    with pytest.raises(ClientFailure, match=rf"node 12 .* index {index} of 3 sites"):
        exchange(lambda m: [sound(m[0]), sound(m[1], index), sound(m[2])])


def test_an_error_reply_carries_what_the_node_left() -> None:
    reason = "Traceback (most recent call last):\n  here\nValueError: lost a slice\n"

    def answer(messages: list[Message]) -> list[Message]:
        return [Message(Error(0, reason), reply_to=messages[0]), *map(sound, messages[1:])]

    with pytest.raises(ClientFailure) as caught:
        exchange(answer)
    assert caught.value.message == "node 11 failed: ValueError: lost a slice"
    assert caught.value.traceback_text == reason
    assert caught.value.site == "node 11"


def test_an_error_reply_without_a_reason_still_fails() -> None:
    with pytest.raises(ClientFailure, match="node 11 failed: error 3"):
        exchange(lambda m: [Message(Error(3), reply_to=m[0]), sound(m[1]), sound(m[2])])


@pytest.mark.parametrize("report", [{"status": "failed", "type": "OSError"}, {"status": "failed"}])
def test_a_failed_site_is_named_even_if_its_report_is_short(report: dict[str, str]) -> None:
    def answer(messages: list[Message]) -> list[Message]:
        bad = trouble_reply(messages[0], partition=2, report={**report, "site": "Guys"})
        return [bad, sound(messages[1]), sound(messages[2])]

    with pytest.raises(ClientFailure, match="site Guys raised") as caught:
        exchange(answer)
    assert caught.value.site == "Guys"


def test_a_reply_without_content_is_malformed() -> None:
    def answer(messages: list[Message]) -> list[Message]:
        return [Message(RecordDict(), reply_to=messages[0]), *map(sound, messages[1:])]

    with pytest.raises(ClientFailure, match="node 11 sent a malformed reply"):
        exchange(answer)


def test_it_waits_until_all_sites_are_there() -> None:
    class Slow(FakeGrid):
        def get_node_ids(self) -> Iterable[int]:
            self.asked += 1
            return reversed(self.nodes[: self.asked])

    inner = Slow(lambda messages: [])
    assert StrictGrid(inner, expect=3, timeout_s=5).wait_for_sites() == [11, 12, 13]
    assert inner.asked == 3


def test_fewer_sites_than_expected_fail_in_time() -> None:
    start = time.monotonic()
    with pytest.raises(ClientFailure, match=r"3 of 4 sites appeared within 0.2 s"):
        StrictGrid(FakeGrid(lambda m: []), expect=4, timeout_s=0.2).wait_for_sites()
    assert time.monotonic() - start < 5


def test_more_sites_than_expected_fail() -> None:
    with pytest.raises(ClientFailure, match="3 sites appeared, but the cell has 2"):
        StrictGrid(FakeGrid(lambda m: []), expect=2, timeout_s=1).wait_for_sites()


def test_nothing_to_send_asks_nobody_and_a_timeout_is_passed_on() -> None:
    inner = FakeGrid(lambda messages: [sound(m) for m in messages])
    grid = StrictGrid(inner, expect=3, timeout_s=5)
    assert grid.send_and_receive([]) == []
    grid.send_and_receive(sent())
    grid.send_and_receive(sent(), timeout=2)
    assert inner.timeouts == [5, 2]
