"""A study in pictures: its history, and score against epsilon."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedprivacy.report.canvas import new_figure
from fedprivacy.report.palette import CHANCE, FAINT, INK
from fedprivacy.report.words import delta_text
from fedprivacy.tuning.floor import Floor
from fedprivacy.tuning.outcome import Outcome
from fedprivacy.tuning.recommendation import Candidate
from fedprivacy.tuning.trial_look import LOOKS, OK, REFUSED, kind_of, legend_handles, line, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna.trial import FrozenTrial

_WIDTH, _HEIGHT, _FOOT = 6.6, 3.9, 0.85


def history_figure(trials: Sequence[FrozenTrial], floor: Floor, title: str) -> Figure | None:
    """Score of every trial in its order, with the best feasible so far; None without a score."""
    own = [(t, o) for t, o in shown(trials) if o.score is not None and kind_of(o) != REFUSED]
    if not own:
        return None
    figure, axes = _canvas(title)
    best, curve = -math.inf, []
    for trial, outcome in own:
        assert outcome.score is not None
        _mark(axes, trial.number, outcome.score, outcome)
        best = max(best, outcome.score) if outcome.feasible else best
        curve.append((trial.number, best))
    reached = [(x, y) for x, y in curve if math.isfinite(y)]
    axes.step([x for x, _ in reached], [y for _, y in reached], where="post", color=INK, lw=1.1)
    _levels(axes, floor)
    axes.set_xlabel("trial")
    axes.set_ylabel("score")
    kinds = [kind_of(o) for _, o in own]
    more = [line(lw=1.1, label="best feasible so far")]
    _legend(figure, [*legend_handles(kinds), *more, *_level_handles(floor)])
    return figure


def front_figure(
    trials: Sequence[FrozenTrial],
    best: Sequence[Candidate],
    floor: Floor,
    claim: Mapping[str, Any],
    title: str,
) -> Figure | None:
    """Score against epsilon of one run; None with fewer than two epsilons to compare.

    Args:
        trials: of the study, or of all studies of a union.
        best: the front, as it was confirmed.
        floor: of the study.
        claim: unit, neighbouring, view and delta of every epsilon.
        title: what the study is.
    """
    own = [
        (t, o) for t, o in shown(trials)
        if o.score is not None and o.epsilon is not None and o.status in ("ok", "collapsed")
    ]  # fmt: skip
    if len({round(o.epsilon or 0.0, 3) for _, o in own}) < 2:
        return None
    figure, axes = _canvas(title)
    axes.set_xscale("log")
    for _, outcome in own:
        assert outcome.epsilon is not None
        assert outcome.score is not None
        _mark(axes, outcome.epsilon, outcome.score, outcome)
    ordered = sorted(best, key=lambda candidate: candidate.epsilon)
    xs, ys = [c.epsilon for c in ordered], [c.score for c in ordered]
    axes.step(xs, ys, where="post", color=INK, lw=1.1, zorder=2)
    axes.plot(xs, ys, ls="", marker="D", ms=6, mfc="white", mec=INK, mew=1.1, zorder=4)
    _levels(axes, floor)
    axes.set_xlabel(
        f"epsilon of one run, proved: one {claim['unit']}, {claim['neighbouring']}, view "
        f"{claim['view']}, \u03b4={delta_text(claim['delta'])}"
    )
    axes.set_ylabel("score")
    seeds = "on fresh seeds" if any(c.confirmed for c in best) else "of its trial"
    more = [line(marker="D", ms=6, mfc="white", mec=INK, lw=1.1, label=f"front, score {seeds}")]
    kinds = [kind_of(o) for _, o in own]
    _legend(figure, [*legend_handles(kinds), *more, *_level_handles(floor)])
    return figure


def _canvas(title: str) -> tuple[Figure, Any]:
    figure = new_figure(_WIDTH, _HEIGHT)
    box = (
        0.65 / _WIDTH, (_FOOT + 0.5) / _HEIGHT, 1 - 0.85 / _WIDTH, 1 - (_FOOT + 0.95) / _HEIGHT
    )  # fmt: skip
    axes = figure.add_axes(box)
    figure.text(0.1 / _WIDTH, 1 - 0.1 / _HEIGHT, title, va="top", fontsize=9.5, color=INK)
    return figure, axes


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


def _legend(figure: Figure, handles: Sequence[Any]) -> None:
    figure.legend(
        handles=list(handles), loc="lower left", ncol=3, frameon=False, columnspacing=1.2,
        bbox_to_anchor=(0.0, 0.0),
    )  # fmt: skip
