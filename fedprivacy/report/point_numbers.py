"""Numbers beside the points of a picture, where they cover nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from fedprivacy.report.palette import INK

Box = tuple[float, float, float, float]
"""Left, bottom, right and top, in pixels."""

POINT, LEVEL, STEPS, BARS = "point-", "level", "steps", "bars"
_AROUND = [
    (dx, dy) for far in (8, 11, 14) for dx, dy in
    ((far, far - 2), (far, 2 - far), (-far, far - 2), (-far, 2 - far), (0, far + 1), (0, -far - 1),
     (far + 2, 0), (-far - 2, 0))
]  # fmt: skip


def number_points(axes: Any, numbered: Sequence[tuple[str, int]]) -> None:
    """Write each point's number beside it, clear of markers, numbers, lines and the panel's rim.

    Args:
        axes: with the points, lines named ``LEVEL`` (level), ``STEPS`` (along both axes in turn)
            and ``BARS`` (straight, two points each).
        numbered: the name (gid) of each point's marker, which begins with ``POINT``, and its
            number.
    """
    from matplotlib.patheffects import withStroke

    markers = [line for line in axes.lines if str(line.get_gid()).startswith(POINT)]
    places = {line.get_gid(): line.get_xydata()[0] for line in markers}
    figure = axes.figure
    scale = figure.dpi / 72
    spots = {gid: axes.transData.transform(xy) for gid, xy in places.items()}
    own = {gid: _box(x, y, 5 * scale, 5 * scale) for gid, (x, y) in spots.items()}
    # A number that is near to another point would be taken for that point's.
    zones = {gid: _box(x, y, 10 * scale, 12 * scale) for gid, (x, y) in spots.items()}
    taken = [_strip(axes, line, scale) for line in axes.lines if line.get_gid() == LEVEL]
    taken += [box for line in axes.lines for box in _pieces(axes, line, scale)]
    for gid, number in numbered:
        x, y = spots[gid]
        wide = (2.3 + 2.6 * len(str(number))) * scale
        options = [
            (dx, dy, _box(x + dx * scale, y + dy * scale, wide, 4.5 * scale)) for dx, dy in _AROUND
        ]
        others = [spot for other, spot in spots.items() if other != gid]
        near = [zone for other, zone in zones.items() if other != gid] + [own[gid], *taken]
        dx, dy, box = min(options, key=lambda option: _cost(axes, option, spots[gid], others, near))
        taken.append(box)
        axes.annotate(
            str(number), places[gid], xytext=(dx, dy), textcoords="offset points", ha="center",
            va="center", fontsize=6.5, color=INK, zorder=6,
            path_effects=[withStroke(linewidth=1.6, foreground="white")],
        )  # fmt: skip


def _cost(
    axes: Any,
    option: tuple[float, float, Box],
    own: Sequence[float],
    others: Sequence[Sequence[float]],
    near: Sequence[Box],
) -> float:
    """What a place covers, in pixels squared; whoever stands nearer than its own point is worse."""
    box = option[2]
    middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    area = (box[2] - box[0]) * (box[3] - box[1])
    nearer = sum(math.dist(middle, spot) < 1.2 * math.dist(middle, own) for spot in others)
    return sum(_overlap(box, one) for one in near) + _outside(axes, box) + area * nearer


def _strip(axes: Any, line: Any, scale: float) -> Box:
    """What a level line takes of a panel, pixels."""
    _, y = axes.transData.transform((0.0, line.get_ydata()[0]))
    return axes.bbox.x0, y - scale, axes.bbox.x1, y + scale


def _pieces(axes: Any, line: Any, scale: float) -> list[Box]:
    """What each straight piece of a stepped line, or a bar, takes; pixels."""
    if line.get_gid() not in (STEPS, BARS):
        return []
    corners = axes.transData.transform(line.get_xydata())
    if line.get_gid() == STEPS:  # a step goes along first, then up or down
        turned = [(after[0], before[1]) for before, after in pairwise(corners)]
        corners = [*(c for pair in zip(corners, turned, strict=False) for c in pair), corners[-1]]
    pad = 1.5 * scale
    return [
        (min(a[0], b[0]) - pad, min(a[1], b[1]) - pad, max(a[0], b[0]) + pad, max(a[1], b[1]) + pad)
        for a, b in pairwise(corners)
    ]


def _outside(axes: Any, box: Box) -> float:
    """How much of a box is beyond the panel, where titles and ticks are; pixels squared."""
    inside = _overlap(box, (axes.bbox.x0, axes.bbox.y0, axes.bbox.x1, axes.bbox.y1))
    return (box[2] - box[0]) * (box[3] - box[1]) - inside


def _box(x: float, y: float, half_width: float, half_height: float) -> Box:
    return x - half_width, y - half_height, x + half_width, y + half_height


def _overlap(one: Box, other: Box) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, wide) * max(0.0, tall)
