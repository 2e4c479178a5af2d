"""The same federated training on fedprivacy and on its peers, in one run on one machine.

MLP 28-64-64-1, batches of 256, one local epoch, FedAvg by examples, one torch thread, the same
records and initial weights everywhere (``peer_apps/work.py``); the order of a site's records is
each framework's own. Peers are installed in environments of their own: pfl-research's simulator
without metrics of single users, NVIDIA FLARE's simulator with as many threads as clients and its
polling lowered to 0.05 s as far as it bears that (see ``peer_apps/run_flare.py``), Flower's own
simulation on Ray with our apps on it. FLARE runs as it comes, where memory suffices for its process
a client; with the same processes forked from one that has imported what they need
(``peer_apps/flare_forked.py``), of which a hundred fit; and so with 0.05 s everywhere: that it may
come to no end then is told, and no fault, and not tried again in that case. What uses one core (the
bare loop, pfl-research) is compared with our default engine, what uses all of them (FLARE, Ray)
with ``engine=processes``, one torch thread a process everywhere. Total wall time is that of 10
clients x 5 rounds of 5,000 records, per-round time that of 20 and of 100 such clients. Runs take
turns, whose order turns around. pfl-research, the bare loop and ours run warm, once before the
clock starts; FLARE and Ray start anew for each run, so that their start and stop are quoted apart,
and their rounds are timed from one to the next: FLARE's from the first client's start of it, Ray's
from the server's end of it, both without the first, in which they still start, and FLARE's without
the last, which nothing follows: of three rounds one counts in each run.

    python benchmarks/peers.py [--turns 3] [--slow-turns 3] [--envs DIR] [--json FILE]

Ends with status 1 if ours is not ahead of each peer by the median, if a run failed (but for one of
a peer that had no end, where another of its runs had, or where FLARE asks every 0.05 s: that is
told), or if final weights of a case are further from the bare loop's than a hundredth of the way
that training took them. Another order of the records moves them by half of that, leaving out a
tenth of the sites or records, or a round, by 1.2 to 35 hundredths.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from common.machine import machine

from fedprivacy.training.randomness import derive_seed

APPS = Path(__file__).resolve().parent / "peer_apps"
ROOT = APPS.parents[1]
INSTALLED = {
    "pfl-research": ("pfl", ["pfl[pytorch]==0.6.0", "torch==2.13.0"]),
    "NVIDIA FLARE": ("flare", ["nvflare==2.9.0", "torch==2.13.0"]),
    "Flower on Ray": ("ray", ["-c", str(ROOT / "constraints.txt"), "-e", f"{ROOT}[ray]"]),
}
CASES = {
    "10x5": {"sites": 10, "rounds": 5, "rows": 5000},
    "20": {"sites": 20, "rounds": 3, "rows": 5000},
    "100": {"sites": 100, "rounds": 3, "rows": 5000},
    # Hardly any work: what a client costs beside its training. No target, for the record.
    "20 tiny": {"sites": 20, "rounds": 3, "rows": 500},
}
TOTAL, ALIKE, UNTARGETED = "10x5", 0.01, ("20 tiny",)
BARE = "bare loop"
OURS = {False: "fedprivacy", True: "fedprivacy, processes"}  # by whether it uses all cores
REPEATS = 3
_FLARE_CLIENT_GIB, _FLARE_SHARE = 0.3, 0.75  # of a process as it comes; of all memory
_TIMEOUT_S = 600
NO_END = "no end within"
OWN = (BARE, *OURS.values())


@dataclass(frozen=True)
class Contender:
    """What is compared.

    Attributes:
        script: of ``peer_apps``.
        warm: whether it runs several times in one process, after one that is thrown away.
        engine: of fedprivacy.
        peer: whose environment it runs in, a key of ``INSTALLED``; None: in this one.
        forked: whether FLARE's processes share what they import.
        often: whether FLARE polls every 0.05 s with more clients, too, than it bears; not run
            again in a case where that had no end.
        all_cores: whether it uses them all, and not one.
    """

    script: str
    warm: bool
    engine: str = "inprocess"
    peer: str | None = None
    forked: bool = False
    often: bool = False
    all_cores: bool = False


CONTENDERS = {
    BARE: Contender("run_bare.py", True),
    "fedprivacy": Contender("run_ours.py", True),
    "pfl-research": Contender("run_pfl.py", True, peer="pfl-research"),
    "fedprivacy, processes": Contender("run_ours.py", True, "processes", all_cores=True),
    "NVIDIA FLARE": Contender("run_flare.py", False, peer="NVIDIA FLARE", all_cores=True),
    "NVIDIA FLARE, forked": Contender(
        "run_flare.py", False, peer="NVIDIA FLARE", forked=True, all_cores=True
    ),
    "NVIDIA FLARE, 0.05 s": Contender(
        "run_flare.py", False, peer="NVIDIA FLARE", forked=True, often=True, all_cores=True
    ),
    "Flower on Ray": Contender("run_ours.py", False, "ray", peer="Flower on Ray", all_cores=True),
}


def install(envs: Path) -> dict[str, str]:
    """Python of each peer's own environment, made if it is not there; why not, where it fails."""
    found = {}
    for peer, (name, packages) in INSTALLED.items():
        python = envs / name / "bin/python"
        if not python.exists():
            venv.create(envs / name, with_pip=True)
            done = subprocess.run(
                [python, "-m", "pip", "install", "-q", *packages], capture_output=True, text=True
            )
            if done.returncode:
                shutil.rmtree(envs / name)
                found[peer] = "not installed: " + done.stderr.strip().splitlines()[-1]
                continue
        found[peer] = str(python)
    return found


