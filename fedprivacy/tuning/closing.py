"""The end of a study: confirm, recommend, price the search, and write it all down."""

from __future__ import annotations

import csv
import io
import json
import shutil
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedprivacy.accounting.ledger import Ledger
from fedprivacy.config.schema import CellConfig, TuningConf
from fedprivacy.data.cache import load_data
from fedprivacy.report.files import write_text
from fedprivacy.result import write_json
from fedprivacy.tuning import floor as twin
from fedprivacy.tuning import recommendation, trial
from fedprivacy.tuning.guidance import Guidance, guide
from fedprivacy.tuning.outcome import outcome_of
from fedprivacy.tuning.ownership import RETRY_OF
from fedprivacy.tuning.recommendation import Candidate, candidates, choose, confirm
from fedprivacy.tuning.recommended_file import rerun_command, write_recommended
from fedprivacy.tuning.search import Search
from fedprivacy.tuning.search_price import (
    SearchPrice,
    keeps_best_only,
    price_search,
    read_ledgers,
    resolve_scheme,
)
from fedprivacy.tuning.storage import JOURNAL, dashboard_command, open_storage
from fedprivacy.tuning.trial import CLAIM, Recorder
from fedprivacy.tuning.worker import count

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

SUMMARY, TABLE, PENDING = "study.json", "trials.csv", ".closing.json"
SCHEMA = 1


@dataclass(frozen=True)
class Closed:
    """What a finished study leaves.

    Attributes:
        search: the study.
        trials: all of them.
        best: candidates, the best first (front: ascending in epsilon), confirmed where asked for.
        recommended: one of them; None where no trial came to anything.
        price: of the search; None where nothing was released.
        paths: files written.
        guidance: what the study teaches; None of a private search.
    """

    search: Search
    trials: tuple[FrozenTrial, ...]
    best: tuple[Candidate, ...]
    recommended: Candidate | None
    price: SearchPrice | None
    paths: tuple[Path, ...]
    guidance: Guidance | None = None


def close_study(search: Search, record: Recorder) -> Closed:
    """Confirm the best settings and write the study's files; the same again where it was closed."""
    tuning = search.config.tuning
    trials = tuple(search.study.get_trials(deepcopy=False))
    found = candidates(trials, tuning.mode)
    chosen = _confirmed(search, found, record)
    recommended = choose(chosen, tuning)
    price = _price(search, trials, recommended)
    paths = []
    if recommended is not None:
        claim = search.study.user_attrs[CLAIM]
        paths.append(write_recommended(recommended, search.config, search.composer, claim))
    guidance = None
    if not is_private(search):
        claim = search.study.user_attrs.get(CLAIM)
        guidance = guide(search, trials, chosen, recommended, claim)
        paths += guidance.paths
    closed = Closed(search, trials, tuple(chosen), recommended, price, tuple(paths), guidance)
    return _written(closed)


def _confirmed(search: Search, found: Sequence[Candidate], record: Recorder) -> list[Candidate]:
    """The best candidates on fresh seeds.

    Where the least epsilon is sought the first candidates are those that luck put lowest: the
    search goes on upwards until one holds.
    """
    tuning = search.config.tuning
    many = len(found) if tuning.mode == "front" else max(1, tuning.confirm)
    if not tuning.confirm:
        return list(found[:many])
    chosen = list[Candidate]()
    for start in range(0, len(found), max(1, many)):
        batch = found[start : start + many]
        chosen += confirm(batch, search.config, search.composer, search.floor, record)
        held = any(candidate.feasible for candidate in chosen)
        above = found[start + many : start + many + 1]
        if tuning.mode != "floor" or held or not above or not above[0].feasible:
            break
    return chosen


def _price(
    search: Search, trials: Sequence[FrozenTrial], recommended: Candidate | None
) -> SearchPrice | None:
    tuning, claim = search.config.tuning, search.study.user_attrs.get(CLAIM)
    if claim is None:
        return None
    data = load_data(search.config.dataset)
    ledgers, missing = ledgers_of(search, trials)
    return price_search(
        resolve_scheme(tuning.search_price.scheme, data.synthetic),
        ledgers,
        missing,
        claim,
        recommended.epsilon if recommended else None,
        mean_trials=tuning.n_trials,
        shape=tuning.search_price.shape,
        records_per_patient=data.records_per_patient,
    )


