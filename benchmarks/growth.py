"""How cost grows: with sites, rounds, records and the size of the model.

DP-SGD over in-memory rows of HIGGS' shape (28 columns), one process, one torch thread; each point
is the training of one cell, messages, noise and events included, without Hydra, data files, scores
and accounting. The exponent is the slope of a line through the logarithms of the upper half of the
points; 1 is proportional. Memory is what the process holds after the cell, beside before it.

    python benchmarks/growth.py [--picture docs/images/growth.png] [--json FILE]

Ends with status 1 if time grows faster than proportionally (an exponent above 1.1) with sites or
rounds, or if memory after 160 rounds is 10 % above that after 10.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import torch

from fedprivacy.config.composition import compose_cell, hydra_ready
from fedprivacy.config.loading import to_cell_config
from fedprivacy.config.schema import CellConfig
from fedprivacy.data import cache
from fedprivacy.data.base import FederatedData, SiteData
from fedprivacy.federation.run import run_federation
from fedprivacy.federation.site import close_runtime

COLUMNS, HELD_OUT = 28, 4
AT_MOST, FLAT = 1.1, 1.1


@dataclass(frozen=True)
class Work:
    """One cell."""

    sites: int = 10
    rounds: int = 2
    rows: int = 500
    hidden: int = 64

    @property
    def parameters(self) -> int:
        """Scalars of the model."""
        return (COLUMNS + 1) * self.hidden + (self.hidden + 1) * self.hidden + self.hidden + 1


SERIES = {
    "sites": [Work(sites=n, rows=200) for n in (3, 10, 30, 100, 300, 1000)],
    "rounds": [Work(rounds=n) for n in (5, 10, 20, 40, 80, 160)],
    "records": [Work(rows=n // 10) for n in (10_000, 30_000, 100_000, 300_000, 1_000_000)],
    "parameters": [Work(rows=2000, hidden=n) for n in (16, 32, 64, 128, 256, 512, 1024)],
}
LABELS = {
    "sites": "sites, 200 records each",
    "rounds": "rounds, 10 sites",
    "records": "records in all, 10 sites",
    "parameters": "parameters of the model",
}


def size(axis: str, work: Work) -> int:
    """Where the point lies on its axis."""
    found = {
        "sites": work.sites,
        "rounds": work.rounds,
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
        "algorithm.noise_multiplier=1", "privacy=seeded", "device=cpu", "engine.torch_threads=1",
    ]  # fmt: skip
    with hydra_ready():
        config = to_cell_config(compose_cell(words))
    # The divisor is a declared constant; here what the made-up sites hold.
    declared = replace(config.dataset, declared_records=work.rows)
    config = replace(config, dataset=declared)
    cache._loaded.clear()
    cache._loaded[cache.dataset_key(config.dataset)] = made_up(work)
    return config


def made_up(work: Work) -> FederatedData:
    """Rows that no file holds."""
    generator = torch.Generator().manual_seed(0)

    def site(index: int) -> SiteData:
        x = torch.randn(work.rows + HELD_OUT, COLUMNS, generator=generator)
        y = (x[:, 0] * x[:, 1] + x[:, 2] > 0).long()
        names = np.arange(work.rows + HELD_OUT).astype(str)
        train, test = slice(0, work.rows), slice(work.rows, None)
        return SiteData(
            f"site-{index}", x[train], y[train], x[test], y[test], names[train], names[test]
        )

    return FederatedData(
        name="in-memory rows", task="binary", n_classes=2, input_shape=(COLUMNS,),
        metric="accuracy", sites=tuple(site(index) for index in range(work.sites)),
        synthetic=True, fingerprint=str(work),
    )  # fmt: skip


def measure(work: Work) -> tuple[float, float]:
    """Seconds of the cell's training, and what the process holds more after it, in MiB."""
    config = configuration(work)
    close_runtime()
    gc.collect()
    before = psutil.Process().memory_info().rss
    started = time.perf_counter()
    outcome = run_federation(config, evaluate=False)
    seconds = time.perf_counter() - started
    assert len(outcome.history) == work.rounds
    return seconds, (psutil.Process().memory_info().rss - before) / 2**20


def exponent(points: list[tuple[int, float]]) -> float:
    """Slope of a line through the logarithms of the upper half of the points, at least three."""
    upper = np.log(np.array(points[-max(3, (len(points) + 1) // 2) :], dtype=float))
    return float(np.polyfit(upper[:, 0], upper[:, 1], 1)[0])


def draw(found: dict[str, list[tuple[int, float]]], slopes: dict[str, float], path: Path) -> None:
    """One panel for each axis: seconds against size, both logarithmic, and the fitted line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 4, figsize=(13, 3.1), sharey=True, layout="constrained")
    for panel, (axis, points) in zip(panels, found.items(), strict=True):
        x, y = np.array(points, dtype=float).T
        panel.loglog(x, y, "o", color="black", markersize=5)
        upper = x[-max(3, (len(x) + 1) // 2) :]
        middle = np.exp(np.mean(np.log(y[-len(upper) :]) - slopes[axis] * np.log(upper)))
        panel.loglog(upper, middle * upper ** slopes[axis], "-", color="0.45", linewidth=2)
        panel.set_title(f"exponent {slopes[axis]:.2f}", fontsize=11)
        panel.set_xlabel(LABELS[axis])
        panel.grid(visible=True, which="major", color="0.85")
    panels[0].set_ylabel("seconds of a cell's training")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> int:
    """Measure, draw, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=Path, default=Path("docs/images/growth.png"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    measure(Work())
    rows: dict[str, list[dict[str, float]]] = {}
    for axis, works in SERIES.items():
        for work in works:
            seconds, grown = measure(work)
            rows.setdefault(axis, []).append(
                {"size": size(axis, work), "s": round(seconds, 4), "grown_mib": round(grown, 1)}
            )
            print(axis, rows[axis][-1], flush=True)
    points = {
        axis: [(int(row["size"]), row["s"]) for row in series] for axis, series in rows.items()
    }
    slopes = {axis: round(exponent(series), 3) for axis, series in points.items()}
    draw(points, slopes, args.picture)
    memory = [row["grown_mib"] for row in rows["rounds"]]
    held = psutil.Process().memory_info().rss / 2**20
    result = {
        "name": "growth",
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}",
        "exponents": slopes,
        "rows": rows,
        "memory_mib": {"process": round(held), "grown by rounds": memory},
    }
    print(slopes)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    superlinear = [axis for axis in ("sites", "rounds") if slopes[axis] > AT_MOST]
    leaks = max(memory[2:]) > (FLAT - 1) * held
    for axis in superlinear:
        print(f"missed: time grows with {axis} by an exponent of {slopes[axis]}")
    if leaks:
        print(f"missed: memory grows with rounds: {memory} MiB")
    return 1 if superlinear or leaks else 0


if __name__ == "__main__":
    sys.exit(main())
