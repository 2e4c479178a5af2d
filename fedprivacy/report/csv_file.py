"""CSV for programs: numbers in full, unknown ones empty, infinite ones a word."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

from fedprivacy.report.words import INFINITE


def csv_text(records: Iterable[Mapping[str, Any]]) -> str:
    """A header and one line for each record, all of the same columns; empty without records."""
    buffer = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for record in records:
        if writer is None:
            writer = csv.DictWriter(buffer, list(record), lineterminator="\n")
            writer.writeheader()
        writer.writerow(record)
    return buffer.getvalue()


def csv_number(value: float | None) -> str:
    """All digits, or an empty field."""
    return "" if value is None else repr(value)


def csv_epsilon(known: bool, infinite: bool | None, value: float | None) -> str:
    """A number, ``infinite``, or an empty field where nothing is known.

    A program that expects a number fails at the word rather than reading a wrong one.
    """
    if not known:
        return ""
    return INFINITE if infinite or value is None else repr(value)
