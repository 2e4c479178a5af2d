"""What audits measured, as bars left of a price panel's points, each on a level of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.optimize import isotonic_regression

from fedprivacy.report.palette import FAINT, algorithm_look
from fedprivacy.report.point_numbers import BARS
from fedprivacy.report.price_points import Point

NOTHING, BLIND = "<", "x"
CEILING: dict[str, Any] = {"marker": 7, "ms": 4.5}
BAR_NUMBER = "bar-number"
_APART, _RIM, _SMALL = 6.5, 14.0, 5.0  # points of 1/72 inch


def draw_measured(
    axes: Any,
    points: Sequence[Point],
    places: Mapping[int, float],
    low: float,
    numbers: Mapping[int, int],
) -> None:
    """From each point to the left as far as its measured bound; and the most it could have been.

    Bars of points that score alike are moved apart, and joined to their points; where there are
    several each begins with its point's number.

    Args:
        axes: whose limits are final, but that they may have to give way to bars.
        points: of the panel, each with a score.
        places: where each stands along the axis, by identity: log10 of epsilon.
        low: left end of the axis.
        numbers: of the rows, by identity.
    """
    audited = [p for p in points if p.lower is not None or p.ceiling is not None]
    scores = [p.row.score.mean for p in audited if p.row.score]
    # Of two at the same height, the bar of the one further right passes above the other's point.
    order = sorted(range(len(audited)), key=lambda i: (scores[i], places[id(audited[i])]))
    bottom, top = axes.get_ylim()
    unit = (top - bottom) / (axes.get_position().height * axes.figure.get_figheight() * 72)
    moved = levels([scores[i] for i in order], _APART * unit)
    if moved:
        axes.set_ylim(min(bottom, moved[0] - _RIM * unit), max(top, moved[-1] + _RIM * unit))
    for index, level in zip(order, moved, strict=True):
        point = audited[index]
        _bar(axes, point, places[id(point)], scores[index], level, low)
        if len(audited) > 1 and point.lower is not None:
            _number(axes, point, level, low, numbers[id(point.row)])


def levels(heights: Sequence[float], apart: float) -> list[float]:
    """Rising levels nearest to rising heights, by least squares, with ``apart`` between them.

    Args:
        heights: rising.
        apart: least difference of two levels that follow one another.
    """
    if not heights:
        return []
    # What must rise by ``apart`` each time rises by nothing once that is taken off.
    free = [height - apart * place for place, height in enumerate(heights)]
    fitted = isotonic_regression(free).x
    return [float(value) + apart * place for place, value in enumerate(fitted)]


def _number(axes: Any, point: Point, level: float, low: float, number: int) -> None:
    """Left of the bar's end, or right of it where that is the panel's rim."""
    start = max(math.log10(point.lower), low) if point.lower else low
    rim = start == low
    axes.annotate(
        str(number), (start, level), xytext=(5.0 if rim else -2.5, 0.0), fontsize=_SMALL,
        textcoords="offset points", ha="left" if rim else "right", va="center_baseline",
        color=algorithm_look(point.row.first.algorithm).colour, zorder=5, gid=BAR_NUMBER,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.3},
    )  # fmt: skip


def _bar(axes: Any, point: Point, x: float, score: float, level: float, low: float) -> None:
    look = algorithm_look(point.row.first.algorithm)
    if point.lower is not None:
        found = point.lower > 0
        start = max(math.log10(point.lower), low) if found else low
        thin: dict[str, Any] = {"color": look.colour, "lw": 0.9, "alpha": 0.55, "gid": BARS}
        axes.plot([start, x], [level, level], **thin)
        if level != score:
            axes.plot([x, x], [level, score], **thin)
        # An audit that could have shown nothing found nothing: one mark says both.
        end = "|" if found else BLIND if point.ceiling == 0 else NOTHING
        axes.plot(
            [start], [level], marker=end, color=look.colour, ms=5.5 if found else 4.5, zorder=3
        )
    if point.ceiling:
        at = max(math.log10(point.ceiling), low)
        axes.plot([at], [level], color=FAINT, zorder=3, **CEILING)
