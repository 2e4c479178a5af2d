"""``report.html``: the whole report on one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fedprivacy.config.resources import how_we_count
from fedprivacy.errors import FedPrivacyError
from fedprivacy.pricing.price import Price
from fedprivacy.report.findings import RULES, findings, unsaid
from fedprivacy.report.harm_table import NOTE as HARM
from fedprivacy.report.harm_table import harm_lines
from fedprivacy.report.html_audits import audits, membership, reconstruction
from fedprivacy.report.page import (
    details,
    markdown,
    page,
    paragraph,
    preformatted,
    shown,
    table,
    text,
)
from fedprivacy.report.price_table import (
    COLUMNS,
    PriceTable,
    clinician_lines,
    notes,
    price_tables,
    verdict_text,
)
from fedprivacy.report.rerun import NOTE as RERUN
from fedprivacy.report.rerun import command
from fedprivacy.report.roc import Attack
from fedprivacy.report.rows import AGAINST_TWIN, Row
from fedprivacy.report.words import (
    MISSING,
    dataset_text,
    epsilon_text,
    protected_text,
    views_text,
)
from fedprivacy.result import CellResult, cell_folders

HTML_FILE = "report.html"
WORDS = (
    "epsilon proved: an upper bound on what any attacker can learn of one unit, computed from the "
    "ledger of everything that was released. infinite: nothing is proved, not that everything "
    "leaked.",
    "unit: whose privacy it is: one record, all records of one patient at a site, or a whole site. "
    "neighbouring relation: the two data sets that must look alike: zero_out (the unit's "
    "contribution "
    "is empty in one of them) or replace_one (it is another unit's; dearer).",
    "view: what the adversary sees: server_updates (every message of every site), aggregate (the "
    "averages), final_model. delta: the probability with which the bound may fail.",
    "epsilon measured: a lower bound that an attacker really showed; each is above the truth in at "
    "most 5 % of audits, the largest of several seeds' with the confidence that stands beside it. "
    "0 means that this attack found nothing; it is no evidence of privacy.",
    "verdict: proven (a finite total), partial (only some rounds are protected, and no audit has "
    "shown more; it says so where none was made, or none that tests the claim; not a good result), "
    "falsified (an audit rejects the claim to "
    "be as private as the protected rounds), unprotected (nothing is proved).",
    "seeded noise makes a run repeatable and its certificate a simulation. synthetic records stand "
    "in for real ones.",
)


def html_page(
    results: Sequence[CellResult],
    rows: Sequence[Row],
    prices: Mapping[str, Price],
    attacks: Sequence[Attack],
    folders: Sequence[Path],
    pictures: Mapping[str, Sequence[tuple[Path, str]]],
    unfinished: int,
) -> str:
    """The page.

    Args:
        results: every cell that has a result.
        rows: the same, seeds together.
        prices: by the ``cell_id`` of a row's first cell.
        attacks: membership attacks on audited rows.
        folders: of the sweeps, for the derivations.
        pictures: files without suffix and captions, by section.
        unfinished: cells that have no result yet.
    """
    names = ", ".join(dict.fromkeys(folder.resolve().name for folder in folders))
    sections = [
        (
            "overview",
            "Overview",
            _overview(results, rows, unfinished) + shown(pictures, "overview"),
        ),
        ("prices", "Price list", _prices(rows, prices) + shown(pictures, "prices")),
        ("findings", "The article's observations", _findings(results, rows, prices)),
        ("curves", "Curves by round and site", shown(pictures, "curves")),
        ("audits", "What an attacker showed", audits(rows, pictures)),
        ("membership", "Membership inference", shown(pictures, "roc") + membership(attacks)),
        ("reconstruction", "Reconstruction", reconstruction(rows, pictures)),
        ("derivations", "Derivation of every epsilon", _derivations(results, folders)),
        ("failures", "Failed and collapsed cells", _failures(results, rows)),
        ("rerun", "Commands to run each cell again", _commands(results)),
        ("words", "What the words mean", "".join(map(paragraph, WORDS)) + _elsewhere()),
        ("versions", "Versions", _versions(results)),
        ("how-we-count", "How we count", details("the whole page", markdown(how_we_count()))),
    ]
    return page(f"fedprivacy report: {names}", sections)


def _overview(results: Sequence[CellResult], rows: Sequence[Row], unfinished: int) -> str:
    counts: dict[str, int] = {}
    for cell in results:
        counts[cell.status] = counts.get(cell.status, 0) + 1
    told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    said = f"{len(results)} cells: {told}."
    if unfinished:
        said += f" {unfinished} cells have no result yet."
    made_up = sorted({cell.dataset for cell in results if cell.synthetic})
    if made_up:
        said += f" Synthetic stand-ins, not real patients: {', '.join(made_up)}."
    lines = [
        {
            "algorithm": row.algorithm,
            "schedule": row.schedule if row.protected else "-",
            "dataset": dataset_text(*row.dataset),
            "federation": row.first.federation,
            "score": "-" if row.score is None else f"{row.score.mean:.3f} {row.metric}",
            "seeds": str(len(row.cells)),
            "epsilon proved": views_text(row.privacy),
            "protected rounds": protected_text(row.privacy),
            "status": row.status,
            "verdict": verdict_text(row),
        }
        for row in rows
    ]
    return paragraph(said) + table(lines)


def _prices(rows: Sequence[Row], prices: Mapping[str, Price]) -> str:
    tables = price_tables(rows, prices)
    said = "".join(paragraph(note, "note") for note in notes(tables))
    return "".join(map(_price_table, tables)) + said + _harm(rows, prices) if tables else ""


def _harm(rows: Sequence[Row], prices: Mapping[str, Price]) -> str:
    """Every site and class, not only the worst."""
    lines = [
        {"dataset": dataset_text(*row.dataset), **line}
        for row in rows
        if row.protected
        for line in harm_lines(row, prices[row.first.cell_id])
    ]
    if not lines:
        return ""
    every = details(f"What every site and every class lost ({len(lines)})", table(lines))
    return every + paragraph(HARM, "note")


def _price_table(one: PriceTable) -> str:
    """The table without the columns that say nothing, then the sentences that a clinician reads."""
    columns = [
        name
        for name in COLUMNS
        if name != "clinician" and any(line[name] != MISSING for line in one.lines)
    ]
    said = "".join(map(paragraph, clinician_lines(one)))
    missing = "".join(paragraph(f"Not priced: {why}.", "note") for why in one.missing)
    return f"<h3>{text(one.title)}</h3>{table(one.lines, columns, one.values)}{said}{missing}"


def _findings(
    results: Sequence[CellResult], rows: Sequence[Row], prices: Mapping[str, Price]
) -> str:
    said = unsaid(rows, dict(prices))
    missing = "" if not said else "<h3>What the article could not say</h3>" + table(said)
    return table([one.line() for one in findings(results)]) + paragraph(RULES, "note") + missing


def _derivations(results: Sequence[CellResult], folders: Sequence[Path]) -> str:
    return "".join(
        details(f"{_name(cell)}: epsilon {epsilon_text(cell.privacy)}", _derivation(cell, folders))
        for cell in results
    )


def _derivation(cell: CellResult, folders: Sequence[Path]) -> str:
    from fedprivacy.explain_command import explanation
    from fedprivacy.recount import recount

    folder = cell_folders(folders).get(cell.cell_id)
    if cell.privacy is None or folder is None:
        return paragraph("Nothing was released, or the cell's folder is gone.")
    try:
        found = recount(folder)
        derived = explanation(found, found.statement)
    except FedPrivacyError as error:
        return paragraph(f"Not derived: {error}")
    if found.differences:
        return paragraph("Not derived: the ledger does not give what the result says.", "bad")
    return preformatted(derived)


def _failures(results: Sequence[CellResult], rows: Sequence[Row]) -> str:
    against = {
        cell.cell_id: f"score {cell.score.value:.3f}, twin {twin.score.value:.3f}, chance "
        f"{cell.score.chance:.3f}: next to nothing of what the twin learned"
        for row in rows
        for cell in row.cells
        for twin in row.twins
        if cell.cell_id in row.against_twin and twin.seed == cell.seed
        if cell.score is not None and twin.score is not None
    }
    lines = [
        {
            "cell": _name(cell),
            "status": AGAINST_TWIN if cell.cell_id in against else cell.status,
            "round": "" if cell.round is None else str(cell.round),
            "reason": against.get(cell.cell_id, cell.reason),
        }
        for cell in results
        if cell.status != "ok" or cell.cell_id in against
    ]
    traces = "".join(
        details(f"{_name(cell)}: traceback", preformatted(str(cell.error.get("traceback", ""))))
        for cell in results
        if cell.error
    )
    return table(lines) + traces if lines else ""


def _commands(results: Sequence[CellResult]) -> str:
    lines = [f"# {_name(cell)}\n{command(cell)}" for cell in results]
    return paragraph(RERUN, "note") + preformatted("\n".join(lines)) if lines else ""


def _name(cell: CellResult) -> str:
    words = [cell.algorithm, cell.schedule, cell.dataset, cell.federation, f"s{cell.seed}"]
    return f"{' '.join(words)} ({cell.cell_id})"


def _elsewhere() -> str:
    return (
        "<p>The threat model, every unit and relation, and what is outside each guarantee: "
        '<a href="#how-we-count">how we count</a> (docs/how-we-count.md of the project); of one '
        "cell: <code>fedprivacy explain ID</code>.</p>"
    )


def _versions(results: Sequence[CellResult]) -> str:
    found: dict[str, set[str]] = {}
    for cell in results:
        for name, version in cell.versions.items():
            found.setdefault(name, set()).add(version)
    machines = ", ".join(sorted({f"{cell.engine} on {cell.device}" for cell in results}))
    lines = [{"package": k, "version": ", ".join(sorted(v))} for k, v in sorted(found.items())]
    return table(lines) + paragraph(f"Engine: {machines}.")
