"""How cost grows: with sites, rounds, records and the size of the model.

DP-SGD over the toy HIGGS events of the synthetic dataset, one torch thread. Each point is one cell
in a process of its own, which has run a small cell before: its training, messages, noise and events
included, and then its accounting from empty caches (a statement, with epsilon after every round).
Rounds are counted twice, with the same noise in each and with another in each, which is as many
distributions to compose. Hydra, data files and scores are left out. All points are taken several
times, in turns whose order turns around; the median counts. The exponent is the slope of a line
through the logarithms of the upper half of the points (the lower ones are mostly what does not
grow); 1 is proportional. Memory is the most that samples show the process to hold in a cell's
training beside what it holds before it, and in its accounting beside what it holds after the
training.

    python benchmarks/growth.py [--turns 3] [--picture docs/images/growth.png] [--json FILE]

Ends with status 1 if the time of training or of both together grows faster than proportionally with
sites or rounds (an exponent above 1.1, or the last step between two points above 1.2), or if any
cell of more rounds needs 4 MiB more than one of 10 in its training, or 8 MiB more in its
accounting, whose totals are longer then, up to a bound.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import multiprocessing
import statistics
import sys
import time
from dataclasses import dataclass, replace
from functools import cache as cache_of_one
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from common.machine import machine
from common.memory import PeakMemory

from fedprivacy.accounting.ledger import Ledger
from fedprivacy.accounting.statement import privacy_statement
from fedprivacy.config.composition import compose_cell, hydra_ready
from fedprivacy.config.loading import to_cell_config
from fedprivacy.config.schema import CellConfig
from fedprivacy.data import cache
from fedprivacy.data.base import FederatedData, SiteData
from fedprivacy.data.higgs_generator import make_rows
from fedprivacy.federation.run import run_federation
from fedprivacy.federation.site import close_runtime

COLUMNS, HELD_OUT = 28, 4
AT_MOST, LAST_STEP = 1.1, 1.2
FLAT_MIB = {"memory_mib": 4.0, "accounting_memory_mib": 8.0}
EVENTS = 1_000_000 + 10 * HELD_OUT
DELTA = 1e-5
FORKED = multiprocessing.get_context("fork")
Series = dict[str, list[tuple[int, float]]]
"""By axis: sizes and seconds."""


@dataclass(frozen=True)
class Work:
    """One cell."""

    sites: int = 10
    rounds: int = 2
    rows: int = 500
    hidden: int = 64
    decay: float = 1.0

    @property
    def parameters(self) -> int:
        """Scalars of the model."""
        return (COLUMNS + 1) * self.hidden + (self.hidden + 1) * self.hidden + self.hidden + 1


ROUNDS = (10, 20, 40, 80, 160, 320)
SERIES = {
    "sites": [Work(sites=n, rows=200) for n in (3, 10, 30, 100, 300, 1000)],
    "rounds": [Work(rounds=n) for n in ROUNDS],
    "changing rounds": [Work(sites=3, rounds=n, decay=0.998) for n in ROUNDS],
    "records": [Work(rows=n // 10) for n in (10_000, 30_000, 100_000, 300_000, 1_000_000)],
    "parameters": [Work(rows=2000, hidden=n) for n in (16, 32, 64, 128, 256, 512, 1024)],
}
LABELS = {
    "sites": "sites, 200 records each",
    "rounds": "rounds, 10 sites",
    "changing rounds": "rounds, 3 sites, noise changing",
    "records": "records in all, 10 sites",
    "parameters": "parameters of the model",
}


def size(axis: str, work: Work) -> int:
    """Where the point lies on its axis."""
    found = {
        "sites": work.sites,
        "rounds": work.rounds,
        "changing rounds": work.rounds,
        "records": work.rows * work.sites,
        "parameters": work.parameters,
    }
    return found[axis]


def configuration(work: Work) -> CellConfig:
    """The cell's configuration, its records put where this process looks for them."""
    words = [
        "algorithm=dpsgd", "algorithm.sampling_rate=0.1", "dataset=higgs",
        "dataset.source=synthetic", f"dataset.n_sites={work.sites}", "model=mlp",
        f"model.hidden=[{work.hidden},{work.hidden}]", f"federation.rounds={work.rounds}",
        "federation.local_epochs=1", "federation.lr=0.05", "federation.momentum=0",
        "algorithm.noise_multiplier=1", f"schedule.decay={work.decay}", "privacy=seeded",
        "device=cpu", "engine.torch_threads=1",
    ]  # fmt: skip
    with hydra_ready():
        config = to_cell_config(compose_cell(words))
    # The divisor is a declared constant; here what the made-up sites hold.
    declared = replace(config.dataset, declared_records=work.rows)
    config = replace(config, dataset=declared)
    cache._loaded.clear()
    cache._loaded[cache.dataset_key(config.dataset)] = federation(work)
    return config


