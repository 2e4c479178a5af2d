"""Flower's Ray engine: the bits of the default engine, and runs that always end.

A Ray run takes seconds to come up, so two runs serve all tests: one runs a cell of every algorithm
and then two cells with sites that fail, in one simulation; in the other a site hangs.
"""

from __future__ import annotations

import _thread
import importlib
import importlib.util
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedprivacy.config.schema import CellConfig
from fedprivacy.config.serialization import dumps
from fedprivacy.errors import ClientFailure, ConfigError
from fedprivacy.federation import client_app, server_app
from fedprivacy.federation.engines import ray as ray_engine
from fedprivacy.federation.engines.inprocess import InProcessEngine
from fedprivacy.federation.engines.ray import RayEngine
from fedprivacy.federation.messages import ARRAYS, CELL, SITES, decode_vector
from fedprivacy.federation.run import run_federation
from fedprivacy.federation.server_app import OUTCOME, RELEASED
from fedprivacy.federation.site import open_runtime

Tiny = Callable[..., CellConfig]
CELLS = {
    "none": ("algorithm=none",),
    "dpsgd": ("algorithm=dpsgd",),
    "svt": ("algorithm=svt",),
    "gaussian": ("algorithm=gaussian",),
    "local": ("federation=local", "federation.rounds=2"),
    "local_source": ("algorithm=local_source",),
    "server": (
        "algorithm=stacked",
        "algorithm.mechanisms=[{name: gaussian_clipped, clipping: adaptive},release_gaussian]",
    ),
    "central_gaussian": ("algorithm=central_gaussian", "algorithm.clipping=adaptive"),
}
TROUBLE = ("raises", "exits")


# ---------------------------------------------------------------- without Ray


def test_without_ray_the_engine_says_what_to_install(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'fedprivacy\[ray\]'"):
        run_federation(tiny("engine=ray"))


# ---------------------------------------------------------------- Flower's part replaced


def replaced(monkeypatch: pytest.MonkeyPatch, simulation: Callable[..., None]) -> None:
    """Put something else in the place of Flower's simulation."""
    pytest.importorskip("ray")
    module = importlib.import_module("flwr.simulation.run_simulation")
    monkeypatch.setattr(module, "_run_simulation", simulation)


@pytest.fixture(autouse=True)
def simulations_are_over() -> Iterator[None]:
    """No test begins while the simulation of another comes down."""
    yield
    for thread in threading.enumerate():
        if thread.name == "fedprivacy-ray":
            thread.join(30)


def finishing() -> ServerApp:
    """A ServerApp that leaves a state and ends."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        context.state["left"] = ConfigRecord({"by": "main"})

    return app


@pytest.mark.ray
def test_a_simulation_that_breaks_down_fails_the_run(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaking(**_: Any) -> None:
        raise ValueError("ActorPool is empty")

    replaced(monkeypatch, breaking)
    with pytest.raises(ClientFailure, match=r"broke down: ValueError.'ActorPool is empty'"):
        run_federation(tiny("engine=ray"))


@pytest.mark.ray
def test_a_simulation_that_never_comes_down_ends_all_the_same(
    tiny: Tiny,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    forever = threading.Event()

    def staying(*, server_app: ServerApp, server_app_context: Context, **_: Any) -> None:
        server_app(None, server_app_context)
        forever.wait()

    replaced(monkeypatch, staying)
    monkeypatch.setattr(ray_engine, "_TEARDOWN_S", 0.2)
    state = RayEngine(finishing()).run(3, {}, tiny().engine)
    assert dict(state["left"]) == {"by": "main"}
    assert "did not come down within 0.2 s" in caplog.text
    forever.set()


@pytest.mark.ray
def test_an_interruption_ends_the_simulation_before_it_goes_on(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[bool] = []

    def interrupted(**_: Any) -> None:
        module = importlib.import_module("flwr.simulation.run_simulation")
        grid = module.InMemoryGrid.__new__(module.InMemoryGrid)
        _thread.interrupt_main()
        for _ in range(200):
            time.sleep(0.05)
            try:
                grid.pull_messages([])
            except ClientFailure:
                break
            except AttributeError:
                continue
        time.sleep(0.3)
        ended.append(True)

    replaced(monkeypatch, interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_federation(tiny("engine=ray"))
    assert ended


# ---------------------------------------------------------------- several cells in one run


class CellGrid(Grid):
    """Adds to every message which cell it belongs to."""

    def __init__(self, inner: Grid, name: str, cell: str) -> None:
        self.inner, self.name, self.cell = inner, name, cell

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        sent = list(messages)
        for message in sent:
            message.content["cell"] = ConfigRecord({"name": self.name, "config": self.cell})
        return list(self.inner.send_and_receive(sent, timeout=timeout))

    def get_node_ids(self) -> Iterable[int]:
        return self.inner.get_node_ids()

    def set_run(self, run: Any) -> None:
        self.inner.set_run(run)

    @property
    def run(self) -> Any:
        return self.inner.run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        return self.inner.create_message(*args, **kwargs)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self.inner.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self.inner.pull_messages(message_ids)


def many_cells(cells: dict[str, str]) -> ServerApp:
    """A ServerApp that runs the package's own for each cell, in one simulation."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        for name, cell in cells.items():
            inner = Context(
                run_id=context.run_id,
                node_id=context.node_id,
                node_config={},
                state=RecordDict(),
                run_config={**context.run_config, CELL: cell},
            )
            server_app.app(CellGrid(grid, name, cell), inner)
            context.state[f"{name}-outcome"] = inner.state[OUTCOME]
            context.state[f"{name}-arrays"] = inner.state[ARRAYS]

    return app


def many_sites(note: Path | None = None) -> ClientApp:
    """A ClientApp that runs the package's own for the cell of each message, or fails.

    Its handlers are closures, which travel to the actors by value.

    Args:
        note: a file that gets a line for each training message to a site that keeps a secret.
    """
    app = ClientApp()

    def handle(message: Message, context: Context) -> Message:
        name = str(message.content["cell"]["name"])
        partition = context.node_config["partition-id"]
        if name == "raises" and partition == 1:
            raise RuntimeError("volume 7 is torn")
        if name == "exits" and partition == 1:
            os._exit(9)
        inner = Context(
            run_id=context.run_id,
            node_id=context.node_id,
            node_config=context.node_config,
            state=context.state,
            run_config={**context.run_config, CELL: message.content["cell"]["config"]},
        )
        reply = client_app.app(message, inner)
        if note is not None and "site" in inner.state and name == "local_source":
            with note.open("a") as file:
                file.write(f"{partition} {inner.state['site']['secret']}\n")
        return reply

    app.train()(handle)
    app.evaluate()(handle)
    return app


class Surroundings:
    """What a run must leave as it was; threads and processes of ``before`` may have ended since."""

    def __init__(self, before: Surroundings | None = None) -> None:
        self.environment = dict(os.environ)
        self.path = list(sys.path)
        self.signals = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
        self.loggers = {
            name: (log.level, log.propagate, list(log.handlers))
            for name in (None, "flwr", "flwr-telemetry", "ray")
            for log in [logging.getLogger(name)]
        }
        self.threads = {t for t in threading.enumerate() if not t.name.startswith("ray_")}
        self.children = children()
        if before is not None:
            self.threads |= before.threads
            self.children |= before.children

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Surroundings) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


