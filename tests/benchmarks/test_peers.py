"""What the comparison with peers concludes from what it measured."""

from __future__ import annotations

import base64
import copy
import math
import sys
from typing import Any

import numpy as np
import psutil
import pytest


def text(*weights: float) -> str:
    return base64.b64encode(np.array(weights, dtype=np.float32).tobytes()).decode()


def run_of(seconds: float, weights: tuple[float, ...] = (4.0, 5.0), **more: Any) -> dict[str, Any]:
    return {
        "start": text(1.0, 1.0),
        "weights": text(*weights),
        "wall_s": [seconds],
        "round_s": [seconds / 5],
        "accuracy": 0.8,
        "version": "1",
        **more,
    }


FOUND: dict[str, dict[str, list[Any]]] = {
    "10x5": {
        "bare loop": [run_of(0.9)],
        "fedprivacy": [run_of(1.0), run_of(3.0), run_of(1.1)],
        "fedprivacy, processes": [run_of(0.5)],
        "pfl-research": [run_of(1.3), run_of(1.2), run_of(1.4)],
        "Flower on Ray": [run_of(4.0, start_and_stop_s=6.0)],
    }
}


@pytest.fixture
def peers(scripts: Any) -> Any:
    return scripts("peers")


@pytest.fixture
def found() -> dict[str, dict[str, list[Any]]]:
    return copy.deepcopy(FOUND)


def test_each_peer_stands_beside_the_engine_that_uses_as_many_cores(peers, found) -> None:
    rows = peers.summary(found)["10x5"]
    assert rows["fedprivacy"]["median_s"] == 1.1
    assert rows["fedprivacy"]["spread_s"] == [1.0, 3.0]
    assert rows["pfl-research"]["times_ours"] == round(1.3 / 1.1, 3)
    assert rows["Flower on Ray"]["times_ours"] == 8.0
    assert rows["Flower on Ray"]["start_and_stop_s"] == 6.0
    assert peers.faults({"10x5": rows}) == []


def test_rounds_are_timed_from_one_to_the_next_where_the_script_says_so(peers, found) -> None:
    found["20"] = found.pop("10x5")
    found["20"]["Flower on Ray"] = [run_of(9.0, spans_s=[0.7, 0.9, 0.8])]
    rows = peers.summary(found)["20"]
    assert rows["Flower on Ray"]["median_s"] == 0.8
    assert rows["pfl-research"]["median_s"] == 1.3 / 5


def test_a_peer_that_is_as_fast_is_a_fault(peers, found) -> None:
    found["10x5"]["pfl-research"] = [run_of(1.1)]
    assert peers.faults(peers.summary(found)) == ["10x5: pfl-research takes 1.0 times ours"]


def test_arithmetic_that_differs_is_a_fault(peers, found) -> None:
    # The way was 5 long, a hundredth of it is 0.05.
    found["10x5"]["Flower on Ray"] = [run_of(4.0, (4.0, 5.049))]
    assert peers.faults(peers.summary(found)) == []
    found["10x5"]["Flower on Ray"].append(run_of(4.0, (4.3, 5.4)))
    rows = peers.summary(found)
    assert rows["10x5"]["Flower on Ray"]["weights_apart"] == 0.1
    (fault,) = peers.faults(rows)
    assert fault.startswith("10x5: Flower on Ray: final weights 0.1 of the way")
    found["10x5"]["Flower on Ray"] = [run_of(4.0, (4.0, math.nan))]
    assert len(peers.faults(peers.summary(found))) == 1


@pytest.mark.parametrize("name", ["pfl-research", "fedprivacy", "Flower on Ray"])
def test_a_run_that_failed_is_told_and_spoils_no_others(peers, found, name: str) -> None:
    found["10x5"][name] = ["no end within 600 s"]
    rows = peers.summary(found)
    assert rows["10x5"][name] == {"failed": "no end within 600 s"}
    assert f"10x5: {name}: no end within 600 s" in peers.faults(rows)
    others = [row for other, row in rows["10x5"].items() if other != name]
    assert all("median_s" in row for row in others)


def test_one_failed_run_of_several_is_a_fault_beside_the_median(peers, found) -> None:
    found["10x5"]["Flower on Ray"].append("it broke")
    rows = peers.summary(found)
    assert rows["10x5"]["Flower on Ray"]["runs"] == 1
    assert peers.faults(rows) == ["10x5: Flower on Ray: it broke"]


