"""What an engine costs: the same federated training as a bare loop, on ours, and on Flower's Ray.

MLP 28-64-64-1, 10 sites of 5000 in-memory synthetic records, batches of 256, one local epoch, 5
rounds, one torch thread. The bare loop shares model, tensors and order of batches with the engines
and does nothing else: no messages, no reports, no events, no checks. It steps as everyone's loop
does, with ``torch.optim.SGD``; a second one, ``flat``, moves all parameters as one vector, as the
engines do, which is faster and leaves the same bits: beside it shows what the engine alone costs.
Every run starts from the composed configuration and cached data and ends with the final weights
(model, grid, contexts, rounds); Hydra, MLflow, the ledger and held-out scores are left out. Runs
are interleaved, in an order that turns around; ratios are taken between neighbours, which cancels
what else the machine is doing, and a repeat has several turns of the short contenders; Ray's one
run of a repeat stands beside the median of its loops. CPU seconds leave out waiting, so they are
the steadier figure on a machine that is shared; Ray's work is done in other processes, so it has
none.

    python benchmarks/engine_overhead.py [--repeats 7] [--no-ray] [--json FILE]

Ends with status 1 if an engine trained to other weights, or if the default engine took more than
1.10 times the bare loop on the clock.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common.machine import machine
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedprivacy.config.composition import compose_cell, hydra_ready
from fedprivacy.config.loading import to_cell_config
from fedprivacy.config.schema import CellConfig
from fedprivacy.data import cache
from fedprivacy.data.base import FederatedData, SiteData
from fedprivacy.federation import client_app
from fedprivacy.federation.engines.inprocess import InProcessEngine
from fedprivacy.federation.engines.ray import RayEngine
from fedprivacy.federation.run import run_federation
from fedprivacy.federation.site import close_runtime
from fedprivacy.models.registry import build_model
from fedprivacy.training.flat_gradient import flat_gradient
from fedprivacy.training.losses import LOSSES
from fedprivacy.training.parameters import FlatParameters
from fedprivacy.training.randomness import Streams, derive_seed
from fedprivacy.training.task import OptimizerSpec

SITES, ROWS, COLUMNS, HELD_OUT = 10, 5000, 28, 16
AT_MOST = 1.10
TURNS = 5
LOOPS = ("bare", "flat")
OVERRIDES = (
    "algorithm=none",
    "dataset=higgs",
    "dataset.source=synthetic",
    f"dataset.n_sites={SITES}",
    "model=mlp",
    "model.hidden=[64,64]",
    "federation.rounds=5",
    "federation.local_epochs=1",
    "federation.batch_size=256",
    "federation.lr=0.05",
    "federation.momentum=0",
    "device=cpu",
    "engine.torch_threads=1",
)


@dataclass(frozen=True)
class Timed:
    """One run.

    Attributes:
        wall: seconds on the clock.
        cpu: seconds of this process's CPU time, all threads.
        weights: hash of the final weights.
    """

    wall: float
    cpu: float
    weights: str


def synthetic_data() -> FederatedData:
    """Made-up records that no file holds, the same in every process."""
    generator = torch.Generator().manual_seed(0)

    def site(index: int) -> SiteData:
        x = torch.randn(ROWS + HELD_OUT, COLUMNS, generator=generator)
        y = (x[:, 0] * x[:, 1] + x[:, 2] > 0).long()
        names = np.array([f"{index}-{row}" for row in range(ROWS + HELD_OUT)])
        train, test = slice(0, ROWS), slice(ROWS, None)
        return SiteData(
            f"synthetic-{index}", x[train], y[train], x[test], y[test], names[train], names[test]
        )

    sites = tuple(site(index) for index in range(SITES))
    return FederatedData(
        name="in-memory synthetic",
        task="binary",
        n_classes=2,
        input_shape=(COLUMNS,),
        metric="accuracy",
        sites=sites,
        synthetic=True,
        fingerprint="in-memory synthetic",
    )


def install(config: CellConfig) -> FederatedData:
    """Put the records where this process finds the configuration's dataset."""
    key = cache.dataset_key(config.dataset)
    if key not in cache._loaded:
        cache._loaded[key] = synthetic_data()
    return cache._loaded[key]


def bare_loop(config: CellConfig, data: FederatedData, flat_steps: bool = False) -> torch.Tensor:
    """Federated averaging and nothing else.

    Args:
        config: of the cell.
        data: of its sites.
        flat_steps: step as the engines do, all parameters as one vector; else as PyTorch does.
    """
    federation = config.federation
    model = build_model(config.model, data, derive_seed(config.seed, "init"))
    flat, loss_of = FlatParameters(model), LOSSES[data.task]
    weights = flat.snapshot()
    for number in range(1, federation.rounds + 1):
        mean = torch.zeros(flat.size, dtype=torch.float64)
        for index, site in enumerate(data.sites):
            flat.load(weights)
            generator = Streams(config.seed, "secret", number, index).torch("batches")
            order = torch.randperm(ROWS, generator=generator)
            with flat_gradient(flat) if flat_steps else nullcontext() as gradient:
                if gradient is None:
                    optimizer = torch.optim.SGD(model.parameters(), lr=federation.lr)
                    clear = optimizer.zero_grad
                else:
                    optimizer = OptimizerSpec("sgd", federation.lr).build(flat, gradient)
                    clear = gradient.zero_
                for batch in torch.split(order, federation.batch_size):
                    clear()
                    loss_of(model(site.train_x[batch]), site.train_y[batch]).backward()
                    optimizer.step()
            mean += (1 / SITES) * (flat.snapshot() - weights).double()
        weights = weights + mean.float()
    return weights


