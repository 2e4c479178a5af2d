"""Reconstructions next to their originals, and how far budgets must grow to let them succeed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedprivacy.report.audit_figure import claim_kind, record_claim
from fedprivacy.report.canvas import new_figure
from fedprivacy.report.palette import HAIRLINE, INK, algorithm_look
from fedprivacy.report.rows import Row
from fedprivacy.report.words import dataset_title, delta_text, epsilon_text
from fedprivacy.result import cell_folders

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECONSTRUCTIONS_FILE = "reconstructions.npz"
_MOST_ROWS, _SHOWN = 9, 4

Pair = tuple[NDArray[Any], NDArray[Any]]


_BUDGET_PANEL = 2.55


def load_reconstructions(folders: Sequence[Path]) -> dict[str, Pair]:
    """Originals and reconstructions of every cell that has some, by ``cell_id``."""
    found: dict[str, Pair] = {}
    for cell_id, folder in cell_folders(folders).items():
        if (path := folder / RECONSTRUCTIONS_FILE).exists():
            with np.load(path) as file:
                found[cell_id] = (file["originals"], file["reconstructions"])
    return found


def reconstruction_figure(rows: Sequence[Row], pairs: Mapping[str, Pair]) -> Figure | None:
    """One dataset's images: originals on top, one line of reconstructions for each row.

    None where there are none, and for tables, whose rows are told by numbers.

    Args:
        rows: of one dataset.
        pairs: by ``cell_id``; the first seed of a row is shown.
    """
    shown = [(row, pairs[row.first.cell_id]) for row in rows if row.first.cell_id in pairs]
    shown = [(row, pair) for row, pair in shown if pair[0].ndim > 2]
    shown = sorted(shown, key=lambda item: _rank(item[0]))[:_MOST_ROWS]
    if not shown:
        return None
    columns = min(_SHOWN, len(shown[0][1][0]))
    width, height = 2.6 + 0.95 * columns, 0.75 + 0.98 * (len(shown) + 1)
    figure = new_figure(width, height)
    grid = figure.add_gridspec(
        len(shown) + 1, columns, left=2.5 / width, right=1 - 0.08 / width,
        top=1 - 0.62 / height, bottom=0.08 / height, hspace=0.06, wspace=0.06,
    )  # fmt: skip
    lines = [("originals", shown[0][1][0])] + [(_label(row), pair[1]) for row, pair in shown]
    low, high = float(shown[0][1][0].min()), float(shown[0][1][0].max())
    for line, (label, images) in enumerate(lines):
        for column in range(columns):
            axes = figure.add_subplot(grid[line, column])
            axes.imshow(_slice(images[column]), cmap="gray", vmin=low, vmax=high)
            axes.set_axis_off()
            if column == 0:
                axes.text(
                    -0.12, 0.5, label, transform=axes.transAxes, ha="right", va="center",
                    fontsize=8, color=INK,
                )  # fmt: skip
    figure.text(
        0.1 / width, 1 - 0.1 / height, f"{dataset_title(*rows[0].dataset)}: reconstructed from\n"
        "one update of one record, after the protection", va="top", fontsize=9, color=INK,
    )  # fmt: skip
    return figure


def _slice(image: NDArray[Any]) -> NDArray[Any]:
    """A picture of one record: its first channel, and the middle slice of a volume."""
    first = image[0]
    return np.asarray(first if first.ndim == 2 else first[len(first) // 2])


def _label(row: Row) -> str:
    if not row.protected:
        return "without protection"
    return f"{row.algorithm}, {row.schedule}\nε {epsilon_text(row.privacy)}"


def _rank(row: Row) -> float:
    return -1.0 if not row.protected else _epsilon(row)


def _epsilon(row: Row) -> float:
    """Proved for one record, whatever unit the headline speaks of."""
    value = record_claim(row).get("epsilon")
    return math.inf if value is None else float(value)


def budget_figure(rows: Sequence[Row]) -> Figure | None:
    """Similarity of reconstructions, and score, against proven epsilon of one record.

    A panel for each kind of claim with at least three finite budgets; None where there is none.

    Args:
        rows: of one dataset.
    """
    tried = [row for row in rows if _similarities(row)]
    kinds = {kind: _of_kind(tried, kind) for kind in dict.fromkeys(map(claim_kind, tried)) if kind}
    panels = {kind: own for kind, own in kinds.items() if len(own) >= 3}
    if not panels:
        return None
    entries = 1 + 2 * len({row.first.algorithm for own in panels.values() for row in own})
    width, foot = 6.4, 0.25 + 0.2 * math.ceil(entries / 3)
    height = 0.5 + _BUDGET_PANEL * len(panels) + foot
    figure = new_figure(width, height)
    raw = [value for row in tried if not row.protected for value in _similarities(row)]
    for place, (kind, own) in enumerate(panels.items()):
        bottom = foot + _BUDGET_PANEL * (len(panels) - 1 - place) + 0.55
        box = (0.62 / width, bottom / height, 1 - 0.8 / width, (_BUDGET_PANEL - 0.85) / height)
        _budgets(figure.add_axes(box), kind, own, raw)
    figure.text(
        0.1 / width, 1 - 0.1 / height,
        f"{dataset_title(*rows[0].dataset)}: {_measure(tried[0])} of reconstructions\n(a failed "
        "attack proves nothing)", va="top", fontsize=9, color=INK,
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
    return sorted((row for row in finite if math.isfinite(_epsilon(row))), key=_epsilon)


def _budgets(axes: Any, kind: Any, rows: Sequence[Row], raw: Sequence[float]) -> None:
    for algorithm in dict.fromkeys(row.first.algorithm for row in rows):
        own = [row for row in rows if row.first.algorithm == algorithm]
        look, xs = algorithm_look(algorithm), [_epsilon(row) for row in own]
        means = [float(np.mean(_similarities(row))) for row in own]
        name = f"{algorithm}: similarity"
        axes.plot(xs, means, marker=look.marker, color=look.colour, label=name)
        scores = [row.score.mean if row.score else math.nan for row in own]
        axes.plot(
            xs, scores, marker=look.marker, mfc="white", color=look.colour, ls=(0, (2, 1.5)),
            label=f"{algorithm}: {own[0].metric}",
        )  # fmt: skip
    if raw:
        axes.axhline(
            float(np.mean(raw)), color=INK, lw=0.9, ls=(0, (6, 2)),
            label="without protection: similarity",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.axhline(0, color=HAIRLINE, lw=0.7)
    relation, view, delta = kind
    axes.set_xlabel(
        f"proven epsilon of one record (upper bound), {relation}, view {view}, "
        f"\u03b4={delta_text(delta)}"
    )
    axes.set_ylabel("mean similarity; score")


def _found(row: Row) -> list[Mapping[str, Any]]:
    each = [(cell.audit or {}).get("reconstruction") for cell in row.cells]
    return [one for one in each if one and one.get("attack")]


def _similarities(row: Row) -> list[float]:
    return [float(one["mean_similarity"]) for one in _found(row)]


def _measure(row: Row) -> str:
    return str(_found(row)[0]["measure"])
