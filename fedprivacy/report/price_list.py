"""The price list as a picture: score against proven epsilon, one panel for each kind of claim."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedprivacy.accounting.units import UNITS, VIEWS, View
from fedprivacy.pricing.frontier import pareto
from fedprivacy.report.bounds import measured
from fedprivacy.report.canvas import new_figure
from fedprivacy.report.palette import CHANCE, FAINT, HAIRLINE, INK, algorithm_look
from fedprivacy.report.rows import Row
from fedprivacy.report.words import dataset_title, delta_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = tuple[str, str, View, float]
"""Unit, neighbouring relation, view, delta."""

Box = tuple[float, float, float, float]
"""Left, bottom, right and top, in pixels."""

_PANEL_WIDTH, _PANEL_HEIGHT, _LEFT = 4.4, 3.4, 0.62
_CHARACTER, _LINE, _EXTRAS, _SHADE = 0.066, 0.155, 8, 0.06
_AROUND = [
    (dx, dy) for far in (8, 12) for dx, dy in
    ((far, far - 2), (far, 2 - far), (-far, far - 2), (-far, 2 - far), (0, far + 1), (0, -far - 1),
     (far + 2, 0), (-far - 2, 0))
]  # fmt: skip
_FEWEST_DECADES = 1.5
_POINT, _LEVEL = "point-", "level"
_NOTHING = "<"
_CEILING: dict[str, Any] = {"marker": 7, "ms": 4.5}


@dataclass(frozen=True)
class Point:
    """One row in one panel.

    Attributes:
        row: the cells.
        epsilon: proved upper bound; ``math.inf`` where nothing is proved.
        lower: measured lower bound for what the panel is about; None where no audit was.
        ceiling: the most that its audit could have shown; None where that is not known.
    """

    row: Row
    epsilon: float
    lower: float | None
    ceiling: float | None = None


def panels(rows: Sequence[Row]) -> dict[Kind, list[Point]]:
    """Points of one dataset by kind of claim.

    Kinds are those of the rows' headlines, and of the strongest view in which a row's unit has a
    bound. Rows whose claim of that kind is infinite stand in the panel too; none is dropped.
    """
    shown = {kind for row in rows if row.protected for kind in _kinds(row.privacy or {})}
    found: dict[Kind, list[Point]] = {}
    for row in rows:
        if not row.protected or row.privacy is None or row.score is None:
            continue
        claims = _claims(row.privacy)
        for kind in shown:
            epsilon = _claimed(claims, kind)
            if epsilon is not None:
                shown_by = measured(row, *kind)
                lower = None if shown_by is None else shown_by.lower
                ceiling = None if shown_by is None else shown_by.ceiling
                found.setdefault(kind, []).append(Point(row, epsilon, lower, ceiling))
    return dict(sorted(found.items(), key=lambda item: _order(item[0])))


def _kinds(privacy: Any) -> list[Kind]:
    """The headline's kind, and that of the strongest view in which the same unit has a bound."""
    claims = _claims(privacy)
    own = [kind for kind in claims if kind[0] == privacy.get("unit")]
    headline = [kind for kind in own if kind[2] == privacy.get("view")]
    finite = [kind for kind in own if math.isfinite(claims[kind])]
    return headline + sorted(finite, key=_order)[:1]


def _claims(privacy: Any) -> dict[Kind, float]:
    claims: dict[Any, float] = {}
    both = (privacy.get("per_unit") or {}, privacy.get("per_view") or {})
    for item in (item for claims_of in both for item in claims_of.values()):
        relation = item.get("neighbouring") or privacy.get("neighbouring")
        kind = (item["unit"], relation, item["view"], privacy["delta"])
        infinite = item.get("infinite", True) or item.get("epsilon") is None
        claims[kind] = math.inf if infinite else float(item["epsilon"])
    about = tuple(privacy.get(key) for key in ("unit", "neighbouring", "view", "delta"))
    if None not in about and about not in claims:
        infinite = privacy.get("infinite", True) or privacy.get("epsilon") is None
        claims[about] = math.inf if infinite else float(privacy["epsilon"])
    return claims