@cache_of_one
def events() -> tuple[torch.Tensor, torch.Tensor]:
    """Toy HIGGS events and their labels, each column standardised."""
    rows = torch.from_numpy(make_rows(EVENTS, seed=0))
    x = rows[:, 1:]
    return (x - x.mean(0)) / x.std(0), rows[:, 0].long()


def federation(work: Work) -> FederatedData:
    """The first events, divided among the sites."""
    every_x, every_y = events()

    def site(index: int) -> SiteData:
        size = work.rows + HELD_OUT
        own = slice(index * size, (index + 1) * size)
        x, y = every_x[own], every_y[own]
        names = np.arange(work.rows + HELD_OUT).astype(str)
        train, test = slice(0, work.rows), slice(work.rows, None)
        return SiteData(
            f"site-{index}", x[train], y[train], x[test], y[test], names[train], names[test]
        )

    return FederatedData(
        name="toy HIGGS events", task="binary", n_classes=2, input_shape=(COLUMNS,),
        metric="accuracy", sites=tuple(site(index) for index in range(work.sites)),
        synthetic=True, fingerprint=str(work),
    )  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Of one cell: seconds and MiB of its training and of its accounting."""

    training_s: float
    accounting_s: float
    memory_mib: float
    accounting_memory_mib: float


def measure(work: Work) -> Cost:
    """A cell's cost in a process of its own, so that no other point has grown it before."""
    receiver, sender = FORKED.Pipe(duplex=False)
    process = FORKED.Process(target=_send, args=(work, sender))
    process.start()
    sender.close()
    found = receiver.recv()
    process.join()
    return Cost(*found)


def _send(work: Work, sender: Connection) -> None:
    run_federation(configuration(Work(sites=3)), evaluate=False)  # what a first cell alone pays
    config = configuration(work)
    close_runtime()
    gc.collect()
    before = _resident_mib()
    with PeakMemory(tree=False) as memory:
        started = time.perf_counter()
        outcome = run_federation(config, evaluate=False)
        trained = time.perf_counter() - started
    assert len(outcome.history) == work.rounds
    gc.collect()
    after = _resident_mib()
    with PeakMemory(tree=False) as accounting_memory:
        started = time.perf_counter()
        stated = privacy_statement(
            Ledger(outcome.events),
            rounds=work.rounds,
            delta=DELTA,
            unit="record",
            randomness="seeded",
        )
        accounted = time.perf_counter() - started
    assert 0 < stated.epsilon < math.inf
    peaks = memory.peak_mib - before, accounting_memory.peak_mib - after
    sender.send((trained, accounted, *peaks))


def _resident_mib() -> float:
    return float(psutil.Process().memory_info().rss / 2**20)


def taken(turns: int) -> dict[str, list[dict[str, Any]]]:
    """Every point of every series, ``turns`` times in turns."""
    points = [(axis, work) for axis, works in SERIES.items() for work in works]
    found: dict[tuple[str, Work], list[Cost]] = {}
    for turn in range(turns):
        for axis, work in points[:: 1 - 2 * (turn % 2)]:
            found.setdefault((axis, work), []).append(measure(work))
            print(turn + 1, axis, size(axis, work), found[axis, work][-1], flush=True)
    rows: dict[str, list[dict[str, Any]]] = {axis: [] for axis in SERIES}
    for axis, work in points:
        costs = found[axis, work]
        seconds = [cost.training_s for cost in costs]
        accounted = [cost.accounting_s for cost in costs]
        rows[axis].append(
            {
                "size": size(axis, work),
                "s": round(statistics.median(seconds), 4),
                "spread_s": [round(min(seconds), 4), round(max(seconds), 4)],
                "accounting_s": round(statistics.median(accounted), 4),
                "accounting_spread_s": [round(min(accounted), 4), round(max(accounted), 4)],
                **_spread("memory", [cost.memory_mib for cost in costs]),
                **_spread("accounting_memory", [cost.accounting_memory_mib for cost in costs]),
            }
        )
    return rows


