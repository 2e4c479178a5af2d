"""A site at work: what it holds between messages, its training and its evaluation.

A Flower client is a function of a message; everything slow (data, model, device copies) is kept
by the process and found again by the cell's configuration.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedprivacy.accounting.events import Event
from fedprivacy.config.schema import CellConfig, CentralGaussianConf
from fedprivacy.config.serialization import loads
from fedprivacy.config.stack import algorithms_of
from fedprivacy.data.base import FederatedData
from fedprivacy.data.cache import dataset_key, load_data
from fedprivacy.device import resolve_device
from fedprivacy.federation.arrangement import Node, arrange_cell
from fedprivacy.federation.device_records import DeviceRecords
from fedprivacy.federation.ready import ReadyRound
from fedprivacy.finite import all_finite
from fedprivacy.mechanisms.base import Mechanism
from fedprivacy.mechanisms.registry import build_mechanism
from fedprivacy.mechanisms.server import ServerSide, source_of, unprotected_news
from fedprivacy.mechanisms.statements import events_of
from fedprivacy.memory import keep_freed_memory
from fedprivacy.metrics import evidence
from fedprivacy.models.registry import build_model
from fedprivacy.schedules import strengths
from fedprivacy.training.losses import LOSSES
from fedprivacy.training.parameters import FlatParameters
from fedprivacy.training.randomness import Streams, derive_seed
from fedprivacy.training.stacked.records import StackedRecords
from fedprivacy.training.task import LocalTask, OptimizerSpec, Trained

_EVALUATION_SCALARS = 1 << 20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalUpdate:
    """What a site's round produced.

    Attributes:
        update: ``(d,)`` float32 on the CPU, protected.
        events: what was released, for the ledger: one statement for each kind.
        steps: local optimiser steps.
        loss: mean training loss, a diagnostic.
        noise_norm: expected L2 norm of the noise in the update.
        num_examples: the site's weight.
        signal: a noisy value for the server, see ``Protected.signal``.
        what_if_mu: a diagnostic, see ``Protected.what_if_mu``.
    """

    update: torch.Tensor
    events: tuple[Event, ...]
    steps: int
    loss: float
    noise_norm: float
    num_examples: int
    signal: float | None = None
    what_if_mu: float | None = None


@dataclass(frozen=True)
class LocalCollapse:
    """A site's round that became non-finite; nothing of it may leave but this.

    Attributes:
        reason: in words.
        events: the news of the collapse itself, for the ledger: whether training collapsed
            depends on the records, and no mechanism stands between them and the news.
    """

    reason: str
    events: tuple[Event, ...]


class CellRuntime:
    """One cell's model, mechanism and data in one process, shared by the sites it plays."""

    def __init__(self, config: CellConfig) -> None:
        keep_freed_memory()
        self.config = config
        self.device = resolve_device(config.device)
        self.data: FederatedData = load_data(config.dataset)
        arrangement = arrange_cell(config, self.data)
        self.nodes: tuple[Node, ...] = arrangement.nodes
        self.canaries = arrangement.canaries
        self.mechanism: Mechanism = build_mechanism(
            config.algorithm, config.dataset.declared_records
        )
        self.source = source_of(self.mechanism)
        self.server = ServerSide.of(self.mechanism)
        if self.server.central is not None:
            self.server.central.check_sites(len(self.nodes))
        self.records_per_patient = self.data.records_per_patient
        # Without protection the schedule decides nothing, not even whether it is a sound one.
        self.strengths: tuple[float | None, ...] = (None,) * config.federation.rounds
        if self.mechanism.placement != "none":
            self.strengths = strengths(config.schedule, config.federation.rounds)
        self.loss = LOSSES[self.data.task]
        # The model on the training device; whoever uses it loads weights first.
        model = build_model(config.model, self.data, derive_seed(config.seed, "init"))
        self.parameters = FlatParameters(model.to(self.device))
        self.initial_weights: torch.Tensor = self.parameters.snapshot()
        self._records = DeviceRecords(_records_key(config), self.device)
        self._noisy: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}
        # For an engine that trains several sites at once.
        self.ready = ReadyRound()
        self._told: set[str] = set()

    def train(
        self,
        partition: int,
        round_number: int,
        weights: torch.Tensor,
        *,
        clip: float | None = None,
        secret: int = 0,
    ) -> LocalUpdate | LocalCollapse:
        """Train one site from the global weights and protect its update.

        Args:
            partition: index of the site.
            round_number: 1, 2, ...
            weights: ``(d,)`` float32 on the CPU.
            clip: the public clip norm of the round, where one moves.
            secret: 256 bits that the site drew once and keeps, for noise on its records.

        Raises:
            ProtectionError: the mechanism refused; nothing of the round may leave.
        """
        task, trained, after = self._trained(partition, round_number, weights, clip, secret)
        update = after - weights
        events = self._events(partition, task, trained)
        if not all_finite(update):
            news = tuple(unprotected_news(event, "the site") for event in events)
            return LocalCollapse("weights became non-finite", news)
        protected = self.mechanism.protect(update, task, trained)
        return LocalUpdate(
            update=protected.update,
            events=events,
            steps=trained.steps,
            loss=trained.loss,
            noise_norm=protected.noise_norm,
            num_examples=len(task.x) if weighs_by_size(self.config) else 1,
            signal=protected.signal,
            what_if_mu=protected.what_if_mu,
        )

    def _trained(
        self,
        partition: int,
        round_number: int,
        weights: torch.Tensor,
        clip: float | None,
        secret: int,
    ) -> tuple[LocalTask, Trained, torch.Tensor]:
        """A site's training and its weights ``(d,)`` on the CPU: as they are ready, or done now."""
        found = self.ready.take(partition, round_number, weights, clip)
        if found is not None:
            return found.task, found.trained, found.weights
        task = self.task(partition, round_number, weights, clip, secret)
        trained = self.mechanism.train(task)
        return task, trained, self.parameters.snapshot()

    def _events(self, partition: int, task: LocalTask, trained: Trained) -> tuple[Event, ...]:
        """What the round releases: one statement for each kind that the mechanism speaks of."""
        release = self.mechanism.release(task, trained)
        return events_of(release, self.mechanism.name, self.nodes[partition].name, task)

    def task(
        self,
        partition: int,
        round_number: int,
        weights: torch.Tensor,
        clip: float | None = None,
        secret: int = 0,
    ) -> LocalTask:
        """A site's task of a round; the model holds its weights."""
        self.load(weights, training=True)
        return self.task_at(partition, round_number, clip, secret)

    def task_at(
        self, partition: int, round_number: int, clip: float | None = None, secret: int = 0
    ) -> LocalTask:
        """A site's task of a round, whatever weights the model holds; see ``train``."""
        federation = self.config.federation
        lr = federation.lr * federation.lr_decay ** (round_number - 1)
        strength = self.strengths[round_number - 1]
        streams = self.streams(round_number, partition)
        if self.source is not None and strength is not None:
            x, y = self._noisy_records(partition, secret, streams)
        else:
            x, y = self._records.train(self.nodes[partition].train)
        earlier = self.strengths[: round_number - 1]
        return LocalTask(
            parameters=self.parameters,
            loss=self.loss,
            x=x,
            y=y,
            optimizer=OptimizerSpec(federation.optimizer, lr, federation.momentum),
            batch_size=federation.batch_size,
            local_epochs=federation.local_epochs,
            strength=strength,
            streams=streams,
            clip=clip,
            protected_before=sum(one is not None for one in earlier),
            last_round=round_number == federation.rounds,
            records_per_patient=self.records_per_patient,
            n_classes=self.data.n_classes,
        )

    def stacked_records(self, partitions: Sequence[int]) -> StackedRecords:
        """The training records of some sites as one tensor, kept for the next round."""
        return self._records.stacked([self.nodes[partition].train for partition in partitions])

    def tell_once(self, words: str) -> None:
        """Log a warning, the first time that this runtime comes to it."""
        if words not in self._told:
            self._told.add(words)
            log.warning("%s", words)

    def streams(self, round_number: int, site: int) -> Streams:
        """The random streams of a site, or of the server, in one round."""
        return Streams(
            seed=self.config.seed,
            randomness=self.config.privacy.randomness,  # type: ignore[arg-type]
            round_number=round_number,
            site=site,
        )

    def _noisy_records(
        self, partition: int, secret: int, streams: Streams
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A site's records with noise; equal in all rounds and processes for one secret."""
        assert self.source is not None
        key = (partition, secret)
        if key not in self._noisy:
            site = self.nodes[partition].train
            rng = streams.kept("noise", secret)
            x, y = self.source.records(site.train_x, site.train_y, self.data.n_classes, rng)
            self._noisy[key] = (x.to(self.device), y.to(self.device))
        return self._noisy[key]

    def evaluate(
        self, partition: int, weights: torch.Tensor
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], list[tuple[str, int]]]:
        """Evidence ``(m, k)``, labels ``(m,)`` and the sites they belong to."""
        self.load(weights, training=False)
        rows, labels, parts = [], [], []
        for site in self.nodes[partition].evaluate:
            rows.append(self._evidence(*self._records.test(site)))
            flat = site.test_y.ndim == 1
            labels.append(site.test_y.numpy() if flat else np.zeros(len(site.test_y)))
            parts.append((site.name, len(site.test_x)))
        return np.concatenate(rows), np.concatenate(labels).astype(np.float32), parts

    def load(self, weights: torch.Tensor, *, training: bool) -> None:
        """Put weights ``(d,)`` into the model, and the model into training or evaluation."""
        self.parameters.load(weights)
        # Switching walks through all modules, which a round of a small model can feel.
        if self.parameters.model.training != training:
            self.parameters.model.train(training)

    @torch.no_grad()
    def _evidence(self, x: torch.Tensor, y: torch.Tensor) -> NDArray[np.float32]:
        size = max(1, _EVALUATION_SCALARS // max(1, x[0].numel()))
        model, task = self.parameters.model, self.data.task
        parts = zip(torch.split(x, size), torch.split(y, size), strict=True)
        return torch.cat([evidence(task, model(part), target) for part, target in parts]).numpy()


def _records_key(config: CellConfig) -> str:
    """A text that is equal for equal training records; coins of an audit choose among them."""
    coins = (config.audit, config.seed) if config.audit.name != "none" else ()
    return f"{dataset_key(config.dataset)} {coins}"


def weighs_by_size(config: CellConfig) -> bool:
    """Whether sites weigh by their numbers of records, which are then public."""
    weighting = config.federation.weighting
    if weighting != "auto":
        return weighting == "examples"
    algorithms = algorithms_of(config.algorithm, config.dataset)
    return not any(isinstance(conf, CentralGaussianConf) for conf in algorithms)


_runtime: tuple[str, CellRuntime] | None = None


def open_runtime(cell: str) -> CellRuntime:
    """The runtime of a cell, from memory if it is the one this process served last.

    Args:
        cell: the configuration as ``fedprivacy.config.serialization.dumps`` writes it.
    """
    global _runtime
    found = _runtime
    if found is None or found[0] != cell:
        found = _runtime = (cell, CellRuntime(loads(cell)))
    return found[1]


def close_runtime() -> None:
    """Forget the current runtime, so that its model and mechanism can be freed."""
    global _runtime
    _runtime = None
