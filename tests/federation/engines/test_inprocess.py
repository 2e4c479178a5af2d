"""The default engine with sites that raise, lie, hang, exit and pry."""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedprivacy.config.schema import CellConfig
from fedprivacy.config.serialization import dumps
from fedprivacy.errors import ClientFailure
from fedprivacy.federation.client_app import guarded, train_site
from fedprivacy.federation.engines import inprocess
from fedprivacy.federation.engines.inprocess import InProcessEngine, InProcessGrid
from fedprivacy.federation.messages import CELL, SITES
from fedprivacy.federation.run import FederationOutcome, run_federation
from fedprivacy.federation.site import CellRuntime, open_runtime

Tiny = Callable[..., CellConfig]
Sites = Callable[..., ClientApp]
Digest = Callable[[FederationOutcome], str]
HONEST = guarded(train_site)


def partition_of(context: Context) -> int:
    return int(context.node_config["partition-id"])


def run_with(config: CellConfig, app: ClientApp) -> FederationOutcome:
    return run_federation(config, engine=InProcessEngine(client_app=app))


# ------------------------------------------------------------------ a site that raises


def test_a_site_that_raises_fails_the_run_with_its_own_traceback(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = CellRuntime.train

    def torn_volume(
        runtime: CellRuntime, partition: int, number: int, weights: Any, *more: Any, **named: Any
    ) -> Any:
        if (partition, number) == (1, 2):
            raise RuntimeError("volume 7 is torn")
        return honest(runtime, partition, number, weights, *more, **named)

    monkeypatch.setattr(CellRuntime, "train", torn_volume)
    with pytest.raises(ClientFailure) as caught:
        run_federation(tiny())
    assert caught.value.message == "site site-2 raised RuntimeError: volume 7 is torn"
    assert caught.value.site == "site-2"
    assert "in torn_volume" in caught.value.traceback_text


@pytest.mark.parametrize("error", [ValueError("no such file"), SystemExit(3)])
def test_what_escapes_from_an_app_fails_the_run_and_nothing_else(
    tiny: Tiny, sites: Sites, error: BaseException
) -> None:
    def escaping(message: Message, context: Context) -> Message:
        if partition_of(context) == 2:
            raise error
        return HONEST(message, context)

    with pytest.raises(ClientFailure, match="node 1003 failed") as caught:
        run_with(tiny(), sites(escaping))
    assert "in escaping" in caught.value.traceback_text
    assert type(error).__name__ in caught.value.message


def test_a_site_that_cannot_open_the_cell_fails_the_run(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedprivacy.federation import client_app

    def unreadable(cell: str) -> CellRuntime:
        raise OSError("the disk is gone")

    monkeypatch.setattr(client_app, "open_runtime", unreadable)
    with pytest.raises(ClientFailure, match="site partition 0 raised OSError: the disk is gone"):
        run_federation(tiny())


def test_a_site_that_cannot_evaluate_fails_the_run(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(runtime: CellRuntime, partition: int, weights: torch.Tensor) -> Any:
        raise KeyError("label")

    monkeypatch.setattr(CellRuntime, "evaluate", broken)
    with pytest.raises(ClientFailure, match="site site-1 raised KeyError: 'label'"):
        run_federation(tiny())


# ------------------------------------------------------------------ a malformed reply


def _report(reply: Message, **changes: Any) -> None:
    report = json.loads(str(reply.content["report"]["json"]))
    report.update(changes)
    kept = {key: value for key, value in report.items() if value is not ...}
    reply.content["report"] = ConfigRecord({"json": json.dumps(kept)})


def _raw(reply: Message, text: str) -> None:
    reply.content["report"] = ConfigRecord({"json": text})


def _metrics(reply: Message, **changes: Any) -> None:
    reply.content["metrics"] = MetricRecord({"num-examples": 5, "partition": 1, **changes})


def _vector(reply: Message, vector: Array) -> None:
    reply.content["arrays"] = ArrayRecord({"vector": vector})


def _event(reply: Message, **changes: Any) -> None:
    report = json.loads(str(reply.content["report"]["json"]))
    _report(reply, events=[{**report["events"][0], **changes}])


RAW = "raw/float32-le"
MALFORMED: dict[str, Callable[[Message], None]] = {
    "no arrays": lambda r: r.content.pop("arrays"),
    "no metrics": lambda r: r.content.pop("metrics"),
    "no report": lambda r: r.content.pop("report"),
    "arrays without the vector": lambda r: r.content.update(arrays=ArrayRecord()),
    "a report that is an array record": lambda r: r.content.update(report=ArrayRecord()),
    "a short vector": lambda r: _vector(r, Array("float32", (2,), RAW, b"\0" * 8)),
    "a vector of doubles": lambda r: _vector(r, Array("float64", (2,), RAW, b"\0" * 16)),
    "a vector in another format": lambda r: _vector(r, Array(torch.zeros(2111).numpy())),
    "a cut vector": lambda r: _vector(r, Array("float32", (6209,), RAW, b"\0" * 9)),
    "garbage for JSON": lambda r: _raw(r, '{"status": "ok"'),
    "a list for JSON": lambda r: _raw(r, "[]"),
    "a number for JSON": lambda r: _raw(r, "3"),
    "NaN in JSON": lambda r: _raw(r, '{"status": "ok", "loss": NaN}'),
    "JSON too deep": lambda r: _raw(r, "[" * 100_000),
    "an unknown status": lambda r: _report(r, status="splendid"),
    "no status": lambda r: _report(r, status=...),
    "a fractional index": lambda r: _metrics(r, partition=1.0),
    "an index far away": lambda r: _metrics(r, partition=99),
    "no examples": lambda r: _metrics(r, **{"num-examples": 0}),
    "infinitely many examples": lambda r: _metrics(r, **{"num-examples": float("inf")}),
    "NaN examples": lambda r: _metrics(r, **{"num-examples": float("nan")}),
    "no event": lambda r: _report(r, events=...),
    "an empty list of events": lambda r: _report(r, events=[]),
    "an event of another round": lambda r: _event(r, round=9),
    "another site's event": lambda r: _event(r, site="site-1"),
    "an unknown release": lambda r: _event(r, dp_event={"kind": "Magic"}),
    "no steps": lambda r: _report(r, steps=...),
    "steps in words": lambda r: _report(r, steps="many"),
    "a loss beyond all numbers": lambda r: _raw(
        r, str(r.content["report"]["json"]).replace('"loss": ', '"loss": 1e999, "was": ')
    ),
    "negative noise": lambda r: _report(r, noise_norm=-1),
}  # fmt: skip


@pytest.mark.parametrize("fault", MALFORMED)
def test_a_malformed_reply_fails_the_run(tiny: Tiny, sites: Sites, fault: str) -> None:
    def tampering(message: Message, context: Context) -> Message:
        reply = HONEST(message, context)
        if partition_of(context) == 1:
            MALFORMED[fault](reply)
        return reply

    with pytest.raises(ClientFailure, match="node 1002 sent a malformed reply"):
        run_with(tiny("federation.rounds=1"), sites(tampering))


def test_a_reply_that_is_not_a_message_fails_the_run(tiny: Tiny, sites: Sites) -> None:
    with pytest.raises(ClientFailure, match="node 1001 failed: the app returned NoneType"):
        run_with(tiny(), sites(lambda message, context: None))


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"evidence": Array("float32", (2, 1), RAW, b"\0" * 8)},
        {
            "evidence": Array("float32", (2, 1), RAW, b"\0" * 8),
            "labels": Array("float32", (2, 1), RAW, b"\0" * 8),
        },
    ],
    ids=["nothing", "no labels", "too few rows"],
)
def test_a_malformed_evaluation_fails_the_run(
    tiny: Tiny, sites: Sites, arrays: dict[str, Array]
) -> None:
    from fedprivacy.federation.client_app import evaluate_site

    honest = guarded(evaluate_site)

    def tampering(message: Message, context: Context) -> Message:
        reply = honest(message, context)
        if partition_of(context) == 1:
            reply.content["arrays"] = ArrayRecord(arrays)
        return reply

    with pytest.raises(ClientFailure, match="node 1002 sent a malformed reply"):
        run_with(tiny("federation.rounds=1"), sites(evaluate=tampering))