def _spread(name: str, found: list[float]) -> dict[str, float | list[float]]:
    return {
        f"{name}_mib": round(statistics.median(found), 1),
        f"{name}_spread_mib": [round(min(found), 1), round(max(found), 1)],
    }


def exponent(points: list[tuple[int, float]]) -> float:
    """Slope of a line through the logarithms of the upper half of the points, at least three."""
    return slope(points[-max(3, (len(points) + 1) // 2) :])


def slope(points: list[tuple[int, float]]) -> float:
    """Slope of a line through the logarithms of points."""
    logs = np.log(np.array(points, dtype=float))
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])


def exponents(series: Series) -> dict[str, float]:
    """Of each axis, rounded."""
    return {axis: round(exponent(points), 3) for axis, points in series.items()}


def last_steps(series: Series) -> dict[str, float]:
    """Exponent between the last two points of each axis, rounded."""
    return {axis: round(slope(points[-2:]), 3) for axis, points in series.items()}


def draw(found: Series, accounting: Series, both: Series, path: Path) -> None:
    """One panel for each axis: seconds against size, logarithmic, and the line of training."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    slopes, with_accounting = exponents(found), exponents(both)
    figure, panels = plt.subplots(1, 5, figsize=(15, 3.3), sharey=True, layout="constrained")
    for panel, (axis, points) in zip(panels, found.items(), strict=True):
        x, y = np.array(points, dtype=float).T
        panel.loglog(x, y, "o", color="black", markersize=5, label="training")
        below = np.array(accounting[axis], dtype=float).T
        panel.loglog(*below, "^", color="0.35", mfc="white", markersize=5, label="accounting")
        upper = x[-max(3, (len(x) + 1) // 2) :]
        middle = np.exp(np.mean(np.log(y[-len(upper) :]) - slopes[axis] * np.log(upper)))
        panel.loglog(upper, middle * upper ** slopes[axis], "-", color="0.45", linewidth=2)
        title = f"exponent {slopes[axis]:.2f}\nwith accounting {with_accounting[axis]:.2f}"
        panel.set_title(title, fontsize=10)
        panel.set_xlabel(LABELS[axis])
        panel.grid(visible=True, which="major", color="0.85")
    panels[0].set_ylabel("seconds of a cell")
    panels[0].legend(frameon=False, loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def missed_of(rows: dict[str, list[dict[str, Any]]], points: Series, both: Series) -> list[str]:
    """Every target that was not met, in words."""
    missed = [
        f"time{what} grows with {axis} by an exponent of {slope_of}, {step} at the end"
        for what, series in (("", points), (" with accounting", both))
        for axis in ("sites", "rounds", "changing rounds")
        for slope_of, step in [(exponents(series)[axis], last_steps(series)[axis])]
        if slope_of > AT_MOST or step > LAST_STEP
    ]
    for axis in ("rounds", "changing rounds"):
        for key, more in FLAT_MIB.items():
            memory = {row["size"]: row[key] for row in rows[axis]}
            if max(memory.values()) > max(memory[10], 0) + more:
                missed.append(f"{key} grows with {axis}: {memory}")
    return missed


def main() -> int:
    """Measure, draw, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=Path, default=Path("docs/images/growth.png"))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    events()  # once, for all processes
    rows = taken(args.turns)
    points = {axis: [(row["size"], row["s"]) for row in series] for axis, series in rows.items()}
    accounting = {
        axis: [(row["size"], row["accounting_s"]) for row in series]
        for axis, series in rows.items()
    }
    both = {
        axis: [
            (one[0], one[1] + other[1]) for one, other in zip(series, accounting[axis], strict=True)
        ]
        for axis, series in points.items()
    }
    slopes, last = exponents(points), last_steps(points)
    draw(points, accounting, both, args.picture)
    result = {
        "name": "growth",
        "machine": machine(),
        "data": "toy HIGGS events (synthetic)",
        "turns": args.turns,
        "exponents": slopes,
        "exponents_of_the_last_step": last,
        "exponents_with_accounting": exponents(both),
        "exponents_of_the_last_step_with_accounting": last_steps(both),
        "exponents_of_accounting": exponents(accounting),
        "rows": rows,
    }
    print(slopes, last)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    for fault in (missed := missed_of(rows, points, both)):
        print(f"missed: {fault}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
