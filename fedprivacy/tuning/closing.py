"""The end of a study: confirm, recommend, price the search, and write it all down."""

from __future__ import annotations

import csv
import io
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedprivacy.accounting.ledger import Ledger
from fedprivacy.data.base import records_per_patient
from fedprivacy.data.cache import load_data
from fedprivacy.report.files import write_text
from fedprivacy.result import write_json
from fedprivacy.tuning import floor as twin
from fedprivacy.tuning import recommendation, trial
from fedprivacy.tuning.guidance import Guidance, guide
from fedprivacy.tuning.outcome import outcome_of
from fedprivacy.tuning.recommendation import Candidate, candidates, choose, confirm
from fedprivacy.tuning.recommended_file import rerun_command, write_recommended
from fedprivacy.tuning.search import Search
from fedprivacy.tuning.search_price import (
    RANDOM,
    SearchPrice,
    price_search,
    read_ledgers,
    resolve_scheme,
)
from fedprivacy.tuning.storage import JOURNAL, dashboard_command
from fedprivacy.tuning.trial import CLAIM, Recorder
from fedprivacy.tuning.worker import count

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

SUMMARY, TABLE = "study.json", "trials.csv"
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
    chosen = found if tuning.mode == "front" else found[: max(1, tuning.confirm)]
    if tuning.confirm:
        chosen = confirm(chosen, search.config, search.composer, search.floor, record)
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
        records_per_patient=records_per_patient(data),
    )


def ledgers_of(search: Search, trials: Sequence[FrozenTrial]) -> tuple[list[Ledger], int]:
    """What every run of the study released, and of how many trials that is not known here."""
    tuning = search.config.tuning
    places = [
        Path(tuning.dir) / name for name in (trial.TRIALS, twin.FOLDER, recommendation.FOLDER)
    ]
    ledgers, unreadable = read_ledgers([place for place in places if place.is_dir()])
    trained = [t for t in trials if (o := outcome_of(t)) is not None and o.cell_rounds > 0]
    elsewhere = [t for t in trained if not trial.trial_folder(tuning, t.number).is_dir()]
    return ledgers, unreadable + len(elsewhere)


def _written(closed: Closed) -> Closed:
    folder = Path(closed.search.config.tuning.dir)
    write_json(folder / SUMMARY, summary(closed))
    paths = [*closed.paths, folder / SUMMARY]
    if closed.search.config.tuning.publish == "all":
        paths.append(write_text(folder / TABLE, trials_csv(closed.trials)))
    return replace(closed, paths=tuple(paths))


def summary(closed: Closed) -> dict[str, Any]:
    """The study as JSON values; of a private search, no more than the recommended trial."""
    search, tuning = closed.search, closed.search.config.tuning
    best_only = tuning.publish == "best_only"
    counts = count(closed.trials)
    shown = [closed.recommended] if best_only and closed.recommended else closed.best
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
        "best": [candidate.to_json() for candidate in shown if candidate],
        "recommended": closed.recommended and closed.recommended.to_json(),
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


def forget(closed: Closed) -> None:
    """Delete everything of a private search but the recommended trial: only that is published."""
    search, tuning = closed.search, closed.search.config.tuning
    folder = Path(tuning.dir)
    kept = str(closed.recommended.trial) if closed.recommended else None
    for path in (folder / trial.TRIALS).glob("*"):
        if path.name != kept:
            shutil.rmtree(path)
    if kept is not None:
        # Its number would tell that so many were tried.
        (folder / trial.TRIALS / kept).rename(folder / trial.TRIALS / "best")
    import optuna

    optuna.delete_study(study_name=search.study.study_name, storage=search.storage)
    if tuning.storage is None:
        (folder / JOURNAL).unlink(missing_ok=True)


def is_private(search: Search) -> bool:
    """Whether nothing but the recommended trial may outlive the study."""
    tuning = search.config.tuning
    return tuning.publish == "best_only" or tuning.search_price.scheme == RANDOM


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