def test_two_nodes_that_answer_as_one_site_fail_the_run(tiny: Tiny, sites: Sites) -> None:
    def impostor(message: Message, context: Context) -> Message:
        context.node_config["partition-id"] = max(1, partition_of(context))
        return HONEST(message, context)

    with pytest.raises(ClientFailure, match=r"two nodes answered as one site: \[1, 1, 2\]"):
        run_with(tiny(), sites(impostor))


# ------------------------------------------------------------------ a site that does not answer


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Opened at the end of the test, so that no lost site outlives it."""
    event = threading.Event()
    yield event
    event.set()


def test_a_site_that_hangs_fails_the_run_in_time(
    tiny: Tiny, sites: Sites, digest: Digest, gate: threading.Event
) -> None:
    config = tiny("engine.timeout_s=1")
    honest = digest(run_federation(config))
    before = open_runtime(dumps(config))
    finished = threading.Event()

    def hanging(message: Message, context: Context) -> Message:
        reply = HONEST(message, context)
        if partition_of(context) == 1:
            gate.wait()
            before.parameters.flat.fill_(float("nan"))
            finished.set()
        return reply

    start = time.monotonic()
    with pytest.raises(ClientFailure, match=r"1 of 3 sites .* no answer from nodes \[1002, 1003\]"):
        run_with(config, sites(hanging))
    assert time.monotonic() - start < 20

    # The same cell, run again while the lost site comes back and writes to the model it had.
    assert open_runtime(dumps(config)) is not before
    gate.set()
    assert finished.wait(20)
    assert digest(run_federation(config)) == honest


def test_each_site_has_the_time_for_itself(tiny: Tiny, sites: Sites) -> None:
    def slow(message: Message, context: Context) -> Message:
        time.sleep(0.5)
        return HONEST(message, context)

    config = tiny("engine.timeout_s=1.2", "federation.rounds=1")
    assert len(run_with(config, sites(slow)).history) == 1


def test_a_grid_that_lost_a_site_delivers_nothing_more(gate: threading.Event) -> None:
    app = ClientApp()

    @app.train()
    def late(message: Message, context: Context) -> Message:
        gate.wait()
        return Message(RecordDict(), reply_to=message)

    grid = InProcessGrid(app, 1, {})
    with inprocess.task_identity(1):
        assert grid.send_and_receive([_message(1001)], timeout=0.05) == []
        gate.set()
        # Its late answer must not be taken for the answer to another message.
        assert grid.send_and_receive([_message(1001)], timeout=5) == []
    grid.close()


def test_a_site_that_hangs_takes_what_follows_with_it_and_nothing_before(
    gate: threading.Event,
) -> None:
    app, seen = ClientApp(), []

    @app.train()
    def answer(message: Message, context: Context) -> Message:
        seen.append(message.metadata.dst_node_id)
        if message.metadata.dst_node_id == 1003:
            gate.wait()
        else:
            time.sleep(0.12)  # five of them take longer than one may
        return Message(RecordDict(), reply_to=message)

    grid = InProcessGrid(app, 6, {})
    nodes = [1001, 1002, 1004, 1005, 1006, 1003]
    with inprocess.task_identity(1):
        replies = grid.send_and_receive([_message(node) for node in nodes], timeout=0.4)
    assert [reply.metadata.src_node_id for reply in replies] == nodes[:5]
    assert grid.lost
    gate.set()
    grid.close()

    seen.clear()
    gate.clear()
    grid = InProcessGrid(app, 4, {})
    with inprocess.task_identity(1):
        replies = grid.send_and_receive([_message(1000 + n) for n in (1, 3, 2, 4)], timeout=0.4)
        gate.set()
        assert [reply.metadata.src_node_id for reply in replies] == [1001]
    grid.abandon()
    assert seen == [1001, 1003]


def _message(node: int, content: RecordDict | None = None) -> Message:
    return Message(content or RecordDict(), dst_node_id=node, message_type=MessageType.TRAIN)


# ------------------------------------------------------------------ all sites, from round 1 on


def test_fewer_nodes_than_sites_fail_the_run(tiny: Tiny) -> None:
    config = tiny("engine.timeout_s=0.2")
    with pytest.raises(ClientFailure, match=r"2 of 3 sites appeared within 0\.2 s"):
        InProcessEngine().run(2, {CELL: dumps(config), SITES: 3}, config.engine)


def test_round_1_waits_for_all_sites(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gathering(InProcessGrid):
        asked = 0

        def get_node_ids(self) -> list[int]:
            Gathering.asked += 1
            return list(super().get_node_ids())[: Gathering.asked]

    monkeypatch.setattr(inprocess, "InProcessGrid", Gathering)
    outcome = run_federation(tiny())
    assert Gathering.asked == 3
    per_round = [{e.site for e in outcome.events if e.round == number} for number in (1, 2, 3)]
    assert per_round == [{"site-1", "site-2", "site-3"}] * 3


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("federation", ["fedavg", "local"])
def test_nothing_depends_on_the_order_of_arrival(
    tiny: Tiny,
    digest: Digest,
    monkeypatch: pytest.MonkeyPatch,
    order: tuple[int, ...],
    federation: str,
) -> None:
    config = tiny(f"federation={federation}")
    usual = run_federation(config)

    class Shuffled(InProcessGrid):
        """Node ids, calls and replies in another order than the sites'."""

        def get_node_ids(self) -> list[int]:
            nodes = list(super().get_node_ids())
            return [nodes[i] for i in order]

        def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
            sent = list(messages)
            replies = super().send_and_receive([sent[i] for i in order], timeout=timeout)
            return replies[::-1]

    monkeypatch.setattr(inprocess, "InProcessGrid", Shuffled)
    shuffled = run_federation(config)
    assert digest(shuffled) == digest(usual)
    assert list(shuffled.weights) == list(usual.weights)
    assert shuffled.events == usual.events
    assert shuffled.history == usual.history


