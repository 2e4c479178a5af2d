"""One picture of a whole sweep: every cell's score, its twin, chance, and what was proved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

from fedprivacy.pricing.twins import COLLAPSE_FRACTION
from fedprivacy.report.canvas import new_figure
from fedprivacy.report.footer import Footer
from fedprivacy.report.palette import CHANCE, HAIRLINE, INK, algorithm_look, reference_look
from fedprivacy.report.rows import AGAINST_TWIN, Row
from fedprivacy.report.words import (
    about_epsilon,
    dataset_title,
    epsilon_label,
    varying,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CHARACTER = 0.068
_LINE = 0.2
_PLOT = 1.75
_TOP, _BETWEEN = 0.42, 0.42
_SIZE = 7.8
_WIDEST = 13.5
_AGAINST_TWIN = "collapsed†"


@dataclass(frozen=True)
class Widths:
    """Inches of the four columns of a panel: algorithm, schedule, plot, words."""

    algorithm: float
    schedule: float
    plot: float
    words: float

    @property
    def total(self) -> float:
        """All four, with a margin on each side."""
        return self.algorithm + self.schedule + self.plot + self.words + 0.25


def overview_figure(rows: Sequence[Row], collapse_fraction: float = COLLAPSE_FRACTION) -> Figure:
    """A panel for each dataset, a line for each row; call it inside ``canvas.style``.

    The marker is the algorithm, filled where an epsilon is proved and hollow where none is. The
    dashed line is the federated score without protection, the grey one is chance. Scores of
    different datasets have axes of their own.

    Args:
        rows: ordered as ``make_rows`` does; at least one.
        collapse_fraction: what ``make_rows`` got, to be told where a cell collapsed by it.
    """
    panels = [list(group) for _, group in groupby(rows, key=lambda row: row.dataset)]
    keys = varying([row.privacy for row in rows if row.protected and row.privacy])
    widths = _widths(rows, keys)
    across = min(2 if 2 * widths.total <= _WIDEST else 1, len(panels))
    heights = [
        max(len(panel) for panel in panels[start : start + across]) * _LINE
        for start in range(0, len(panels), across)
    ]
    width = across * widths.total
    about = about_epsilon([row.privacy for row in rows if row.protected and row.privacy])
    if any(row.against_twin for row in rows):
        about += (
            f". † against its twin: above chance by no more than {collapse_fraction:g} of what "
            "the same cell gains without protection"
        )
    footer = Footer(_legend(), about, width)
    height = sum(heights) + len(heights) * (_TOP + _BETWEEN) + footer.height
    figure = new_figure(width, height)
    for number, panel in enumerate(panels):
        line, column = divmod(number, across)
        top = _TOP + sum(heights[:line]) + line * (_BETWEEN + _TOP)
        _draw_panel(figure, panel, widths, (column * widths.total, top), keys)
    footer.draw(figure)
    return figure


def _widths(rows: Sequence[Row], keys: Sequence[str]) -> Widths:
    """Columns as wide as their longest text."""

    def inches(texts: list[str]) -> float:
        return _CHARACTER * max(len(text) for text in texts) + 0.1

    return Widths(
        algorithm=inches([row.algorithm for row in rows]),
        schedule=inches([_schedule(row) for row in rows]),
        plot=_PLOT,
        words=inches([_words(row, keys) for row in rows]),
    )


def _schedule(row: Row) -> str:
    if not row.protected:
        return row.first.federation
    plain = row.first.federation == "fedavg"
    return row.schedule if plain else f"{row.schedule}, {row.first.federation}"


def _words(row: Row, keys: Sequence[str]) -> str:
    """Epsilon, and how the cell ended if not well."""
    label = epsilon_label(row.privacy, keys)
    if row.status == "ok":
        return label
    status = row.status.replace(AGAINST_TWIN, _AGAINST_TWIN)
    return status if row.privacy is None else f"{label}, {status}"


def _draw_panel(
    figure: Figure,
    rows: Sequence[Row],
    widths: Widths,
    corner: tuple[float, float],
    keys: Sequence[str],
) -> None:
    total, height = figure.get_size_inches()
    left = corner[0] + 0.1 + widths.algorithm + widths.schedule
    tall = len(rows) * _LINE
    box = (left / total, 1 - (corner[1] + tall) / height, widths.plot / total, tall / height)
    axes = figure.add_axes(box)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(*_limits(rows))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="x", length=2.5)
    _draw_levels(axes, rows)
    for place, row in enumerate(rows):
        _draw_row(axes, place, row)
        _write_row(axes, place, row, rows[place - 1] if place else None, widths, keys)
    metric = next((row.metric for row in rows if row.metric), "score")
    axes.set_xlabel(metric, labelpad=2, fontsize=_SIZE)
    title = dataset_title(*rows[0].dataset)
    axes.annotate(
        title,
        (0, 1),
        xycoords="axes fraction",
        xytext=(-72 * (widths.algorithm + widths.schedule), 8),
        textcoords="offset points",
        fontsize=9.5,
        fontweight="bold",
        va="bottom",
    )


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    values = [row.score.mean for row in rows if row.score]
    values += [row.twin_score.mean for row in rows if row.twin_score]
    values += [cell.score.chance for row in rows for cell in row.cells if cell.score]
    if not values:
        return 0.0, 1.0
    pad = 0.07 * (max(values) - min(values)) or 0.1
    return min(values) - pad, max(values) + pad


def _draw_levels(axes: Axes, rows: Sequence[Row]) -> None:
    """Chance and the federated score without protection, through all lines."""
    chance = next((cell.score.chance for row in rows for cell in row.cells if cell.score), None)
    if chance is not None:
        axes.axvline(chance, color=CHANCE.colour, linewidth=1.4, zorder=1)
    plain = [r.score for r in rows if not r.protected and r.first.federation == "fedavg"]
    if len(plain) == 1 and plain[0] is not None:
        look = reference_look("fedavg")
        style: dict[str, Any] = {"color": look.colour, "linestyle": look.dash, "linewidth": 0.9}
        axes.axvline(plain[0].mean, zorder=1, **style)
    else:
        _draw_twins(axes, rows)
    for place, (one, other) in enumerate(pairwise(rows)):
        if one.first.algorithm != other.first.algorithm:
            axes.axhline(place + 0.5, color=HAIRLINE, linewidth=0.6, zorder=0)


def _draw_twins(axes: Axes, rows: Sequence[Row]) -> None:
    """The score without protection in each line, where settings have one of their own each."""
    for place, row in enumerate(rows):
        if row.twin_score is not None:
            look, at = reference_look("fedavg"), row.twin_score.mean
            axes.plot([at, at], [place - 0.42, place + 0.42], color=look.colour, lw=0.9, zorder=3)


def _draw_row(axes: Axes, place: int, row: Row) -> None:
    if row.score is None:
        return
    look = algorithm_look(row.first.algorithm)
    mean, error = row.score.mean, row.score.standard_error or 0.0
    if row.twin_score is not None:
        axes.plot([row.twin_score.mean, mean], [place, place], color=look.colour, lw=1.0, alpha=0.5)
    axes.plot([mean - error, mean + error], [place, place], color=look.colour, linewidth=2.2)
    axes.plot(
        [mean],
        [place],
        marker=look.marker,
        markersize=5.5,
        markeredgewidth=1.3,
        color=look.colour,
        markerfacecolor=look.colour if row.proved else "white",
        zorder=4,
        clip_on=False,
    )


def _write_row(
    axes: Axes, place: int, row: Row, above: Row | None, widths: Widths, keys: Sequence[str]
) -> None:
    """Names to the left, once for each algorithm; words to the right."""
    style: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "textcoords": "offset points",
        "va": "center",
        "fontsize": _SIZE,
        "annotation_clip": False,
    }
    names = 72 * (widths.algorithm + widths.schedule)
    if above is None or above.algorithm != row.algorithm:
        colour = algorithm_look(row.first.algorithm).colour
        axes.annotate(
            row.algorithm,
            (0, place),
            xytext=(-names, 0),
            color=colour,
            fontweight="bold",
            **style,
        )
    axes.annotate(_schedule(row), (0, place), xytext=(-72 * widths.schedule, 0), color=INK, **style)
    if row.protected or row.status != "ok":
        axes.annotate(_words(row, keys), (1, place), xytext=(7, 0), color=INK, **style)


def _legend() -> tuple[Any, ...]:
    from matplotlib.lines import Line2D

    grey = "#555555"
    shape: dict[str, Any] = {"marker": "o", "color": grey, "linestyle": "", "markersize": 5.5}
    twin = reference_look("fedavg")
    return (
        Line2D([], [], label="ε proved", **shape),
        Line2D([], [], label="nothing proved", markerfacecolor="white", **shape),
        Line2D([], [], color=grey, linewidth=2.2, label="± standard error"),
        Line2D([], [], color=twin.colour, linestyle=twin.dash, lw=0.9, label="no protection"),
        Line2D([], [], color=CHANCE.colour, linewidth=1.4, label="chance"),
    )