def _claimed(claims: Mapping[Kind, float], kind: Kind) -> float | None:
    """What is claimed of that very kind; infinite where nothing is proved of that unit and view.

    An infinite epsilon holds under every relation and delta: there is no proof. A finite one under
    another relation says nothing here, and None is returned.
    """
    if kind in claims:
        return claims[kind]
    alike = [value for (u, _, v, _), value in claims.items() if (u, v) == (kind[0], kind[2])]
    return math.inf if alike and all(map(math.isinf, alike)) else None


def _order(kind: Kind) -> tuple[int, int, str, float]:
    return UNITS.index(kind[0]), VIEWS.index(kind[2]), kind[1], kind[3]


def price_list_figure(rows: Sequence[Row], collapse_fraction: float) -> Figure | None:
    """One dataset's panels; None where nothing was protected.

    Args:
        rows: of one dataset.
        collapse_fraction: ``collapse.fraction``; the zone below is shaded.
    """
    found = panels(rows)
    if not found:
        return None
    keys = _keys(found)
    columns = min(2, len(found))
    lines = math.ceil(len(found) / columns)
    side = 0.75 + _CHARACTER * max(len(row.name) for row in keys.values())
    width = _LEFT + _PANEL_WIDTH * columns + side
    height = max(_PANEL_HEIGHT * lines + 0.6, _LINE * (len(keys) + _EXTRAS) + 0.75)
    figure = new_figure(width, height)
    grid = figure.add_gridspec(
        lines, columns, left=_LEFT / width, right=1 - (side + 0.1) / width, top=1 - 0.7 / height,
        bottom=0.62 / height, hspace=0.42, wspace=0.24,
    )  # fmt: skip
    for index, (kind, points) in enumerate(found.items()):
        axes = figure.add_subplot(grid[index // columns, index % columns])
        _panel(axes, kind, points, collapse_fraction)
        numbers = {id(row): number for number, row in keys.items()}
        number_points(axes, [(point, numbers[id(point.row)]) for point in points])
    title = f"{dataset_title(*rows[0].dataset)}: {rows[0].metric} against proven epsilon"
    figure.suptitle(
        title, x=_LEFT / width, ha="left", y=1 - 0.12 / height, va="top", fontsize=9.5, color=INK
    )
    _legend(figure, keys, side / width, height)
    return figure


def _keys(found: Mapping[Kind, Sequence[Point]]) -> dict[int, Row]:
    """A number for each row, the same in all panels."""
    rows = {id(point.row): point.row for points in found.values() for point in points}
    return dict(enumerate(rows.values(), start=1))


def _panel(axes: Any, kind: Kind, points: Sequence[Point], fraction: float) -> None:
    finite = [p.epsilon for p in points if math.isfinite(p.epsilon)]
    lowers = [value for p in points for value in (p.lower, p.ceiling) if value]
    smallest = min([*finite, *lowers], default=1.0)
    low = math.log10(max(smallest, 1e-3)) - 0.25
    high = max(math.log10(max(finite, default=10.0)) + 0.25, low + _FEWEST_DECADES)
    slot = high + 0.12 * (high - low) + 0.1
    floor = _references(axes, points, fraction)
    _front(axes, points, slot)
    for order, point in enumerate(points):
        _point(axes, point, low, slot, order, len(points))
    _shade(axes, floor)
    axes.axvline(high + 0.05, color=HAIRLINE, lw=0.8, ls=(0, (2, 2)))
    ticks = [t for t in range(math.floor(low), math.ceil(high) + 1) if low <= t <= high]
    decades = range(math.floor(low), math.ceil(high))
    steps = [math.log10(m * 10.0**t) for t in decades for m in (1, 3)]
    shown = ticks if len(ticks) > 2 else [s for s in steps if low <= s <= high]
    axes.set_xticks([*shown, slot], [*(f"{10**t:.3g}" for t in shown), "infinite"])
    axes.set_xlim(low, slot + 0.12 * (high - low))
    axes.set_xlabel("proven epsilon (upper bound)")
    axes.set_ylabel(points[0].row.metric)
    unit, relation, view, delta = kind
    axes.set_title(
        f"one {unit}, {relation}, view {view}, δ={delta_text(delta)}", loc="left", color=INK
    )


def _references(axes: Any, points: Sequence[Point], fraction: float) -> float | None:
    """Draw the levels of the twins and of chance; the score from which down training collapsed."""
    chance = next((c.score.chance for p in points for c in p.row.cells if c.score), None)
    # Rows of other settings may have other twins: each distinct one has its line.
    twins = sorted({round(p.row.twin_score.mean, 4) for p in points if p.row.twin_score})
    for twin in twins:
        axes.axhline(twin, color=INK, lw=0.9, ls=(0, (6, 2)), zorder=1, gid=_LEVEL)
    if chance is None:
        return None
    axes.axhline(chance, color=CHANCE.colour, lw=0.8, zorder=1, gid=_LEVEL)
    return chance + fraction * (twins[-1] - chance) if twins and twins[-1] > chance else None


def _shade(axes: Any, floor: float | None) -> None:
    """Shade all scores from the floor down, as far as the panel reaches."""
    if floor is None:
        return
    low, high = axes.get_ylim()
    low -= 0.02 * (high - low)
    axes.axhspan(low, floor, color="#000000", alpha=_SHADE, lw=0, zorder=0)
    axes.set_ylim(low, high)


def _front(axes: Any, points: Sequence[Point], slot: float) -> None:
    """The front, drawn as steps: no other setting is better in both."""
    places = {id(p): _place(p, slot, order, len(points)) for order, p in enumerate(points)}
    items = [(p.epsilon, p.row.score.mean, p) for p in points if p.row.score]
    best = pareto(items)
    xs = [places[id(p)] for p in best]
    ys = [p.row.score.mean for p in best if p.row.score]
    axes.step(xs, ys, where="post", color=FAINT, lw=1.0, zorder=2)


def _x(epsilon: float, slot: float) -> float:
    return slot if math.isinf(epsilon) else math.log10(max(epsilon, 1e-3))


def _place(point: Point, slot: float, order: int, total: int) -> float:
    """Where a point stands on the axis; infinite ones side by side, not on one vertical line."""
    x = _x(point.epsilon, slot)
    beside = math.isinf(point.epsilon) and total > 1
    return x + (0.16 * (order / (total - 1) - 0.5) if beside else 0.0)


def _point(axes: Any, point: Point, low: float, slot: float, order: int, total: int) -> None:
    score = point.row.score
    assert score is not None
    look = algorithm_look(point.row.first.algorithm)
    x = _place(point, slot, order, total)
    if point.lower is not None:
        start = math.log10(point.lower) if point.lower > 0 else low
        ends = [max(start, low), x]
        axes.plot(ends, [score.mean] * 2, color=look.colour, lw=0.9, alpha=0.55, zorder=3)
        axes.plot(
            [max(start, low)], [score.mean], marker="|" if point.lower > 0 else _NOTHING,
            color=look.colour, ms=7 if point.lower > 0 else 4.5, zorder=3,
        )  # fmt: skip
    if point.ceiling:
        at = math.log10(point.ceiling)
        axes.plot([at], [score.mean], color=FAINT, zorder=3, **_CEILING)
    error = score.standard_error or 0.0
    axes.errorbar(
        [x], [score.mean], yerr=[error], fmt=look.marker, color=look.colour, ms=5.5, capsize=2,
        lw=0.9, mfc=look.colour if point.row.first.schedule == "every_round" else "white", zorder=4,
    )[0].set_gid(f"{_POINT}{id(point)}")  # fmt: skip


def number_points(axes: Any, numbered: Sequence[tuple[Point, int]]) -> None:
    """Write each point's number beside it, clear of markers, numbers and level lines."""
    from matplotlib.patheffects import withStroke

    markers = [line for line in axes.lines if str(line.get_gid()).startswith(_POINT)]
    places = {line.get_gid(): line.get_xydata()[0] for line in markers}
    figure = axes.figure
    scale = figure.dpi / 72
    spots = {gid: axes.transData.transform(xy) for gid, xy in places.items()}
    own = {gid: _box(x, y, 5 * scale, 5 * scale) for gid, (x, y) in spots.items()}
    # A number that is near to another point would be taken for that point's.
    zones = {gid: _box(x, y, 10 * scale, 12 * scale) for gid, (x, y) in spots.items()}
    taken = [_strip(axes, line, scale) for line in axes.lines if line.get_gid() == _LEVEL]
    for point, number in numbered:
        gid = f"{_POINT}{id(point)}"
        x, y = spots[gid]
        wide = (2.3 + 2.6 * len(str(number))) * scale
        options = [
            (dx, dy, _box(x + dx * scale, y + dy * scale, wide, 4.5 * scale)) for dx, dy in _AROUND
        ]
        near = [zone for other, zone in zones.items() if other != gid] + [own[gid], *taken]
        dx, dy, box = min(options, key=lambda o: sum(_overlap(o[2], other) for other in near))
        taken.append(box)
        axes.annotate(
            str(number), places[gid], xytext=(dx, dy), textcoords="offset points", ha="center",
            va="center", fontsize=6.5, color=INK, zorder=6,
            path_effects=[withStroke(linewidth=1.6, foreground="white")],
        )  # fmt: skip


def _strip(axes: Any, line: Any, scale: float) -> Box:
    """What a level line takes of a panel, pixels."""
    _, y = axes.transData.transform((0.0, line.get_ydata()[0]))
    return axes.bbox.x0, y - scale, axes.bbox.x1, y + scale


def _box(x: float, y: float, half_width: float, half_height: float) -> Box:
    return x - half_width, y - half_height, x + half_width, y + half_height


def _overlap(one: Box, other: Box) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, wide) * max(0.0, tall)


def _legend(figure: Figure, keys: Mapping[int, Row], side: float, height: float) -> None:
    """Every row by its number, then what lines and fillings mean."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    for number, row in keys.items():
        look = algorithm_look(row.first.algorithm)
        filled = look.colour if row.first.schedule == "every_round" else "white"
        mark: dict[str, Any] = {"marker": look.marker, "color": look.colour, "mfc": filled}
        handles.append(Line2D([], [], ls="", label=f"{number}  {row.name}", **mark))
    handles += [
        Line2D([], [], ls="", marker="o", color=FAINT, mfc="white", label="only in some rounds"),
        Line2D([], [], color=FAINT, lw=1.0, label="not beaten in both"),
        Line2D([], [], color=FAINT, marker="|", ms=7, lw=0.9, label="measured at least"),
        Line2D([], [], ls="", color=FAINT, marker=_NOTHING, ms=4.5, label="measured 0"),
        Line2D([], [], ls="", color=FAINT, label="most it could show", **_CEILING),
        Line2D([], [], color=INK, lw=0.9, ls=(0, (6, 2)), label="without protection"),
        Line2D([], [], color=CHANCE.colour, lw=0.8, label="chance"),
        Patch(facecolor="#000000", alpha=_SHADE, label="collapse"),
    ]
    figure.legend(
        handles=handles, loc="upper left", frameon=False, labelspacing=0.45, handlelength=1.8,
        bbox_to_anchor=(1 - side, 1 - 0.5 / height),
    )  # fmt: skip