# ------------------------------------------------------------------ sites cannot see each other


def test_what_a_site_writes_into_its_message_stays_with_it() -> None:
    seen = []
    app = ClientApp()

    @app.train()
    def prying(message: Message, context: Context) -> Message:
        content = message.content
        vector = content["arrays"]["vector"]
        seen.append((vector.data, copy.deepcopy(dict(content["config"])), sorted(content)))
        vector.data = b"mine"
        content["config"]["round"] = 99
        content["config"]["names"].append("mine")
        content["note"] = ConfigRecord({"secret": "mine"})
        return Message(RecordDict(), reply_to=message)

    shared = RecordDict(
        {
            "arrays": ArrayRecord({"vector": Array("float32", (1,), RAW, b"\0\0\0\0")}),
            "config": ConfigRecord({"round": 1, "names": ["a"]}),
        }
    )
    grid = InProcessGrid(app, 3, {})
    with inprocess.task_identity(1):
        replies = grid.send_and_receive([_message(n, shared) for n in (1001, 1002, 1003)])
    grid.close()
    assert len(replies) == 3
    fresh = (b"\0\0\0\0", {"round": 1, "names": ["a"]}, ["arrays", "config"])
    assert seen == [fresh] * 3
    assert shared["arrays"]["vector"].data == b"\0\0\0\0"
    assert sorted(shared) == ["arrays", "config"]