def run(python: str, contender: Contender, case: dict[str, int]) -> dict[str, Any] | str:
    """What one process measured; why it did not, in words."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        words = [word for key, value in case.items() for word in (f"--{key}", str(value))]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PEER_SEED": str(derive_seed(0, "init")),
            "FEDPRIVACY_ENGINE": contender.engine,
        }
        words += [f"--{word}" for word in ("forked", "often") if getattr(contender, word)]
        if contender.warm:
            words += ["--repeats", str(REPEATS)]
        command = [python, str(APPS / contender.script), *words, "--scratch", f"{scratch}/run"]
        try:
            done = _finished(command, scratch, environment)
        except subprocess.TimeoutExpired:
            return f"{NO_END} {_TIMEOUT_S} s"
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not results:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        return said[-1][:300] if said else f"ended with status {done.returncode}"
    found: dict[str, Any] = json.loads(results[0].removeprefix("RESULT "))
    return found


def _finished(
    command: list[str], folder: str, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """The process at its end; what it has started is stopped with it if it does not end."""
    with subprocess.Popen(
        command, cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            told, complained = process.communicate(timeout=_TIMEOUT_S)
        except BaseException:
            # FLARE's clients are leaders of sessions of their own.
            children = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            for child in children:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, told, complained)


def measure(pythons: dict[str, str], turns: int, slow_turns: int) -> dict[str, Any]:
    """Results of each contender in each case."""
    found: dict[str, Any] = {}
    for case_name, case in CASES.items():
        for turn in range(turns):
            names = list(CONTENDERS)[:: 1 - 2 * (turn % 2)]
            for name in names:
                contender = CONTENDERS[name]
                if not contender.warm and case_name in UNTARGETED:
                    continue
                if not contender.warm and turn >= slow_turns:
                    continue
                if contender.often and had_no_end(found.get(case_name, {}).get(name, ())):
                    continue
                if reason := not_run(contender, case["sites"]):
                    found.setdefault(case_name, {})[name] = [reason]
                    continue
                python = pythons[contender.peer] if contender.peer else sys.executable
                installed = Path(python).exists()  # else it says why not
                got = run(python, contender, case) if installed else python
                found.setdefault(case_name, {}).setdefault(name, []).append(got)
                print(f"{case_name:>5} {name:<21} {_said(got)}", flush=True)
    return found


def had_no_end(runs: Sequence[dict[str, Any] | str]) -> bool:
    """Whether one of the runs had no end."""
    return any(isinstance(one, str) and one.startswith(NO_END) for one in runs)


def not_run(contender: Contender, sites: int) -> str:
    """Why FLARE as it comes is left out; empty: it runs."""
    if contender.peer != "NVIDIA FLARE" or contender.forked:
        return ""
    most = int(psutil.virtual_memory().total / 2**30 * _FLARE_SHARE / _FLARE_CLIENT_GIB)
    if most >= sites:
        return ""
    return f"not run: memory suffices for {most} processes that share nothing, not for {sites}"


def _said(got: dict[str, Any] | str) -> str:
    if isinstance(got, str):
        return got
    return f"{statistics.median(got['wall_s']):.3f} s, accuracy {got['accuracy']}"


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Medians, spread, and each contender's time over ours."""
    rows: dict[str, Any] = {}
    for case, by_name in found.items():
        key = "wall_s" if case == TOTAL else "round_s"
        medians: dict[str, float] = {}
        reference = next((one for one in by_name.get(BARE, ()) if isinstance(one, dict)), None)
        for name, runs in by_name.items():
            good = [one for one in runs if isinstance(one, dict)]
            if not good:
                worst = next((one for one in runs if not one.startswith(NO_END)), runs[0])
                rows.setdefault(case, {})[name] = {"failed": worst}
                continue
            times = [_net(one, key) for one in good]
            medians[name] = statistics.median(times)
            rows.setdefault(case, {})[name] = {
                "median_s": round(medians[name], 4),
                "spread_s": [round(min(times), 4), round(max(times), 4)],
                "runs": len(times),
                "accuracy": good[0]["accuracy"],
                "weights_apart": max(apart(one, reference) for one in good) if reference else None,
                "version": good[0]["version"],
            }
            if lost := [str(one) for one in runs if not isinstance(one, dict)]:
                rows[case][name]["runs_failed"] = lost
            if "start_and_stop_s" in good[0]:
                rest = statistics.median(one["start_and_stop_s"] for one in good)
                rows[case][name]["start_and_stop_s"] = round(rest, 2)
        for name, median in medians.items():
            if ours := medians.get(OURS[CONTENDERS[name].all_cores]):
                rows[case][name]["times_ours"] = round(median / ours, 3)
    return rows


