"""``fedprivacy explain``: how the epsilon of a cell was derived, recomputed from its ledger."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fedprivacy.accounting.claims import Claim
from fedprivacy.accounting.delta import default_delta
from fedprivacy.accounting.events import Event
from fedprivacy.accounting.explanation import describe, explain
from fedprivacy.accounting.history import history
from fedprivacy.accounting.ledger import Ledger
from fedprivacy.accounting.reasons import round_words
from fedprivacy.accounting.statement import COMMON_DELTA, PrivacyStatement
from fedprivacy.accounting.units import UNITS, VIEWS
from fedprivacy.errors import AccountingError, DataError
from fedprivacy.recount import Recount, recount
from fedprivacy.result import LEDGER_FILE, RESULT_FILE, CellResult

OK, FAILED, BAD_INPUT = 0, 1, 2
OUTPUTS = Path("outputs")
_ID = re.compile(r"[0-9a-f]{4,12}")
_FIRST = 8


def main(argv: Sequence[str]) -> int:
    """Explain the cell named after ``fedprivacy explain``; returns the exit status.

    0: explained. 1: the ledger is missing, damaged or gives another epsilon than the result says.
    2: no such cell, one that left no privacy statement, or an option that is not allowed.
    """
    args = _parser().parse_args(list(argv))
    try:
        folder = find_cell(args.cell, OUTPUTS)
        found = recount(folder)
        _check_delta(args.delta, found.result)
    except DataError as error:
        return _refuse(str(error), BAD_INPUT)
    except AccountingError as error:
        return _refuse(f"{error}. Nothing is explained: run the cell again", FAILED)
    if found.differences:
        return _refuse(_mismatch(found), FAILED)
    try:
        statement = found.restated(delta=args.delta, unit=args.unit, view=args.view)
    except AccountingError as error:
        return _refuse(str(error), BAD_INPUT)
    print(explanation(found, statement), end="")
    return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedprivacy explain",
        description=f"How a cell's epsilon was derived, recomputed from its {LEDGER_FILE}; "
        f"refused if that gives another number than its {RESULT_FILE}",
        epilog="What the numbers mean: docs/how-we-count.md",
    )
    parser.add_argument(
        "cell",
        metavar="CELL",
        help=f"folder of a cell, or its id (or the start of it), looked for in {OUTPUTS}/*/",
    )
    parser.add_argument(
        "--delta", type=float, metavar="D", help="at another delta, not above the default"
    )
    parser.add_argument("--unit", choices=UNITS, help="whose privacy (default: as in the result)")
    parser.add_argument("--view", choices=VIEWS, help="what the adversary sees (default: the same)")
    return parser


def _refuse(text: str, status: int) -> int:
    print(f"error: {text}", file=sys.stderr)
    return status


def find_cell(name: str, outputs: Path) -> Path:
    """The folder of a cell: ``name`` itself, or the one below ``outputs/*/`` whose id it begins.

    Raises:
        DataError: there is none, or more than one; the message says what to type.
    """
    path = Path(name)
    folder = path.parent if path.name in (RESULT_FILE, LEDGER_FILE) else path
    if (folder / RESULT_FILE).is_file():
        return folder
    if folder.is_dir():
        cells = sorted(found.parent for found in folder.glob(f"*/{RESULT_FILE}"))
        if cells:
            raise DataError(
                f"{name} holds {len(cells)} cells; give one of them, for example {cells[0]}"
            )
        raise DataError(f"{name} has no {RESULT_FILE}: give the folder of a finished cell")
    known = sorted(found.parent for found in outputs.glob(f"*/*/{RESULT_FILE}"))
    matches = [cell for cell in known if _ID.fullmatch(name) and cell.name.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        listed = ", ".join(str(cell) for cell in matches[:_FIRST])
        raise DataError(f"{name} names {len(matches)} cells, give the folder of one: {listed}")
    there = f"for example {known[0]}" if known else "there is none yet: fedprivacy run +sweeps=demo"
    raise DataError(
        f"no cell {name!r}: neither a folder nor the start (4 to 12 hex digits) of a folder's name "
        f"in {outputs}/*/; give one that is there, {there}"
    )


def _check_delta(delta: float | None, result: CellResult) -> None:
    if delta is None:
        return
    # A cell on pooled records has one site, which is then the largest.
    sizes = [size.get("train", 0) for size in result.sites.values()]
    largest = default_delta(max(sizes, default=0) or 1)
    if not 1e-10 <= delta <= largest:
        raise DataError(
            f"--delta {delta:g} is not allowed: 1e-10 to min(1e-5, 1 / (10 n)) = {largest:g}, n "
            "the training records of the largest site"
        )


def _mismatch(found: Recount) -> str:
    rest = len(found.differences) - _FIRST
    lines = [
        f"{found.folder}: the ledger does not give what the result says. Nothing is explained.",
        *(f"  {line}" for line in found.differences[:_FIRST]),
        *([f"  and {rest} more"] if rest > 0 else []),
        f"  accountant then: {(found.result.privacy or {}).get('accountant')}; "
        f"now: {found.statement.accountant}",
        "One of the two files was changed, or another version of the accountant wrote them; run "
        "the cell again: delete its folder and repeat its command.",
    ]
    return "\n".join(lines)


def explanation(found: Recount, statement: PrivacyStatement) -> str:
    """The whole text: what the cell is, the derivation, and every figure beside the headline."""
    parts = (
        _about(found, statement),
        explain(statement).splitlines(),
        _section("Parameters of the releases:", _parameters(statement.claim)),
        _section("What the accountant adds up, in any order:", _sums(statement.claim)),
        _section("Rounds:", _rounds(statement)),
        _section("The same releases, for each unit:", _claims(statement.per_unit.items())),
        _section("The same releases, against each adversary:", _claims(statement.per_view.items())),
        [f"Each in full: fedprivacy explain {found.result.cell_id} --unit UNIT --view VIEW"],
        _section("What the proof leaves to any attacker, worst site:", _caps(statement)),
        *([_section("What-if:", iter(supposed))] if (supposed := _what_if(found)) else []),
    )
    body = "\n\n".join("\n".join(part).rstrip() for part in parts)
    return body + "\n\nWhat each of these numbers means: docs/how-we-count.md\n"


def _section(title: str, lines: Iterator[str]) -> list[str]:
    return [title, *(f"  {line}" for line in lines)]


def _about(found: Recount, statement: PrivacyStatement) -> list[str]:
    cell, headline = found.result, found.statement
    kind = "synthetic records" if cell.synthetic else "real records"
    lines = [
        f"Cell {cell.cell_id}: algorithm {cell.algorithm}, schedule {cell.schedule}, dataset "
        f"{cell.dataset} ({kind}), federation {cell.federation}, seed {cell.seed}; {cell.status}",
        f"Recomputed from {len(found.ledger)} events in {LEDGER_FILE}: agrees with {RESULT_FILE}.",
    ]
    asked = [
        f"{key} {getattr(statement, key)} instead of {getattr(headline, key)}"
        for key in ("delta", "unit", "view")
        if getattr(statement, key) != getattr(headline, key)
    ]
    if asked:
        lines.append(f"Asked for: {', '.join(asked)}. {RESULT_FILE} states the other.")
    if statement.randomness == "seeded":
        lines.append(
            "Seeded run: whoever knows the seed can subtract the noise. Every bound below is a "
            "simulation of the certificate that secret randomness would give."
        )
    return lines


def _parameters(subject: Claim) -> Iterator[str]:
    """The events' details; equal ones once, with the rounds and sites that had them."""
    every = Ledger(subject.events).sites
    groups: dict[tuple[str, str], list[Event]] = {}
    for event in subject.events:
        said = ", ".join(f"{key}={_value(value)}" for key, value in event.details.items())
        groups.setdefault((event.mechanism, said), []).append(event)
    for (mechanism, said), events in groups.items():
        names = Ledger(tuple(events)).sites
        sites = "every site" if names == every else ", ".join(names)
        where = f"{len(events)} events ({round_words(events)}; {sites})"
        yield f"{where}: {mechanism}: {said or 'none'}"
    if not groups:
        yield "none: nothing is proved for this unit and view"


def _value(value: float | int | str) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _sums(subject: Claim) -> Iterator[str]:
    """Per site: how often each elementary mechanism was applied, as the accountant counts it."""
    ledger = Ledger(subject.events)
    alike: dict[tuple[str, ...], list[str]] = {}
    for name in ledger.sites:
        events = ledger.site(name).events
        counted = history(event.dp_event for event in events)
        alone = history(event.dp_event for event in events if event.protected)
        if counted is not None:
            lines = tuple(f"{count} x {describe(event)}" for event, count in counted)
        elif alone:
            words = [f"{count} x {describe(event)}" for event, count in alone]
            lines = ("a raw release: infinite", *(f"protected alone: {word}" for word in words))
        else:
            lines = ("a release that nothing bounds: infinite",)
        alike.setdefault(lines or ("nothing",), []).append(name)
    for lines, names in alike.items():
        yield f"{', '.join(names)}: " + "; ".join(lines)
    if any("Gaussian noise" in line and "[" not in line for lines in alike for line in lines):
        yield "(Gaussians without sampling are one Gaussian: 1/z^2 = sum of 1/z_i^2, exactly)"


def _rounds(statement: PrivacyStatement) -> Iterator[str]:
    ran, kept = statement.rounds, statement.protected_rounds
    share = f" ({kept / ran:.0%})" if ran else ""
    yield f"protected: {kept} of {ran}{share}"
    if statement.epsilon_protected is not None:
        alone = _epsilon(statement.epsilon_protected)
        yield (
            f"epsilon of the protected rounds alone: {alone}; it holds for an adversary who sees "
            "nothing of the other rounds and nothing computed from them"
            if kept < ran
            else f"epsilon of the protected rounds alone: {alone}; they are all rounds"
        )
    exposed = [event for event in statement.claim.events if event.round in statement.exposed_rounds]
    if statement.exposed_rounds:
        where = round_words(exposed) if exposed else f"{len(set(statement.exposed_rounds))} rounds"
        yield f"releases that nothing bounds: {len(statement.exposed_rounds)}, in {where}"
    else:
        yield "releases that nothing bounds: none"
    if statement.delta != COMMON_DELTA:
        common = _epsilon(statement.epsilon_at_common_delta)
        yield f"epsilon at delta {COMMON_DELTA:g}, for comparing runs: {common}"


def _claims(claims: Iterable[tuple[str, Claim]]) -> Iterator[str]:
    for name, item in claims:
        value = _epsilon(item.total.epsilon)
        relation = f" ({item.neighbouring})" if item.neighbouring else ""
        why = item.reason if math.isinf(item.total.epsilon) else item.derivation
        yield f"{name}: {value}{relation}: {why}"


def _caps(statement: PrivacyStatement) -> Iterator[str]:
    caps = statement.caps
    if statement.infinite and caps.max_advantage >= 1:
        yield "nothing is capped: the proof allows an attack that is always right"
        return
    for rate, cap in caps.max_tpr.items():
        yield f"true-positive rate at false-positive rate {rate:g}: at most {cap:.4f}"
    yield f"advantage (true minus false positives): at most {caps.max_advantage:.4f}"
    if caps.mu_gdp is not None:
        yield f"Gaussian DP: mu {caps.mu_gdp:.4f} (misfit of that one number {caps.mu_regret:.4f})"


def _what_if(found: Recount) -> list[str]:
    """A figure without guarantee, only under that name; none for most cells."""
    said = (found.result.privacy or {}).get("what_if")
    if not said:
        return []
    return [
        f"mu {said['mu']:.4g}, epsilon {said['epsilon']:.4g} at delta {said['delta']:g} over "
        f"{said['rounds']} rounds, of one {said['unit']} ({said['neighbouring']})",
        said["about"],
        "It rests on the norms of the raw updates, which are not in the ledger.",
    ]


def _epsilon(value: float) -> str:
    return "infinite" if math.isinf(value) else f"{value:.4f}"
