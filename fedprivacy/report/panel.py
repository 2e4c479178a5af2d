"""One panel of the curves: a row's scores against rounds, with what they are held against."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedprivacy.report.footer import GREY
from fedprivacy.report.palette import (
    CHANCE,
    HAIRLINE,
    Look,
    algorithm_look,
    look_of,
    reference_look,
    site_look,
)
from fedprivacy.report.rows import Row
from fedprivacy.report.series import Curve, global_curve, protected_rounds, site_curves
from fedprivacy.report.words import protected_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_SITES = 6
"""More sites than that are not told apart."""
_TITLE_LINE, _LABEL_LINE = 0.15, 0.125


@dataclass(frozen=True)
class Scene:
    """What all panels of a dataset share.

    Attributes:
        sites: names, in order.
        chance: score of the trivial predictor; None where no cell has a score.
        references: of each row, by ``cell_id``, final scores of the baselines of its own setting
            that are drawn as level lines, by federation.
        limits: of the score axis.
        last_round: of the round axis.
        varying: what must stand beside every epsilon.
        heads: height of the texts over each panel, inches.
    """

    sites: tuple[str, ...]
    chance: float | None
    references: dict[str, dict[str, float]]
    limits: tuple[float, float]
    last_round: int
    varying: tuple[str, ...]
    heads: float


def draw_panel(axes: Axes, row: Row, scene: Scene) -> None:
    """Everything of a panel but the names of its axes."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0.6, max(scene.last_round, 2) + 0.4)
    axes.set_ylim(*scene.limits)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.grid(axis="y", color=HAIRLINE, linewidth=0.5)
    axes.set_axisbelow(True)
    _draw_references(axes, row, scene)
    _draw_sites(axes, row, scene)
    _draw_global(axes, row)
    _draw_protection(axes, row)
    _name_panel(axes, row, scene)


def _draw_references(axes: Axes, row: Row, scene: Scene) -> None:
    if scene.chance is not None:
        axes.axhline(scene.chance, color=CHANCE.colour, linewidth=1.0)
    for name, score in scene.references.get(row.first.cell_id, {}).items():
        look = reference_look(name)
        axes.axhline(score, color=look.colour, linestyle=look.dash, linewidth=1.0)
    twin = global_curve(row.twins)
    if twin.rounds:
        look = reference_look(row.first.federation)
        style: dict[str, Any] = {"color": look.colour, "linestyle": look.dash, "linewidth": 1.2}
        axes.plot(twin.rounds, twin.mean, zorder=3, **style)  # seen also where both are equal


def _draw_sites(axes: Axes, row: Row, scene: Scene) -> None:
    for name, curve in site_curves(row.cells).items():
        look = look_of_site(scene, name)
        axes.plot(
            curve.rounds,
            curve.mean,
            color=look.colour,
            linestyle=look.dash,
            linewidth=0.9,
            marker=look.marker,
            markersize=2.6,
            markevery=_every(curve),
        )


def look_of_site(scene: Scene, name: str) -> Look:
    """Look of a site; all are grey where they are too many to be told apart."""
    if len(scene.sites) > MOST_SITES:
        return Look("#B5B5B5", "", "-")
    return site_look(scene.sites.index(name))


def _draw_global(axes: Axes, row: Row) -> None:
    curve, look = global_curve(row.cells), look_of(row.first.algorithm, row.first.federation)
    if len(row.cells) > 1:
        axes.fill_between(curve.rounds, curve.low, curve.high, color=look.colour, alpha=0.18, lw=0)
    axes.plot(
        curve.rounds,
        curve.mean,
        color=look.colour,
        linewidth=2.0,
        marker=look.marker,
        markersize=4.2,
        markevery=_every(curve),
    )


def _every(curve: Curve) -> int:
    """Markers on every round of a short run, on about twelve of a long one."""
    return max(1, len(curve.rounds) // 12)


def _draw_protection(axes: Axes, row: Row) -> None:
    """Marks at the foot of the panel, in the colour of the algorithm."""
    rounds = protected_rounds(row)
    axes.plot(
        rounds,
        [0.03] * len(rounds),
        transform=axes.get_xaxis_transform(),
        linestyle="",
        marker="|" if len(rounds) > 30 else "s",
        markersize=3.6,
        color=algorithm_look(row.first.algorithm).colour,
        clip_on=False,
    )


def _name_panel(axes: Axes, row: Row, scene: Scene) -> None:
    """The panel's title, and below it what was proved."""
    title, label = _title(row), _label(row, scene.varying)
    place: dict[str, Any] = {
        "xycoords": "axes fraction",
        "textcoords": "offset points",
        "ha": "left",
        "va": "bottom",
    }
    above = 72 * (0.05 + _LABEL_LINE * len(label))
    bold: dict[str, Any] = {"fontweight": "bold", "fontsize": 8.5}
    axes.annotate("\n".join(title), (0, 1), xytext=(0, above), **bold, **place)
    small: dict[str, Any] = {"fontsize": 7.0, "color": GREY}
    axes.annotate("\n".join(label), (0, 1), xytext=(0, 3), **small, **place)


def _title(row: Row) -> list[str]:
    parts = [row.algorithm]
    if row.protected:
        parts.append(row.schedule)
    if row.first.federation != "fedavg":
        parts.append(row.first.federation)
    seeds = f" ({len(row.cells)} seeds)" if len(row.cells) > 1 else ""
    return textwrap.wrap(", ".join(parts) + seeds, 36)


def _label(row: Row, words: Sequence[str]) -> list[str]:
    """What was proved, and how the row ended if not well: above the panel, where no curve is."""
    proved = textwrap.wrap(protected_label(row.privacy, words), 58) if row.protected else []
    return [*proved, *_status(row)]


def head_height(row: Row, words: Sequence[str]) -> float:
    """Inches that the texts over a panel take."""
    return 0.1 + _TITLE_LINE * len(_title(row)) + _LABEL_LINE * len(_label(row, words))


def _status(row: Row) -> list[str]:
    if row.status == "ok":
        return []
    where = row.first.round
    words = textwrap.wrap(row.status if where is None else f"{row.status} in round {where}", 56)
    if "failed" in row.status:
        reasons = [cell.reason for cell in row.cells if cell.status == "failed"]
        words += textwrap.wrap(reasons[0].splitlines()[0] if reasons[0] else "", 56)[:3]
    return [f"\u25b8 {words[0]}", *words[1:]]
