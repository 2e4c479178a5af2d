"""What a study teaches, in one paragraph, with the numbers behind every sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from scipy import stats

from fedprivacy.tuning.floor import Floor
from fedprivacy.tuning.importance import FEWEST
from fedprivacy.tuning.outcome import Outcome, outcome_of
from fedprivacy.tuning.recommendation import Candidate
from fedprivacy.tuning.rules import FAR, INFEASIBLE
from fedprivacy.tuning.space import EPSILON, SearchSpace, Value
from fedprivacy.tuning.trial_look import DROWNED, LAGGED, kind_of, shown, told

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_FEWEST_ON_A_SIDE, _ALPHA, _LATE, _NAMED = 3, 0.05, 0.75, 3
DEFAULTS = "the defaults"


@dataclass(frozen=True)
class Split:
    """One parameter that tells collapse from survival.

    Attributes:
        key: of the parameter.
        high: words for the side on which more trials collapsed.
        low: words for the other.
        collapsed: on the first side, and of how many.
        others: on the second side, and of how many.
        p: two-sided Fisher exact p-value, times the number of splits that were tried.
    """

    key: str
    high: str
    low: str
    collapsed: tuple[int, int]
    others: tuple[int, int]
    p: float


def advise(
    trials: Sequence[FrozenTrial],
    space: SearchSpace,
    floor: Floor,
    recommended: Candidate | None,
    n_trials: int,
    mode: str,
) -> str:
    """The paragraph.

    Args:
        trials: of the study; those that have no outcome, as they wait or died, are passed over.
        space: of the study, with epsilon where that is searched.
        floor: of the study.
        recommended: what the study recommends, if anything.
        n_trials: ``tuning.n_trials``, as typed.
        mode: of the study.
    """
    known = shown(trials)
    trained = [(trial, outcome) for trial, outcome in known if outcome.cell_rounds > 0]
    if not trained:
        return "No trial was trained, so there is nothing to learn from this study."
    words = [_collapse_words(trials, trained, space)]
    if recommended is not None:
        words.append(_gain_words(trained, recommended, floor))
        words.append(_edge_words(recommended, space))
        words.append(_last_words(known, recommended, n_trials, mode))
    return " ".join(word for word in words if word)


def importance_words(importance: Mapping[str, Mapping[str, float]]) -> str:
    """Which parameters mattered most, for each thing that they mattered for.

    Args:
        importance: share of each parameter, at most 1, by what it is for.
    """
    words = []
    for what, shares in importance.items():
        first = sorted(shares, key=lambda key: -shares[key])[:_NAMED]
        if first:
            own = ", ".join(f"{key} {100 * shares[key]:.0f} %" for key in first)
            words.append(f"for {what}, {own}")
    if not words:
        return (
            f"Which parameters mattered is not known: that takes {FEWEST} trained trials that "
            "differ."
        )
    return (
        "What mattered most (PED-ANOVA, shares of all parameters, be it by chance or not): "
        f"{'; '.join(words)}."
    )


def _collapse_words(
    trials: Sequence[FrozenTrial],
    trained: Sequence[tuple[FrozenTrial, Outcome]],
    space: SearchSpace,
) -> str:
    collapsed = sum(outcome.collapsed for _, outcome in trained)
    words = f"{collapsed} of {len(trained)} trained trials collapsed{_others(trials)}."
    telling = [(trial, outcome) for trial, outcome in trained if told(outcome)]
    if not 0 < collapsed < len(telling):
        return words
    split = best_split(telling, space)
    if split is None:
        return f"{words} No single parameter tells them apart beyond chance."
    return (
        f"{words} {split.key} tells them best: {split.collapsed[0]} of {split.collapsed[1]} "
        f"collapsed with {split.high}, {split.others[0]} of {split.others[1]} with {split.low} "
        f"(Fisher's exact test, corrected for all splits tried: p = {split.p:.2g})."
    )


def _others(trials: Sequence[FrozenTrial]) -> str:
    """How many trials neither came through nor collapsed, by what happened to them."""
    outcomes = [outcome for trial in trials if (outcome := outcome_of(trial)) is not None]
    whole = [outcome for outcome in outcomes if outcome.status != "failed"]
    kinds = [kind_of(outcome) for outcome in whole]
    refused = sum(o.rule in (INFEASIBLE, FAR) and o.cell_rounds == 0 for o in whole)
    counts = (
        (kinds.count(DROWNED), "", "ended early for their signal-to-noise ratio"),
        (kinds.count(LAGGED), "", "ended early behind the median"),
        (refused, "more ", "refused before training"),
    )
    words = [f"{n} {more}{'was' if n == 1 else 'were'} {what}" for n, more, what in counts if n]
    if failed := len(outcomes) - len(whole):
        words.append(f"{failed} failed")
    return f" ({', '.join(words)})" if words else ""


def best_split(trained: Sequence[tuple[FrozenTrial, Outcome]], space: SearchSpace) -> Split | None:
    """The split of one parameter that separates collapse best; None where chance explains it.

    Every threshold of a number and every value of a choice is tried, with at least three trials
    on each side; the smallest p-value of Fisher's exact test times the number of splits decides.
    """
    tried: list[Split] = []
    for parameter in space:
        own = [
            (t.params[parameter.key], o.collapsed) for t, o in trained if parameter.key in t.params
        ]
        tried += _splits(parameter.key, own, numeric=not parameter.choices)
    if not tried:
        return None
    best = min(tried, key=lambda split: split.p)
    p = min(1.0, best.p * len(tried))
    if p > _ALPHA:
        return None
    return Split(best.key, best.high, best.low, best.collapsed, best.others, p)


def _splits(key: str, own: Sequence[tuple[Value, bool]], *, numeric: bool) -> list[Split]:
    values = sorted({value for value, _ in own}, key=lambda v: (str(type(v)), v))
    found = []
    if numeric or all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        for below, above in pairwise(values):
            assert isinstance(below, int | float)
            assert isinstance(above, int | float)
            at = math.sqrt(below * above) if below > 0 else (below + above) / 2
            words = f"{key} above {at:.3g}", f"{key} below {at:.3g}"
            found.append((words, [c for v, c in own if _over(v, at)], [
                c for v, c in own if not _over(v, at)]))  # fmt: skip
    else:
        for value in values:
            words = f"{key}={value}", f"another {key}"
            found.append((words, [c for v, c in own if v == value], [
                c for v, c in own if v != value]))  # fmt: skip
    return [
        _split(key, words, one, other)
        for words, one, other in found
        if min(len(one), len(other)) >= _FEWEST_ON_A_SIDE
    ]


def _over(value: Value, at: float) -> bool:
    return isinstance(value, int | float) and value > at


def _split(key: str, words: tuple[str, str], one: list[bool], other: list[bool]) -> Split:
    table = [[sum(one), len(one) - sum(one)], [sum(other), len(other) - sum(other)]]
    p = float(stats.fisher_exact(table).pvalue)
    first, second = (sum(one), len(one)), (sum(other), len(other))
    if first[0] / first[1] >= second[0] / second[1]:
        return Split(key, words[0], words[1], first, second, p)
    return Split(key, words[1], words[0], second, first, p)


def _gain_words(
    trained: Sequence[tuple[FrozenTrial, Outcome]], best: Candidate, floor: Floor
) -> str:
    words = ""
    usual = next((o for t, o in trained if t.user_attrs.get("origin") == DEFAULTS), None)
    if usual is not None and usual.score is not None:
        error = best.outcome.standard_error
        around = f" (one standard error of the held-out records: {error:.3f})" if error else ""
        fresh = " on fresh seeds" if best.confirmed else ""
        words = (
            f"The defaults {_usual_words(usual, best)}, the recommended setting "
            f"{best.score:.4f}{fresh}: {best.score - usual.score:+.4f}{around}."
        )
    if floor.twin is not None:
        words += (
            f" Without protection the score is {floor.twin:.4f}, so epsilon {best.epsilon:.3g} "
            f"costs {floor.twin - best.score:.4f}."
        )
    return words.strip()


def _usual_words(usual: Outcome, best: Candidate) -> str:
    """What the defaults came to; at which epsilon, where it is not that of the best."""
    score = f"{usual.score:.4f}"
    if usual.status == "pruned":
        score += " when they were ended early"
    # Where epsilon is searched the defaults have one of their own.
    elif usual.epsilon is not None and not math.isclose(usual.epsilon, best.epsilon, rel_tol=0.02):
        score += f" at epsilon {usual.epsilon:.3g}"
    return f"collapsed ({score})" if usual.collapsed else f"scored {score}"


def _edge_words(best: Candidate, space: SearchSpace) -> str:
    """Values at an end of their range: what is beyond may be better."""
    edges = []
    for parameter in space:
        budget = parameter.key == EPSILON
        value = best.outcome.budget if budget else best.settings.get(parameter.key)
        numbers = [c for c in parameter.choices if isinstance(c, int | float)]
        low, high = (min(numbers), max(numbers)) if numbers else (parameter.low, parameter.high)
        if isinstance(value, bool) or not isinstance(value, int | float) or low >= high:
            continue
        if len(numbers) != len(parameter.choices):
            continue
        near = 0.02 * (math.log(high / low) if parameter.log else high - low)
        at = [math.log(v) if parameter.log else v for v in (low, value, high)]
        if at[1] - at[0] <= near or at[2] - at[1] <= near:
            edges.append(f"{parameter.key}={value:.4g}")
    if not edges:
        return ""
    return f"At an edge of the space, beyond which more may lie: {', '.join(edges)}."


def _last_words(
    known: Sequence[tuple[FrozenTrial, Outcome]], best: Candidate, n_trials: int, mode: str
) -> str:
    """Where in the search the recommended trial lies, and what those after it came to.

    Args:
        known: trials with an outcome, in their order.
        best: what is recommended.
        n_trials: ``tuning.n_trials``, as typed.
        mode: of the study.
    """
    before = sum(trial.number < best.trial for trial, _ in known)
    place = f"The recommended setting is that of trial {best.trial}, number {before + 1} of the "
    place += f"{len(known)} trials in their order"
    if not best.feasible:
        return f"{place}; none stayed within budget and floor."
    if before >= _LATE * len(known):
        return (
            f"{place}: it came late, so more trials may find better; go on with "
            f"tuning.n_trials={2 * n_trials}."
        )
    later = [o for trial, o in known if trial.number > best.trial and o.feasible]
    return f"{place}; {_later_words(later, best, mode)}."


def _later_words(later: Sequence[Outcome], best: Candidate, mode: str) -> str:
    """Whether later trials did better in the search, before fresh seeds decided."""
    own = best.outcome
    assert own.score is not None
    assert own.epsilon is not None
    if mode == "front":
        return "in the search no later one scored more at no larger epsilon"
    if mode == "floor":
        ahead = sum(o.epsilon is not None and o.epsilon < own.epsilon for o in later)
        did, decided = "held at a smaller epsilon", "it did not hold on fresh seeds"
    else:
        ahead = sum(o.score is not None and o.score > own.score for o in later)
        did, decided = "scored higher", "the runs with fresh seeds decided for this one"
    if not ahead:
        return f"in the search no later one {did}"
    return f"in the search {ahead} later {'one' if ahead == 1 else 'ones'} {did}, but {decided}"
