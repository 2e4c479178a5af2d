"""Small federations whose sites are trained one by one and as a stack, to be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from fedprivacy.models.density_cnn import DensityCnn
from fedprivacy.models.mlp import Mlp
from fedprivacy.training.losses import LOSSES
from fedprivacy.training.parameters import FlatParameters
from fedprivacy.training.randomness import Streams
from fedprivacy.training.stacked.records import StackedRecords
from fedprivacy.training.stacked.sites import StackedOutcome, StackedSites
from fedprivacy.training.task import LocalTask, OptimizerSpec, Trained

# Falling, as a stack wants them; the last site has a single record.
SIZES = (53, 37, 20, 5, 1)


def _smooth_cnn() -> nn.Module:
    """Without ties of ReLU or max pooling, where rounding alone could change a gradient."""
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(27, 3)
    )


def _volumes() -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.GroupNorm(1, 2), nn.Conv3d(2, 2, 1))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "mlp": (lambda: Mlp(6, [9, 5], 1), (6,), "binary"),
    "linear without bias": (lambda: nn.Linear(6, 3, bias=False), (6,), "multiclass"),
    "smooth cnn": (_smooth_cnn, (1, 6, 6), "multiclass"),
    "volumes": (_volumes, (1, 3, 4, 3), "segmentation"),
    "density_cnn": (lambda: DensityCnn(1, [4, 8], 2, 3), (1, 8, 8), "multiclass"),
}


@dataclass(frozen=True)
class Sites:
    """Tasks of one round, all over one model, and the weights ``(d,)`` that it starts from."""

    tasks: tuple[LocalTask, ...]
    start: torch.Tensor

    def stack(self) -> StackedSites:
        """The sites, stacked."""
        records = StackedRecords.of([(task.x, task.y) for task in self.tasks])
        return StackedSites(self.tasks, self.start.repeat(len(self.tasks), 1), records)

    def following(self, outcomes: Sequence[StackedOutcome]) -> Sites:
        """The next round, from the average of the sites' weights."""
        number = self.tasks[0].streams.round_number + 1
        tasks = tuple(
            replace(task, streams=replace(task.streams, round_number=number)) for task in self.tasks
        )
        return Sites(tasks, torch.stack([one.weights for one in outcomes]).mean(0))


def sites_of(
    model: str,
    *,
    sizes: Sequence[int] = SIZES,
    optimizer: OptimizerSpec | None = None,
    local_epochs: float = 1.0,
    strength: float | None = None,
) -> Sites:
    """Sites of the given sizes with a small model, the same each time."""
    build, shape, kind = MODELS[model]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(5)
        parameters = FlatParameters(build())
    draws = torch.Generator().manual_seed(7)
    classes = 3 if kind == "multiclass" else 2
    mask = shape[1:] if kind == "segmentation" else ()
    tasks = tuple(
        LocalTask(
            parameters=parameters,
            loss=LOSSES[kind],
            x=torch.randn(n, *shape, generator=draws),
            y=torch.randint(0, classes, (n, *mask), generator=draws),
            optimizer=optimizer or OptimizerSpec("sgd", 0.1, 0.9),
            batch_size=8,
            local_epochs=local_epochs,
            strength=strength,
            streams=Streams(0, "seeded", 1, index),
        )
        for index, n in enumerate(sizes)
    )
    return Sites(tasks, parameters.snapshot())


def one_by_one(sites: Sites, train: Callable[[LocalTask], Trained]) -> list[StackedOutcome]:
    """What training each site by itself leaves."""
    found = []
    for task in sites.tasks:
        task.parameters.load(sites.start)
        trained = train(task)
        found.append(StackedOutcome(task.parameters.snapshot(), trained))
    sites.tasks[0].parameters.load(sites.start)
    return found


def largest_gap(ours: Sequence[StackedOutcome], theirs: Sequence[StackedOutcome]) -> float:
    """Largest difference of any weight of any site."""
    pairs = zip(ours, theirs, strict=True)
    return max(float((a.weights - b.weights).abs().max()) for a, b in pairs)
