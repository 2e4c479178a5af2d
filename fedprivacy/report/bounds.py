"""What the audits of cells showed: every lower bound, with the ceiling that it could reach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedprivacy.accounting.units import VIEWS, View, alike, view_contains
from fedprivacy.report.csv_file import csv_number, csv_text
from fedprivacy.report.rows import Row
from fedprivacy.report.words import MISSING, UNKNOWN, dataset_text, delta_text, number_text
from fedprivacy.result import CellResult

ALWAYS = "none"


@dataclass(frozen=True)
class Bound:
    """A lower bound on a cell's epsilon, measured.

    Attributes:
        cell: the audited cell.
        view: what the attacker saw.
        lower: 0 where nothing was found, which is no evidence of privacy.
        ceiling: what the same audit would have returned with every guess right; None in results
            of an earlier version, which do not say.
        confidence: over all bounds by the same method on the cell.
        delta: at which epsilon is meant.
        unit: whose privacy it is.
        neighbouring: the relation.
        method: in words.
        assumption: without which it does not hold; empty: it always does.
    """

    cell: CellResult
    view: View
    lower: float
    ceiling: float | None
    confidence: float | None
    delta: float | None
    unit: str
    neighbouring: str
    method: str
    assumption: str = ""

    def text(self) -> str:
        """``>= 2.02 (ceiling 3.02)``."""
        most = UNKNOWN if self.ceiling is None else number_text(self.ceiling)
        return f">= {number_text(self.lower)} (ceiling {most})"


def bounds(cell: CellResult) -> list[Bound]:
    """All bounds of a cell, views from the strongest, unconditional ones first; empty: no audit."""
    audit = cell.audit
    if not audit:
        return []
    by_view: Mapping[str, Any] = audit.get("per_view") or {audit.get("view", ""): audit}
    views = [view for view in VIEWS if view in by_view]
    return [bound for view in views for bound in _of_view(cell, audit, view, by_view[view])]


def _of_view(
    cell: CellResult, audit: Mapping[str, Any], view: View, item: Mapping[str, Any]
) -> Iterator[Bound]:
    def bound(found: Mapping[str, Any], method: str, assumption: str = "") -> Bound:
        return Bound(
            cell=cell,
            view=view,
            lower=float(found["epsilon_lower"]),
            ceiling=found.get("ceiling"),
            confidence=item.get("confidence", audit.get("confidence")),
            delta=item.get("delta", audit.get("delta")),
            unit=audit.get("unit", UNKNOWN),
            neighbouring=audit.get("neighbouring", UNKNOWN),
            method=method,
            assumption=assumption,
        )

    yield bound(item, item.get("method") or UNKNOWN)
    for name, found in (item.get("under_assumptions") or {}).items():
        if isinstance(found, Mapping):
            yield bound(found, found["method"], found["assumption"])
        else:
            # An earlier version left the number alone, under a name that says the assumption.
            yield bound({"epsilon_lower": found}, name.partition("_if_")[0], name)


def measured(row: Row, unit: str, neighbouring: str, view: View, delta: float) -> Bound | None:
    """The largest unconditional bound over a row's cells that is about this very kind of claim.

    What an attacker showed with a view, one with a stronger view can show too. None where no
    audit was about the unit and the relation, where all saw more than the view, and where epsilon
    was measured at a smaller delta than the claim's.
    """
    fitting = [
        bound
        for cell in row.cells
        for bound in bounds(cell)
        if not bound.assumption
        and bound.unit == unit
        and alike(bound.neighbouring, neighbouring)
        and view_contains(view, bound.view)
        and bound.delta is not None
        and bound.delta >= delta
    ]
    return max(fitting, key=lambda bound: bound.lower, default=None)


def bound_lines(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Every bound as a line of a table."""
    return [
        {
            "algorithm": row.algorithm,
            "schedule": row.schedule if row.protected else MISSING,
            "dataset": dataset_text(*row.dataset),
            "seed": str(bound.cell.seed),
            "view": bound.view,
            "epsilon at least": number_text(bound.lower),
            "ceiling": UNKNOWN if bound.ceiling is None else number_text(bound.ceiling),
            "confidence": UNKNOWN if bound.confidence is None else f"{bound.confidence:g}",
            "assumes": bound.assumption or ALWAYS,
            "of one": f"{bound.unit}, {bound.neighbouring}, delta {delta_text(bound.delta)}",
            "method": bound.method,
        }
        for row in rows
        for cell in row.cells
        for bound in bounds(cell)
    ]


def bounds_csv(rows: Sequence[Row]) -> str:
    """One line for every bound; empty where nothing was audited."""
    return csv_text(
        _record(row, bound) for row in rows for cell in row.cells for bound in bounds(cell)
    )


def _record(row: Row, bound: Bound) -> dict[str, Any]:
    cell = bound.cell
    return {
        "cell_id": cell.cell_id,
        "algorithm": row.algorithm,
        "schedule": row.schedule if row.protected else "",
        "dataset": cell.dataset,
        "synthetic": str(cell.synthetic).lower(),
        "federation": cell.federation,
        "seed": cell.seed,
        "direction": "lower bound measured",
        "epsilon_lower": repr(bound.lower),
        "ceiling": csv_number(bound.ceiling),
        "confidence": csv_number(bound.confidence),
        "assumes": bound.assumption,
        "method": bound.method,
        "unit": bound.unit,
        "neighbouring": bound.neighbouring,
        "view": bound.view,
        "delta": csv_number(bound.delta),
    }