def ledgers_of(search: Search, trials: Sequence[FrozenTrial]) -> tuple[list[Ledger], int]:
    """What every run of the study released, and of how many trials that is not known here."""
    tuning = search.config.tuning
    own = (trial.TRIALS, twin.FOLDER, recommendation.FOLDER)
    places = [*(Path(tuning.dir) / name for name in own), *search.beside]
    ledgers, unreadable = read_ledgers([place for place in places if place.is_dir()])
    trained = [t for t in trials if (o := outcome_of(t)) is not None and o.cell_rounds > 0]
    elsewhere = [t for t in trained if not trial.trial_folder(tuning, t.number).is_dir()]
    again, unknown = _broken_off(tuning, trials)
    return [*ledgers, *again], unreadable + len(elsewhere) + unknown


def _broken_off(tuning: TuningConf, trials: Sequence[FrozenTrial]) -> tuple[list[Ledger], int]:
    """What trials of dead workers released at most, and of how many that is not known.

    The ledger of a run is written at its end. A trial that was tried again with the same settings
    released no more than its repetition, which is therefore counted twice.
    """
    repeated = {one.user_attrs.get(RETRY_OF): one for one in trials}
    found, unknown = list[Ledger](), 0
    for one in trials:
        if one.state.name != "FAIL" or outcome_of(one) is not None:
            continue
        ledgers, bad = list[Ledger](), 1
        retry = repeated.get(one.number)
        if retry is not None and retry.state.name in ("COMPLETE", "PRUNED"):
            ledgers, bad = read_ledgers([trial.trial_folder(tuning, retry.number)])
        found += ledgers
        unknown += bad
    return found, unknown


def _written(closed: Closed) -> Closed:
    search, folder = closed.search, Path(closed.search.config.tuning.dir)
    told = summary(closed)
    if is_private(search):
        # The rest is deleted first, so that a study that is told of is one that was forgotten.
        kept = None if closed.recommended is None else closed.recommended.trial
        write_json(folder / PENDING, {"kept": kept, "summary": told})
    else:
        write_json(folder / SUMMARY, told)
    paths = [*closed.paths, folder / SUMMARY]
    if not is_private(search):
        paths.append(write_text(folder / TABLE, trials_csv(closed.trials)))
    return replace(closed, paths=tuple(paths))


def summary(closed: Closed) -> dict[str, Any]:
    """The study as JSON values; of a private search, no more than the recommended trial."""
    search, tuning = closed.search, closed.search.config.tuning
    best_only = is_private(search)
    counts = count(closed.trials)
    best = [candidate.to_json() for candidate in closed.best]
    recommended = None if closed.recommended is None else closed.recommended.to_json()
    if best_only and recommended is not None:
        # Its number would tell that so many were tried.
        recommended["trial"] = None
        best = [recommended]
    return {
        "schema": SCHEMA,
        "study": tuning.name,
        "mode": tuning.mode,
        "budget": tuning.budget if tuning.mode == "budget" else None,
        "dataset": search.config.dataset.name,
        "synthetic": search.config.dataset.source == "synthetic",
        "claim": search.study.user_attrs.get(CLAIM),
        "floor": search.floor.to_json(),
        "trials": None if best_only else {**vars(counts), "asked": search.n_trials},
        "best": best,
        "recommended": recommended,
        "rerun": rerun_command(search.config) if closed.recommended else None,
        "price": closed.price and closed.price.to_json(),
        "space": {p.key: p.to_json() for p in search.space},
        "importance": closed.guidance and dict(closed.guidance.importance),
        "advice": closed.guidance and closed.guidance.advice,
    }


