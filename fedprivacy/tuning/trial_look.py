"""How trials look in pictures of a study: by what they came to, told apart in grey as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fedprivacy.report.palette import FAINT, INK
from fedprivacy.tuning.outcome import Outcome, outcome_of
from fedprivacy.tuning.rules import BEHIND, FAR, INFEASIBLE, NOISE

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

OK, LOW, DEAD, DROWNED, LAGGED, REFUSED = (
    "above the floor", "collapsed", "ended early: collapsing", "ended early: signal to noise",
    "ended early: behind the median", "refused before training",
)  # fmt: skip
LOOKS: dict[str, dict[str, Any]] = {
    OK: {"marker": "o", "color": "#0072B2", "mfc": "#0072B2", "ms": 5},
    LOW: {"marker": "X", "color": "#D55E00", "mfc": "#D55E00", "ms": 6},
    DEAD: {"marker": "x", "color": "#D55E00", "ms": 5, "mew": 1.4},
    DROWNED: {"marker": "^", "color": "#CC79A7", "mfc": "white", "ms": 5},
    LAGGED: {"marker": "v", "color": "#009E73", "mfc": "white", "ms": 5},
    REFUSED: {"marker": "s", "color": FAINT, "mfc": "white", "ms": 4},
}


def kind_of(outcome: Outcome) -> str:
    """Which of the looks a trial has."""
    if outcome.rule in (INFEASIBLE, FAR):
        return REFUSED
    if outcome.rule == BEHIND:
        return LAGGED
    if outcome.rule == NOISE:
        return DROWNED
    if outcome.collapsed:
        return DEAD if outcome.status == "pruned" else LOW
    return OK


def told(outcome: Outcome) -> bool:
    """Whether the trial says if its settings collapse: it was trained, and not ended for noise."""
    return kind_of(outcome) not in (REFUSED, DROWNED) and outcome.cell_rounds > 0


def shown(trials: Sequence[FrozenTrial]) -> list[tuple[FrozenTrial, Outcome]]:
    """Trials with an outcome that was not a failure, in their order."""
    found = [(trial, outcome_of(trial)) for trial in trials]
    return [(t, o) for t, o in found if o is not None and o.status != "failed"]


def legend_handles(kinds: Sequence[str]) -> list[Any]:
    """One entry for each kind that is there."""
    from matplotlib.lines import Line2D

    return [Line2D([], [], ls="", label=kind, **LOOKS[kind]) for kind in LOOKS if kind in kinds]


def line(colour: str = INK, **style: Any) -> Any:
    """An entry of a legend for a line."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, **style)
