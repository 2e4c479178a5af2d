"""One large cell on two cores: sites in worker processes against a bare loop on one core.

MLP 28-64-64-1, 50 sites of 1,000 in-memory synthetic records, batches of 256, one local epoch, 30
rounds, one torch thread a process. The bare loop does nothing but federated averaging, with
PyTorch's own optimiser; ``flat`` moves all parameters as one vector, as the engines do. The engines
send messages, check and count events. Workers are up before the clock starts, as they stay between
cells; what starting them takes is quoted apart. Contenders take turns, every other turn backwards.

    python benchmarks/site_processes.py [--turns 7] [--json FILE]

Ends with status 1 if an engine trained to other weights, or if engine=processes took more than 0.7
times the bare loop on a machine with two idle cores.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import engine_overhead as shared
import torch
from common.machine import machine
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedprivacy.config.composition import compose_cell, hydra_ready
from fedprivacy.config.loading import to_cell_config
from fedprivacy.config.schema import CellConfig
from fedprivacy.config.serialization import loads
from fedprivacy.federation import client_app
from fedprivacy.federation.engines.inprocess import InProcessEngine
from fedprivacy.federation.engines.processes import ProcessEngine
from fedprivacy.federation.engines.site_worker import close_workers, open_workers
from fedprivacy.federation.messages import CELL
from fedprivacy.federation.run import run_federation
from fedprivacy.federation.site import close_runtime

SITES, ROWS, ROUNDS, WORKERS = 50, 1000, 30, 2
STARTS = 5
AT_MOST = 0.7
shared.SITES, shared.ROWS = SITES, ROWS
app = ClientApp()


@functools.cache
def _install(cell: str) -> None:
    shared.install(loads(cell))


@app.train()
def train(message: Message, context: Context) -> Message:
    """The package's own sites, in a process that has no files of these records."""
    _install(str(context.run_config[CELL]))
    return client_app.app(message, context)


def configuration() -> CellConfig:
    """The cell."""
    words = [w for w in shared.OVERRIDES if not w.startswith(("dataset.n_sites", "federation.r"))]
    with hydra_ready():
        return to_cell_config(
            compose_cell([*words, f"dataset.n_sites={SITES}", f"federation.rounds={ROUNDS}"])
        )


def contenders(config: CellConfig) -> dict[str, Callable[[], torch.Tensor]]:
    """Each returns the final weights."""
    data = shared.install(config)
    spread = replace(config, engine=replace(config.engine, name="processes", workers=WORKERS))
    sites = f"{Path(__file__).stem}:app"

    def on(which: CellConfig, engine: InProcessEngine | ProcessEngine) -> torch.Tensor:
        close_runtime()
        return run_federation(which, evaluate=False, engine=engine).weights["vector"]

    return {
        "bare": lambda: shared.bare_loop(config, data),
        "flat": lambda: shared.bare_loop(config, data, flat_steps=True),
        "inprocess": lambda: on(config, InProcessEngine()),
        "processes": lambda: on(spread, ProcessEngine(client_app=sites)),
    }


def start_ups() -> list[float]:
    """Seconds that starting the workers took, each time anew; the last ones are left open."""
    seconds = []
    for _ in range(STARTS):
        close_workers()
        started = time.perf_counter()
        open_workers(WORKERS)
        seconds.append(time.perf_counter() - started)
    return seconds


def main() -> int:
    """Measure, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = contenders(configuration())
    starts = start_ups()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    weights = {name: _hash(run()) for name, run in runs.items()}
    for turn in range(args.turns):
        for name in list(runs)[:: 1 - 2 * (turn % 2)]:
            started = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - started)
    close_workers()
    ratios, to_flat = (
        {
            name: [own / base for own, base in zip(times, seconds[loop], strict=True)]
            for name, times in seconds.items()
            if name != loop
        }
        for loop in ("bare", "flat")
    )
    result = {
        "name": "site_processes",
        "machine": machine(),
        "sites": SITES,
        "rows": ROWS,
        "rounds": ROUNDS,
        "workers": WORKERS,
        "start_up_s": round(statistics.median(starts), 2),
        "start_up_spread_s": [round(min(starts), 2), round(max(starts), 2)],
        "median_s": {k: round(statistics.median(v), 3) for k, v in seconds.items()},
        "ratio": {k: round(statistics.median(v), 3) for k, v in ratios.items()},
        "ratio_spread": {k: [round(min(v), 3), round(max(v), 3)] for k, v in ratios.items()},
        "ratio_to_flat": {k: round(statistics.median(v), 3) for k, v in to_flat.items()},
        "weights": weights,
    }
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    if len(set(weights.values())) != 1:
        print("engines trained to different weights")
        return 1
    return 0 if statistics.median(ratios["processes"]) <= AT_MOST else 1


def _hash(weights: torch.Tensor) -> str:
    return hashlib.sha256(weights.numpy().tobytes()).hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
