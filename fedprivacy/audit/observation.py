"""What an adversary notes down while a cell trains: scores of the canaries, view by view."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch

from fedprivacy.accounting.units import View
from fedprivacy.audit.coins import Canaries
from fedprivacy.audit.inversion import first_linear
from fedprivacy.audit.views import Floats, RoundScores, Sketch, gradients, losses, standardised
from fedprivacy.training.losses import Loss
from fedprivacy.training.parameters import FlatParameters

_SKETCH_SEED = 20_240_423


class Exchange(Protocol):
    """What the server sees in a round; see ``federation.strategy.Exchange``."""

    @property
    def protected(self) -> bool:
        """Whether the schedule had the protection on."""
        ...

    @property
    def sent(self) -> Mapping[str, torch.Tensor]:
        """Weights that each site started from."""
        ...

    @property
    def received(self) -> Mapping[str, torch.Tensor]:
        """Each site's update, as it left the site."""
        ...

    @property
    def average(self) -> torch.Tensor:
        """Change of the global model, as it is published."""
        ...


class Observation:
    """Scores of all canaries from each view of the adversary.

    Args:
        parameters: a model of the cell's kind; its weights are overwritten.
        loss: what the sites train on.
        canaries: candidates by site.
        federated: whether averages exist; False: every site has a model of its own.

    Attributes:
        layer: outputs and inputs of the model's first layer, if that is linear with a bias.
        messages: by site, its updates round by round, where there is such a layer.
        seconds: time spent observing so far.
    """

    def __init__(
        self,
        parameters: FlatParameters,
        loss: Loss,
        canaries: Mapping[str, Canaries],
        *,
        federated: bool,
    ) -> None:
        self.parameters, self.loss, self.canaries = parameters, loss, canaries
        self.federated = federated
        sketch = Sketch(parameters.size, _SKETCH_SEED)
        self._updates = {name: RoundScores(len(one), sketch) for name, one in canaries.items()}
        self._averages = {name: RoundScores(len(one), sketch) for name, one in canaries.items()}
        self._records = {
            name: (torch.cat([one.x, one.known_x]), torch.cat([one.y, one.known_y]))
            for name, one in canaries.items()
        }
        self._sketch = sketch
        self.layer = first_linear(parameters)
        self.messages: dict[str, list[torch.Tensor]] = {}
        self.seconds = 0.0

    def observe(self, exchange: Exchange) -> None:
        """Score one round's updates, and their average."""
        start = time.perf_counter()
        if self.layer is not None:
            head = self.layer[0] * (self.layer[1] + 1)
            for name in self._records:
                self.messages.setdefault(name, []).append(exchange.received[name][:head].clone())
        for name, (x, y) in self._records.items():
            rows = gradients(self.parameters, self.loss, x, y, exchange.sent[name], self._sketch)
            protected = exchange.protected
            self._updates[name].add(rows, exchange.received[name], protected=protected)
            if self.federated:
                self._averages[name].add(rows, exchange.average, protected=protected)
        self.seconds += time.perf_counter() - start

    def final_losses(self, weights: Mapping[str, torch.Tensor]) -> Floats:
        """``(m,)`` losses of all candidates under the final model, site after site.

        Args:
            weights: final ``(d,)`` weights by site, or one entry ``vector`` for all.
        """
        found = [
            losses(self.parameters, self.loss, one, weights.get(name, next(iter(weights.values()))))
            for name, one in self.canaries.items()
        ]
        return np.concatenate(found)

    def scores(self, final_losses: Floats) -> dict[View, Floats]:
        """``(m,)`` scores of all candidates for each view that exists, site after site.

        Scores of a site are standardised, so that sites can be ranked together. Whoever sees the
        updates also sees averages and the final model; these have entries of their own.
        """
        sizes = [len(one) for one in self.canaries.values()]
        parts = np.split(-final_losses, np.cumsum(sizes)[:-1])
        views: dict[View, Floats] = {
            "server_updates": self._joined(self._updates),
            "final_model": np.concatenate([standardised(part) for part in parts]),
        }
        if self.federated:
            views["aggregate"] = self._joined(self._averages)
        return views

    @staticmethod
    def _joined(rounds: Mapping[str, RoundScores]) -> Floats:
        return np.concatenate([standardised(one.total()) for one in rounds.values()])