def with_records(config: CellConfig) -> ClientApp:
    """The package's sites, for processes that have not been given the records."""
    app = ClientApp()

    def handle(message: Message, context: Context) -> Message:
        install(config)
        return client_app.app(message, context)

    app.train()(handle)
    return app


def contenders(config: CellConfig, ray: bool) -> dict[str, Callable[[], torch.Tensor]]:
    """What is compared, by name; each returns the final weights."""
    data = install(config)

    def on(engine: InProcessEngine | RayEngine) -> torch.Tensor:
        close_runtime()
        return run_federation(config, evaluate=False, engine=engine).weights["vector"]

    runs: dict[str, Callable[[], torch.Tensor]] = {
        "bare": lambda: bare_loop(config, data),
        "flat": lambda: bare_loop(config, data, flat_steps=True),
        "inprocess": lambda: on(InProcessEngine()),
    }
    if ray:
        runs["ray"] = lambda: on(RayEngine(client_app=with_records(config)))
    return runs


def timed(run: Callable[[], torch.Tensor]) -> Timed:
    """Run once."""
    wall, cpu = time.perf_counter(), time.process_time()
    weights = run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Timed(wall, cpu, hashlib.sha256(weights.numpy().tobytes()).hexdigest()[:16])


def measure(runs: dict[str, Callable[[], torch.Tensor]], repeats: int) -> dict[str, list[Timed]]:
    """Interleaved runs; the first of each but Ray's, which never gets warm, is thrown away."""
    short = [name for name in runs if name != "ray"]
    for name in short:
        timed(runs[name])
    found: dict[str, list[Timed]] = {name: [] for name in runs}
    for repeat in range(repeats):
        order = [name for turn in range(TURNS) for name in short[:: 1 - 2 * (turn % 2)]]
        long = [name for name in runs if name not in short]
        for name in order + long if repeat % 2 else long + order:
            found[name].append(timed(runs[name]))
        said = ", ".join(f"{name} {found[name][-1].wall:.3f} s" for name in runs)
        print(f"  {repeat + 1}/{repeats} {said}", flush=True)
    return found


def summary(found: dict[str, list[Timed]]) -> dict[str, object]:
    """Medians, and medians of the ratios between neighbours."""

    def every(name: str, loop: str, what: str) -> list[float]:
        loops = [getattr(run, what) for run in found[loop]]
        size = len(loops) // len(found[name])
        beside = [statistics.median(loops[at : at + size]) for at in range(0, len(loops), size)]
        return [getattr(run, what) / one for run, one in zip(found[name], beside, strict=True)]

    def ratio(name: str, loop: str, what: str) -> float:
        return round(statistics.median(every(name, loop, what)), 4)

    def spread(name: str, loop: str) -> list[float]:
        ratios = every(name, loop, "wall")
        return [round(min(ratios), 4), round(max(ratios), 4)]

    engines = [name for name in found if name not in LOOPS]
    return {
        "ratios": {name: ratio(name, "bare", "wall") for name in engines},
        "ratios_spread": {name: spread(name, "bare") for name in engines},
        "ratios_cpu": {"inprocess": ratio("inprocess", "bare", "cpu")},
        "ratios_to_flat": {name: ratio(name, "flat", "wall") for name in engines},
        "ratios_to_flat_spread": {name: spread(name, "flat") for name in engines},
        "ratios_to_flat_cpu": {"inprocess": ratio("inprocess", "flat", "cpu")},
        "median_s": {
            name: round(statistics.median(one.wall for one in runs), 4)
            for name, runs in found.items()
        },
        "median_cpu_s": {
            name: round(statistics.median(one.cpu for one in found[name]), 4)
            for name in (*LOOPS, "inprocess")
        },
        "wall_s": {name: [round(one.wall, 4) for one in runs] for name, runs in found.items()},
        "weights": {name: sorted({one.weights for one in runs}) for name, runs in found.items()},
    }


def table(result: dict[str, dict[str, float]]) -> str:
    """The summary for people."""
    lines = [f"{'engine':<12}{'median s':>10}{'CPU s':>9}{'to bare':>9}{'to flat':>9}"]
    for name, seconds in result["median_s"].items():
        of = [result["median_cpu_s"].get(name), result["ratios"].get(name)]
        shown = [f"{'-' if one is None else format(one, '.3f'):>9}" for one in of]
        shown.append(f"{result['ratios_to_flat'].get(name, '-'):>9}")
        lines.append(f"{name:<12}{seconds:10.3f}" + "".join(shown))
    return "\n".join(lines)


def main() -> int:
    """Measure, print the table; see the module for the status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--no-ray", action="store_true", help="leave Flower's Ray engine out")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    ray = not arguments.no_ray and importlib.util.find_spec("ray") is not None
    if not ray:
        print("skipped Flower's Ray engine: " + ("--no-ray" if arguments.no_ray else "no ray here"))
    torch.set_num_threads(1)
    with hydra_ready():
        config = to_cell_config(compose_cell(OVERRIDES))
    found = measure(contenders(config, ray), arguments.repeats)
    result: dict[str, Any] = {
        "name": "engine_overhead",
        "machine": machine(),
        "data": "in-memory synthetic",
        "repeats": arguments.repeats,
        "turns_per_repeat": TURNS,
        **summary(found),
    }
    print(table(result))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    hashes = {one.weights for runs in found.values() for one in runs}
    if len(hashes) != 1:
        print(f"engines trained to different weights: {result['weights']}")
        return 1
    ratio = result["ratios"]["inprocess"]
    print(f"final weights {hashes.pop()} everywhere; at most {AT_MOST} asked for")
    return 0 if ratio <= AT_MOST else 1


if __name__ == "__main__":
    raise SystemExit(main())
