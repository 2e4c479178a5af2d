"""The parts of the page that tell what attackers showed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fedprivacy.report.audit_figure import falsified
from fedprivacy.report.bounds import bound_lines
from fedprivacy.report.page import details, paragraph, shown, table
from fedprivacy.report.roc import Attack, attack_lines
from fedprivacy.report.rows import Row
from fedprivacy.report.words import MISSING, claim_text, dataset_text, epsilon_text
from fedprivacy.result import CellResult

BOUNDS = (
    "epsilon at least: a lower bound, measured. ceiling: what the same audit would have returned "
    "with every guess right; no larger epsilon could have been shown. confidence: over all views "
    "and numbers of guesses of a cell, for each method by itself. assumes: what one run cannot "
    "make good; only bounds that assume nothing stand in the price list."
)


def audits(rows: Sequence[Row], pictures: Mapping[str, Sequence[tuple[Path, str]]]) -> str:
    """What one-run audits showed against what is claimed, and every bound."""
    words, lines = falsified(rows), bound_lines(rows)
    said = paragraph(words) if words else ""
    every = details(f"Every bound, by cell and view ({len(lines)})", table(lines)) if lines else ""
    note = paragraph(BOUNDS, "note") if lines else ""
    return said + shown(pictures, "audits") + every + note


def membership(attacks: Sequence[Attack]) -> str:
    """How well canaries were told from records that nobody trained on."""
    if not attacks:
        return ""
    note = paragraph(
        "Canaries of all seeds together; 95 % intervals: with several seeds a bootstrap over "
        "candidates, as a candidate's scores in several models are not independent; with one seed "
        "exact (Clopper-Pearson). Where canaries are too few for a rate of false alarms, what "
        "stands there is that without any, and says so. LiRA and RMIA use the sweep's other "
        "seeds as shadow models. An attack that fails proves nothing.",
        "note",
    )
    return table(attack_lines(attacks)) + note


def reconstruction(rows: Sequence[Row], pictures: Mapping[str, Sequence[tuple[Path, str]]]) -> str:
    """What was made of single updates, and of the run's own messages."""
    lines = []
    for row in rows:
        for cell in row.cells:
            found = (cell.audit or {}).get("reconstruction")
            if not found or not found.get("attack"):
                continue
            best = found.get("max_rdlv")
            lines.append(
                {
                    "algorithm": row.algorithm,
                    "schedule": row.schedule if row.protected else "-",
                    "federation": cell.federation,
                    "dataset": dataset_text(*row.dataset),
                    "seed": str(cell.seed),
                    "epsilon proved": epsilon_text(cell.privacy),
                    "of one": claim_text(cell.privacy),
                    "attack": str(found.get("attack")),
                    "protected as round": str(found.get("round")),
                    "recognised": f"{found.get('recognised')} of {found.get('victims')}",
                    "best similarity": f"{found.get('best_similarity'):.3f}",
                    "largest RDLV": "undefined" if best is None else f"{best:.3f}",
                    "in the run's messages": _in_messages(cell),
                }
            )
    if not lines:
        return ""
    about = paragraph(
        "The attacker has one update of one record, as it left the site after the protection of "
        "the round that protects least, from the weights that training begins with, and knows "
        "these, the model and the learning rate. RDLV: relative data leakage value "
        "(Hatamizadeh et al. 2023); 0 is no better than a public prior. In the run's messages: "
        "records of one site that were recognised in what it sent in the run itself, of many "
        "records and steps (first linear layers). A failed attack proves nothing.",
        "note",
    )
    return shown(pictures, "reconstruction") + table(lines) + about


def _in_messages(cell: CellResult) -> str:
    found = (cell.audit or {}).get("messages")
    return MISSING if not found else f"{found['recognised']} of {found['records']}"
