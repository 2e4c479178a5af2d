"""The demonstration grid with two workers against one cell after another: time, bits, memory.

The same cells run into fresh folders, from the same generated data: with one worker process and
with two, in turns whose order turns around; of the first run of all, which makes the data, only the
memory is kept. Compared are the wall time of all cells (planning, reports and MLflow left out), the
results without their timings, and each run's largest resident memory of the whole process tree. The
ratio is the median of those of the turns.

    python benchmarks/sweep_speed.py [--turns 3] [--sweep demo] [--only wisconsin] [--json FILE]

Ends with status 1 if a result differs, or if two workers were less than 1.7 times faster on a
machine with two idle cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common.machine import machine
from common.memory import PeakMemory
from scipy.stats import spearmanr

from fedprivacy.config.store import register
from fedprivacy.result import CellResult
from fedprivacy.sweep.order import expected_seconds
from fedprivacy.sweep.plan import make_plan
from fedprivacy.sweep.runner import run_plan

AT_LEAST = 1.7
_UNEQUAL = ("timing_s", "overrides")


def run(words: list[str], workers: int, folder: Path) -> tuple[float, float, list[CellResult]]:
    """Seconds of all cells, peak memory in MiB, and results, of one run; it must be a whole one."""
    plan = make_plan([*words, f"sweep.workers={workers}", f"hydra.sweep.dir={folder}"])
    with PeakMemory(tree=True) as memory:
        started = time.perf_counter()
        outcome = run_plan(plan, lambda *_: None)
        seconds = time.perf_counter() - started
    results = list(outcome.results)
    if faults := unsound(results, len(plan.cells)):
        raise SystemExit("not measured: " + "; ".join(faults))
    return seconds, memory.peak_mib, results


def unsound(results: list[CellResult], planned: int) -> list[str]:
    """What was not measured: cells without a result, and cells that failed."""
    failed = [f"{one.cell_id}: {one.reason}" for one in results if one.status == "failed"]
    missing = planned - len(results)
    return failed + ([f"{missing} of {planned} cells left no result"] if missing else [])


def content(result: CellResult, drop: tuple[str, ...] = _UNEQUAL) -> Any:
    """What must be equal in two runs of a cell: everything but its timing."""
    plain = result.to_json()
    plain["config"] = {k: v for k, v in plain["config"].items() if k not in ("sweep", "hydra")}
    return {key: value for key, value in plain.items() if key not in drop}


def differing(one: list[CellResult], two: list[CellResult]) -> list[str]:
    """Cells whose results differ between the runs."""
    others = {result.cell_id: result for result in two}
    return [
        result.cell_id
        for result in one
        if result.cell_id not in others or content(result) != content(others[result.cell_id])
    ]


def rank_correlation(words: list[str], results: list[CellResult]) -> float:
    """Spearman's, of the time by which cells are ordered and the seconds that they took."""
    seconds = {result.cell_id: result.timing_s["total"] for result in results}
    cells = [cell for cell in make_plan(words).cells if cell.cell_id in seconds]
    expected = [expected_seconds(cell.config) for cell in cells]
    taken = [seconds[cell.cell_id] for cell in cells]
    return float(spearmanr(expected, taken).statistic)


def main() -> int:
    """Measure, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweep", default="demo")
    parser.add_argument("--only", help="values of dataset, to shorten it")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    register()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        words = [f"+sweeps={args.sweep}", f"dataset.root={root / 'data'}", "tracking.enabled=false"]
        words += [f"dataset={args.only}"] if args.only else []
        _, first_mib, cells = run(words, 2, root / "first")
        found: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
        differ: set[str] = set()
        for turn in range(args.turns):
            for workers in (1, 2)[:: 1 - 2 * (turn % 2)]:
                seconds, mib, results = run(words, workers, root / f"{turn}-{workers}")
                found[workers].append((seconds, mib))
                differ.update(differing(cells, results))
                print(f"turn {turn + 1}: {workers} worker(s) {seconds:.1f} s", flush=True)
        order = rank_correlation([*words, f"hydra.sweep.dir={root / 'first'}"], cells)
    times = {workers: [seconds for seconds, _ in runs] for workers, runs in found.items()}
    ratios = [one / two for one, two in zip(times[1], times[2], strict=True)]
    ratio = statistics.median(ratios)
    result = {
        "name": "sweep_speed",
        "machine": machine(),
        "sweep": args.sweep,
        "datasets": args.only or "all",
        "cells": len(cells),
        "turns": args.turns,
        "one_worker_s": [round(seconds, 1) for seconds in times[1]],
        "two_workers_s": [round(seconds, 1) for seconds in times[2]],
        "ratio": round(ratio, 3),
        "ratio_spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "peak_mib": {
            f"{workers} worker(s)": sorted(round(mib) for _, mib in runs)
            for workers, runs in found.items()
        },
        "peak_mib_with_data_to_make": round(first_mib),
        "rank_correlation_of_the_order": round(order, 3),
        "differing": sorted(differ),
    }
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if differ or ratio < AT_LEAST else 0


if __name__ == "__main__":
    sys.exit(main())
