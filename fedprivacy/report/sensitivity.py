"""Which case of the article loses most to its protections, and which loses least predictably."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedprivacy.report.matching import (
    AmbiguousError,
    Figures,
    by_seed,
    exact_twin,
    selected,
    value,
)
from fedprivacy.result import CellResult

CASES = ("ixi_tiny", "breast_density", "higgs")
EVERY: Mapping[str, Any] = {"schedule": "every_round", "schedule.decay": 1.0}
PROTECTIONS: Mapping[str, Mapping[str, Any]] = {
    "Gaussian 95": {"algorithm": "gaussian", "algorithm.percentile": 95.0},
    "Gaussian 50": {"algorithm": "gaussian", "algorithm.percentile": 50.0},
    "SVT": {"algorithm": "svt"},
    "DP-SGD": {"algorithm": "dpsgd"},
}
"""What the article compares; here in every round."""


def more_sensitive(case: str, results: Sequence[CellResult]) -> Figures:
    """For each seed, how much more of its gain a case loses than the worse of the others.

    Raises:
        AmbiguousError: cells of several settings fit.
    """
    return _against_others(case, _shares_lost(results), lambda by_seed: by_seed)


def less_predictable(case: str, results: Sequence[CellResult]) -> Figures:
    """For each seed, how much further than in the other cases the loss lies from its mean.

    Raises:
        AmbiguousError: cells of several settings fit.
    """
    return _against_others(case, _shares_lost(results), _distances)


def protections(results: Sequence[CellResult]) -> str:
    """Of which protections a share lost is the mean, in words; empty where none can be told."""
    try:
        names = list(_comparable(results))
    except AmbiguousError:
        return ""
    return f" to {', '.join(names)}{' (their mean)' if len(names) > 1 else ''}" if names else ""


def _against_others(
    case: str,
    shares: Mapping[str, Figures],
    figure: Callable[[Mapping[int, float]], Mapping[int, float]],
) -> Figures:
    own = figure(shares[case].by_seed)
    others = [figure(one.by_seed) for name, one in shares.items() if name != case]
    seeds = set(own).intersection(*others)
    made_up = any(one.synthetic for one in shares.values())
    return Figures({s: own[s] - max(other[s] for other in others) for s in sorted(seeds)}, made_up)


def _shares_lost(results: Sequence[CellResult]) -> dict[str, Figures]:
    """Of what the twin learned over chance, how much was lost, by case and seed.

    The mean over those of the article's protections that were run on all its cases.
    """
    usable = _comparable(results)
    return {case: _mean([one[case] for one in usable.values()]) for case in CASES}


def _comparable(results: Sequence[CellResult]) -> dict[str, dict[str, Figures]]:
    """Shares lost to each protection that was run on all cases, by case."""

    def share(cell: CellResult) -> float | None:
        twin, own = exact_twin(cell, results), value(cell)
        if own is None or twin is None or twin.score is None or twin.score.value is None:
            return None
        gain = twin.score.value - twin.score.chance
        return (twin.score.value - own) / gain if gain > 0 else None

    def by_case(wanted: Mapping[str, Any]) -> dict[str, Figures]:
        every = {**wanted, "federation": "fedavg", **EVERY}
        return {c: by_seed(selected(results, {**every, "dataset": c}), share) for c in CASES}

    found = {name: by_case(wanted) for name, wanted in PROTECTIONS.items()}
    return {n: cases for n, cases in found.items() if all(c.by_seed for c in cases.values())}


def _mean(figures: Sequence[Figures]) -> Figures:
    """The mean for each seed that all of them have."""
    seeds = set[int]().union(*(one.by_seed for one in figures))
    common = [seed for seed in sorted(seeds) if all(seed in one.by_seed for one in figures)]
    means = {seed: statistics.fmean(one.by_seed[seed] for one in figures) for seed in common}
    return Figures(means, any(one.synthetic for one in figures))


def _distances(by_seed: Mapping[int, float]) -> dict[int, float]:
    """How far each seed is from the mean; nothing of a single one."""
    if len(by_seed) < 2:
        return {}
    mean = statistics.fmean(by_seed.values())
    return {seed: abs(one - mean) for seed, one in by_seed.items()}