def _net(one: dict[str, Any], key: str) -> float:
    """Seconds of a run or a round; of FLARE's and Ray's the median, start and stop left out."""
    if key == "round_s" and "spans_s" in one:
        return statistics.median(one["spans_s"])
    return float(statistics.median(one[key]))


def apart(one: dict[str, Any], reference: dict[str, Any]) -> float:
    """Distance of final weights from the reference's, over the way that training took those."""
    ours, theirs, start = (
        np.frombuffer(base64.b64decode(text), dtype=np.float32)
        for text in (one["weights"], reference["weights"], reference["start"])
    )
    return round(float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs - start)), 5)


def faults(rows: dict[str, Any]) -> list[str]:
    """Where ours is not ahead of a peer, and where the arithmetic differs."""
    found = []
    for case, by_name in rows.items():
        for name, row in by_name.items():
            if case in UNTARGETED or str(row.get("failed", "")).startswith("not run"):
                continue
            # A peer that hung in one run and not in another is told of, and not as fast as ours.
            hung = () if name in OWN else (NO_END,)
            lost = [one for one in row.get("runs_failed", ()) if not one.startswith(hung)]
            found += [f"{case}: {name}: {one}" for one in lost]
            if CONTENDERS[name].often and str(row.get("failed", "")).startswith(NO_END):
                continue
            if "failed" in row:
                found.append(f"{case}: {name}: {row['failed']}")
            elif name not in OWN and row.get("times_ours", 2) <= 1:
                found.append(f"{case}: {name} takes {row['times_ours']} times ours")
        found += [
            f"{case}: {name}: final weights {row['weights_apart']} of the way from the bare loop's"
            for name, row in by_name.items()
            if "median_s" in row and not (row["weights_apart"] or 0) <= ALIKE
        ]
    return found


def main() -> int:
    """Install, measure, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--slow-turns", type=int, default=3, help="of FLARE and Ray")
    parser.add_argument("--envs", type=Path, default=Path("outputs/peers"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    pythons = install(args.envs.resolve())
    rows = summary(measure(pythons, args.turns, args.slow_turns))
    result = {
        "name": "peers",
        "machine": machine(),
        "turns": args.turns,
        "slow_turns": args.slow_turns,
        "cases": CASES,
        "rows": rows,
        "faults": faults(rows),
    }
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
