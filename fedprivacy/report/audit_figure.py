"""What was advertised, what was proved and what an attacker showed, for every audited row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fedprivacy.report.canvas import new_figure
from fedprivacy.report.palette import FAINT, HAIRLINE, INK, algorithm_look
from fedprivacy.report.rows import Row
from fedprivacy.report.words import dataset_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW_HEIGHT = 0.42


def audited(rows: Sequence[Row]) -> list[Row]:
    """The rows of which some cell was audited."""
    return [row for row in rows if any(cell.audit for cell in row.cells)]


def audit_figure(rows: Sequence[Row]) -> Figure | None:
    """One dataset's audits; None where nothing was audited.

    Args:
        rows: of one dataset.
    """
    shown = audited(rows)
    if not shown:
        return None
    figure = new_figure(7.4, 1.45 + _ROW_HEIGHT * len(shown))
    height = figure.get_figheight()
    axes = figure.add_axes(
        (0.235, 0.5 / height, 0.74, (_ROW_HEIGHT * len(shown)) / height)
    )  # room for the title and the legend above
    slot = _slot(shown)
    for place, row in enumerate(reversed(shown)):
        _draw(axes, place, row, slot)
    axes.set_yticks(range(len(shown)), [_label(row) for row in reversed(shown)])
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_xlim(-0.02 * slot, slot * 1.06)
    ticks = [tick for tick in axes.get_xticks() if 0 <= tick < 0.93 * slot]
    axes.set_xticks([*ticks, slot], [*(f"{tick:g}" for tick in ticks), "infinite"])
    axes.axvline(0.955 * slot, color=HAIRLINE, lw=0.8, ls=(0, (2, 2)))
    axes.set_xlabel(_about(shown))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    figure.text(
        0.012, 1 - 0.1 / height, f"{dataset_title(*shown[0].dataset)}: what an attacker who sees "
        "every update showed, against what is claimed", va="top", fontsize=9.5, color=INK,
    )  # fmt: skip
    _legend(figure, height)
    return figure


def _label(row: Row) -> str:
    return f"{row.algorithm}, {row.schedule}" if row.protected else "without protection"


def _audits(row: Row) -> list[Any]:
    return [cell.audit for cell in row.cells if cell.audit]


def _slot(rows: Sequence[Row]) -> float:
    finite = [float(a["ceiling"]) for row in rows for a in _audits(row)]
    for row in rows:
        privacy = row.privacy or {}
        finite += [float(v) for k in ("epsilon", "epsilon_protected") if (v := privacy.get(k))]
    return 1.22 * max(finite, default=1.0)


def _draw(axes: Any, place: int, row: Row, slot: float) -> None:
    look, privacy, audits = algorithm_look(row.first.algorithm), row.privacy or {}, _audits(row)
    ceiling = max(float(audit["ceiling"]) for audit in audits)
    axes.plot([0, slot], [place, place], color=HAIRLINE, lw=0.7, zorder=0)
    axes.plot([ceiling] * 2, [place - 0.3, place + 0.3], color=FAINT, lw=1.0, ls=(0, (2, 1.5)))
    for index, audit in enumerate(audits):
        spread = 0.0 if len(audits) == 1 else 0.26 * (index / (len(audits) - 1) - 0.5)
        axes.plot(
            [float(audit["epsilon_lower"])], [place - spread], ls="", marker="o", ms=4,
            color=look.colour, alpha=0.85, zorder=4,
        )  # fmt: skip
    alone = privacy.get("epsilon_protected")
    total = privacy.get("epsilon")
    if alone is not None and (privacy.get("infinite") or alone != total):
        axes.plot(
            [alone], [place], ls="", marker="D", ms=7, mfc="white", mec=INK, mew=1.1, zorder=3
        )
    x = slot if privacy.get("infinite", True) or total is None else float(total)
    axes.plot([x], [place], ls="", marker="s", ms=6.5, color=INK, zorder=3)


def _about(rows: Sequence[Row]) -> str:
    audit = _audits(rows[0])[0]
    delta = (rows[0].privacy or {}).get("delta") or audit["delta"]
    confidence = f"{100 * float(audit['confidence']):g} %"
    return (
        f"epsilon of one record at δ={delta:.0e}; lower bounds hold with {confidence} confidence"
    ).replace("e-0", "e-")


def _legend(figure: Figure, height: float) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], ls="", marker="o", ms=4, color=FAINT, label="measured: at least, by seed"),
        Line2D(
            [], [], ls="", marker="D", ms=7, mfc="white", mec=INK, label="advertised: protected "
            "rounds alone",
        ),
        Line2D([], [], ls="", marker="s", ms=6.5, color=INK, label="proved: at most, all rounds"),
        Line2D([], [], color=FAINT, ls=(0, (2, 1.5)), label="most that this audit can show"),
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="upper left", ncol=2, frameon=False, columnspacing=1.5,
        bbox_to_anchor=(0.225, 1 - 0.36 / height),
    )  # fmt: skip


def falsified(rows: Sequence[Row]) -> str:
    """One sentence on what the audits rejected; empty where nothing was audited."""
    shown = [row for row in audited(rows) if row.protected]
    cells = [cell for row in shown for cell in row.cells if cell.audit]
    if not cells:
        return ""
    count = sum(cell.verdict == "falsified" for cell in cells)
    best = max((c.audit or {} for c in cells), key=lambda audit: float(audit["epsilon_lower"]))
    return (
        f'The claim "as private as its protected rounds" was rejected in {count} of {len(cells)} '
        f"audited cells with protection; the largest lower bound is {best['epsilon_lower']:.2f}, "
        f"of at most {best['ceiling']:.2f} that its audit could have shown."
    )
