"""The work that every peer does: records, model, optimiser; nothing but torch is needed.

MLP 28-64-64-1, SGD at .05, batches of 256, one local epoch, one torch thread, FedAvg by examples.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import time

import torch
from torch import nn

COLUMNS, BATCH, RATE = 28, 256, 0.05
HELD_OUT = 4000


def arguments() -> argparse.Namespace:
    """What every runner is called with."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sites", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--scratch", default=".")
    parser.add_argument("--forked", action="store_true", help="FLARE's clients share their imports")
    parser.add_argument("--often", action="store_true", help="FLARE polls often whatever comes")
    return parser.parse_args()


def records(seed: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows ``(rows, 28)`` and labels ``(rows,)``; a site's seed is its index from 1 up."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, COLUMNS, generator=generator)
    return x, (x[:, 0] * x[:, 1] + x[:, 2] > 0).float()


class Net(nn.Sequential):
    """The model."""

    def __init__(self) -> None:
        torch.manual_seed(int(os.environ.get("PEER_SEED", "0")))
        super().__init__(
            nn.Linear(COLUMNS, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)
        )


def loss_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean loss of a batch."""
    return nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], y)


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, order: torch.Generator) -> None:
    """One local epoch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for batch in torch.split(torch.randperm(len(x), generator=order), BATCH):
        optimizer.zero_grad()
        loss_of(model, x[batch], y[batch]).backward()
        optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """Share of held-out rows that the model gets right."""
    x, y = records(0, HELD_OUT)
    return float(((model(x)[:, 0] > 0) == (y > 0)).float().mean())


def encoded(model: nn.Module) -> str:
    """The model's weights as text."""
    vector = nn.utils.parameters_to_vector(model.parameters()).detach()
    return base64.b64encode(vector.numpy().tobytes()).decode()


class Clock:
    """Seconds of runs."""

    def __init__(self) -> None:
        self.runs: list[float] = []

    def __enter__(self) -> Clock:
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.runs.append(time.perf_counter() - self._started)


def tell(name: str, version: str, runs: list[float], rounds: int, model: nn.Module, **more: object):
    """Print what was measured and the final weights, for the script that called this one."""
    print(
        "RESULT "
        + json.dumps(
            {
                "peer": name,
                "version": version,
                "wall_s": runs,
                "round_s": [one / rounds for one in runs],
                "accuracy": round(accuracy(model), 4),
                "start": encoded(Net()),
                "weights": encoded(model),
                **more,
            }
        )
    )
