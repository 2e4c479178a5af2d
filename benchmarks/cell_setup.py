"""What a cell costs beside its training: composition and set-up, accounting, tracking.

``set-up`` is everything of a warm cell but training, scoring and accounting: Hydra composes the
whole configuration, it is checked, the cell's folder is written, data are found in the cache,
sites arranged, the result written; the engine's messages count as training. ``Hydra alone`` is
Hydra's composition in it and nothing of ours: it shows how fast the machine is at the time.
``planned`` is set-up for a cell of a sweep, which composes once for each choice of groups.
``accounting`` is the privacy statement of a cell of 100 rounds and three sites, caches of
distributions emptied first; ``accounting, decaying`` the same with another noise in every round,
which is 100 distributions instead of one. ``tracked cell`` is a whole cell of 33 rounds (1.3 to 2.2
seconds, by the hour), ``tracking`` its run in a SQLite store of MLflow.

    python benchmarks/cell_setup.py [--turns 9] [--json FILE]

Ends with status 1 if a median misses its target: 0.25 s, 0.3 s, 5 % of a cell of two seconds.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from common.machine import machine

from fedprivacy.cell import run_cell
from fedprivacy.config.composer import Composer
from fedprivacy.config.composition import compose_cell, hydra_ready
from fedprivacy.config.loading import to_cell_config
from fedprivacy.config.store import register
from fedprivacy.sweep.plan import checked
from fedprivacy.tracking.store import Recorder, prepare_store

CELL_S, TRACKED_ROUNDS = 2.0, 33
AT_MOST = {
    "set-up": 0.25,
    "planned": 0.25,
    "accounting": 0.3,
    "accounting, decaying": 0.3,
    "tracking": 0.05 * CELL_S,
}
WORDS = ("dataset=wisconsin", "algorithm=dpsgd", "privacy=seeded", "tracking.enabled=false")
_INSIDE = ("train", "evaluate", "account")


def set_up_s(composer: Composer, seed: int, folder: Path) -> float:
    """Seconds of a cell beside training, scoring and accounting."""
    started = time.perf_counter()
    with hydra_ready():
        composed = composer.compose_words([f"seed={seed}", "federation.rounds=3"])
    config = to_cell_config(composed.node)
    own = folder / checked(config)
    composed.write(own)
    result = run_cell(config, own, overrides=composed.overrides)
    wall = time.perf_counter() - started
    return wall - sum(result.timing_s.get(part, 0.0) for part in _INSIDE)


def hydra_s(seed: int) -> float:
    """Seconds of Hydra's own composition of the same configuration."""
    with hydra_ready():
        started = time.perf_counter()
        compose_cell([*WORDS, f"seed={seed}", "federation.rounds=3"])
        return time.perf_counter() - started


def tracked_s(composer: Composer, turn: int, record: Recorder, folder: Path) -> tuple[float, float]:
    """Seconds of a longer cell by itself, and of its MLflow run."""
    with hydra_ready():
        words = [f"seed={turn}", f"federation.rounds={TRACKED_ROUNDS}"]
        composed = composer.compose_words(words)
    config = to_cell_config(composed.node)
    own = folder / checked(config)
    composed.write(own)
    result = run_cell(config, own, overrides=composed.overrides)
    started = time.perf_counter()
    record(result, own)
    return float(result.timing_s["total"]), time.perf_counter() - started


def accounting_s(folder: Path, *more: str) -> float:
    """Seconds of the accounting of 100 rounds, from empty caches."""
    with hydra_ready():
        composed = Composer(WORDS).compose_words(["federation.rounds=100", *more])
    config = to_cell_config(composed.node)
    for module in [
        m for name, m in sys.modules.items() if name.startswith("fedprivacy.accounting")
    ]:
        for cached in vars(module).values():
            if hasattr(cached, "cache_clear"):
                cached.cache_clear()
    return float(run_cell(config, folder / "hundred").timing_s["account"])


def measure(turns: int, folder: Path) -> dict[str, list[float]]:
    """Seconds of each part in each turn."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    prepare_store(uri, "bench")
    record = Recorder(uri=uri, experiment="bench", sweep_id="bench", enabled=True)
    planned = Composer(WORDS)
    seconds: dict[str, list[float]] = {}
    for turn in range(turns + 1):
        found: dict[str, float] = {}
        found["set-up"] = set_up_s(Composer(WORDS), 2 * turn, folder)
        found["Hydra alone"] = hydra_s(2 * turn)
        found["planned"] = set_up_s(planned, 2 * turn + 1, folder)
        cell, tracking = tracked_s(planned, turn, record, folder)
        found |= {"tracked cell": cell, "tracking": tracking}
        found["accounting"] = accounting_s(folder)
        found["accounting, decaying"] = accounting_s(folder, "schedule.decay=0.99")
        if turn:  # the first turn warms up
            for key, value in found.items():
                seconds.setdefault(key, []).append(value)
    return seconds


def main() -> int:
    """Measure, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    register()
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(args.turns, Path(folder))
    rows = {
        key: {
            "median_s": round(statistics.median(values), 4),
            "spread_s": [round(min(values), 4), round(max(values), 4)],
            "at_most_s": AT_MOST.get(key),
        }
        for key, values in seconds.items()
    }
    for key, row in rows.items():
        print(key, row)
    if args.json:
        content = {
            "name": "cell_setup",
            "machine": machine(),
            "turns": args.turns,
            "parts": rows,
        }
        args.json.write_text(json.dumps(content, indent=1) + "\n")
    missed = [key for key, most in AT_MOST.items() if statistics.median(seconds[key]) > most]
    for key in missed:
        print(f"missed: {key} took {rows[key]['median_s']} s, at most {AT_MOST[key]} were meant")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