def children() -> set[str]:
    """Names and ids of the living processes that descend from this one."""
    parents, names = {}, {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(
                line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line
            )
        except OSError:
            continue
        if not fields["State"].startswith("Z"):
            parents[status.parent.name], names[status.parent.name] = fields["PPid"], fields["Name"]
    found: set[str] = set()
    for pid in parents:
        ancestor = pid
        while (ancestor := parents.get(ancestor, "")) not in ("", "0", "1"):
            if ancestor == str(os.getpid()):
                found.add(f"{names[pid]} {pid}")
    return found


def settled(before: Surroundings, seconds: float = 15) -> Surroundings:
    """The surroundings once what is on its way out is gone."""
    deadline = time.monotonic() + seconds
    while (now := Surroundings(before)) != before and time.monotonic() < deadline:
        time.sleep(0.1)
    return now


def gone(pid: str, seconds: float = 15) -> bool:
    """Whether a process has ended, be it no descendant any more or not yet reaped by its parent."""
    status, deadline = Path("/proc", pid, "status"), time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if "\nState:\tZ" in status.read_text():
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.1)
    return False


class Outcome:
    """A finished Ray run: what it left, how long it took, and what it changed around itself."""

    def __init__(
        self, state: RecordDict, seconds: float, before: Surroundings, secrets: list[str]
    ) -> None:
        self.state, self.seconds, self.before, self.secrets = state, seconds, before, secrets
        self.after = settled(before)

    def trouble(self, name: str) -> dict[str, str]:
        found: dict[str, str] = json.loads(str(self.state[f"{name}-outcome"]["json"]))["trouble"]
        return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Flower's own folder, so that what it leaves there can be seen."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLWR_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def whole_run(tiny: Tiny, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """One Ray run of every cell, the last two with a site that raises and one that exits."""
    pytest.importorskip("ray")
    cells = {name: dumps(tiny(*overrides)) for name, overrides in CELLS.items()}
    cells |= dict.fromkeys(TROUBLE, dumps(tiny()))
    before, start = Surroundings(), time.monotonic()
    note = tmp_path_factory.mktemp("secrets") / "kept"
    state = RayEngine(many_cells(cells), many_sites(note)).run(
        3, {CELL: "", SITES: 3}, tiny("engine=ray").engine
    )
    return Outcome(state, time.monotonic() - start, before, note.read_text().splitlines())


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
def test_ray_gives_the_bits_of_the_default_engine(
    tiny: Tiny, whole_run: Outcome, name: str
) -> None:
    here = run_federation(tiny(*CELLS[name]))
    arrays = whole_run.state[f"{name}-arrays"]
    assert list(arrays) == list(here.weights)
    for key, weights in here.weights.items():
        assert torch.equal(decode_vector(arrays[key]), weights)
    outcome = whole_run.state[f"{name}-outcome"]
    there = json.loads(str(outcome["json"]))
    assert [json.loads(text) for text in outcome[RELEASED]] == [
        event.to_json() for event in here.events
    ]
    assert [r["scores"] and r["scores"]["value"] for r in there["history"]] == [
        r.scores and r.scores.value for r in here.history
    ]


