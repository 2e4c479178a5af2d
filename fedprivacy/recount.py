"""A cell's privacy statement computed again from its ledger, and held against its result."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedprivacy.accounting.ledger import Ledger
from fedprivacy.accounting.statement import PrivacyStatement, privacy_statement
from fedprivacy.accounting.units import Unit, View
from fedprivacy.errors import AccountingError, DataError
from fedprivacy.result import LEDGER_FILE, RESULT_FILE, CellResult, read_result

TOLERANCE = 1e-5
"""Relative and absolute: float noise of the accountant's FFT is below 1e-6."""

_PARTS = ("per_site", "per_unit", "per_view")
_COMPARED = ("infinite", "epsilon", "epsilon_protected", "epsilon_protected_infinite")
_HEAD = (*_COMPARED, "neighbouring", "protected_rounds", "max_advantage")
# The number of records of a patient stands in the words of the patient's claim and nowhere else.
_RECORDS = re.compile(r"a patient (?:has at most|with) (\d+) records")


@dataclass(frozen=True)
class Recount:
    """What a cell's folder says, and what its ledger proves.

    Attributes:
        folder: of the cell.
        result: as written.
        ledger: as written.
        statement: computed now from the ledger, for the unit, view and delta of the result.
        differences: where it does not give what the result says, one line each; empty if it does.
    """

    folder: Path
    result: CellResult
    ledger: Ledger
    statement: PrivacyStatement
    differences: tuple[str, ...]

    def restated(
        self, *, delta: float | None = None, unit: Unit | None = None, view: View | None = None
    ) -> PrivacyStatement:
        """The statement for another delta, unit or view; None keeps that of the result.

        Raises:
            AccountingError: the ledger has no sound accounting for it.
        """
        written = self.result.privacy or {}
        wanted = {"delta": delta, "unit": unit, "view": view}
        return _state(self.ledger, {**written, **{k: v for k, v in wanted.items() if v}})


def recount(folder: Path) -> Recount:
    """Read a cell's result and ledger, and compute the statement again from the ledger alone.

    Raises:
        DataError: the folder has no result, no ledger, or a result without a privacy statement.
        AccountingError: the ledger is damaged or incomplete.
    """
    result = read_result(folder)
    if result is None:
        raise DataError(f"{folder} has no {RESULT_FILE}: run the cell to its end first")
    if result.privacy is None:
        raise DataError(
            f"the cell in {folder} {result.status} before anything was accounted for "
            f"({result.reason or 'no reason given'}): run it again"
        )
    try:
        ledger = Ledger.read(folder / LEDGER_FILE)
    except FileNotFoundError as error:
        raise AccountingError(
            f"{folder} has no {LEDGER_FILE}: an epsilon without its ledger cannot be checked"
        ) from error
    except UnicodeDecodeError as error:
        raise AccountingError(f"{folder / LEDGER_FILE} is not text: {error}") from error
    statement = _state(ledger, result.privacy)
    differences = tuple(_differences(result, statement))
    return Recount(folder, result, ledger, statement, differences)


def written_records_per_patient(privacy: Mapping[str, Any]) -> int | None:
    """Most records of one patient, from the result's claim for a patient; None if not said."""
    patient = privacy.get("per_unit", {}).get("patient", {})
    words = f"{patient.get('derivation', '')} {patient.get('reason', '')}"
    found = _RECORDS.search(words)
    return int(found.group(1)) if found else None


def _state(ledger: Ledger, privacy: Mapping[str, Any]) -> PrivacyStatement:
    try:
        statement = privacy_statement(
            ledger,
            rounds=privacy["rounds"],
            delta=privacy["delta"],
            view=privacy["view"],
            unit=privacy["unit"],
            randomness=privacy["randomness"],
            records_per_patient=written_records_per_patient(privacy),
        )
        said = dict.fromkeys((*privacy["assumptions"], *statement.assumptions))
    except (KeyError, TypeError) as error:
        raise AccountingError(
            f"the result's privacy statement is damaged ({type(error).__name__}: {error})"
        ) from error
    return replace(statement, assumptions=tuple(said))


def _differences(result: CellResult, statement: PrivacyStatement) -> Iterator[str]:
    written, counted = result.privacy or {}, statement.to_json()
    yield from _compared("", _HEAD, written, counted)
    exposed = "exposed_releases"
    yield from _compared(f"{exposed}.", ("number",), written.get(exposed), counted[exposed])
    for part in _PARTS:
        theirs = written.get(part)
        theirs = theirs if isinstance(theirs, Mapping) else {}
        for name in dict.fromkeys((*theirs, *counted[part])):
            yield from _compared(
                f"{part}.{name}.", _COMPARED, theirs.get(name), counted[part].get(name)
            )
    rounds = len(result.rounds)
    if rounds != statement.rounds:
        yield f"rounds: {RESULT_FILE} lists {rounds}, its statement speaks of {statement.rounds}"
    for block, value in zip(result.rounds, statement.epsilon_after, strict=False):
        if not _same(block.epsilon, value):
            yield _line(f"epsilon after round {block.round}", block.epsilon, value)


def _compared(prefix: str, keys: tuple[str, ...], written: Any, counted: Any) -> Iterator[str]:
    ours = written if isinstance(written, Mapping) else {}
    theirs = counted if isinstance(counted, Mapping) else {}
    for key in keys:
        one, other = ours.get(key), theirs.get(key)
        if not _same(one, other):
            yield _line(f"{prefix}{key}", one, other)


def _line(name: str, written: object, counted: object) -> str:
    return f"{name}: {RESULT_FILE} says {_word(written)}, {LEDGER_FILE} gives {_word(counted)}"


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _same(one: object, other: object) -> bool:
    if _number(one) and _number(other):
        return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)  # type: ignore[arg-type]
    return type(one) is type(other) and one == other


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
