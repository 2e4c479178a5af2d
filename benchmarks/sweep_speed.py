"""The demonstration grid with two workers against one cell after another: time, bits, memory.

The same cells run twice into fresh folders, from the same generated data: with one worker process
and with two. Compared are the wall time of all cells (planning, reports and MLflow left out), the
results without their timings, and the largest resident memory of the whole process tree.

    python benchmarks/sweep_speed.py [--sweep demo] [--only wisconsin,higgs] [--json FILE]

Ends with status 1 if a result differs, or if two workers were less than 1.7 times faster on a
machine with two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from fedprivacy.config.store import register
from fedprivacy.result import CellResult
from fedprivacy.sweep.plan import make_plan
from fedprivacy.sweep.runner import run_plan

AT_LEAST = 1.7
_UNEQUAL = ("timing_s", "overrides")


class Memory:
    """Watches the resident memory of this process and all below it while the block runs."""

    def __init__(self) -> None:
        self.peak_mib = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._over.wait(0.2):
            total = 0
            for process in [own, *own.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue
            self.peak_mib = max(self.peak_mib, total / 2**20)


def run(words: list[str], workers: int, folder: Path) -> tuple[float, float, list[CellResult]]:
    """Seconds of all cells, peak memory in MiB, and results, of one run."""
    plan = make_plan([*words, f"sweep.workers={workers}", f"hydra.sweep.dir={folder}"])
    with Memory() as memory:
        started = time.perf_counter()
        outcome = run_plan(plan, lambda *_: None)
        seconds = time.perf_counter() - started
    return seconds, memory.peak_mib, list(outcome.results)


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


def main() -> int:
    """Measure, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweep", default="demo")
    parser.add_argument("--only", help="values of dataset, to shorten it")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    register()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        words = [f"+sweeps={args.sweep}", f"dataset.root={root / 'data'}", "tracking.enabled=false"]
        words += [f"dataset={args.only}"] if args.only else []
        two_s, two_mib, two = run(words, 2, root / "two")
        one_s, one_mib, one = run(words, 1, root / "one")
    differ = differing(one, two)
    ratio = one_s / two_s
    result = {
        "name": "sweep_speed",
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "sweep": args.sweep,
        "datasets": args.only or "all",
        "cells": len(one),
        "one_worker_s": round(one_s, 1),
        "two_workers_s": round(two_s, 1),
        "ratio": round(ratio, 3),
        "cells_s": round(sum(cell.timing_s.get("total", 0.0) for cell in one), 1),
        "peak_mib": {"one worker": round(one_mib), "two workers": round(two_mib)},
        "differing": differ,
    }
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if differ or ratio < AT_LEAST else 0


if __name__ == "__main__":
    sys.exit(main())