def trials_csv(trials: Sequence[FrozenTrial]) -> str:
    """One line a trial: its settings, what came out, and why."""
    keys = sorted({key for one in trials for key in one.params})
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ["trial", "state", "status", "rule", "score", "epsilon", "noise_multiplier", "below_floor",
         "feasible", "cell_rounds", "seconds", "origin", *keys, "reason"]
    )  # fmt: skip
    for one in trials:
        outcome = outcome_of(one)
        if outcome is None:
            writer.writerow([one.number, one.state.name, *[""] * (10 + len(keys)), "no outcome"])
            continue
        writer.writerow(
            [one.number, one.state.name, outcome.status, outcome.rule, _cell(outcome.score),
             _cell(outcome.epsilon), _cell(outcome.noise_multiplier), _cell(outcome.below_floor),
             outcome.feasible, outcome.cell_rounds, outcome.seconds,
             one.user_attrs.get("origin", "sampler"), *[one.params.get(key, "") for key in keys],
             outcome.reason]
        )  # fmt: skip
    return stream.getvalue()


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def forget(config: CellConfig) -> bool:
    """Delete all of a private search but the recommended trial; whether it was at its end.

    Begun over again where it was broken off: only then is the study told of.
    """
    import optuna

    tuning = config.tuning
    folder = Path(tuning.dir)
    if not (folder / PENDING).is_file():
        return (folder / SUMMARY).is_file()
    pending = json.loads((folder / PENDING).read_text(encoding="utf-8"))
    best = folder / trial.TRIALS / "best"
    kept = folder / trial.TRIALS / str(pending["kept"])
    if kept.is_dir():
        # Its number would tell that so many were tried.
        kept.rename(best)
    for path in [*(folder / trial.TRIALS).glob("*"), folder / recommendation.FOLDER]:
        if path != best and path.is_dir():
            shutil.rmtree(path)
    with suppress(KeyError):
        optuna.delete_study(study_name=tuning.name, storage=open_storage(tuning))
    if tuning.storage is None:
        (folder / JOURNAL).unlink(missing_ok=True)
    write_json(folder / SUMMARY, pending["summary"])
    (folder / PENDING).unlink()
    return True


def is_private(search: Search) -> bool:
    """Whether nothing but the recommended trial may outlive the study."""
    return keeps_best_only(search.config.tuning)


def closing_words(closed: Closed) -> str:
    """What a finished study says."""
    search, tuning = closed.search, closed.search.config.tuning
    lines = []
    if closed.recommended is None:
        lines.append("no trial came to anything: there is nothing to recommend")
    else:
        lines += _recommended_words(closed)
    if closed.price is not None:
        lines.append(price_words(closed.price))
    if closed.guidance is not None:
        lines += textwrap.wrap(closed.guidance.advice, 100)
    lines += [f"wrote {path}" for path in closed.paths]
    if not is_private(search):
        lines.append(f"watch it: {dashboard_command(tuning)}")
    return "\n".join(lines)


def _recommended_words(closed: Closed) -> list[str]:
    best = closed.recommended
    assert best is not None
    claim = closed.search.study.user_attrs[CLAIM]
    word = "" if best.feasible else " (NOT feasible: no setting stayed within budget and floor)"
    settings = " ".join(f"{key}={value}" for key, value in best.settings.items())
    fresh = f", mean of {len(best.confirmed)} fresh seeds" if best.confirmed else ""
    return [
        f"recommended{word}: {settings}",
        f"  score {best.score:.4f}{fresh}; floor: {closed.search.floor.source}",
        f"  epsilon {best.epsilon:.4g} of one run, proved: unit {claim['unit']}, "
        f"{claim['neighbouring']}, view {claim['view']}, delta {claim['delta']:.3g}; "
        f"noise multiplier {best.outcome.noise_multiplier:.5g}",
        f"  run it: {rerun_command(closed.search.config)}",
    ]


def price_words(price: SearchPrice) -> str:
    """What the search cost, in a line."""
    single = "none" if price.epsilon_single is None else f"{price.epsilon_single:.4g}"
    if price.infinite:
        total = f"infinite ({price.reason})"
    elif price.epsilon_search is None:
        total = f"not counted: {price.reason}; if they were patients', {price.if_private}"
    else:
        total = f"{price.epsilon_search:.4g}"
    return (
        f"price of searching ({price.scheme}): epsilon of one run {single}, of the search {total}"
    )
