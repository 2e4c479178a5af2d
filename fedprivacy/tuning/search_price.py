"""What a search costs in privacy: one run's epsilon, and that of everything the search looked at.

Every trial read the same records, so the setting that a study recommends says more about them than
its own run does. How much more depends on how the trials were picked and what of them is shown:

- ``public_data``: the records are nobody's (synthetic, or public), so there is nothing to price.
- ``random_best_only``: independent random settings with equal releases, their number K drawn
  beforehand, only the best published (Papernot & Steinke 2022, arXiv 2110.03620, theorem 2).
- ``adaptive``: everything else. All releases of all trials compose.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
from scipy.optimize import brentq

from fedprivacy.accounting.claims import claim
from fedprivacy.accounting.events import Event
from fedprivacy.accounting.ledger import Ledger
from fedprivacy.accounting.search import search_epsilon
from fedprivacy.config.schema import TuningConf
from fedprivacy.errors import AccountingError
from fedprivacy.result import LEDGER_FILE

PUBLIC, RANDOM, ADAPTIVE = "public_data", "random_best_only", "adaptive"

_HELD_OUT = (
    "held-out records, whose scores pick the setting, are outside the bound: use public ones, or "
    "take their scores for published"
)


@dataclass(frozen=True)
class SearchPrice:
    """The price of a search; epsilons are upper bounds, proved.

    Attributes:
        scheme: public_data, random_best_only or adaptive.
        claim: unit, neighbouring relation, view and delta of both epsilons.
        trials: trials and other runs that read the records; None where that is not published.
        epsilon_single: of the recommended run alone.
        epsilon_search: of the whole search; None where infinite, and for public data.
        infinite: whether the whole search proves nothing.
        reason: why it is infinite, or why there is no figure.
        epsilon_if_private: what the search would have cost, all trials composed, if the records
            had been patients'; None where infinite.
        if_private: the same in words.
        assumptions: what must hold besides, in words.
    """

    scheme: str
    claim: Mapping[str, Any]
    trials: int | None
    epsilon_single: float | None
    epsilon_search: float | None
    infinite: bool
    reason: str
    epsilon_if_private: float | None
    if_private: str
    assumptions: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "assumptions": list(self.assumptions)}


def keeps_best_only(conf: TuningConf) -> bool:
    """Whether nothing but the recommended trial may outlive the study."""
    return conf.publish == "best_only" or conf.search_price.scheme == RANDOM


def resolve_scheme(asked: str, synthetic: bool) -> str:
    """The scheme that ``auto`` stands for."""
    if asked != "auto":
        return asked
    return PUBLIC if synthetic else ADAPTIVE


def price_search(
    scheme: str,
    ledgers: Sequence[Ledger],
    missing: int,
    said: Mapping[str, Any],
    epsilon_single: float | None,
    *,
    mean_trials: float,
    shape: float,
    records_per_patient: int | None = None,
) -> SearchPrice:
    """Price a search.

    Args:
        scheme: see the module.
        ledgers: of every run that read the records: trials, pruned ones too, twins, confirmations.
        missing: runs whose ledger is not at hand.
        said: unit, neighbouring, view and delta of the study.
        epsilon_single: of the recommended run.
        mean_trials: random_best_only: mean of the number of trials.
        shape: random_best_only: of its distribution.
        records_per_patient: see ``claim``.
    """
    composed, why = _composed(ledgers, missing, said, records_per_patient)
    words = f"{len(ledgers)} runs composed: " + (
        f"epsilon {composed:.4g}" if math.isfinite(composed) else f"infinite ({why})"
    )
    if scheme == PUBLIC:
        total, reason = None, "the records are public or synthetic: a search costs nobody anything"
    elif scheme == RANDOM:
        total, reason = _best_only(ledgers, said, mean_trials, shape)
    else:
        total, reason = composed, why
    infinite = total is not None and math.isinf(total)
    shown: int | None = len(ledgers) + missing
    if scheme == RANDOM:
        # Theorem 2 needs that the number of trials stays unknown; this sum would tell it.
        shown, composed, words = None, math.inf, "not told: it would tell the number of trials"
    return SearchPrice(
        scheme=scheme,
        claim=dict(said),
        trials=shown,
        epsilon_single=epsilon_single,
        epsilon_search=None if infinite else total,
        infinite=infinite,
        reason=reason,
        epsilon_if_private=composed if math.isfinite(composed) else None,
        if_private=words,
        assumptions=_assumptions(scheme, mean_trials, shape),
    )


def _assumptions(scheme: str, mean: float, shape: float) -> tuple[str, ...]:
    if scheme == PUBLIC:
        return ("nobody's privacy depends on these records",)
    if scheme == ADAPTIVE:
        return (_HELD_OUT, "earlier studies and runs that it started from are not counted")
    law = "logarithmic" if shape == 0 else f"truncated negative binomial, shape {shape:g}"
    return (
        _HELD_OUT,
        f"the number of trials was drawn beforehand ({law}, mean {mean:g}) and is not published",
        "nothing but the recommended trial leaves the machine",
    )


def _composed(
    ledgers: Sequence[Ledger],
    missing: int,
    said: Mapping[str, Any],
    records_per_patient: int | None,
) -> tuple[float, str]:
    """All runs as one: the bound for a unit that was in all of them."""
    if missing:
        return math.inf, (
            f"the ledgers of {missing} runs are not here; workers must share tuning.dir"
        )
    whole = Ledger(tuple(_one_after_another(ledgers)))
    found = claim(whole, said["unit"], said["view"], said["delta"], records_per_patient)
    epsilon = found.total.epsilon
    if found.neighbouring not in (None, said["neighbouring"]) and math.isfinite(epsilon):
        return math.inf, f"the runs compose under {found.neighbouring} only"
    return epsilon, found.reason


def _one_after_another(ledgers: Iterable[Ledger]) -> Iterable[Event]:
    """The events of all runs, rounds counted on, so that each stays a release of its own."""
    before = 0
    for ledger in ledgers:
        for event in ledger:
            yield replace(event, round=event.round + before)
        before += max(ledger.rounds, default=0)


def _best_only(
    ledgers: Sequence[Ledger], said: Mapping[str, Any], mean: float, shape: float
) -> tuple[float, str]:
    """Papernot & Steinke 2022, theorem 2; needs that all trials release alike."""
    runs = {_releases(ledger, said) for ledger in ledgers}
    if len(runs) != 1:
        return math.inf, (
            "the trials differ in what they release (sampling, rounds, schedule or noise): the "
            "theorem is about repetitions of one mechanism. Search clip norms, learning rates and "
            "models only"
        )
    epsilons = []
    for events in next(iter(runs)):
        try:
            run = dp_accounting.ComposedDpEvent(list(events))
            epsilons.append(search_epsilon(run, mean, shape, said["delta"], said["neighbouring"]))
        except AccountingError as error:
            return math.inf, str(error)
    return max(epsilons, default=0.0), ""


def _releases(
    ledger: Ledger, said: Mapping[str, Any]
) -> tuple[tuple[dp_accounting.DpEvent, ...], ...]:
    """What each site released, of the study's own kind, in the order of the rounds."""
    kind = (said["unit"], said["neighbouring"])
    return tuple(
        tuple(e.dp_event for e in ledger.site(name) if (e.unit, e.neighbouring) == kind)
        for name in ledger.sites
    )


