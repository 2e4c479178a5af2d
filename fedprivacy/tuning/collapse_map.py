"""Where training survives: every trial over the two parameters that mattered most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedprivacy.tuning.importance import FEWEST, known_importance, most_important
from fedprivacy.tuning.outcome import Outcome
from fedprivacy.tuning.space import EPSILON, Parameter, SearchSpace, Value
from fedprivacy.tuning.study_canvas import set_legend, study_page
from fedprivacy.tuning.trial_look import LOOKS, kind_of, legend_handles, shown, told

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna.trial import FrozenTrial

_FEWEST, _NEIGHBOURS, _GRID, _JITTER = 12, 5, 60, 0.05
_SHADE = "#E8C9B8"

Floats = NDArray[np.float64]


def collapse_map(trials: Sequence[FrozenTrial], space: SearchSpace, title: str) -> Figure | None:
    """The map; None where there are not two parameters to draw.

    Shaded: where more than half of the five nearest trained trials collapsed, an estimate from the
    trials that are drawn, from twelve of them on.

    Args:
        trials: of the study.
        space: of the study, with epsilon where that is searched.
        title: what the study is.
    """
    drawn = shown(trials)
    keys = [
        key for key in most_important(trials, space)
        if len({repr(t.params[key]) for t, _ in drawn if key in t.params}) > 1
    ][:2]  # fmt: skip
    chosen = [p for key in keys if (p := space.get(key)) is not None]
    if len(chosen) < 2:
        return None
    across, up = chosen
    own = [(t, o) for t, o in drawn if across.key in t.params and up.key in t.params]
    figure, axes = study_page(title, _caption(trials, space, keys), height=4.5, left=0.95)
    points = np.array([[_at(across, t.params), _at(up, t.params)] for t, _ in own])
    points += _jitter(points, across, up)
    shaded = _survival(axes, points, own)
    for (_, outcome), (x, y) in zip(own, points, strict=True):
        axes.plot([x], [y], ls="", zorder=3, **LOOKS[kind_of(outcome)])
    _name(axes.xaxis, across)
    _name(axes.yaxis, up)
    axes.set_xlabel(_label(across))
    axes.set_ylabel(_label(up))
    handles = legend_handles([kind_of(o) for _, o in own])
    if shaded:
        from matplotlib.patches import Patch

        trained = sum(told(o) for _, o in own)
        label = f"most of the nearest collapsed ({trained} trials)"
        handles.append(Patch(facecolor=_SHADE, label=label))
    set_legend(figure, axes, handles, columns=2)
    return figure


def _caption(trials: Sequence[FrozenTrial], space: SearchSpace, keys: Sequence[str]) -> str:
    """Why it is these two parameters, where their importance is not what chose them."""
    known = known_importance(trials, space)
    guessed = [key for key in keys if key not in known]
    if not guessed:
        return ""
    which = "both axes: by their" if len(guessed) == 2 else f"{guessed[0]}: by its"
    return (
        f"{which} order in the space, not by importance, which takes {FEWEST} trained trials "
        "that differ"
    )


def _label(parameter: Parameter) -> str:
    return "epsilon, searched: the budget of a trial" if parameter.key == EPSILON else parameter.key


def _at(parameter: Parameter, params: dict[str, Value]) -> float:
    """Where a value lies on its axis: its place among the choices, or its number or logarithm."""
    value = params[parameter.key]
    if parameter.choices:
        return float(parameter.choices.index(value))
    assert isinstance(value, int | float)
    return float(np.log10(value)) if parameter.log else float(value)


def _jitter(points: Floats, *parameters: Parameter) -> Floats:
    """Choices are moved a little, so that trials of one choice are not on one spot.

    As little as leaves no doubt which choice it is, also where choices are numbers.
    """
    rng = np.random.default_rng(0)
    spread = np.array([_JITTER if p.choices else 0.0 for p in parameters])
    return np.asarray(rng.uniform(-1, 1, points.shape) * spread)


def _estimated(own: Sequence[tuple[FrozenTrial, Outcome]]) -> bool:
    found = [o.collapsed for _, o in own if told(o)]
    return len(found) >= _FEWEST and len(set(found)) == 2


def _survival(axes: Any, points: Floats, own: Sequence[tuple[FrozenTrial, Outcome]]) -> bool:
    """Shade where most of the nearest collapsed; whether there is such a place."""
    if not _estimated(own):
        return False
    from sklearn.neighbors import KNeighborsClassifier

    trained = np.array([told(o) for _, o in own])
    collapsed = np.array([o.collapsed for _, o in own])
    low, high = points.min(0), points.max(0)
    span = np.where(high > low, high - low, 1.0)
    low, high = low - 0.08 * span, high + 0.08 * span
    xs, ys = np.linspace(low[0], high[0], _GRID), np.linspace(low[1], high[1], _GRID)
    model = KNeighborsClassifier(_NEIGHBOURS).fit(points[trained] / span, collapsed[trained])
    grid = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2) / span
    dead = model.predict_proba(grid)[:, 1].reshape(_GRID, _GRID) > 0.5
    axes.contourf(xs, ys, dead.astype(float), levels=[0.5, 1.5], colors=[_SHADE], zorder=0)
    return bool(dead.any())


def _name(axis: Any, parameter: Parameter) -> None:
    """Values on the axis, whatever it was drawn on."""
    if parameter.choices:
        axis.set_ticks(range(len(parameter.choices)), [str(c) for c in parameter.choices])
    elif parameter.log:
        low, high = np.log10(parameter.low), np.log10(parameter.high)
        ticks = [t for t in range(int(np.floor(low)), int(np.ceil(high)) + 1) if low <= t <= high]
        marks = ticks if len(ticks) > 1 else [float(low), float(high)]
        axis.set_ticks(marks, [f"{10.0**t:.3g}" for t in marks])
    elif parameter.whole:
        from matplotlib.ticker import MaxNLocator

        axis.set_major_locator(MaxNLocator(integer=True))
