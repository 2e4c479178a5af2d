"""What training many small sites at once saves: the stacked engine against one site after another.

Federated rounds of an MLP 28-64-64-1 over K sites of 250 to 750 in-memory synthetic records, one
local epoch, batches of 32 (plain) or sampling rate 0.1 (DP-SGD, every step with noise). Both
engines run whole federated rounds: messages, masks, noise, statements, averaging; held-out scores
are left out. On CUDA if there is a device, else on the CPU with one thread, and said so. Runs are
interleaved in an order that turns around; ratio = median seconds one by one / median seconds
stacked. The weights of both must agree, and the events must be the same. The engine leaves a site
by itself to one by one, so that K = 1 shows what asking for it costs. On CUDA the clipped sums of
one by one are recorded and replayed, as those of the stack are; ``one by one, unrecorded`` tells
the GPU of every kernel, as plain training of one by one does.

    python benchmarks/stacked_sites.py [--repeats 5] [--sites 1 10 50] [--rounds 3] [--json FILE]

On CUDA the stack with forward and backward passes in bfloat16 is measured as well (elsewhere with
``--bf16``), and the result file has ``_gpu`` at the end of its name, so that it lies beside the one
of the CPU. Ends with status 1 if the engines disagree, or if on CUDA 50 sites are less than 8 times
faster than one by one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common.machine import machine

from fedprivacy.config.composition import compose_cell, hydra_ready
from fedprivacy.config.loading import to_cell_config
from fedprivacy.config.schema import CellConfig
from fedprivacy.data import cache
from fedprivacy.data.base import FederatedData, SiteData
from fedprivacy.federation.run import FederationOutcome, run_federation

ROWS, COLUMNS, HELD_OUT = 500, 28, 8
AGREE = {"cpu": 1e-5, "cuda": 1e-3}
AT_LEAST, AT_SITES = 8.0, 50
ALGORITHMS = {
    "none": ("algorithm=none",),
    "dpsgd": (
        "algorithm=dpsgd",
        "algorithm.noise_multiplier=1",
        "algorithm.sampling_rate=0.1",
        "dataset.declared_records=500",
    ),
}
OVERRIDES = (
    "dataset=higgs",
    "dataset.source=synthetic",
    "model=mlp",
    "model.hidden=[64,64]",
    "federation.local_epochs=1",
    "federation.batch_size=32",
    "federation.lr=0.05",
    "federation.momentum=0.9",
    "privacy=seeded",
    "engine.torch_threads=1",
)


def synthetic_data(sites: int) -> FederatedData:
    """Made-up records that no file holds; sites differ in size by up to a factor of three."""
    generator = torch.Generator().manual_seed(0)

    def site(index: int) -> SiteData:
        train = ROWS + (index % 3 - 1) * ROWS // 2
        x = torch.randn(train + HELD_OUT, COLUMNS, generator=generator)
        y = (x[:, 0] * x[:, 1] + x[:, 2] > 0).long()
        names = np.array([f"{index}-{row}" for row in range(len(x))])
        return SiteData(
            f"synthetic-{index}",
            x[:train],
            y[:train],
            x[train:],
            y[train:],
            names[:train],
            names[train:],
        )

    return FederatedData(
        name="in-memory synthetic",
        task="binary",
        n_classes=2,
        input_shape=(COLUMNS,),
        metric="accuracy",
        sites=tuple(site(index) for index in range(sites)),
        synthetic=True,
        fingerprint=f"in-memory synthetic {sites}",
    )


def cell_of(
    algorithm: str, sites: int, rounds: int, device: str, more: tuple[str, ...] = ()
) -> CellConfig:
    """The cell, with its records where this process finds them."""
    words = [*OVERRIDES, *ALGORITHMS[algorithm], *more]
    words += [f"dataset.n_sites={sites}", f"federation.rounds={rounds}", f"device={device}"]
    config = to_cell_config(compose_cell(words))
    cache._loaded.setdefault(cache.dataset_key(config.dataset), synthetic_data(sites))
    return config


def on(config: CellConfig, engine: str, precision: str = "float32") -> CellConfig:
    """The cell on another engine."""
    return replace(config, engine=replace(config.engine, name=engine, precision=precision))


def timed(config: CellConfig) -> tuple[float, FederationOutcome]:
    """Seconds of the rounds, all work on the device included."""
    start = time.perf_counter()
    outcome = run_federation(config, evaluate=False)
    return time.perf_counter() - start, outcome


def row_of(algorithm: str, sites: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds and agreement of one case."""
    config = cell_of(algorithm, sites, arguments.rounds, arguments.device)
    cells = {"one by one": on(config, "inprocess"), "stacked": on(config, "stacked")}
    if algorithm == "dpsgd" and arguments.device == "cuda":
        words = ("algorithm.grad_engine=bookkeeping",)
        unrecorded = cell_of(algorithm, sites, arguments.rounds, arguments.device, words)
        cells["one by one, unrecorded"] = on(unrecorded, "inprocess")
    if arguments.bf16 or arguments.device == "cuda":
        cells["stacked bf16"] = on(config, "stacked", "bf16")
    outcomes = {name: timed(cell)[1] for name, cell in cells.items()}  # warm
    seconds: dict[str, list[float]] = {name: [] for name in cells}
    for repeat in range(arguments.repeats):
        for name in list(cells)[:: 1 - 2 * (repeat % 2)]:
            seconds[name].append(timed(cells[name])[0])
    medians = {name: statistics.median(of) for name, of in seconds.items()}
    expected, found = outcomes["one by one"], outcomes["stacked"]
    gap = float((expected.weights["vector"] - found.weights["vector"]).abs().max())
    row: dict[str, Any] = {
        "algorithm": algorithm,
        "sites": sites,
        "median_s": {name: round(median, 5) for name, median in medians.items()},
        "times_faster": {
            f"{fast} than {slow}": round(medians[slow] / medians[fast], 2)
            for slow in cells
            for fast in cells
            if slow.startswith("one by one") and fast.startswith("stacked")
        },
        "largest_weight_difference": gap,
        "agree": gap <= AGREE[arguments.device] and expected.events == found.events,
        "seconds": {name: [round(one, 5) for one in of] for name, of in seconds.items()},
    }
    shown = ", ".join(f"{name} {median * 1e3:.1f} ms" for name, median in medians.items())
    print(
        f"{algorithm:<6} K={sites:<3} {shown}; faster {row['times_faster']}, {gap:.1e}", flush=True
    )
    return row


