"""Addresses in MLflow's web interface (the paths of MLflow 3.17; they live after the ``#``)."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from fedprivacy.report.words import ALGORITHMS, rank
from fedprivacy.tracking.connection import TrackingError, shown
from fedprivacy.tracking.runs import SUMMARY_KIND, quoted, search_sweep
from fedprivacy.tracking.store import open_store

MAX_DRAWN = 10
"""MLflow's charts draw the newest ten runs of a search until the others are switched on."""
LOCAL_UI = "http://127.0.0.1:5000"
MAX_COMPARED = 60
"""Beyond this the comparison page, one column per run, is slow and of no use."""


@dataclass(frozen=True)
class _Scored:
    """A run that has a score."""

    run_id: str
    algorithm: str


def compare_url(run_ids: Sequence[str], experiment_id: str, base: str = LOCAL_UI) -> str:
    """The page that compares runs side by side, with parallel coordinates and scatter plots.

    It draws only metrics that all the runs have, so leave out runs without a score.
    """
    runs = quote(json.dumps(list(run_ids), separators=(",", ":")), safe="")
    experiments = quote(json.dumps([experiment_id]), safe="")
    return f"{base.rstrip('/')}/#/compare-runs?runs={runs}&experiments={experiments}"


def charts_url(experiment_id: str, base: str = LOCAL_UI, search: str = "") -> str:
    """The experiment's runs as charts by round.

    Args:
        experiment_id: the experiment.
        base: address of the web interface.
        search: filter in MLflow's search language, for example ``tags.dataset="higgs"``.
    """
    url = f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs?compareRunsMode=CHART"
    return f"{url}&searchFilter={quote(search, safe='')}" if search else url


def sweep_links(uri: str, experiment: str, sweep_id: str) -> str:
    """Lines to print at the end of a sweep: charts of each dataset, and the cells compared.

    Where a dataset has more runs than MLflow draws, its charts leave the unprotected ones out,
    and if that is not enough, each algorithm has charts of its own. A store that cannot be used
    gives one line that says so.

    Args:
        uri: MLflow tracking URI; of a server, its own address is used in the links.
        experiment: name of the experiment.
        sweep_id: the sweep's id.
    """
    try:
        with open_store(uri, experiment) as (client, experiment_id):
            by_dataset = _scored_runs(client, experiment_id, sweep_id)
    except TrackingError as error:
        return f"MLflow: {error}"
    served = uri.startswith(("http://", "https://"))
    base = uri if served else LOCAL_UI
    lines = ["MLflow:" if served else f"MLflow: start it with `make ui`, or\n  {_ui_command(uri)}"]
    within = "" if sweep_id == experiment else f" and tags.`sweep.id`={quoted(sweep_id)}"
    for dataset, runs in sorted(by_dataset.items()):
        for name, search in _searches(dataset, [run.algorithm for run in runs]):
            lines.append(f"  charts of {name}: {charts_url(experiment_id, base, search + within)}")
    every = [run.run_id for runs in by_dataset.values() for run in runs]
    if len(every) <= MAX_COMPARED:
        lines.append(f"  all cells compared: {compare_url(every, experiment_id, base)}")
    else:
        for dataset, runs in sorted(by_dataset.items()):
            first = [run.run_id for run in runs[:MAX_COMPARED]]
            url = compare_url(first, experiment_id, base)
            lines.append(f"  cells of {dataset} compared: {url}")
    return "\n".join(lines)


def _ui_command(uri: str) -> str:
    return f"mlflow server --backend-store-uri '{shown(uri)}' --port {LOCAL_UI.rpartition(':')[2]}"


def _searches(dataset: str, algorithms: Sequence[str]) -> list[tuple[str, str]]:
    """What to draw together, as name and filter, so that MLflow draws all of it."""
    whole = f"tags.dataset={quoted(dataset)}"
    protected = [name for name in algorithms if name != "none"]
    if len(algorithms) <= MAX_DRAWN or not protected:
        return [(dataset, whole)]
    if len(protected) <= MAX_DRAWN:
        return [(dataset, f'{whole} and tags.algorithm!="none"')]
    return [
        (f"{dataset}, {name}", f"{whole} and tags.algorithm={quoted(name)}")
        for name in sorted(set(protected), key=lambda name: rank(ALGORITHMS, name))
    ]


def _scored_runs(client: object, experiment_id: str, sweep_id: str) -> dict[str, list[_Scored]]:
    """Runs of the sweep that have a score, by dataset, oldest first."""
    found: dict[str, list[_Scored]] = defaultdict(list)
    for run in reversed(search_sweep(client, experiment_id, sweep_id)):
        tags = run.data.tags
        if tags.get("kind") != SUMMARY_KIND and tags.get("status") != "failed":
            found[tags["dataset"]].append(_Scored(run.info.run_id, tags["algorithm"]))
    return found