@pytest.mark.ray
@pytest.mark.slow
def test_a_site_keeps_its_secret_whichever_actor_serves_it(whole_run: Outcome) -> None:
    """Noise on records is drawn once: in every round from the same secret."""
    assert len(whole_run.secrets) >= 9
    assert len(set(whole_run.secrets)) == 3
    assert len({line.split()[0] for line in whole_run.secrets}) == 3
    assert len({line.split()[1] for line in whole_run.secrets}) == 3


@pytest.mark.ray
@pytest.mark.slow
def test_a_site_that_raises_on_ray(whole_run: Outcome) -> None:
    trouble = whole_run.trouble("raises")
    assert trouble["kind"] == "failed"
    assert "volume 7 is torn" in trouble["message"]
    assert "in handle" in trouble["traceback"]


@pytest.mark.ray
@pytest.mark.slow
def test_an_actor_that_dies(whole_run: Outcome) -> None:
    trouble = whole_run.trouble("exits")
    assert trouble["kind"] == "failed"
    assert "died" in trouble["traceback"].lower()


@pytest.mark.ray
@pytest.mark.slow
def test_a_ray_run_leaves_the_process_as_it_was(whole_run: Outcome, home: Path) -> None:
    assert vars(whole_run.after) == vars(whole_run.before)
    # Flower's telemetry keeps an identifier of the machine there.
    assert not (home / "source").exists()


# ---------------------------------------------------------------- a site that hangs


def warmed_up() -> ServerApp:
    """The package's ServerApp, once every site has answered, however long that takes to come."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        while len(nodes := list(grid.get_node_ids())) < 3:
            time.sleep(0.1)
        hello = RecordDict({"hello": ConfigRecord()})
        messages = [Message(hello, dst_node_id=n, message_type=MessageType.QUERY) for n in nodes]
        assert len(list(grid.send_and_receive(messages, timeout=200))) == 3
        server_app.app(grid, context)

    return app


@pytest.mark.ray
@pytest.mark.slow
def test_a_site_that_hangs_on_ray_ends_the_run(tiny: Tiny, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    note = tmp_path / "pid"
    app = ClientApp()

    @app.query()
    def greet(message: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    @app.train()
    def hang(message: Message, context: Context) -> Message:
        note.write_text(str(os.getpid()))
        while True:
            time.sleep(1)

    config = tiny("engine=ray", "engine.timeout_s=3")
    open_runtime(dumps(config))  # imports change the environment, too
    before = Surroundings()
    with pytest.raises(ClientFailure, match=r"0 of 3 sites .* no answer from nodes"):
        run_federation(config, engine=RayEngine(warmed_up(), app))
    assert vars(settled(before)) == vars(before)
    assert gone(note.read_text())


# ---------------------------------------------------------------- the scaffolding itself


def test_many_cells_in_one_run_are_the_cells_one_by_one(tiny: Tiny) -> None:
    """The same scaffolding on the default engine, where no actor can die."""
    cells = {name: dumps(tiny(*overrides)) for name, overrides in CELLS.items()}
    cells["raises"] = dumps(tiny())
    engine = InProcessEngine(many_cells(cells), many_sites())
    state = engine.run(3, {CELL: "", SITES: 3}, tiny().engine)
    for name, overrides in CELLS.items():
        here = run_federation(tiny(*overrides))
        for key, weights in here.weights.items():
            assert torch.equal(decode_vector(state[f"{name}-arrays"][key]), weights)
    assert "volume 7" in json.loads(str(state["raises-outcome"]["json"]))["trouble"]["message"]
