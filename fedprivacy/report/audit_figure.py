"""What was advertised, what was proved and what an attacker showed, for every audited row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fedprivacy.accounting.units import alike
from fedprivacy.audit.assessment import RELATION
from fedprivacy.report.canvas import new_figure
from fedprivacy.report.palette import FAINT, HAIRLINE, INK, look_of
from fedprivacy.report.rows import Row
from fedprivacy.report.words import dataset_title, delta_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW_HEIGHT, _PLOT, _CHARACTER, _TITLE_CHARACTER = 0.42, 5.3, 0.066, 0.079
_TITLE, _HEAD, _FOOT = 0.72, 0.28, 0.62
_LINEAR_TO = 30.0
"""Where nothing is larger, the axis is linear; else it is logarithmic beyond 1."""

_ADVERTISED: dict[str, Any] = {
    "ls": "", "marker": "D", "ms": 8, "mfc": "white", "mec": INK, "mew": 1.1,
}  # fmt: skip

Kind = tuple[str, str, float]
"""Relation, view and delta of what is claimed of one record, which is what audits guess."""
Measured = tuple[str, str, float, float]
"""Relation, view, delta and confidence of an audit."""
SEES = {
    "server_updates": " who sees every update",
    "aggregate": " who sees every average",
    "final_model": " who sees the final model alone",
}


def audited(rows: Sequence[Row]) -> list[Row]:
    """The rows of which some cell was audited."""
    return [row for row in rows if any(cell.audit for cell in row.cells)]


def audit_figure(rows: Sequence[Row]) -> Figure | None:
    """One dataset's audits, a panel for each kind of claim; None where nothing was audited.

    Every number is about one record. Rows of which nothing is claimed stand in every panel whose
    audits are like theirs: what an attacker showed there is beside all claims.

    Args:
        rows: of one dataset.
    """
    shown = audited(rows)
    if not shown:
        return None
    panels = _panels(shown)
    left = 0.2 + _CHARACTER * max(len(line) for row in shown for line in _label(row).split("\n"))
    title = (
        f"{dataset_title(*shown[0].dataset)}: what an attacker{_who(shown)} showed, against what "
        "is claimed"
    )
    width = max(left + _PLOT + 0.25, 0.3 + _TITLE_CHARACTER * len(title))
    plot = width - left - 0.25
    height = _TITLE + sum(_HEAD + _ROW_HEIGHT * len(own) + _FOOT for own in panels.values())
    figure = new_figure(width, height)
    top = _TITLE
    for (kind, audit), own in panels.items():
        tall = _ROW_HEIGHT * len(own)
        box = (left / width, 1 - (top + _HEAD + tall) / height, plot / width, tall / height)
        _panel(figure.add_axes(box), kind, audit, own)
        top += _HEAD + tall + _FOOT
    figure.text(0.1 / width, 1 - 0.1 / height, title, va="top", fontsize=9.5, color=INK)
    _legend(figure, shown, height)
    return figure


def _panels(rows: Sequence[Row]) -> dict[tuple[Kind | None, Measured], list[Row]]:
    """Rows by what is claimed and how it was audited; those without a claim beside all claims."""
    kinds = dict.fromkeys((claim_kind(row), measured_kind(row)) for row in rows)
    claimed = {audit for kind, audit in kinds if kind is not None}
    return {
        (kind, audit): [
            row for row in rows if claim_kind(row) in (kind, None) and measured_kind(row) == audit
        ]
        for kind, audit in kinds
        if kind is not None or audit not in claimed
    }


def measured_kind(row: Row) -> Measured:
    """What a row's audits hold for; all of a row's cells have the same."""
    audit = _audits(row)[0]
    # Results of an earlier version do not say it; it was the same.
    relation = str(audit.get("neighbouring", RELATION))
    view = str(audit.get("view") or (row.privacy or {}).get("view"))
    return relation, view, float(audit["delta"]), float(audit["confidence"])


def _who(rows: Sequence[Row]) -> str:
    """What the attackers of all rows see; empty where that is not the same."""
    views = {measured_kind(row)[1] for row in rows}
    return SEES.get(views.pop(), "") if len(views) == 1 else ""


def _comparable(kind: Kind | None, audit: Measured) -> bool:
    """Whether what was measured speaks of what is claimed."""
    return kind is None or alike(kind[0], audit[0])


def record_claim(row: Row) -> Mapping[str, Any]:
    """What is claimed of one record, whatever unit the headline speaks of."""
    privacy = row.privacy or {}
    stated = (privacy.get("per_unit") or {}).get("record")
    return stated or (privacy if privacy.get("unit") == "record" else {})


def claim_kind(row: Row) -> Kind | None:
    """What the numbers claimed of a row's records hold for; None where there is no number."""
    claim, privacy = record_claim(row), row.privacy or {}
    if claim.get("epsilon") is None and claim.get("epsilon_protected") is None:
        return None
    return str(claim["neighbouring"]), str(claim["view"]), float(privacy["delta"])


