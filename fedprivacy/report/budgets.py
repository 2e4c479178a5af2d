"""How far budgets must grow to let a reconstruction succeed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedprivacy.report.audit_figure import claim_kind, record_epsilon
from fedprivacy.report.canvas import new_figure
from fedprivacy.report.palette import HAIRLINE, INK, algorithm_look
from fedprivacy.report.rows import Row
from fedprivacy.report.words import dataset_title, delta_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANEL, _SIMILARITY, _SCORE = 3.35, 1.5, 0.85


def budget_figure(rows: Sequence[Row]) -> Figure | None:
    """Similarity of reconstructions, and above it the score, against proven epsilon of one record.

    A pair of panels for each kind of claim with at least three finite budgets; None without one.

    Args:
        rows: of one dataset.
    """
    tried = [row for row in rows if _similarities(row)]
    kinds = {kind: _of_kind(tried, kind) for kind in dict.fromkeys(map(claim_kind, tried)) if kind}
    panels = {kind: own for kind, own in kinds.items() if len(own) >= 3}
    if not panels:
        return None
    entries = 2 + 2 * len({row.first.algorithm for own in panels.values() for row in own})
    width, foot = 6.4, 0.25 + 0.2 * math.ceil(entries / 3)
    height = 0.5 + _PANEL * len(panels) + foot
    figure = new_figure(width, height)
    raw = [row for row in tried if not row.protected]
    for place, (kind, own) in enumerate(panels.items()):
        bottom = foot + _PANEL * (len(panels) - 1 - place) + 0.55
        left, wide = 0.62 / width, 1 - 0.8 / width
        below = figure.add_axes((left, bottom / height, wide, _SIMILARITY / height))
        above = (left, (bottom + _SIMILARITY + 0.2) / height, wide, _SCORE / height)
        _budgets(below, figure.add_axes(above, sharex=below), kind, own, raw)
    figure.text(
        0.1 / width, 1 - 0.1 / height,
        f"{dataset_title(*rows[0].dataset)}: {_measure(tried[0])} of reconstructions\n"
        f"(a failed attack proves nothing){_whiskers(tried)}", va="top", fontsize=9, color=INK,
    )  # fmt: skip
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        handles |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(
        handles=list(handles.values()), labels=list(handles), loc="lower left", ncol=3,
        frameon=False, bbox_to_anchor=(0.0, 0.0),
    )  # fmt: skip
    return figure


def _of_kind(rows: Sequence[Row], kind: Any) -> list[Row]:
    finite = [row for row in rows if row.protected and claim_kind(row) == kind]
    return sorted((row for row in finite if math.isfinite(record_epsilon(row))), key=record_epsilon)


def _whiskers(rows: Sequence[Row]) -> str:
    return "; whiskers: least and most of the seeds" if any(len(r.cells) > 1 for r in rows) else ""


def _budgets(axes: Any, above: Any, kind: Any, rows: Sequence[Row], raw: Sequence[Row]) -> None:
    for algorithm in dict.fromkeys(row.first.algorithm for row in rows):
        own = [row for row in rows if row.first.algorithm == algorithm]
        look, xs = algorithm_look(algorithm), [record_epsilon(row) for row in own]
        found = [_similarities(row) for row in own]
        _means(axes, xs, found, f"{algorithm}: similarity", marker=look.marker, color=look.colour)
        scores = [_scores(row) for row in own]
        _means(
            above, xs, scores, f"{algorithm}: {own[0].metric}", color=look.colour, ls=(0, (2, 1.5)),
            marker=look.marker, mfc="white",
        )  # fmt: skip
    if raw:
        alike, name = [value for row in raw for value in _similarities(row)], "without protection"
        axes.axhline(
            float(np.mean(alike)), color=INK, lw=0.9, ls=(0, (6, 2)), label=f"{name}: similarity"
        )
        levels = [value for row in raw for value in _scores(row)]
        if levels:
            level = float(np.mean(levels))
            above.axhline(level, color=INK, lw=0.9, ls=":", label=f"{name}: {raw[0].metric}")
    axes.set_xscale("log")
    axes.axhline(0, color=HAIRLINE, lw=0.7)
    relation, view, delta = kind
    axes.set_xlabel(
        f"proven epsilon of one record (upper bound), {relation}, view {view}, "
        f"\u03b4={delta_text(delta)}"
    )
    axes.set_ylabel("mean similarity")
    above.set_ylabel(rows[0].metric)
    above.tick_params(labelbottom=False)


def _means(
    axes: Any, xs: Sequence[float], values: Sequence[Sequence[float]], name: str, **style: Any
) -> None:
    """A line through the means of the seeds, with whiskers to the least and the most."""
    means = [float(np.mean(own)) if own else math.nan for own in values]
    down = [mean - min(own, default=mean) for mean, own in zip(means, values, strict=True)]
    up = [max(own, default=mean) - mean for mean, own in zip(means, values, strict=True)]
    axes.plot(xs, means, zorder=3, label=name, clip_on=False, **style)
    axes.errorbar(
        xs, means, yerr=[down, up], fmt="none", ecolor=style["color"], lw=0.9, capsize=2, zorder=3,
        clip_on=False,
    )  # fmt: skip


def _scores(row: Row) -> list[float]:
    return [cell.score.value for cell in row.cells if cell.score and cell.score.value is not None]


def _found(row: Row) -> list[Mapping[str, Any]]:
    each = [(cell.audit or {}).get("reconstruction") for cell in row.cells]
    return [one for one in each if one and one.get("attack")]


def _similarities(row: Row) -> list[float]:
    return [float(one["mean_similarity"]) for one in _found(row)]


def _measure(row: Row) -> str:
    return str(_found(row)[0]["measure"])
