"""The price list as a table: one for each dataset, every number with what it is about."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from fedprivacy.pricing.file import joint_confidence
from fedprivacy.pricing.harm import Harm
from fedprivacy.pricing.intervals import Interval
from fedprivacy.pricing.price import Price
from fedprivacy.report.rows import Row
from fedprivacy.report.words import (
    MISSING,
    claim_text,
    dataset_title,
    delta_text,
    epsilon_text,
    number_text,
    patient_text,
    protected_text,
    rank,
    subjects,
    views_text,
)
from fedprivacy.result import CellResult

COLUMNS = (
    "algorithm",
    "schedule",
    "federation",
    "score lost",
    "epsilon proved",
    "of one",
    "protected rounds",
    "epsilon measured",
    "exchange rate",
    "equivalent data loss",
    "federation gain left",
    "worst site",
    "worst class",
    "clinician",
    "collapsed",
    "verdict",
)
NO_BOUND = "no bound is proved"
NOTES = (
    'What these numbers mean, and what none covers: the section "How we count" of report.html, '
    "docs/how-we-count.md of the project.",
    "score lost: of the non-private twin's, paired by seed; 95 % bootstrap interval over seeds. "
    "Training that ended non-finite counts as chance.",
    "collapsed: seeds that kept next to nothing of what the twin learned, or ended non-finite.",
    "epsilon proved: upper bound. epsilon measured: lower bound that an attacker showed, with the "
    "ceiling that the audit could have reached; 0 is no evidence of privacy; add_remove counts as "
    "zero_out, whose figures are the same.",
    "exchange rate: score lost over 1 - the largest advantage that the proof leaves an attacker.",
    "equivalent data loss: share of the records that one could discard without protection for the "
    "same score.",
    "federation gain left: score minus that of the best site's own model without protection; "
    "negative: better not to federate like this.",
    "worst site, worst class: who lost most, and how much of what; all of them: harm.csv.",
)


@dataclass(frozen=True)
class PriceTable:
    """One dataset's prices, as text.

    Attributes:
        title: the dataset, marked where it is synthetic.
        lines: one for each protection, by column.
        values: of each line, the numbers inside texts that do not begin with theirs, by column.
        differs: settings in which a starred baseline differs besides.
        missing: what could not be priced, and what to run for it.
    """

    title: str
    lines: tuple[Mapping[str, str], ...]
    values: tuple[Mapping[str, float], ...] = ()
    differs: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def price_tables(rows: Sequence[Row], prices: Mapping[str, Price]) -> list[PriceTable]:
    """Tables by dataset, in the order of the rows.

    Args:
        rows: of the report.
        prices: by the ``cell_id`` of a row's first cell.
    """
    tables = []
    for (dataset, synthetic), group in groupby(rows, key=lambda row: row.dataset):
        found = [(row, prices[row.first.cell_id]) for row in group if row.protected]
        if not found:
            continue
        keys = {key for _, price in found for key in (*price.twin_differs, *price.local_differs)}
        tables.append(
            PriceTable(
                title=dataset_title(dataset, synthetic),
                lines=tuple(_line(row, price) for row, price in found),
                values=tuple(_values(price) for _, price in found),
                differs=tuple(sorted(keys)),
                missing=_missing(found),
            )
        )
    return tables


def notes(tables: Sequence[PriceTable]) -> list[str]:
    """What the columns mean, and what the stars stand for where there are any."""
    keys = sorted({key for one in tables for key in one.differs})
    star = f"*: the baseline that it is compared with differs in {', '.join(keys)} as well."
    return [*NOTES, *([star] if keys else [])]


def _missing(found: Sequence[tuple[Row, Price]]) -> tuple[str, ...]:
    """What could not be priced and why, each reason once, behind the rows that it is true of."""
    said: dict[str, list[str]] = {}
    for row, price in found:
        lost = [price.data_loss.reason] if price.data_loss.reason else []
        for reason in (*price.reasons, *lost):
            said.setdefault(reason, []).append(row.name)
    return tuple(f"{'; '.join(dict.fromkeys(names))}: {why}" for why, names in said.items())


def _values(price: Price) -> dict[str, float]:
    harms = (("worst site", price.worst_site), ("worst class", price.worst_class))
    return {column: harm.lost.value for column, harm in harms if harm is not None}


def _line(row: Row, price: Price) -> dict[str, str]:
    return {
        "algorithm": row.algorithm,
        "schedule": row.schedule,
        "federation": row.first.federation,
        "score lost": _interval(price.score_lost) + ("*" if price.twin_differs else ""),
        "epsilon proved": views_text(row.privacy),
        "of one": _of_one(row.privacy),
        "protected rounds": protected_text(row.privacy),
        "epsilon measured": measured_text(row),
        "exchange rate": price.exchange_text,
        "equivalent data loss": price.data_loss.text(),
        "federation gain left": _interval(price.federation_gain_left)
        + ("*" if price.local_differs else ""),
        "worst site": _harm(price.worst_site),
        "worst class": _harm(price.worst_class),
        "clinician": clinician(row.privacy, subjects(*row.dataset)),
        "collapsed": f"{len(price.collapsed)} of {len(row.cells)}" if price.collapsed else MISSING,
        "verdict": verdict_text(row),
    }


def _of_one(privacy: Mapping[str, Any] | None) -> str:
    patient = patient_text(privacy)
    return claim_text(privacy) + (f"; of one patient {patient}" if patient else "")


def _interval(value: Interval | None) -> str:
    return MISSING if value is None else value.text()


def _harm(value: Harm | None) -> str:
    return MISSING if value is None else value.text()


def measured_text(row: Row) -> str:
    """``>= 2.02 of one record, add_remove (ceiling 3.02, 2 audited, 90 % confidence)``.

    The largest lower bound of all seeds; the confidence is that of all their bounds together.
    """
    audits = [cell.audit for cell in row.cells if cell.audit]
    if not audits:
        return "not audited"
    best = max(audits, key=lambda audit: float(audit["epsilon_lower"]))
    lower, ceiling = number_text(best["epsilon_lower"]), number_text(best["ceiling"])
    whose = f" of one {best['unit']}, {best['neighbouring']}"
    together = joint_confidence([audit.get("confidence") for audit in audits])
    sure = "" if together is None else f", {100 * together:.3g} % confidence"
    return f">= {lower}{whose} (ceiling {ceiling}, {len(audits)} audited{sure})"


VERDICTS = ("falsified", "unprotected", "partial", "proven")
"""From the worst to the best: a claim that was falsified is told before all others."""


def verdict_text(row: Row) -> str:
    """How often each verdict was given, the worst first: a falsified claim reads so."""
    words = [_verdict(cell) for cell in row.cells]
    counts = {word: words.count(word) for word in sorted(set(words), key=_worst_first)}
    return ", ".join(f"{word} ({count}/{len(words)})" for word, count in counts.items())


def _verdict(cell: CellResult) -> str:
    """The verdict; that nothing was found is only said of rounds that an audit has looked at."""
    word = cell.verdict or "none"
    if word != "partial":
        return word
    if not cell.audit:
        return "partial and not audited"
    tested = (cell.audit.get("claim") or {}).get("rejected") is not None
    return word if tested else "partial, claim not tested"


def _worst_first(verdict: str) -> tuple[int, str]:
    return rank(VERDICTS, verdict.split()[0])[0], verdict


def clinician(privacy: Mapping[str, Any] | None, whose: str) -> str:
    """What a clinician can read; only where a bound for a patient is proved.

    Args:
        privacy: a cell's statement.
        whose: what its records are of, as ``words.subjects`` names them.
    """
    patient = ((privacy or {}).get("per_unit") or {}).get("patient") or {}
    cap = (patient.get("max_tpr_at_fpr") or {}).get("0.01")
    if patient.get("infinite", True) or patient.get("epsilon") is None or cap is None:
        return NO_BOUND
    about = [epsilon_text(patient), *(str(patient.get(key)) for key in ("neighbouring", "view"))]
    delta = delta_text((privacy or {}).get("delta"))
    where = f"(proved: epsilon {about[0]} of each, {about[1]}, view {about[2]}, delta {delta})"
    if float(_percent(cap)) >= 100:
        return (
            f"an attacker who tolerates 1 % false alarms may find nearly all {whose}: what is "
            f"proved excludes next to nothing {where}"
        )
    return (
        f"any attacker who tolerates 1 % false alarms finds at most {_percent(cap)} % of the "
        f"{whose} {where}"
    )


def _percent(cap: float) -> str:
    """Percent, never rounded down: a cap that is shown must hold."""
    percent = 100 * cap
    digits = 1 if percent < 10 else 0
    return f"{math.ceil(percent * 10**digits - 1e-9) / 10**digits:.{digits}f}"


def clinician_lines(table: PriceTable) -> list[str]:
    """What a clinician can read, each sentence once, behind the protections that it is true of."""
    said: dict[str, list[str]] = {}
    for line in table.lines:
        name = f"{line['algorithm']}, {line['schedule']}, {line['federation']}"
        said.setdefault(line["clinician"], []).append(name)
    return [f"{'; '.join(names)}: {sentence}." for sentence, names in said.items()]


def price_text(tables: Sequence[PriceTable]) -> str:
    """The tables for a terminal: a block for each protection, since the sentences are long."""
    lines: list[str] = []
    for table in tables:
        lines += [table.title, "=" * len(table.title)]
        for line in table.lines:
            lines.append(", ".join(line[key] for key in COLUMNS[:3]))
            lines += [f"  {key}: {line[key]}" for key in COLUMNS[3:] if line[key] != MISSING]
        lines += [f"not priced: {why}" for why in table.missing]
        lines.append("")
    said = [text for note in notes(tables) for text in textwrap.wrap(note, 110)]
    return "\n".join([*lines, *said]) + "\n" if tables else "no protection to price\n"
