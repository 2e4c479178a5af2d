"""A study in pictures: its history, and score against epsilon."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedprivacy.report.palette import CHANCE, FAINT, INK
from fedprivacy.report.words import delta_text
from fedprivacy.tuning.floor import Floor
from fedprivacy.tuning.outcome import Outcome
from fedprivacy.tuning.recommendation import Candidate, front
from fedprivacy.tuning.study_canvas import set_legend, study_page
from fedprivacy.tuning.trial_look import LOOKS, OK, REFUSED, kind_of, legend_handles, line, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna.trial import FrozenTrial

_VARIES, _WIDE = 1.02, 3.0
"""Factors: epsilons nearer than this are one budget, calibrated; over this axes are logarithmic."""


def history_figure(trials: Sequence[FrozenTrial], floor: Floor, title: str) -> Figure | None:
    """Score of every trial in its order, with the best feasible so far; None without a score."""
    own = [(t, o) for t, o in shown(trials) if o.score is not None and kind_of(o) != REFUSED]
    if not own:
        return None
    figure, axes = study_page(title)
    best, curve = -math.inf, []
    for trial, outcome in own:
        assert outcome.score is not None
        _mark(axes, trial.number, outcome.score, outcome)
        best = max(best, outcome.score) if outcome.feasible else best
        curve.append((trial.number, best))
    _levels(axes, floor)
    axes.set_ylabel("score")
    handles = [*_so_far(axes, curve, "best feasible score so far"), *_level_handles(floor)]
    return _in_their_order(figure, axes, own, handles)


def epsilon_history_figure(
    trials: Sequence[FrozenTrial], claim: Mapping[str, Any], title: str
) -> Figure | None:
    """Epsilon of every trial in its order, with the least feasible so far; None without one.

    Trials that were ended early stand at the budget that their noise was calibrated to.

    Args:
        trials: of the study.
        claim: unit, neighbouring, view and delta of every epsilon.
        title: what the study is.
    """
    own = [
        (trial, outcome, at)
        for trial, outcome in shown(trials)
        if kind_of(outcome) != REFUSED and (at := _whole_epsilon(outcome)) is not None
    ]
    if not own:
        return None
    figure, axes = study_page(title, f"epsilon of one whole run, proved: {claim_words(claim)}")
    least, curve = math.inf, []
    for trial, outcome, at in own:
        _mark(axes, trial.number, at, outcome)
        least = min(least, at) if outcome.feasible else least
        curve.append((trial.number, least))
    _epsilon_axis(axes, "y", [at for _, _, at in own])
    axes.set_ylabel("epsilon")
    handles = _so_far(axes, curve, "least feasible epsilon so far")
    return _in_their_order(figure, axes, [(t, o) for t, o, _ in own], handles)


def _whole_epsilon(outcome: Outcome) -> float | None:
    """What a run to the end costs, or would have cost where it was ended early."""
    return outcome.budget if outcome.status == "pruned" else outcome.epsilon


def _so_far(axes: Any, curve: Sequence[tuple[int, float]], label: str) -> list[Any]:
    reached = [(x, y) for x, y in curve if math.isfinite(y)]
    if not reached:
        return []
    axes.step([x for x, _ in reached], [y for _, y in reached], where="post", color=INK, lw=1.1)
    return [line(lw=1.1, label=label)]


def _in_their_order(
    figure: Figure, axes: Any, own: Sequence[tuple[FrozenTrial, Outcome]], more: Sequence[Any]
) -> Figure:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial")
    set_legend(figure, axes, [*legend_handles([kind_of(o) for _, o in own]), *more])
    return figure


def front_figure(
    trials: Sequence[FrozenTrial],
    best: Sequence[Candidate],
    floor: Floor,
    claim: Mapping[str, Any],
    title: str,
) -> Figure | None:
    """Score against epsilon of one run; None where epsilon is one and the same, or nearly.

    Args:
        trials: of the study, or of all studies of a union.
        best: the candidates, as they were confirmed; of the feasible ones the front is drawn.
        floor: of the study.
        claim: unit, neighbouring, view and delta of every epsilon.
        title: what the study is.
    """
    own = [
        (o.epsilon, o.score, o)
        for _, o in shown(trials)
        if o.score is not None and o.epsilon is not None and o.status in ("ok", "collapsed")
    ]
    epsilons = [epsilon for epsilon, _, _ in own]
    if not own or max(epsilons) <= _VARIES * min(epsilons):
        return None
    figure, axes = study_page(title)
    for epsilon, score, outcome in own:
        _mark(axes, epsilon, score, outcome)
    _epsilon_axis(axes, "x", epsilons)
    more = _candidates(axes, best)
    _levels(axes, floor)
    axes.set_xlabel(f"epsilon of one run, proved: {claim_words(claim)}")
    axes.set_ylabel("score")
    handles = [*legend_handles([kind_of(o) for _, _, o in own]), *more, *_level_handles(floor)]
    set_legend(figure, axes, handles)
    return figure


def _candidates(axes: Any, best: Sequence[Candidate]) -> list[Any]:
    """The candidates, and a line through those that no other beats."""
    if not best:
        return []
    looks: dict[str, Any] = {"marker": "D", "ms": 6, "mfc": "white", "mew": 1.1}
    seeds = "on fresh seeds" if any(c.confirmed for c in best) else "of its trial"
    ahead = front([candidate for candidate in best if candidate.feasible])
    handles, behind = [], [candidate for candidate in best if candidate not in ahead]
    if ahead:
        xs, ys = [c.epsilon for c in ahead], [c.score for c in ahead]
        axes.step(xs, ys, where="post", color=INK, lw=1.1, zorder=2)
        axes.plot(xs, ys, ls="", mec=INK, zorder=5, **looks)
        handles.append(line(lw=1.1, mec=INK, label=f"front, score {seeds}", **looks))
    if behind:
        xs, ys = [c.epsilon for c in behind], [c.score for c in behind]
        axes.plot(xs, ys, ls="", mec=FAINT, zorder=4, **looks)
        handles.append(line(ls="", mec=FAINT, label=f"not on it, score {seeds}", **looks))
    return handles


def claim_words(claim: Mapping[str, Any]) -> str:
    """What an epsilon holds for, in a few words."""
    return (
        f"one {claim['unit']}, {claim['neighbouring']}, view {claim['view']}, "
        f"\u03b4={delta_text(claim['delta'])}"
    )


def _epsilon_axis(axes: Any, name: str, values: Sequence[float]) -> None:
    """Logarithmic with plain numbers; where it is too narrow for that, as it is."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if max(values) < _WIDE * min(values):
        return
    axes.set(**{f"{name}scale": "log"})
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _mark(axes: Any, x: float, y: float, outcome: Outcome) -> None:
    kind = kind_of(outcome)
    axes.plot([x], [y], ls="", zorder=3 if kind == OK else 2, **LOOKS[kind])


def _levels(axes: Any, floor: Floor) -> None:
    if floor.twin is not None:
        axes.axhline(floor.twin, color=INK, lw=0.9, ls=(0, (6, 2)), zorder=1)
    if floor.value is not None:
        axes.axhline(floor.value, color=FAINT, lw=1.0, ls=(0, (2, 2)), zorder=1)
    if floor.chance is not None:
        axes.axhline(floor.chance, color=CHANCE.colour, lw=0.8, zorder=1)


def _level_handles(floor: Floor) -> list[Any]:
    found = []
    if floor.twin is not None:
        found.append(line(lw=0.9, ls=(0, (6, 2)), label="without protection"))
    if floor.value is not None:
        found.append(line(FAINT, lw=1.0, ls=(0, (2, 2)), label="collapse floor"))
    if floor.chance is not None:
        found.append(line(CHANCE.colour, lw=0.8, label="chance"))
    return found
