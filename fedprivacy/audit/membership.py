"""How well members are told from others: ROC, its area, and what is found at few false alarms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fedprivacy.audit.binomial import interval

_DRAWS = 500
FALSE_POSITIVE_RATES: tuple[float, ...] = (0.001, 0.01, 0.1)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Membership:
    """An attacker's success on the canaries; measured, and no bound on other attackers.

    Attributes:
        attack: in words.
        auc: area under the ROC curve, ties counted half; 1/2 is guessing.
        tpr: true-positive rate at the largest false-positive rate not above each key.
        interval: 95 % interval of each: Clopper-Pearson, or by a bootstrap over candidates where
            the same ones were scored in several runs.
        members: number of canaries that were trained on.
        others: number of those that were not.
    """

    attack: str
    auc: float | None
    tpr: dict[float, float]
    interval: dict[float, tuple[float, float]]
    members: int
    others: int

    @property
    def unresolved(self) -> tuple[float, ...]:
        """Rates below that of a single false alarm among the others: there 0 alarms are meant."""
        return tuple(rate for rate in self.tpr if rate * self.others < 1)

    def to_json(self) -> dict[str, Any]:
        """Strict JSON; rates become text keys."""
        return {
            "attack": self.attack,
            "auc": self.auc,
            "tpr_at_fpr": {f"{rate:g}": value for rate, value in self.tpr.items()},
            "tpr_interval": {f"{rate:g}": list(pair) for rate, pair in self.interval.items()},
            "unresolved": [f"{rate:g}" for rate in self.unresolved],
            "members": self.members,
            "others": self.others,
        }


def auc(scores: ArrayLike, included: ArrayLike) -> float | None:
    """Probability that a member scores above another, ties half (Mann & Whitney 1947)."""
    truth = np.asarray(included, dtype=bool)
    members, others = int(truth.sum()), int((~truth).sum())
    if not members or not others:
        return None
    ranks = stats.rankdata(np.asarray(scores, dtype=float))
    excess = float(ranks[truth].sum()) - members * (members + 1) / 2
    return excess / (members * others)


def roc(scores: ArrayLike, included: ArrayLike) -> tuple[Floats, Floats]:
    """False- and true-positive rates of all thresholds, from (0, 0) to (1, 1)."""
    values, truth = np.asarray(scores, dtype=float), np.asarray(included, dtype=bool)
    order = np.argsort(-values, kind="stable")
    ends = np.append(np.diff(values[order]) != 0, True)
    hits, alarms = np.cumsum(truth[order])[ends], np.cumsum(~truth[order])[ends]
    tpr = np.concatenate([[0.0], hits / max(1, truth.sum())])
    fpr = np.concatenate([[0.0], alarms / max(1, (~truth).sum())])
    return fpr, tpr


def membership(
    attack: str,
    scores: ArrayLike,
    included: ArrayLike,
    rates: Sequence[float] = FALSE_POSITIVE_RATES,
    candidates: ArrayLike | None = None,
) -> Membership:
    """The success of an attack.

    Args:
        attack: what it does, in words.
        scores: ``(m,)``, larger means more likely trained on.
        included: ``(m,)`` bool.
        rates: false-positive rates to report at.
        candidates: ``(m,)`` whose score each is, where a candidate has several: one that is easily
            found is so in every run, so runs are no independent trials.
    """
    truth = np.asarray(included, dtype=bool)
    members = int(truth.sum())
    fpr, tpr = roc(scores, truth)
    found = {rate: float(tpr[fpr <= rate + 1e-12].max()) for rate in rates}
    around = {rate: interval(round(value * members), members) for rate, value in found.items()}
    if candidates is not None:
        around = _over_candidates(np.asarray(scores, dtype=float), truth, candidates, found)
    return Membership(attack, auc(scores, truth), found, around, members, int(truth.size - members))


def _over_candidates(
    scores: Floats, truth: NDArray[np.bool_], candidates: ArrayLike, found: Mapping[float, float]
) -> dict[float, tuple[float, float]]:
    """Percentile intervals of a bootstrap that draws candidates, each with all its scores.

    A rate of 0 or 1 does not vary in a bootstrap; its interval is exact, with one trial for each
    distinct candidate.
    """
    names, group = np.unique(np.asarray(candidates), return_inverse=True)
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.diff(scores[order]) != 0, True)
    draws = np.random.default_rng(0).multinomial(len(names), [1 / len(names)] * len(names), _DRAWS)
    rates: dict[float, list[float]] = {rate: [] for rate in found}
    for counts in draws:
        weights = counts[group[order]]
        hits, alarms = np.cumsum(weights * truth[order]), np.cumsum(weights * ~truth[order])
        if hits[-1] and alarms[-1]:
            tpr, fpr = hits[ends] / hits[-1], alarms[ends] / alarms[-1]
            for rate, values in rates.items():
                values.append(float(tpr[fpr <= rate + 1e-12].max(initial=0.0)))
    distinct = len(np.unique(group[truth]))
    exact = {rate: interval(round(value * distinct), distinct) for rate, value in found.items()}
    return {
        rate: exact[rate] if found[rate] in (0.0, 1.0) or not values
        else (float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975)))
        for rate, values in rates.items()
    }  # fmt: skip