def main() -> int:
    """Measure, print the rows and write them down; see the module for the status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sites", type=int, nargs="*", default=[1, 10, 50])
    parser.add_argument("--bf16", action="store_true", help="also where there is no GPU")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    gpu = torch.cuda.get_device_name() if arguments.device == "cuda" else None
    print(f"on {gpu or 'the CPU, one thread: no CUDA device here'}")
    with hydra_ready():
        rows = [row_of(a, k, arguments) for a in ALGORITHMS for k in arguments.sites]
    missed = [fault for row in rows for fault in faults(row, gpu is not None)]
    if arguments.json:
        report = {
            "name": "stacked_sites",
            "device": arguments.device,
            "machine": machine(),
            "data": "in-memory synthetic",
            "rounds": arguments.rounds,
            "repeats": arguments.repeats,
            "rows": rows,
            "missed": missed,
        }
        file = arguments.json.with_stem(arguments.json.stem + ("_gpu" if gpu else ""))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for fault in missed:
        print(f"missed: {fault}")
    return 1 if missed else 0


def faults(row: dict[str, Any], gpu: bool) -> list[str]:
    """What a row misses of what is asked for."""
    name, found = f"{row['algorithm']} K={row['sites']}", []
    if not row["agree"]:
        found.append(f"{name}: the engines disagree")
    times = row["times_faster"]["stacked than one by one"]
    if gpu and row["sites"] == AT_SITES and times < AT_LEAST:
        found.append(f"{name}: {times} times faster than one by one, at least {AT_LEAST} asked for")
    return found


if __name__ == "__main__":
    raise SystemExit(main())
