"""The strategy on crafted updates whose averages can be worked out by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import dp_accounting
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType

from fedprivacy.accounting.events import Event
from fedprivacy.config.schema import FederationConf
from fedprivacy.errors import ClientFailure, TrainingCollapsed
from fedprivacy.federation.messages import (
    decode_vector,
    instruction,
    read_instruction,
    train_reply,
    trouble_reply,
)
from fedprivacy.federation.server_app import scored_rounds
from fedprivacy.federation.strategy import RoundOutcome, SiteStrategy

pytestmark = pytest.mark.usefixtures("identity")
NODES, SITES = (11, 12, 13), ("a", "b", "c")


def strategy(
    initial: Sequence[float] = (0.0, 0.0), *, local: bool = False, listener: Any = None
) -> SiteStrategy:
    return SiteStrategy(
        NODES,
        SITES,
        torch.tensor(initial),
        rounds=2,
        scored=frozenset(),
        local=local,
        metric="accuracy",
        listener=listener,
    )


def event(site: str, number: int = 1) -> dict[str, Any]:
    return Event(
        number, site, "none", "record", "zero_out", "server_updates",
        dp_accounting.NonPrivateDpEvent(), protected=False,
    ).to_json()  # fmt: skip


def reply(
    index: int,
    update: Sequence[float],
    *,
    examples: int = 1,
    node: int | None = None,
    **report: Any,
) -> Message:
    message = Message(
        instruction(torch.zeros(2), 1), NODES[index] if node is None else node, MessageType.TRAIN
    )
    told = {"status": "ok", "site": SITES[index], "events": [event(SITES[index])], "steps": 1}
    return train_reply(
        message,
        partition=index,
        update=torch.tensor(update, dtype=torch.float32),
        num_examples=examples,
        report={**told, "noise_norm": 0.0, **report},
    )


def vector(server: SiteStrategy) -> list[float]:
    return decode_vector(server.final_arrays()["vector"]).tolist()


def test_updates_are_weighed_by_examples_and_added_to_the_weights() -> None:
    server = strategy((1.0, 2.0))
    server.aggregate_train(
        1,
        [
            reply(0, (4.0, 0.0), examples=1),
            reply(1, (0.0, 8.0), examples=2),
            reply(2, (8.0, 8.0), examples=1),
        ],
    )
    assert vector(server) == [1.0 + (4 + 8) / 4, 2.0 + (2 * 8 + 8) / 4]
    assert server.history[0].update_norm == pytest.approx(45**0.5)


def test_sums_are_taken_in_double_precision() -> None:
    """In float32 the small update would be lost between the two large ones."""
    server = strategy()
    big = 2.0**40
    server.aggregate_train(1, [reply(0, (big, 0)), reply(1, (3, 0)), reply(2, (-big, 0))])
    assert vector(server) == pytest.approx([1.0, 0.0], abs=1e-3)


def test_noise_and_loss_are_those_of_the_average() -> None:
    server = strategy()
    reports = [{"noise_norm": 3.0, "loss": 1.0}, {"noise_norm": 4.0, "loss": 2.0}]
    server.aggregate_train(
        1,
        [
            reply(0, (1, 1), examples=1, **reports[0]),
            reply(1, (1, 1), examples=1, **reports[1]),
            reply(2, (1, 1), examples=2, loss=3.0),
        ],
    )
    outcome = server.history[0]
    assert outcome.noise_norm == pytest.approx(5 / 4)
    assert outcome.loss == pytest.approx(2.0)


@pytest.mark.parametrize("told", [(3.0, 4.0, None), (None, None, None)])
def test_noise_that_a_site_keeps_to_itself_is_unknown(told: tuple[float | None, ...]) -> None:
    server = strategy()
    server.aggregate_train(1, [reply(i, (1, 1), noise_norm=n) for i, n in enumerate(told)])
    assert server.history[0].noise_norm is None
    assert server.history[0].update_norm == pytest.approx(2**0.5)


def test_a_malformed_update_fails_with_what_the_others_released() -> None:
    server = strategy()
    with pytest.raises(ClientFailure, match="malformed") as caught:
        server.aggregate_train(1, [reply(0, (1, 1)), reply(1, (1, 1, 1)), reply(2, (1, 1))])
    # The update of the wrong length was sent as well.
    assert [told["site"] for told in caught.value.released] == list(SITES)
    assert server.released == []


def test_a_loss_that_one_site_keeps_is_no_mean_over_the_others() -> None:
    server = strategy()
    server.aggregate_train(1, [reply(0, (1, 1), loss=1.0), reply(1, (1, 1)), reply(2, (1, 1))])
    assert server.history[0].loss is None


@pytest.mark.parametrize("bad", [(float("nan"), 0.0), (float("inf"), 0.0)])
@pytest.mark.parametrize("local", [False, True])
def test_a_non_finite_update_is_never_applied(bad: Sequence[float], local: bool) -> None:
    server = strategy((1.0, 2.0), local=local)
    with pytest.raises(TrainingCollapsed, match="round 1, site server"):
        server.aggregate_train(1, [reply(0, (1, 1)), reply(1, bad), reply(2, (1, 1))])
    assert all(decode_vector(a).tolist() == [1, 2] for a in server.final_arrays().values())
    assert len(server.released) == 3
    assert server.history == []


@pytest.mark.parametrize("local", [False, True])
def test_weights_that_overflow_are_never_sent(local: bool) -> None:
    """Every update is finite, and so is their mean; only the weights are not."""
    server = strategy((3e38, 0.0), local=local)
    with pytest.raises(TrainingCollapsed):
        server.aggregate_train(1, [reply(i, (1e38, 0)) for i in range(3)])
    messages = server.configure_train(2, ArrayRecord(), ConfigRecord(), None)  # type: ignore[arg-type]
    assert all(torch.isfinite(read_instruction(m)[0]).all() for m in messages)


def test_a_collapse_keeps_what_the_others_released() -> None:
    server = strategy()
    message = Message(instruction(torch.zeros(2), 1), 12, MessageType.TRAIN)
    news = {"status": "collapsed", "reason": "NaN", "site": "b", "events": [event("b")]}
    collapsed = trouble_reply(message, partition=1, report=news)
    with pytest.raises(TrainingCollapsed, match="round 1, site b: NaN"):
        server.aggregate_train(1, [reply(0, (1, 1)), collapsed, reply(2, (1, 1))])
    assert [entry.site for entry in server.released] == ["a", "b", "c"]
    assert vector(server) == [0, 0]


@pytest.mark.parametrize("nodes", list(itertools.permutations(NODES)))
def test_local_models_belong_to_sites_whatever_their_nodes(nodes: Sequence[int]) -> None:
    server = strategy((1.0, 0.0), local=True)
    for number in (1, 2):
        server.aggregate_train(
            number,
            [
                reply(i, (10.0 * i, 0), node=nodes[i], events=[event(SITES[i], number)])
                for i in range(3)
            ],
        )
    arrays = server.final_arrays()
    assert {k: decode_vector(a).tolist() for k, a in arrays.items()} == {
        "a": [1.0, 0.0],
        "b": [21.0, 0.0],
        "c": [41.0, 0.0],
    }
    assert list(arrays) == list(SITES)
    sent = server.configure_train(3, ArrayRecord(), ConfigRecord(), None)  # type: ignore[arg-type]
    by_node = {m.metadata.dst_node_id: read_instruction(m)[0][0].item() for m in sent}
    assert by_node == {nodes[0]: 1.0, nodes[1]: 21.0, nodes[2]: 41.0}


def test_the_listener_hears_of_every_round_once() -> None:
    heard: list[RoundOutcome] = []
    server = strategy(listener=heard.append)
    server.aggregate_train(1, [reply(i, (1, 1)) for i in range(3)])
    server.aggregate_evaluate(1, [])
    assert [entry.round for entry in heard] == [1]
    assert [entry.site for entry in heard[0].events] == list(SITES)


@pytest.mark.parametrize(
    ("every", "rounds", "scored"),
    [
        (1, 3, {1, 2, 3}),
        (2, 5, {2, 4, 5}),
        (2, 4, {2, 4}),
        (0, 4, {4}),
        (9, 4, {4}),
    ],
)
def test_which_rounds_are_scored(every: int, rounds: int, scored: set[int]) -> None:
    federation = FederationConf("fedavg", rounds, 1, 1, 0.1, "sgd", 0.0, evaluate_every=every)
    assert scored_rounds(federation) == scored
    assert scored_rounds(federation, evaluate=False) == set()


def test_scored_rounds_are_those_of_a_run(tiny: Callable[..., Any]) -> None:
    from fedprivacy.federation.run import run_federation

    config = tiny("federation.evaluate_every=2")
    outcome = run_federation(config)
    assert [entry.scores is not None for entry in outcome.history] == [False, True, True]
    assert outcome.history[-1].scores is not None
    assert outcome.history[-1].scores.standard_error is not None
    assert outcome.evaluate_s > 0
    bare = run_federation(config, evaluate=False)
    assert [entry.scores for entry in bare.history] == [None] * 3
    assert torch.equal(bare.weights["vector"], outcome.weights["vector"])
