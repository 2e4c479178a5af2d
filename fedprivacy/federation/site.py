"""A site at work: what it holds between messages, its training and its evaluation.

A Flower client is a function of a message; everything slow (data, model, device copies) is kept
by the process and found again by the cell's configuration.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from fedprivacy.accounting.events import Event
from fedprivacy.config.schema import CellConfig
from fedprivacy.config.serialization import loads
from fedprivacy.data.base import FederatedData
from fedprivacy.data.cache import dataset_key, load_data
from fedprivacy.device import resolve_device
from fedprivacy.errors import TrainingCollapsed
from fedprivacy.federation.arrangement import Node, arrange
from fedprivacy.mechanisms.base import Mechanism
from fedprivacy.mechanisms.registry import build_mechanism
from fedprivacy.metrics import evidence
from fedprivacy.models.registry import build_model
from fedprivacy.schedules import strengths
from fedprivacy.training.losses import LOSSES
from fedprivacy.training.parameters import FlatParameters
from fedprivacy.training.randomness import Streams, derive_seed
from fedprivacy.training.task import LocalTask, OptimizerSpec

VIEW = "server_updates"
_EVALUATION_SCALARS = 1 << 20
_ON_DEVICE_CAPACITY = 8


@dataclass(frozen=True)
class LocalUpdate:
    """What a site's round produced.

    Attributes:
        update: ``(d,)`` float32 on the CPU, protected.
        event: what was released, for the ledger.
        steps: local optimiser steps.
        loss: mean training loss, a diagnostic.
        noise_norm: expected L2 norm of the noise in the update.
        num_examples: the site's weight.
    """

    update: torch.Tensor
    event: Event
    steps: int
    loss: float
    noise_norm: float
    num_examples: int


class CellRuntime:
    """One cell's model, mechanism and data in one process, shared by the sites it plays."""

    def __init__(self, config: CellConfig) -> None:
        self.config = config
        self.device = resolve_device(config.device)
        self.data: FederatedData = load_data(config.dataset)
        self.nodes: tuple[Node, ...] = arrange(self.data, config.federation.name)
        self.mechanism: Mechanism = build_mechanism(
            config.algorithm, config.dataset.declared_records
        )
        self.strengths = strengths(config.schedule, config.federation.rounds)
        self.loss = LOSSES[self.data.task]

    @cached_property
    def parameters(self) -> FlatParameters:
        """The model on the training device; whoever uses it loads weights first."""
        seed = derive_seed(self.config.seed, "init")
        return FlatParameters(build_model(self.config.model, self.data, seed).to(self.device))

    @cached_property
    def initial_weights(self) -> torch.Tensor:
        """``(d,)`` weights before round 1, decided by the cell's seed alone."""
        seed = derive_seed(self.config.seed, "init")
        return FlatParameters(build_model(self.config.model, self.data, seed)).snapshot()

    def train(self, partition: int, round_number: int, weights: torch.Tensor) -> LocalUpdate:
        """Train one site from the global weights and protect its update.

        Raises:
            TrainingCollapsed: the update is not finite; nothing of it may leave.
            ProtectionError: the mechanism refused; nothing of it may leave.
        """
        node = self.nodes[partition]
        task = self._task(partition, round_number, weights)
        trained = self.mechanism.train(task)
        update = self.parameters.snapshot() - weights
        if not bool(torch.isfinite(update).all()):
            raise TrainingCollapsed("weights became non-finite", round_number, node.name)
        protected = self.mechanism.protect(update, task, trained)
        release = self.mechanism.release(task, trained)
        protects = task.strength is not None and self.mechanism.placement != "none"
        event = Event(
            round=round_number,
            site=node.name,
            mechanism=self.mechanism.name,
            unit=release.unit,
            neighbouring=release.neighbouring,
            view=VIEW,
            dp_event=release.dp_event,
            protected=protects,
            strength=task.strength if protects else None,
            reason=release.reason,
            details=release.details,
        )
        by_size = self.config.federation.weighting == "examples"
        return LocalUpdate(
            update=protected.update,
            event=event,
            steps=trained.steps,
            loss=trained.loss,
            noise_norm=protected.noise_norm,
            num_examples=len(task.x) if by_size else 1,
        )

    def _task(self, partition: int, round_number: int, weights: torch.Tensor) -> LocalTask:
        federation = self.config.federation
        self.parameters.load(weights)
        self.parameters.model.train()
        x, y = self._on_device(partition)
        return LocalTask(
            parameters=self.parameters,
            loss=self.loss,
            x=x,
            y=y,
            optimizer=OptimizerSpec(federation.optimizer, federation.lr, federation.momentum),
            batch_size=federation.batch_size,
            local_epochs=federation.local_epochs,
            strength=self.strengths[round_number - 1],
            streams=Streams(
                seed=self.config.seed,
                randomness=self.config.privacy.randomness,  # type: ignore[arg-type]
                round_number=round_number,
                site=partition,
            ),
        )

    def evaluate(
        self, partition: int, weights: torch.Tensor
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], list[tuple[str, int]]]:
        """Evidence ``(m, k)``, labels ``(m,)`` and the sites they belong to."""
        self.parameters.load(weights)
        self.parameters.model.eval()
        rows, labels, parts = [], [], []
        for site in self.nodes[partition].evaluate:
            rows.append(self._evidence(site.test_x, site.test_y))
            flat = site.test_y.ndim == 1
            labels.append(site.test_y.numpy() if flat else np.zeros(len(site.test_y)))
            parts.append((site.name, len(site.test_x)))
        return np.concatenate(rows), np.concatenate(labels).astype(np.float32), parts

    @torch.no_grad()
    def _evidence(self, x: torch.Tensor, y: torch.Tensor) -> NDArray[np.float32]:
        size = max(1, _EVALUATION_SCALARS // max(1, x[0].numel()))
        parts = [
            evidence(
                self.data.task,
                self.parameters.model(part.to(self.device)),
                target.to(self.device),
            ).cpu()
            for part, target in zip(x.split(size), y.split(size), strict=True)
        ]
        return torch.cat(parts).numpy()

    def _on_device(self, partition: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The site's training records on the device, copied there once per process."""
        pooled = self.config.federation.name == "central"
        key = (dataset_key(self.config.dataset), pooled, partition, str(self.device))
        if key not in _on_device:
            site = self.nodes[partition].train
            _on_device[key] = (site.train_x.to(self.device), site.train_y.to(self.device))
            while len(_on_device) > _ON_DEVICE_CAPACITY + len(self.nodes):
                _on_device.popitem(last=False)
        _on_device.move_to_end(key)
        return _on_device[key]


_on_device: OrderedDict[tuple[str, bool, int, str], tuple[torch.Tensor, torch.Tensor]] = (
    OrderedDict()
)
_runtime: tuple[str, CellRuntime] | None = None


def open_runtime(cell: str) -> CellRuntime:
    """The runtime of a cell, from memory if it is the one this process served last.

    Args:
        cell: the configuration as ``fedprivacy.config.serialization.dumps`` writes it.
    """
    global _runtime
    if _runtime is None or _runtime[0] != cell:
        _runtime = (cell, CellRuntime(loads(cell)))
    return _runtime[1]


def close_runtime() -> None:
    """Forget the current runtime, so that its model and mechanism can be freed."""
    global _runtime
    _runtime = None