def test_a_peer_that_hung_once_is_told_of_and_no_fault_unless_it_is_ours(peers, found) -> None:
    found["10x5"]["Flower on Ray"].append("no end within 600 s")
    rows = peers.summary(found)
    assert rows["10x5"]["Flower on Ray"]["runs_failed"] == ["no end within 600 s"]
    assert peers.faults(rows) == []
    found["10x5"]["fedprivacy"].append("no end within 600 s")
    assert peers.faults(peers.summary(found)) == ["10x5: fedprivacy: no end within 600 s"]


def test_what_memory_forbids_is_left_out_and_no_fault(peers, found, monkeypatch) -> None:
    memory = psutil.virtual_memory()
    monkeypatch.setattr(peers.psutil, "virtual_memory", lambda: memory._replace(total=24 * 2**30))
    whole, forked = (peers.CONTENDERS[name] for name in ("NVIDIA FLARE", "NVIDIA FLARE, forked"))
    assert peers.not_run(whole, 20) == ""
    assert peers.not_run(forked, 100) == ""
    reason = peers.not_run(whole, 100)
    assert reason.startswith("not run: memory suffices for 60 processes")
    found["10x5"]["NVIDIA FLARE"] = [reason]
    rows = peers.summary(found)
    assert rows["10x5"]["NVIDIA FLARE"] == {"failed": reason}
    assert peers.faults(rows) == []


def test_flare_that_polls_often_may_have_no_end_but_must_not_be_as_fast(peers, found) -> None:
    name = "NVIDIA FLARE, 0.05 s"
    found["10x5"][name] = ["no end within 600 s"]
    rows = peers.summary(found)
    assert rows["10x5"][name] == {"failed": "no end within 600 s"}
    assert peers.faults(rows) == []
    found["10x5"][name] = [run_of(0.4)]
    assert peers.faults(peers.summary(found)) == [f"10x5: {name} takes 0.8 times ours"]
    found["10x5"][name] = ["no end within 600 s", "it broke"]
    assert peers.faults(peers.summary(found)) == [f"10x5: {name}: it broke"]


def test_flare_that_polls_often_runs_as_often_as_others_until_it_has_no_end(
    peers, monkeypatch
) -> None:
    often = "NVIDIA FLARE, 0.05 s"

    def run(python, contender, case):
        endless = contender.often and case["sites"] == 100
        return "no end within 600 s" if endless else run_of(float(case["sites"]))

    monkeypatch.setattr(peers, "run", run)
    pythons = dict.fromkeys(peers.INSTALLED, sys.executable)
    found = peers.measure(pythons, turns=4, slow_turns=3)
    runs = {
        case: [len(of[name]) for name in (often, "Flower on Ray")]
        for case, of in found.items()
        if often in of
    }
    assert runs == {"10x5": [3, 3], "20": [3, 3], "100": [1, 3]}
    assert found["100"][often] == ["no end within 600 s"]
    assert len(found["10x5"]["pfl-research"]) == 4


def test_the_case_without_a_target_has_figures_and_no_faults(peers, found) -> None:
    found["20 tiny"] = {
        "bare loop": [run_of(0.9)],
        "fedprivacy": [run_of(1.0)],
        "pfl-research": [run_of(0.5)],
    }
    rows = peers.summary(found)
    assert rows["20 tiny"]["pfl-research"]["times_ours"] == 0.5
    assert peers.faults(rows) == []


def test_a_process_that_breaks_says_why(peers, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(peers, "APPS", tmp_path)
    (tmp_path / "broken.py").write_text("raise ValueError('no such weights')\n")
    told = peers.run(sys.executable, peers.Contender("broken.py", False), {"sites": 2})
    assert told == "ValueError: no such weights"


def test_a_process_without_end_is_stopped_with_what_it_started(
    peers, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(peers, "APPS", tmp_path)
    monkeypatch.setattr(peers, "_TIMEOUT_S", 3)
    (tmp_path / "endless.py").write_text(
        "import subprocess, sys, time\n"
        "code = 'import time; time.sleep(60)'\n"
        "child = subprocess.Popen([sys.executable, '-c', code], start_new_session=True)\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    told = peers.run(sys.executable, peers.Contender("endless.py", False), {"sites": 2})
    assert told == "no end within 3 s"
    child = int((tmp_path / "child").read_text())
    gone, _ = psutil.wait_procs([psutil.Process(child)] if psutil.pid_exists(child) else [], 5)
    assert not psutil.pid_exists(child) or gone


def test_where_nobody_has_a_figure_everybody_is_a_fault(peers, found) -> None:
    found["10x5"] = {key: ["it broke"] for key in found["10x5"]}
    assert len(peers.faults(peers.summary(found))) == len(found["10x5"])