def read_ledgers(folders: Iterable[Path]) -> tuple[list[Ledger], int]:
    """The ledgers below the given folders, and how many could not be read.

    A run that released nothing has none, and is not missing.
    """
    ledgers, missing = [], 0
    for folder in folders:
        for path in sorted(folder.rglob(LEDGER_FILE)):
            try:
                ledgers.append(Ledger.read(path))
            except (OSError, ValueError):
                missing += 1
    return [ledger for ledger in ledgers if len(ledger)], missing


def draw_trials(mean: float, shape: float, rng: np.random.Generator) -> int:
    """The number of trials of a private random search: at least 1, of the given mean.

    Truncated negative binomial: P[K = k] in proportion to (1 - g)^k / k for shape 0 (logarithmic)
    and to (1 - g)^k Gamma(k + shape) / k! otherwise (Papernot & Steinke 2022, definition 1).
    """
    if mean == 1:
        return 1
    gamma = _gamma(mean, shape)
    while True:
        if shape == 0:
            return int(rng.logseries(1 - gamma))
        drawn = int(rng.negative_binomial(shape, gamma))
        if drawn > 0:
            return drawn


def _gamma(mean: float, shape: float) -> float:
    """The parameter g for which the distribution has that mean."""

    def excess(gamma: float) -> float:
        if shape == 0:
            return float((1 / gamma - 1) / math.log(1 / gamma) - mean)
        return float(shape * (1 - gamma) / gamma / (1 - gamma**shape) - mean)

    return float(brentq(excess, 1e-12, 1 - 1e-9))
