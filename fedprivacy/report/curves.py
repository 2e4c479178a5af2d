"""Score against rounds, one panel for each algorithm and schedule: the article's figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fedprivacy.pricing.twins import find_baseline
from fedprivacy.report.canvas import new_figure
from fedprivacy.report.footer import Footer
from fedprivacy.report.palette import (
    CHANCE,
    Look,
    reference_look,
)
from fedprivacy.report.panel import MOST_SITES, Scene, draw_panel, head_height, look_of_site
from fedprivacy.report.rows import Row
from fedprivacy.report.series import global_curve, site_curves
from fedprivacy.report.words import (
    ALGORITHMS,
    FEDERATIONS,
    SCHEDULES,
    about_epsilon,
    dataset_title,
    rank,
    varying,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL = (2.75, 1.75)
_LEFT, _RIGHT, _TITLE, _ROUND = 0.55, 0.15, 0.34, 0.42
_GAP = (0.22, 0.24)


def curves_figure(rows: Sequence[Row]) -> Figure:
    """Panels of one dataset; call it inside ``canvas.style``.

    Sites are thin, the federation as a whole is thick, marks at the foot are protected rounds.
    Training without protection has the look of its federation: of the row's own it is a curve, of
    others, such as each site alone, a level line.

    Args:
        rows: all rows of one dataset, at least one.
    """
    panels = [row for row in rows if row.protected] or list(rows)
    places = _places(panels)
    across, down = (1 + max(place[axis] for place in places) for axis in (0, 1))
    scene = _scene(rows, panels)
    width = max(_LEFT + across * (_PANEL[0] + _GAP[0]) - _GAP[0] + _RIGHT, 5.6)
    protected = [row.privacy for row in panels if row.protected and row.privacy]
    footer = Footer(tuple(_legend(scene, panels)), about_epsilon(protected), width)
    step = scene.heads + _PANEL[1] + _GAP[1]
    figure = new_figure(width, _TITLE + down * step - _GAP[1] + _ROUND + footer.height)
    for row, (column, line) in zip(panels, places, strict=True):
        top = _TITLE + scene.heads + line * step
        axes = _panel_axes(figure, _LEFT + column * (_PANEL[0] + _GAP[0]), top)
        draw_panel(axes, row, scene)
        axes.tick_params(labelleft=column == 0)
        if (column, line + 1) not in places:
            axes.set_xlabel("round", labelpad=2)
    _name_axes(figure, rows, footer.height)
    footer.draw(figure)
    return figure


def _places(panels: Sequence[Row]) -> list[tuple[int, int]]:
    """Column and line of each panel: schedules across, algorithms down.

    Variants of a schedule share a column unless one algorithm was run with several of them.
    """
    lines = sorted({_line(row) for row in panels}, key=lambda a: (rank(ALGORITHMS, a[0]), a))
    columns: list[tuple[str, int]] = []
    taken: dict[tuple[int, str], int] = defaultdict(int)
    for row in panels:
        line, schedule = lines.index(_line(row)), _schedule(row)
        columns.append((schedule, taken[line, schedule]))
        taken[line, schedule] += 1
    order = sorted(set(columns), key=lambda c: (rank(SCHEDULES, c[0]), c))
    return [
        (order.index(column), lines.index(_line(row)))
        for row, column in zip(panels, columns, strict=True)
    ]


def _schedule(row: Row) -> str:
    return row.first.schedule if row.protected else row.first.federation


def _line(row: Row) -> tuple[str, str, str]:
    federation = row.first.federation if row.protected else ""
    return row.first.algorithm, row.variant, "" if federation == "fedavg" else federation


def _scene(rows: Sequence[Row], panels: Sequence[Row]) -> Scene:
    scores = [cell.score for row in rows for cell in row.cells if cell.score is not None]
    references = {row.first.cell_id: _references(row, rows) for row in panels}
    curves = [global_curve(row.cells) for row in rows]
    curves += [curve for row in rows for curve in site_curves(row.cells).values()]
    chance = scores[0].chance if scores else None
    values = [v for curve in curves for v in (*curve.low, *curve.high)]
    values += [value for own in references.values() for value in own.values()]
    values += [] if chance is None else [chance]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    pad = 0.08 * (high - low) or 0.1
    words = varying([row.privacy for row in rows if row.protected and row.privacy])
    return Scene(
        sites=tuple(dict.fromkeys(n for row in rows for n in site_curves(row.cells))),
        chance=chance,
        references=references,
        limits=(low - 1.6 * pad, high + pad),
        last_round=max((number for curve in curves for number in curve.rounds), default=1),
        varying=words,
        heads=max(head_height(row, words) for row in panels),
    )


def _references(row: Row, rows: Sequence[Row]) -> dict[str, float]:
    """Final scores without protection in other federations, of the row's own setting."""
    plain = {one.first.cell_id: one for one in rows if not one.protected and one.score is not None}
    firsts = [one.first for one in plain.values()]
    found = {}
    for federation in FEDERATIONS:
        if federation not in ("fedavg", row.first.federation):
            cells = [
                c for c in (find_baseline(cell, firsts, federation) for cell in row.cells) if c
            ]
            if cells and (score := plain[cells[0].cell_id].score) is not None:
                found[federation] = score.mean
    return found


def _panel_axes(figure: Figure, left: float, top: float) -> Axes:
    width, height = figure.get_size_inches()
    box = (left / width, 1 - (top + _PANEL[1]) / height, _PANEL[0] / width, _PANEL[1] / height)
    return figure.add_axes(box)


def _name_axes(figure: Figure, rows: Sequence[Row], foot: float) -> None:
    """Title of the picture and names of the axes, once for all panels."""
    width, height = figure.get_size_inches()
    metric = next((row.metric for row in rows if row.metric), "score")
    title = f"{dataset_title(*rows[0].dataset)}: {metric} on held-out records"
    figure.text(0.1 / width, 1 - 0.1 / height, title, va="top", fontsize=11, fontweight="bold")
    middle = 0.5 + (foot - _TITLE) / 2 / height
    figure.text(0.1 / width, middle, metric, rotation=90, va="center")


def _legend(scene: Scene, panels: Sequence[Row]) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Line2D([], [], color="#555555", linewidth=2.2, label="all sites")]
    if any(len(row.cells) > 1 for row in panels):
        band = Patch(facecolor="#555555", alpha=0.18, lw=0, label="least to most of the seeds")
        handles.append(band)
    if len(scene.sites) > MOST_SITES:
        handles.append(Line2D([], [], color="#B5B5B5", linewidth=0.9, label="each site"))
    else:
        for name in scene.sites:
            look = look_of_site(scene, name)
            handles.append(_line2d(look, name, linewidth=0.9, markersize=3))
    drawn = {name for own in scene.references.values() for name in own}
    drawn |= {row.first.federation for row in panels if row.twins}
    for name in (name for name in FEDERATIONS if name in drawn):
        handles.append(_line2d(reference_look(name), f"{name}, no protection", linewidth=1.0))
    if scene.chance is not None:
        handles.append(_line2d(CHANCE, "chance", linewidth=1.0))
    if any(row.protected for row in panels):
        mark = Line2D([], [], linestyle="", marker="s", color="#555555", markersize=3.6)
        mark.set_label("protected round")
        handles.append(mark)
    return handles


def _line2d(look: Look, label: str, **options: Any) -> Any:
    from matplotlib.lines import Line2D

    return Line2D(
        [], [], color=look.colour, linestyle=look.dash, marker=look.marker, label=label, **options
    )
