"""Sites in worker processes: the bits of the default engine, and runs that always end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from fedprivacy.config.schema import CellConfig
from fedprivacy.errors import ClientFailure, ConfigError
from fedprivacy.federation.engines import site_worker
from fedprivacy.federation.engines.processes import ProcessEngine
from fedprivacy.federation.engines.site_worker import close_workers, open_workers
from fedprivacy.federation.run import FederationOutcome, run_federation

Tiny = Callable[..., CellConfig]
ON = ("engine=processes", "engine.workers=2")
CELLS = {
    "none": ("algorithm=none",),
    "dpsgd": ("algorithm=dpsgd",),
    "svt": ("algorithm=svt",),
    "gaussian": ("algorithm=gaussian",),
    "local": ("federation=local", "federation.rounds=2"),
    "local_source": ("algorithm=local_source",),
    "central_gaussian": ("algorithm=central_gaussian", "algorithm.clipping=adaptive"),
}


@pytest.fixture(scope="module", autouse=True)
def no_worker_is_left() -> Iterator[None]:
    yield
    close_workers()
    assert not [p for p in psutil.Process().children() if p.name() == "fedprivacy-sites"]


def sites(name: str) -> str:
    """Where workers find an app of ``misbehaving_sites``."""
    return f"federation.engines.misbehaving_sites:{name}"


@pytest.mark.parametrize("name", CELLS)
def test_bits_and_events_are_those_of_the_default_engine(
    tiny: Tiny, digest: Callable[[FederationOutcome], str], name: str
) -> None:
    here, there = run_federation(tiny(*CELLS[name])), run_federation(tiny(*CELLS[name], *ON))
    assert digest(here) == digest(there)
    assert here.events == there.events
    assert [vars(one.scores) for one in here.history] == [vars(one.scores) for one in there.history]


def test_workers_stay_for_the_next_cell_and_share_the_sites(tiny: Tiny) -> None:
    run_federation(tiny(*ON))
    first = {worker.process.pid for worker in site_worker._pool.workers}  # type: ignore[union-attr]
    run_federation(tiny(*ON, "seed=7"))
    assert {worker.process.pid for worker in open_workers(2).workers} == first
    assert len(first) == 2


def test_a_site_that_raises_fails_the_run_with_its_traceback(tiny: Tiny) -> None:
    with pytest.raises(ClientFailure, match="volume 7 is torn") as failure:
        run_federation(tiny(*ON), engine=ProcessEngine(client_app=sites("raises")))
    assert "_raise" in failure.value.traceback_text


@pytest.mark.parametrize(("name", "code"), [("exits", 9), ("killed", -9)])
def test_a_worker_that_dies_fails_the_run_and_is_replaced(tiny: Tiny, name: str, code: int) -> None:
    with pytest.raises(ClientFailure, match=f"worker process ended with exit code {code} "):
        run_federation(tiny(*ON), engine=ProcessEngine(client_app=sites(name)))
    assert len(run_federation(tiny(*ON)).history) == 3


def test_a_site_that_hangs_ends_the_run_in_time(tiny: Tiny) -> None:
    run_federation(tiny(*ON))  # workers are up
    started = time.monotonic()
    with pytest.raises(ClientFailure, match=r"no answer from nodes \[1002"):
        run_federation(
            tiny(*ON, "engine.timeout_s=1"), engine=ProcessEngine(client_app=sites("hangs"))
        )
    assert time.monotonic() - started < 10


def test_a_site_has_the_time_for_itself(tiny: Tiny) -> None:
    run_federation(tiny(*ON))
    config = tiny(*ON, "engine.workers=1", "engine.timeout_s=2", "federation.rounds=4")
    outcome = run_federation(config, engine=ProcessEngine(client_app=sites("slow")))
    assert len(outcome.history) == 4


def test_an_interruption_ends_the_workers(tiny: Tiny) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    run_federation(tiny(*ON))
    pids = [worker.process.pid for worker in open_workers(2).workers]
    with pytest.raises(KeyboardInterrupt):
        run_federation(tiny(*ON), interrupt)
    assert not any(pid is not None and psutil.pid_exists(pid) for pid in pids)


PARENT = """
import sys, time
from fedprivacy.federation.engines.site_worker import open_workers

if __name__ == "__main__":
    print(*[worker.process.pid for worker in open_workers(2).workers], flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    time.sleep(5)  # the workers are up and follow their parent
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


def test_a_process_that_may_have_no_children_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    close_workers()
    process = type("P", (), {"daemon": True})
    monkeypatch.setattr(site_worker.multiprocessing, "current_process", lambda: process)
    with pytest.raises(ConfigError, match="engine=inprocess"):
        open_workers(2)
