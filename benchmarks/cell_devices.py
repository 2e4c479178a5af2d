"""How much faster a cell of images or volumes trains on a GPU than on one CPU core.

The federated cells of ``sweeps/demo.yaml``, unprotected and with DP-SGD, on each device in turn
after a warm-up; ratio = median seconds on the CPU / median seconds on CUDA, of training alone and
of the whole cell. The CPU is given one thread per site, as in a sweep. Needs a CUDA device.

    python benchmarks/cell_devices.py --json FILE [--datasets ixi_tiny ...] [--repeats N]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median

import torch
from common.machine import machine

from fedprivacy.cell import run_cell
from fedprivacy.config.schema import CellConfig
from fedprivacy.result import CellResult
from fedprivacy.sweep.plan import make_plan

DATASETS = ("ixi_tiny", "breast_density")
ALGORITHMS = ("none", "dpsgd")


def cell_on(dataset: str, algorithm: str, device: str) -> CellConfig:
    """The demonstration's cell with protection, if any, in every round."""
    words = [
        "+sweeps=demo", f"dataset={dataset}", f"algorithm={algorithm}", "schedule=every_round",
        "federation=fedavg", "seed=0", f"device={device}", "dataset.train_share=1.0",
    ]  # fmt: skip
    [config] = {cell.config.dataset.name: cell.config for cell in make_plan(words).cells}.values()
    return config


def run(config: CellConfig) -> CellResult:
    """The cell's result; it must have been trained."""
    with tempfile.TemporaryDirectory() as folder:
        result = run_cell(config, Path(folder))
    if result.score is None:
        raise SystemExit(f"{config.dataset.name}: {result.status}: {result.reason}")
    return result


def row_of(dataset: str, algorithm: str, repeats: int) -> dict[str, object]:
    """Times and scores of one cell on both devices, in turns whose order turns around."""
    cells = {device: cell_on(dataset, algorithm, device) for device in ("cpu", "cuda")}
    run(cells["cuda"])  # kernels are chosen and loaded
    found: dict[str, list[CellResult]] = {device: [] for device in cells}
    for repeat in range(repeats):
        for device in list(cells)[:: 1 - 2 * (repeat % 2)]:
            found[device].append(run(cells[device]))
    row: dict[str, object] = {"dataset": dataset, "algorithm": algorithm}
    for part in ("train", "total"):
        seconds = {d: [one.timing_s[part] for one in of] for d, of in found.items()}
        row |= {f"{part}_seconds_{d}": of for d, of in seconds.items()}
        row[f"{part}_ratio"] = median(seconds["cpu"]) / median(seconds["cuda"])
    scores = {d: of[-1].score for d, of in found.items()}
    row |= {f"score_{d}": score.value for d, score in scores.items() if score}
    print(row, flush=True)
    return row


def main() -> int:
    """Print the rows and write them down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--datasets", nargs="*", default=DATASETS)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing measured")
        return 0
    rows = [row_of(d, a, arguments.repeats) for d in arguments.datasets for a in ALGORITHMS]
    if arguments.json:
        report = {
            "name": "cell_devices",
            "machine": machine(),
            "rows": rows,
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