def test_contexts_are_kept_between_rounds_and_apart_between_sites() -> None:
    app = ClientApp()
    found = []

    @app.train()
    def counting(message: Message, context: Context) -> Message:
        found.append((context.node_id, list(context.state.keys())))
        context.state[f"seen-{context.node_id}"] = ConfigRecord({"n": len(found)})
        context.run_config["mine"] = context.node_id
        return Message(RecordDict(), reply_to=message)

    grid = InProcessGrid(app, 2, {"setting": 1})
    with inprocess.task_identity(1):
        for _ in range(2):
            grid.send_and_receive([_message(1001), _message(1002)])
    grid.close()
    assert found == [(1001, []), (1002, []), (1001, ["seen-1001"]), (1002, ["seen-1002"])]


# ------------------------------------------------------------------ the process around it


def test_runs_in_two_threads_take_turns(tiny: Tiny, digest: Digest) -> None:
    configs = [tiny("seed=1"), tiny("seed=2")]
    alone = [digest(run_federation(config)) for config in configs]
    assert alone[0] != alone[1]
    order: list[str] = []
    outcomes: dict[str, FederationOutcome] = {}
    second_ran = threading.Event()

    def second_round(outcome: Any) -> None:
        order.append("second")
        second_ran.set()

    def second() -> None:
        outcomes["second"] = run_federation(configs[1], second_round)

    thread = threading.Thread(target=second)

    def first_round(outcome: Any) -> None:
        order.append("first")
        if outcome.round == 1:
            thread.start()
            second_ran.wait(0.5)  # time enough to get in between, if that were possible

    outcomes["first"] = run_federation(configs[0], first_round)
    thread.join()
    assert order == ["first"] * 3 + ["second"] * 3
    assert [digest(outcomes["first"]), digest(outcomes["second"])] == alone


@pytest.mark.parametrize("threads", [1, 2])
def test_sites_train_with_the_configured_threads(tiny: Tiny, sites: Sites, threads: int) -> None:
    """Float sums depend on how many threads share them, so the machine must not decide."""
    found: set[int] = set()

    def noting(message: Message, context: Context) -> Message:
        reply = HONEST(message, context)
        found.add(torch.get_num_threads())
        return reply

    before = torch.get_num_threads()
    torch.set_num_threads(3 - threads)
    try:
        run_with(tiny(f"engine.torch_threads={threads}"), sites(noting))
    finally:
        torch.set_num_threads(before)
    assert found == {threads}


def test_no_thread_is_left_behind(tiny: Tiny) -> None:
    before = set(threading.enumerate())
    run_federation(tiny())
    deadline = time.monotonic() + 5
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left


def test_an_error_of_the_server_comes_out_as_it_is(tiny: Tiny) -> None:
    class Pruned(Exception):
        pass

    def listener(outcome: Any) -> None:
        if outcome.round == 2:
            raise Pruned

    with pytest.raises(Pruned):
        run_federation(tiny(), listener)


def test_push_and_pull_are_the_two_halves_of_an_exchange() -> None:
    app = ClientApp()

    @app.train()
    def echo(message: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    taken: list[list[int]] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        ids = list(grid.push_messages([_message(n) for n in grid.get_node_ids()]))
        for _ in range(2):
            taken.append([m.metadata.src_node_id for m in grid.pull_messages(ids)])

    InProcessEngine(server, app).run(2, {}, None)  # type: ignore[arg-type]
    assert taken == [[1001, 1002], []]
