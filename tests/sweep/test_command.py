"""The command as a user runs it: real processes, exit statuses, interruption and resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedprivacy.cli import main

QUICK = ["tracking.enabled=false", "privacy=seeded", "federation.rounds=2"]


def fedprivacy(here: Path, *words: str, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fedprivacy", *words],
        cwd=here,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def results(folder: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/result.json")}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["algorithm=dpsdg"], ["algorithm", "dpsdg", "dpsgd"]),
        (["algorithm.noise_multiplier=-1"], ["algorithm.noise_multiplier", "-1"]),
        (["wrong_key=1"], ["wrong_key"]),
        (["-m", "seed=0,-1"], ["seed", "-1"]),
        (["schedule=every_nth", "schedule.offset=99"], ["schedule.offset", "99"]),
        (["--no-such-flag"], ["--no-such-flag"]),
        (["--cfg", "job", "algorithm=dpsdg"], ["dpsdg"]),
        (["dataset=higgs", "dataset.source=real"], ["fedprivacy data download higgs"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_bad_configuration_exits_2_before_anything_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    words: list[str],
    named: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", *words]) == 2
    said = "".join(capfd.readouterr())
    for word in named:
        assert word in said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("outputs/**/result.json"))


def test_the_process_itself_exits_2(tmp_path: Path) -> None:
    done = fedprivacy(tmp_path, "run", "algorithm=dpsdg")
    assert done.returncode == 2
    assert "dpsdg" in done.stderr
    assert "Traceback" not in done.stderr


def test_one_cell_and_again(tmp_path: Path) -> None:
    first = fedprivacy(tmp_path, "run", *QUICK)
    assert first.returncode == 0, first.stderr
    (folder,) = (tmp_path / "outputs" / "cells").iterdir()
    result = json.loads((folder / "result.json").read_text())
    assert result["cell_id"] == folder.name
    assert result["status"] in ("ok", "collapsed")
    assert not result["privacy"]["infinite"]
    assert (folder / "ledger.jsonl").exists()
    assert {"config.yaml", "hydra.yaml", "overrides.yaml"} <= {
        path.name for path in (folder / ".hydra").iterdir()
    }
    written = (folder / "result.json").stat().st_mtime_ns
    again = fedprivacy(tmp_path, "run", *QUICK)
    assert again.returncode == 0
    assert (folder / "result.json").stat().st_mtime_ns == written
    assert "finished before" in again.stderr


def test_hydra_flags_work_as_hydra_users_expect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--cfg", "job", "algorithm=svt"]) == 0
    assert "noise_var: 0.1" in capfd.readouterr().out
    assert main(["run", "--help"]) == 0
    helped = capfd.readouterr().out
    assert "schedule: base_schedule, every_nth, every_round, first_round, last_round" in helped
    assert (
        "sweeps: article, article_audited, article_images, demo, reconstruction_budgets" in helped
    )
    assert "tests" not in helped
    assert main([]) == 2
    assert main(["fly"]) == 2


SWEEP = """# @package _global_
hydra: {mode: MULTIRUN}
sweep: {name: own, workers: 2}
tracking: {enabled: false}
federation: {rounds: 2}
grids:
  - {algorithm: none, seed: "0,1"}
  - {algorithm: none, seed: 2, engine.timeout_s: 0.000001}
"""


@pytest.mark.slow
def test_a_failing_cell_never_stops_the_others_and_is_run_again(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "own.yaml").write_text(SWEEP)
    done = fedprivacy(tmp_path, "run", "+sweeps=own")
    assert done.returncode == 1, done.stderr
    found = results(tmp_path / "outputs" / "own")
    assert sorted(result["status"] for result in found.values()) == ["failed", "ok", "ok"]
    (failed,) = [result for result in found.values() if result["status"] == "failed"]
    assert failed["error"]["type"] == "ClientFailure"
    assert "sites answered" in done.stdout
    times = {k: (tmp_path / "outputs/own" / k / "result.json").stat().st_mtime_ns for k in found}
    again = fedprivacy(tmp_path, "run", "+sweeps=own", "engine.timeout_s=600")
    assert again.returncode == 0, again.stderr
    after = results(tmp_path / "outputs" / "own")
    assert {result["status"] for result in after.values()} == {"ok"}
    for name, result in found.items():
        now = (tmp_path / "outputs/own" / name / "result.json").stat().st_mtime_ns
        assert (now == times[name]) == (result["status"] == "ok")


LONG = ["run", "-m", "seed=0,1,2,3", "algorithm=none", "tracking.enabled=false",
        "federation.rounds=60", "federation.local_epochs=12", "sweep.workers=2",
        "sweep.name=long"]  # fmt: skip


def start_long(here: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fedprivacy", *LONG],
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A suite that was started in the background hands an ignored Ctrl-C down to its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True)
    return [int(word) for word in listed.stdout.split()]


@pytest.mark.slow
def test_ctrl_c_exits_130_and_the_same_command_resumes(tmp_path: Path) -> None:
    process = start_long(tmp_path)
    folder = tmp_path / "outputs" / "long"
    wait_for(lambda: len(results(folder)) >= 1)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    kept = results(folder)
    assert 1 <= len(kept) < 4
    resumed = fedprivacy(tmp_path, *LONG)
    assert resumed.returncode == 0, resumed.stderr
    assert len(results(folder)) == 4
    assert f"{len(kept)} of 4 cells were finished before" in resumed.stdout


@pytest.mark.slow
def test_killing_everything_loses_only_the_cells_in_hand(tmp_path: Path) -> None:
    process = start_long(tmp_path)
    folder = tmp_path / "outputs" / "long"
    wait_for(lambda: len(results(folder)) >= 1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    kept = results(folder)
    resumed = fedprivacy(tmp_path, *LONG)
    assert resumed.returncode == 0, resumed.stderr
    after = results(folder)
    assert len(after) == 4
    for name, result in kept.items():
        assert after[name] == result


@pytest.mark.slow
def test_a_killed_worker_fails_one_cell_and_the_others_go_on(tmp_path: Path) -> None:
    process = start_long(tmp_path)
    folder = tmp_path / "outputs" / "long"
    wait_for(lambda: len(list(folder.glob("*/fedprivacy.log"))) >= 2)
    running = [
        pid
        for pid in children(process.pid)
        if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()
    ]
    os.kill(running[0], signal.SIGKILL)
    assert process.wait(timeout=200) == 1
    found = results(folder)
    assert len(found) == 4
    failed = [result for result in found.values() if result["status"] == "failed"]
    assert [result["error"]["type"] for result in failed] == ["WorkerDied"]
