"""Canaries: records of a site that are in training or not, by independent fair coins.

The coins are what an audit guesses. They are drawn before anything is trained and depend on nothing
but seeds, so a one-run audit's bound holds whatever the records are and however they interact
(Steinke, Nasr & Jagielski 2023, arXiv 2305.08846, section 2). The candidates are the same for all
training seeds, their coins are not: cells of several seeds are each other's shadow models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fedprivacy.data.base import SiteData
from fedprivacy.training.randomness import derive_seed

Kind = Literal["natural", "random_label"]
KINDS: tuple[Kind, ...] = ("natural", "random_label")
KNOWN = 400
"""Most records that the attacker makes use of knowing."""


@dataclass(frozen=True)
class Canaries:
    """The candidates of one site.

    Attributes:
        site: its name.
        x: ``(m, ...)`` float32 features.
        y: ``(m,)`` or ``(m, ...)`` targets.
        candidate: ``(m,)`` numbers of the candidates, the same for every training seed.
        included: ``(m,)`` bool, the coins: whether a candidate is trained on.
        known_x: ``(k, ...)`` records of the site that are trained on for certain and that the
            attacker knows: differential privacy protects a record even from who knows all others.
        known_y: their targets.
    """

    site: str
    x: torch.Tensor
    y: torch.Tensor
    candidate: NDArray[np.int64]
    included: NDArray[np.bool_]
    known_x: torch.Tensor
    known_y: torch.Tensor

    def __len__(self) -> int:
        return len(self.candidate)


@dataclass(frozen=True)
class CoinPlan:
    """How canaries are chosen.

    Attributes:
        kind: ``natural``: records of the site, of which those whose coin fell on tails are left
            out of training; ``random_label``: made-up records with a random label, added to the
            site's own if their coin fell on heads.
        canaries: m, candidates at a site; natural ones are at most all its records but one.
        seed: of the candidates; the coins also depend on the training seed.
    """

    kind: Kind
    canaries: int
    seed: int


def plant(train: SiteData, plan: CoinPlan, training_seed: int) -> tuple[SiteData, Canaries]:
    """The site as it is trained on, and its canaries.

    Args:
        train: the site.
        plan: how canaries are chosen.
        training_seed: the cell's seed.
    """
    seeds = (plan.seed, train.name)
    chosen = np.random.default_rng(derive_seed("canaries", *seeds))
    coins = np.random.default_rng(derive_seed("coins", training_seed, *seeds))
    if plan.kind == "natural":
        return _natural(train, plan.canaries, chosen, coins)
    return _random_label(train, plan.canaries, chosen, coins)


def _natural(
    train: SiteData, wanted: int, chosen: np.random.Generator, coins: np.random.Generator
) -> tuple[SiteData, Canaries]:
    n = len(train.train_x)
    # One record is nobody's candidate, so that something is left to train on.
    candidate = np.sort(chosen.permutation(n)[: min(wanted, n - 1)]).astype(np.int64)
    included = coins.random(len(candidate)) < 0.5
    keep = np.ones(n, dtype=bool)
    keep[candidate[~included]] = False
    kept, at = torch.from_numpy(np.flatnonzero(keep)), torch.from_numpy(candidate)
    planted = replace(
        train,
        train_x=train.train_x[kept],
        train_y=train.train_y[kept],
        train_patients=train.train_patients[keep],
    )
    sure = np.ones(n, dtype=bool)
    sure[candidate] = False
    rest = torch.from_numpy(np.flatnonzero(sure)[:KNOWN])
    return planted, Canaries(
        train.name,
        train.train_x[at],
        train.train_y[at],
        candidate,
        included,
        train.train_x[rest],
        train.train_y[rest],
    )


def _random_label(
    train: SiteData, wanted: int, chosen: np.random.Generator, coins: np.random.Generator
) -> tuple[SiteData, Canaries]:
    x, y = _made_up(train, wanted, chosen)
    candidate = np.arange(wanted, dtype=np.int64)
    included = coins.random(wanted) < 0.5
    heads = torch.from_numpy(np.flatnonzero(included))
    names = np.array([f"canary-{number}" for number in candidate[included]], dtype=str)
    planted = replace(
        train,
        train_x=torch.cat([train.train_x, x[heads]]),
        train_y=torch.cat([train.train_y, y[heads]]),
        train_patients=np.concatenate([train.train_patients, names]),
    )
    known_x, known_y = train.train_x[:KNOWN], train.train_y[:KNOWN]
    return planted, Canaries(train.name, x, y, candidate, included, known_x, known_y)


def _made_up(
    train: SiteData, wanted: int, chosen: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Records that fit no other, with labels that say nothing of them.

    Each column of a table comes from another record; images and volumes are mirrored and moved;
    the label is a class at random, a mask that of another record.
    """
    n = len(train.train_x)
    if train.train_x.ndim == 2:
        rows = torch.from_numpy(chosen.integers(0, n, (wanted, train.train_x.shape[1])))
        x = train.train_x.gather(0, rows)
    else:
        x = train.train_x[torch.from_numpy(chosen.integers(0, n, wanted))].clone()
        axes = tuple(range(1, x.ndim - 1))
        for number in range(wanted):
            moves = tuple(int(chosen.integers(0, x.shape[axis + 1])) for axis in axes)
            x[number] = torch.roll(x[number].flip(-1), moves, axes)
    if train.train_y.ndim > 1:
        return x, train.train_y[torch.from_numpy(chosen.integers(0, n, wanted))]
    classes = torch.unique(train.train_y)
    return x, classes[torch.from_numpy(chosen.integers(0, len(classes), wanted))]
