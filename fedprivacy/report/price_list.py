"""The price list as a picture: score against proven epsilon, one panel for each kind of claim."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedprivacy.pricing.frontier import pareto
from fedprivacy.report.canvas import new_figure
from fedprivacy.report.measured_bars import draw_measured
from fedprivacy.report.palette import CHANCE, FAINT, HAIRLINE, INK, algorithm_look, reference_look
from fedprivacy.report.point_numbers import BARS, LEVEL, POINT, STEPS, number_points
from fedprivacy.report.price_legend import SHADE, legend_handles
from fedprivacy.report.price_points import Kind, Point, panels
from fedprivacy.report.rows import Row
from fedprivacy.report.words import dataset_title, delta_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANEL_WIDTH, _PANEL_HEIGHT, _LEFT = 4.4, 3.4, 0.62
_CHARACTER, _LINE = 0.066, 0.155
_FEWEST_DECADES, _APART = 1.5, 0.065


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
    handles = legend_handles(found, keys)
    side = 0.5 + _CHARACTER * max(len(handle.get_label()) for handle in handles)
    width = _LEFT + _PANEL_WIDTH * columns + side
    height = max(_PANEL_HEIGHT * lines + 0.6, _LINE * len(handles) + 0.75)
    figure = new_figure(width, height)
    grid = figure.add_gridspec(
        lines, columns, left=_LEFT / width, right=1 - (side + 0.1) / width, top=1 - 0.7 / height,
        bottom=0.62 / height, hspace=0.42, wspace=0.24,
    )  # fmt: skip
    for index, (kind, points) in enumerate(found.items()):
        axes = figure.add_subplot(grid[index // columns, index % columns])
        numbers = {id(row): number for number, row in keys.items()}
        _panel(axes, kind, points, collapse_fraction, numbers)
        number_points(axes, [(f"{POINT}{id(p)}", numbers[id(p.row)]) for p in points])
    title = f"{dataset_title(*rows[0].dataset)}: {rows[0].metric} against proven epsilon"
    figure.suptitle(
        title, x=_LEFT / width, ha="left", y=1 - 0.12 / height, va="top", fontsize=9.5, color=INK
    )
    figure.legend(
        handles=handles, loc="upper left", frameon=False, labelspacing=0.45, handlelength=1.8,
        bbox_to_anchor=(1 - side / width, 1 - 0.5 / height),
    )  # fmt: skip
    return figure


def _keys(found: Mapping[Kind, Sequence[Point]]) -> dict[int, Row]:
    """A number for each row, the same in all panels."""
    rows = {id(point.row): point.row for points in found.values() for point in points}
    return dict(enumerate(rows.values(), start=1))


def _panel(
    axes: Any, kind: Kind, points: Sequence[Point], fraction: float, numbers: Mapping[int, int]
) -> None:
    finite = [p.epsilon for p in points if math.isfinite(p.epsilon)]
    lowers = [value for p in points for value in (p.lower, p.ceiling) if value]
    smallest = min([*finite, *lowers], default=1.0)
    low = math.log10(max(smallest, 1e-3)) - 0.25
    high = max(math.log10(max(finite, default=10.0)) + 0.25, low + _FEWEST_DECADES)
    apart, beside = _APART * (high - low), 0.12 * (high - low)
    begin = high + beside + 0.1
    places = _places(points, begin, apart)
    end = max([begin, *places.values()])
    floor = _references(axes, points, fraction)
    _front(axes, points, places)
    for point in points:
        _point(axes, point, places[id(point)])
    axes.axvline(high + 0.05, color=HAIRLINE, lw=0.8, ls=(0, (2, 2)))
    ticks = [t for t in range(math.floor(low), math.ceil(high) + 1) if low <= t <= high]
    decades = range(math.floor(low), math.ceil(high))
    steps = [math.log10(m * 10.0**t) for t in decades for m in (1, 3)]
    shown = ticks if len(ticks) > 2 else [s for s in steps if low <= s <= high]
    middle = (begin + end) / 2
    axes.set_xticks([*shown, middle], [*(_tick(t) for t in shown), "infinite"])
    axes.set_xlim(low, end + beside)
    axes.set_ylim(axes.get_ylim())
    draw_measured(axes, points, places, low, numbers)
    _shade(axes, floor)
    axes.set_xlabel("proven epsilon (upper bound)")
    axes.set_ylabel(points[0].row.metric)
    unit, relation, view, delta = kind
    axes.set_title(
        f"one {unit}, {relation}, view {view}, δ={delta_text(delta)}", loc="left", color=INK
    )


def _tick(power: float) -> str:
    """A power of ten, or three times one: 0.3, 10, 3000; above that 10⁵."""
    whole = float(power).is_integer() and power > 4
    return f"$10^{{{power:g}}}$" if whole else f"{float(f'{10**power:.3g}'):.7g}"


def _references(axes: Any, points: Sequence[Point], fraction: float) -> float | None:
    """Draw the levels of the twins and of chance; the score from which down training collapsed."""
    chance = next((c.score.chance for p in points for c in p.row.cells if c.score), None)
    # Rows of other settings may have other twins: each distinct one has its line.
    levels = {
        (round(p.row.twin_score.mean, 4), p.row.first.federation)
        for p in points
        if p.row.twin_score
    }
    for twin, federation in sorted(levels):
        look = reference_look(federation)
        axes.axhline(twin, color=look.colour, lw=0.9, ls=look.dash, zorder=1, gid=LEVEL)
    twins = sorted(twin for twin, _ in levels)
    if chance is None:
        return None
    axes.axhline(chance, color=CHANCE.colour, lw=0.8, zorder=1, gid=LEVEL)
    return chance + fraction * (twins[-1] - chance) if twins and twins[-1] > chance else None


def _shade(axes: Any, floor: float | None) -> None:
    """Shade all scores from the floor down, as far as the panel reaches."""
    if floor is None:
        return
    low, high = axes.get_ylim()
    low -= 0.02 * (high - low)
    axes.axhspan(low, floor, color="#000000", alpha=SHADE, lw=0, zorder=0)
    axes.set_ylim(low, high)


def _front(axes: Any, points: Sequence[Point], places: Mapping[int, float]) -> None:
    """The front, drawn as steps: no other setting is better in both."""
    items = [(p.epsilon, p.row.score.mean, p) for p in points if p.row.score]
    best = pareto(items)
    xs = [places[id(p)] for p in best]
    ys = [p.row.score.mean for p in best if p.row.score]
    axes.step(xs, ys, where="post", color=FAINT, lw=1.0, zorder=2, gid=STEPS)


def _places(points: Sequence[Point], begin: float, apart: float) -> dict[int, float]:
    """Where each point stands on the axis; infinite ones side by side, from ``begin`` on."""
    infinite = [id(p) for p in points if math.isinf(p.epsilon)]
    beside = {key: begin + apart * order for order, key in enumerate(infinite)}
    return {id(p): beside.get(id(p), math.log10(max(p.epsilon, 1e-3))) for p in points}


def _point(axes: Any, point: Point, x: float) -> None:
    score = point.row.score
    assert score is not None
    look = algorithm_look(point.row.first.algorithm)
    error = score.standard_error or 0.0
    ends = [score.mean - error, score.mean + error]
    axes.plot([x, x], ends, color=look.colour, lw=0.9, zorder=4, gid=BARS)
    axes.errorbar(
        [x], [score.mean], yerr=[error], fmt=look.marker, color=look.colour, ms=5.5, capsize=2,
        lw=0.9, mfc=look.colour if math.isfinite(point.epsilon) else "white", zorder=4,
    )[0].set_gid(f"{POINT}{id(point)}")  # fmt: skip