def record_epsilon(row: Row) -> float:
    """Proved for one record, whatever unit the headline speaks of; infinite where nothing is."""
    value = record_claim(row).get("epsilon")
    return math.inf if value is None else float(value)


def _panel(axes: Any, kind: Kind | None, audit: Measured, rows: Sequence[Row]) -> None:
    largest = _largest(rows)
    comparable = _comparable(kind, audit)
    logarithmic = largest > _LINEAR_TO
    slot = largest * (6.0 if logarithmic else 1.22)
    if logarithmic:
        axes.set_xscale("symlog", linthresh=1.0, linscale=0.5)
    for place, row in enumerate(reversed(rows)):
        _draw(axes, place, row, slot, comparable)
    axes.set_yticks(range(len(rows)), [_label(row) for row in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(-0.12 if logarithmic else -0.02 * slot, slot * (2.2 if logarithmic else 1.06))
    ticks = _ticks(axes, largest, logarithmic)
    axes.set_xticks([*ticks, slot], [*(f"{tick:g}" for tick in ticks), "infinite"])
    axes.minorticks_off()
    axes.axvline((largest * slot) ** 0.5, color=HAIRLINE, lw=0.8, ls=(0, (2, 2)))
    axes.set_xlabel(_about(kind, audit))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _ticks(axes: Any, largest: float, logarithmic: bool) -> list[float]:
    """Round numbers that leave room for the word infinite."""
    if not logarithmic:
        return [float(tick) for tick in axes.get_xticks() if 0 <= tick <= largest]
    decades = range(math.floor(math.log10(largest)) + 1)
    every = 1 + len(decades) // 5
    return [0.0, *(10.0**power for power in decades[::every])]


def _label(row: Row) -> str:
    """Name of a row; a variant goes to a second line."""
    short = replace(row, variant="").name
    return f"{short}\n{row.variant}".strip()


def _audits(row: Row) -> list[Any]:
    return [cell.audit for cell in row.cells if cell.audit]


def _largest(rows: Sequence[Row]) -> float:
    finite = [float(a["ceiling"]) for row in rows for a in _audits(row)]
    for row in rows:
        finite += [
            float(v) for k in ("epsilon", "epsilon_protected") if (v := record_claim(row).get(k))
        ]
    return max(finite, default=1.0) or 1.0


def _draw(axes: Any, place: int, row: Row, slot: float, comparable: bool) -> None:
    axes.plot([0, slot], [place, place], color=HAIRLINE, lw=0.7, zorder=0)
    if comparable:
        _measured(axes, place, row)
    claim = record_claim(row)
    if _advertises(row):
        axes.plot([claim["epsilon_protected"]], [place], **_ADVERTISED, zorder=3)
    total = claim.get("epsilon")
    x = slot if claim.get("infinite", True) or total is None else float(total)
    axes.plot([x], [place], ls="", marker="s", ms=6.5, color=INK, zorder=3)


def _measured(axes: Any, place: int, row: Row) -> None:
    look = look_of(row.first.algorithm, row.first.federation)
    audits = _audits(row)
    ceiling = max(float(audit["ceiling"]) for audit in audits)
    axes.plot([ceiling] * 2, [place - 0.3, place + 0.3], color=FAINT, lw=1.0, ls=(0, (2, 1.5)))
    for index, audit in enumerate(audits):
        spread = 0.0 if len(audits) == 1 else 0.26 * (index / (len(audits) - 1) - 0.5)
        axes.plot(
            [float(audit["epsilon_lower"])], [place - spread], ls="", marker="o", ms=4,
            color=look.colour, mec="white", mew=0.4, zorder=4,
        )  # fmt: skip


def _about(kind: Kind | None, audit: Measured) -> str:
    """What the axis holds for: the claim's unit, relation, view and delta, and the audits' own."""
    relation, seen, delta, confidence = audit
    measured = (
        f"measured: at least, {relation}, view {seen}, {100 * confidence:g} % confidence, "
        f"\u03b4={delta_text(delta)}"
    )
    if not _comparable(kind, audit):
        measured = f"what was measured is of {relation} and not comparable: see all bounds"
    if kind is None:
        return f"epsilon of one record: nothing is claimed; {measured}"
    relation, view, delta = kind
    about = f"epsilon of one record, {relation}, view {view}, \u03b4={delta_text(delta)}"
    return f"{about}\n{measured}"


def _advertises(row: Row) -> bool:
    """Whether a row's protected rounds alone are said to cost something else than all of them."""
    claim = record_claim(row)
    alone = claim.get("epsilon_protected")
    return alone is not None and bool(claim.get("infinite") or alone != claim.get("epsilon"))


def _legend(figure: Figure, rows: Sequence[Row], height: float) -> None:
    from matplotlib.lines import Line2D

    alone = Line2D([], [], **_ADVERTISED, label="advertised: protected rounds alone")
    handles = [
        Line2D([], [], ls="", marker="o", ms=4, color=FAINT, label="measured: at least, by seed"),
        *([alone] if any(map(_advertises, rows)) else []),
        Line2D([], [], ls="", marker="s", ms=6.5, color=INK, label="proved: at most, all rounds"),
        Line2D([], [], color=FAINT, ls=(0, (2, 1.5)), label="most that this audit can show"),
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="upper left", ncol=2, frameon=False, columnspacing=1.5,
        bbox_to_anchor=(0.0, 1 - 0.3 / height),
    )  # fmt: skip


def falsified(rows: Sequence[Row]) -> str:
    """One sentence on what the audits rejected; empty where nothing was audited."""
    shown = [row for row in audited(rows) if row.protected]
    cells = [cell for row in shown for cell in row.cells if cell.audit]
    if not cells:
        return ""
    claims = [(audit.get("claim") or {}, cell) for cell in cells if (audit := cell.audit)]
    tested = [(told, cell) for told, cell in claims if told.get("rejected") is not None]
    found = [
        (float(audit["epsilon_lower"]), float(audit["ceiling"]))
        for cell in cells
        if (audit := cell.audit)
    ]
    largest, ceiling = max(found)
    bound = (
        f"Among protected cells the largest lower bound on the epsilon of one record is "
        f"{largest:.2f}, of at most {ceiling:.2f} that its audit could have shown."
    )
    silent = len(cells) - len(tested)
    if not tested:
        return f"None of the {silent} audited cells with protection makes a claim to test. {bound}"
    count = sum(cell.verdict == "falsified" for _, cell in tested)
    could = [told.get("could_reject") for told, _ in tested]
    reach = "" if None in could else f" ({sum(map(bool, could))} of them could have been)"
    rest = f"; {silent} more make no claim to test" if silent else ""
    return (
        f'The claim "as private as its protected rounds" was rejected in {count} of {len(tested)} '
        f"audited cells that make it{reach}{rest}. {bound}"
    )
