"""What a price list's points, lines and marks mean: only those that some panel has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedprivacy.pricing.file import joint_confidence
from fedprivacy.report.measured_bars import BLIND, CEILING, NOTHING
from fedprivacy.report.palette import CHANCE, FAINT, algorithm_look, reference_look
from fedprivacy.report.price_points import Kind, Point
from fedprivacy.report.rows import Row

SHADE = 0.06
"""Of the zone of collapse."""


def legend_handles(found: Mapping[Kind, Sequence[Point]], keys: Mapping[int, Row]) -> list[Any]:
    """Every row by its number, filled where some panel proves it, then what lines mean.

    Args:
        found: the panels' points.
        keys: the rows by number.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    points = [point for own in found.values() for point in own]
    proved = {id(point.row) for point in points if math.isfinite(point.epsilon)}
    handles: list[Any] = []
    for number, row in keys.items():
        look = algorithm_look(row.first.algorithm)
        filled = look.colour if id(row) in proved else "white"
        mark: dict[str, Any] = {"marker": look.marker, "color": look.colour, "mfc": filled}
        handles.append(Line2D([], [], ls="", label=f"{number}  {row.name}", **mark))
    federations = dict.fromkeys(row.first.federation for row in keys.values() if row.twin_score)
    return [
        *handles,
        *_marks(points, panels=len(found)),
        *(_baseline(name) for name in federations),
        Line2D([], [], color=CHANCE.colour, lw=0.8, label="chance"),
        Patch(facecolor="#000000", alpha=SHADE, label="collapse"),
    ]


def _marks(points: Sequence[Point], panels: int) -> list[Any]:
    from matplotlib.lines import Line2D

    marks: list[tuple[bool, str, dict[str, Any]]] = [
        (
            any(math.isinf(point.epsilon) for point in points),
            "nothing proved", {"ls": "", "marker": "o", "mfc": "white"},
        ),
        (True, "± standard error", {"ls": "", "marker": "$I$", "ms": 7}),
        (len(points) > panels, "not beaten in both", {"lw": 1.0}),
        (
            any(point.lower for point in points),
            f"measured at least, add_remove{_sure(points)}",
            {"marker": "|", "ms": 5.5, "lw": 0.9},
        ),
        (
            any(point.lower == 0 and point.ceiling != 0 for point in points),
            "measured 0", {"ls": "", "marker": NOTHING, "ms": 4.5},
        ),
        (
            any(point.lower == 0 and point.ceiling == 0 for point in points),
            "audit could show nothing", {"ls": "", "marker": BLIND, "ms": 4.5},
        ),
        (any(point.ceiling for point in points), "most it could show", {"ls": "", **CEILING}),
    ]  # fmt: skip
    return [
        Line2D([], [], color=FAINT, label=label, **look) for shown, label, look in marks if shown
    ]


def _sure(points: Sequence[Point]) -> str:
    """The confidence of the bars: each is the largest of its row's seeds."""
    audits = [[cell.audit for cell in p.row.cells if cell.audit] for p in points if p.lower]
    told = [joint_confidence([audit.get("confidence") for audit in own]) for own in audits if own]
    known = sorted({round(100 * one, 1) for one in told if one is not None})
    if not known:
        return ""
    return f", {known[0]:g} %" if len(known) == 1 else f", {known[0]:g} to {known[-1]:g} %"


def _baseline(federation: str) -> Any:
    from matplotlib.lines import Line2D

    look = reference_look(federation)
    name = "without protection" + ("" if federation == "fedavg" else f", {federation}")
    return Line2D([], [], color=look.colour, lw=0.9, ls=look.dash, label=name)
