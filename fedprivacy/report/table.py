"""The table of a sweep, as text for a terminal and as CSV for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fedprivacy.accounting.units import VIEWS
from fedprivacy.pricing.twins import COLLAPSE_FRACTION, collapsed_against, find_twin
from fedprivacy.report.csv_file import csv_epsilon, csv_number, csv_text
from fedprivacy.report.rows import (
    AGAINST_TWIN,
    Estimate,
    Row,
    make_rows,
)
from fedprivacy.report.words import (
    MISSING,
    UNKNOWN,
    dataset_text,
    delta_text,
    protected_text,
    views_text,
)
from fedprivacy.result import CellResult

Column = tuple[str, Callable[[Row], str]]

SEEDED = "seeded (a simulation, no certificate)"


def cell_table(results: Iterable[CellResult], collapse_fraction: float = COLLAPSE_FRACTION) -> str:
    """One line for all cells that differ in their seed only, then what failed and why.

    What epsilons are about (unit, neighbouring relation, view, delta, randomness) has a column
    wherever it differs between lines, and is said once below the table where it does not.

    Args:
        results: cells.
        collapse_fraction: ``collapse.fraction``, for collapses against the twin.
    """
    rows = make_rows(results, collapse_fraction)
    if not rows:
        return "no cell has a result yet"
    about = [(name, text) for name, text in _ABOUT if len(_distinct(rows, text)) > 1]
    columns = [*_BEFORE, *about, *_AFTER]
    lines = _layout(columns, rows)
    shown = {name for name, _ in about}
    notes = [*_notes(rows, shown, collapse_fraction), *_failures(rows)]
    return "\n".join([*lines, "", *notes])


def _score(row: Row) -> str:
    return MISSING if row.score is None else f"{row.metric} {_estimate_text(row.score)}"


def _chance(row: Row) -> str:
    chance = next((cell.score.chance for cell in row.cells if cell.score), None)
    return MISSING if chance is None else f"{chance:.3f}"


def _twin(row: Row) -> str:
    if not row.protected:
        return "itself"
    if row.twin_score is None:
        return MISSING
    return _estimate_text(row.twin_score) + ("*" if row.twin_differs else "")


def _estimate_text(value: Estimate) -> str:
    error = "" if value.standard_error is None else f" ± {value.standard_error:.3f}"
    seeds = f" (n={value.n})" if value.n > 1 else ""
    return f"{value.mean:.3f}{error}{seeds}"


def _schedule(row: Row) -> str:
    return row.schedule if row.protected else MISSING


def _about(key: str) -> Callable[[Row], str]:
    """A word that an epsilon comes with; of no meaning where nothing was protected."""

    def text(row: Row) -> str:
        if not row.protected or row.privacy is None:
            return MISSING
        value: Any = row.privacy.get(key)
        if key == "delta":
            return delta_text(value)
        return str(value or UNKNOWN)

    return text


def _whose(row: Row) -> str:
    unit, neighbouring = _about("unit")(row), _about("neighbouring")(row)
    return MISSING if unit == MISSING else f"{unit}, {neighbouring}"


def _status(row: Row) -> str:
    where = row.first.round
    if row.status == "collapsed" and where is not None and len(row.cells) == 1:
        return f"collapsed in round {where}"
    return row.status


_BEFORE: tuple[Column, ...] = (
    ("algorithm", lambda row: row.algorithm),
    ("schedule", _schedule),
    ("dataset", lambda row: dataset_text(*row.dataset)),
    ("federation", lambda row: row.first.federation),
    ("score", _score),
    ("chance", _chance),
    ("non-private", _twin),
    ("epsilon", lambda row: views_text(row.privacy)),
    ("protected rounds", lambda row: protected_text(row.privacy)),
)
_ABOUT: tuple[Column, ...] = (
    ("of one", _whose),
    ("view", _about("view")),
    ("delta", _about("delta")),
    ("randomness", _about("randomness")),
)
_AFTER: tuple[Column, ...] = (("status", _status),)


def _distinct(rows: Sequence[Row], text: Callable[[Row], str]) -> list[str]:
    return sorted({text(row) for row in rows} - {MISSING})


def _layout(columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    """Aligned lines, with an empty one between datasets."""
    names = [name for name, _ in columns]
    cells = [[text(row) for _, text in columns] for row in rows]
    widths = [max(len(line[i]) for line in [names, *cells]) for i in range(len(names))]
    lines = [_aligned(names, widths), _aligned(["-" * width for width in widths], widths)]
    for number, (row, line) in enumerate(zip(rows, cells, strict=True)):
        if number and row.dataset != rows[number - 1].dataset:
            lines.append("")
        lines.append(_aligned(line, widths))
    return lines


def _aligned(words: Sequence[str], widths: Sequence[int]) -> str:
    padded = (word.ljust(width) for word, width in zip(words, widths, strict=True))
    return "  ".join(padded).rstrip()


def _notes(rows: Sequence[Row], shown: set[str], fraction: float) -> list[str]:
    said = []
    for name, text in _ABOUT:
        found = _distinct(rows, text)
        if name not in shown and found:
            said.append(f"{name} {SEEDED if found == ['seeded'] else found[0]}")
    about = f" All of them: {'; '.join(said)}." if said else ""
    notes = [
        "epsilon: upper bound proved from everything that was released; infinite: nothing is "
        f"proved. protected rounds: the same over the protected rounds alone.{about}",
        "score: on held-out records, ± one standard error (of the records, and of the seeds where "
        "n > 1). non-private: the same cell with algorithm=none. collapsed: not above chance by "
        "one standard error, or training became non-finite.",
    ]
    if any(row.against_twin for row in rows):
        notes.append(
            f"{AGAINST_TWIN}: above chance, but by no more than {fraction:g} of what the "
            "non-private cell gained over chance."
        )
    if any("(" in views_text(row.privacy) for row in rows):
        notes.append("epsilon (view: ...): the same cell against an adversary with that view.")
    if floors := _shuffle_floors(rows):
        notes.append(f"sampling: {'; '.join(floors)}.")
    if "randomness" in shown:
        notes.append(f"randomness seeded: {SEEDED.partition('(')[2].rstrip(')')}.")
    if any(row.first.synthetic for row in rows):
        notes.append("synthetic: made-up records that stand in for the real ones.")
    keys = sorted({key for row in rows for key in row.twin_differs})
    if keys:
        notes.append(f"* the non-private cell differs in {', '.join(keys)} as well.")
    notes.append(
        "What these numbers mean: docs/how-we-count.md; of one cell: fedprivacy explain ID."
    )
    return [line for note in notes for line in textwrap.wrap(note, 110)]


def _shuffle_floors(rows: Sequence[Row]) -> list[str]:
    """What is known from below of the cells whose batches were shuffled."""
    said = {
        f"{row.algorithm} {_schedule(row)} {dataset_text(*row.dataset)}: {row.privacy['sampling']}"
        for row in rows
        if row.privacy is not None and "lower bound" in row.privacy.get("sampling", "")
    }
    return sorted(said)


def _failures(rows: Sequence[Row]) -> list[str]:
    """What failed, and why."""
    failed = [cell for row in rows for cell in row.cells if cell.status == "failed"]
    if not failed:
        return []
    lines = ["", "failed:"]
    for cell in failed:
        name = f"{cell.algorithm} {cell.schedule} {cell.dataset} {cell.federation} s{cell.seed}"
        lines.append(f"  {name} ({cell.cell_id}): {cell.reason}")
        lines += [f"    {line}" for line in _ends((cell.error or {}).get("traceback", ""))]
    return lines


def _ends(traceback: str) -> list[str]:
    """Where it happened and what: the innermost place of a traceback, and its last line."""
    lines = [line.strip() for line in traceback.strip().splitlines()]
    places = [line for line in lines if line.startswith("File ")]
    return [*places[-1:], *lines[-1:]]


# ---------------------------------------------------------------------------- CSV


def cell_csv(results: Iterable[CellResult], collapse_fraction: float = COLLAPSE_FRACTION) -> str:
    """One line for every cell, ordered as the table; unknown numbers are empty fields.

    An infinite epsilon is the word ``infinite``: a program that expects a number fails rather
    than reading a wrong one. ``collapsed_against_twin`` is empty where there is nothing to compare.

    Args:
        results: cells.
        collapse_fraction: ``collapse.fraction``, for collapses against the twin.
    """
    cells = [cell for row in make_rows(results) for cell in row.cells]
    return csv_text(_csv_record(cell, find_twin(cell, cells), collapse_fraction) for cell in cells)


def _csv_record(cell: CellResult, twin: CellResult | None, fraction: float) -> dict[str, Any]:
    score, privacy = cell.score, cell.privacy or {}
    against = collapsed_against(cell, twin, fraction)
    known = bool(privacy)
    return {
        "cell_id": cell.cell_id,
        "algorithm": cell.algorithm,
        "schedule": cell.schedule,
        "dataset": cell.dataset,
        "synthetic": str(cell.synthetic).lower(),
        "federation": cell.federation,
        "model": cell.model,
        "seed": cell.seed,
        "status": cell.status,
        "collapsed_against_twin": "" if against is None else str(against).lower(),
        "reason": cell.reason,
        "metric": score.name if score else "",
        "score": csv_number(score.value if score else None),
        "standard_error": csv_number(score.standard_error if score else None),
        "chance": csv_number(score.chance if score else None),
        "non_private_score": csv_number(twin.score.value if twin and twin.score else None),
        "epsilon": csv_epsilon(known, privacy.get("infinite"), privacy.get("epsilon")),
        "epsilon_protected": csv_epsilon(
            bool(privacy.get("protected_rounds")),
            privacy.get("epsilon_protected_infinite"),
            privacy.get("epsilon_protected"),
        ),
        "protected_rounds": privacy.get("protected_rounds", ""),
        "rounds": privacy.get("rounds", ""),
        "unit": privacy.get("unit", ""),
        "neighbouring": privacy.get("neighbouring", ""),
        "view": privacy.get("view", ""),
        **{f"epsilon_{view}": _of_view(privacy, view) for view in VIEWS},
        "delta": csv_number(privacy.get("delta")),
        "direction": "upper bound proved" if known else "",
        "randomness": privacy.get("randomness", ""),
        "sampling": privacy.get("sampling", ""),
        "coverage_records": csv_number(privacy.get("coverage_records")),
        "verdict": cell.verdict or "",
        "seconds": csv_number(cell.timing_s.get("total")),
    }


def _of_view(privacy: Mapping[str, Any], view: str) -> str:
    item = (privacy.get("per_view") or {}).get(view)
    return "" if item is None else csv_epsilon(True, item.get("infinite"), item.get("epsilon"))
