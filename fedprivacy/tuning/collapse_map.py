"""Where training survives: every trial over the two parameters that mattered most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedprivacy.report.canvas import new_figure
from fedprivacy.report.palette import INK
from fedprivacy.tuning.importance import most_important
from fedprivacy.tuning.outcome import Outcome
from fedprivacy.tuning.space import Parameter, SearchSpace, Value
from fedprivacy.tuning.trial_look import LOOKS, REFUSED, kind_of, legend_handles, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna.trial import FrozenTrial

_FEWEST, _NEIGHBOURS, _GRID = 12, 5, 60
_SHADE = "#E8C9B8"

Floats = NDArray[np.float64]


def collapse_map(trials: Sequence[FrozenTrial], space: SearchSpace, title: str) -> Figure | None:
    """The map; None where there are not two parameters to draw.

    Shaded: where more than half of the five nearest trained trials collapsed, an estimate from the
    trials that are drawn, from twelve of them on.

    Args:
        trials: of the study.
        space: of the study.
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
    width, height, foot = 6.6, 4.5, 0.98
    figure = new_figure(width, height)
    box = (0.95 / width, (foot + 0.5) / height, 1 - 1.15 / width, 1 - (foot + 0.95) / height)
    axes = figure.add_axes(box)
    points = np.array([[_at(across, t.params), _at(up, t.params)] for t, _ in own])
    points += _jitter(points, across, up)
    _survival(axes, points, own)
    for (_, outcome), (x, y) in zip(own, points, strict=True):
        axes.plot([x], [y], ls="", zorder=3, **LOOKS[kind_of(outcome)])
    _name(axes.xaxis, across)
    _name(axes.yaxis, up)
    axes.set_xlabel(across.key)
    axes.set_ylabel(up.key)
    figure.text(0.1 / width, 1 - 0.1 / height, title, va="top", fontsize=9.5, color=INK)
    trained = sum(kind_of(o) != REFUSED for _, o in own)
    handles = legend_handles([kind_of(o) for _, o in own])
    if _estimated(own):
        from matplotlib.patches import Patch

        label = f"most of the nearest collapsed ({trained} trials)"
        handles.append(Patch(facecolor=_SHADE, label=label))
    figure.legend(
        handles=handles, loc="lower left", ncol=2, frameon=False, bbox_to_anchor=(0.0, 0.0)
    )
    return figure


def _at(parameter: Parameter, params: dict[str, Value]) -> float:
    """Where a value lies on its axis: its place among the choices, or its number or logarithm."""
    value = params[parameter.key]
    if parameter.choices:
        return float(parameter.choices.index(value))
    assert isinstance(value, int | float)
    return float(np.log10(value)) if parameter.log else float(value)


def _jitter(points: Floats, *parameters: Parameter) -> Floats:
    """Choices are moved a little, so that trials of one choice are not on one spot."""
    rng = np.random.default_rng(0)
    spread = np.array([0.16 if p.choices else 0.0 for p in parameters])
    return np.asarray(rng.uniform(-1, 1, points.shape) * spread)


def _estimated(own: Sequence[tuple[FrozenTrial, Outcome]]) -> bool:
    told = [o.collapsed for _, o in own if kind_of(o) != REFUSED]
    return len(told) >= _FEWEST and len(set(told)) == 2


def _survival(axes: Any, points: Floats, own: Sequence[tuple[FrozenTrial, Outcome]]) -> None:
    if not _estimated(own):
        return
    from sklearn.neighbors import KNeighborsClassifier

    trained = np.array([kind_of(o) != REFUSED for _, o in own])
    collapsed = np.array([o.collapsed for _, o in own])
    low, high = points.min(0), points.max(0)
    span = np.where(high > low, high - low, 1.0)
    low, high = low - 0.08 * span, high + 0.08 * span
    xs, ys = np.linspace(low[0], high[0], _GRID), np.linspace(low[1], high[1], _GRID)
    model = KNeighborsClassifier(_NEIGHBOURS).fit(points[trained] / span, collapsed[trained])
    grid = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2) / span
    dead = model.predict_proba(grid)[:, 1].reshape(_GRID, _GRID) > 0.5
    axes.contourf(xs, ys, dead.astype(float), levels=[0.5, 1.5], colors=[_SHADE], zorder=0)


def _name(axis: Any, parameter: Parameter) -> None:
    """Values on the axis, whatever it was drawn on."""
    if parameter.choices:
        axis.set_ticks(range(len(parameter.choices)), [str(c) for c in parameter.choices])
    elif parameter.log:
        low, high = np.log10(parameter.low), np.log10(parameter.high)
        ticks = [t for t in range(int(np.floor(low)), int(np.ceil(high)) + 1) if low <= t <= high]
        marks = ticks if len(ticks) > 1 else [float(low), float(high)]
        axis.set_ticks(marks, [f"{10.0**t:.3g}" for t in marks])
