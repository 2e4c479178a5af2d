"""Scores of canaries from what an adversary sees: the final model, or the updates of each round.

Larger means "was trained on". Nothing here knows the coins.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import grad, vmap

from fedprivacy.audit.coins import Canaries
from fedprivacy.training.losses import Loss
from fedprivacy.training.parameters import FlatParameters
from fedprivacy.training.substitution import call_with

SKETCH = 4096
"""Dimensions that gradients are projected to where a model has more parameters."""

_RIDGE = 1e-3
_CHUNK, _CHUNK_SCALARS = 64, 1 << 18

Floats = NDArray[np.float64]
Projection = Callable[[torch.Tensor], torch.Tensor]


@torch.no_grad()
def losses(
    parameters: FlatParameters, loss: Loss, canaries: Canaries, weights: torch.Tensor
) -> Floats:
    """``(m,)`` loss of each candidate under ``weights`` ``(d,)``; a huge one where not finite."""
    parameters.load(weights)
    parameters.model.eval()
    device = parameters.flat.device
    found = [
        float(loss(parameters.model(x[None].to(device)), y[None].to(device)))
        for x, y in zip(canaries.x, canaries.y, strict=True)
    ]
    return np.asarray(np.nan_to_num(np.array(found), nan=1e9, posinf=1e9, neginf=-1e9))


def log_odds(loss: Floats) -> Floats:
    """Log-odds of the true label, where the loss is its negative log-probability.

    log(p / (1 - p)) with p = exp(-loss) (Carlini et al. 2022, arXiv 2112.03570, section 4).
    """
    clipped = np.clip(loss, 1e-12, 700.0)
    return np.asarray(-clipped - np.log(-np.expm1(-clipped)))


class Sketch:
    """A fixed random projection that keeps inner products on average (a count sketch).

    Charikar, Chen & Farach-Colton 2002: each coordinate is added, with a random sign, to one of
    ``SKETCH`` places. Linear, so the sketch of an update is the sum of those of its gradients.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        generator = torch.Generator().manual_seed(seed)
        self._place = torch.randint(SKETCH, (size,), generator=generator)
        self._sign = torch.randint(2, (size,), generator=generator).float() * 2 - 1

    def __call__(self, vector: torch.Tensor) -> torch.Tensor:
        """``(d,)`` float32 on the CPU to ``(SKETCH,)``; unchanged if d is no larger."""
        if self.size <= SKETCH:
            return vector
        return torch.zeros(SKETCH).index_add_(0, self._place, vector * self._sign)


def gradients(
    parameters: FlatParameters,
    loss: Loss,
    x: torch.Tensor,
    y: torch.Tensor,
    weights: torch.Tensor,
    sketch: Projection,
) -> torch.Tensor:
    """``(n, k)`` float32 sketches of each record's gradient at ``weights``, on the CPU."""
    parameters.load(weights)
    model = parameters.model.eval()
    device = parameters.flat.device
    named = {name: tensor.detach() for name, tensor in model.named_parameters()}

    def of_one(values: dict[str, torch.Tensor], one: torch.Tensor, target: torch.Tensor) -> Any:
        return loss(call_with(model, values, one[None]), target[None])

    chunk = max(1, min(_CHUNK, _CHUNK_SCALARS // max(1, x[0].numel())))
    each = vmap(grad(of_one), in_dims=(None, 0, 0))
    rows = []
    for part, targets in zip(torch.split(x, chunk), torch.split(y, chunk), strict=True):
        found = each(named, part.to(device), targets.to(device))
        flat = torch.cat([found[name].flatten(1) for name in named], dim=1).cpu()
        rows += [sketch(row) for row in flat]
    return torch.stack(rows)


def ridge_scores(rows: torch.Tensor, update: torch.Tensor, candidates: int) -> Floats:
    """``(m,)`` how surely each of the first m rows is in the update, by ridge regression.

    c = argmin |sum_i c_i g_i + update|^2 + lambda |c|^2 over all rows, each coefficient over its
    own uncertainty: c = M G (-update), M = (G G' + lambda I)^-1, score_i = c_i / sqrt(M_ii).
    lambda is a thousandth of the rows' mean squared norm.

    Args:
        rows: ``(n, k)`` gradients: the candidates', then those of records known to be there.
        update: ``(k,)``.
        candidates: m.
    """
    gram = (rows @ rows.T).double()
    scale = float(gram.diagonal().mean())
    if not (math.isfinite(scale) and scale > 0):
        return np.zeros(candidates)
    ridge = gram + _RIDGE * scale * torch.eye(len(rows), dtype=torch.float64)
    inverse = torch.linalg.inv(ridge)
    coefficients = inverse @ -(rows.double() @ update.double())
    scores = coefficients / inverse.diagonal().clamp_min(1e-300).sqrt()
    return np.asarray(scores[:candidates].numpy())


def standardised(scores: Floats) -> Floats:
    """Zero mean and unit deviation, so that rounds and sites can be added; zeros if constant."""
    spread = float(scores.std())
    if not (math.isfinite(spread) and spread > 0):
        return np.zeros_like(scores)
    return np.asarray((scores - scores.mean()) / spread)


@dataclass
class RoundScores:
    """Ridge scores of one site's canaries, round by round.

    Attributes:
        candidates: m, how many are scored.
        sketch: of gradients and updates.
        raw: scores of rounds that nothing protected.
        noisy: scores of protected rounds.
    """

    candidates: int
    sketch: Projection
    raw: list[Floats] = field(default_factory=list)
    noisy: list[Floats] = field(default_factory=list)

    def add(self, rows: torch.Tensor, update: torch.Tensor, *, protected: bool) -> None:
        """Score one round's ``update`` ``(d,)`` against gradients; see ``ridge_scores``."""
        found = standardised(ridge_scores(rows, self.sketch(update), self.candidates))
        (self.noisy if protected else self.raw).append(found)

    def total(self) -> Floats:
        """Sum over the rounds that an adversary who knows the schedule would use.

        Raw rounds alone where there are any: noise would only blur them.
        """
        used = self.raw or self.noisy
        return np.sum(used, axis=0) if used else np.zeros(self.candidates)
