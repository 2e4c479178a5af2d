"""Our tuner against random search and a fixed hand grid, at equal numbers of cell-rounds.

For each dataset and study seed, three searches at a total epsilon of 3, each until it has run the
same number of cell-rounds: ``tuner`` (fedprivacy tune as shipped, confirmation runs included),
``random`` (random settings from the same space, nothing pruned) and ``grid`` (the article's way: a
hand grid of learning rate, clip norm and sampling rate, in random order). Of each: the score of
its best feasible setting, measured with fresh seeds that no search saw; the share of its cells
that collapsed; and the cell-rounds after which it had found 95 % of the best score of all three.
Also the tuner's own time per trial, beside training and calibration.

    python benchmarks/tuning.py --json FILE [--datasets wisconsin higgs] [--seeds 5] [--rounds 240]
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median

import torch
from common.machine import machine
from optuna.trial import TrialState

from fedprivacy.cell import run_cell
from fedprivacy.config.composer import Composer
from fedprivacy.config.schema import CellConfig
from fedprivacy.config.store import register
from fedprivacy.mechanisms import calibration
from fedprivacy.tuning.outcome import outcome_of
from fedprivacy.tuning.planning import plan_cell
from fedprivacy.tuning.recommendation import Candidate, candidates, choose, confirm, confirmations
from fedprivacy.tuning.search import Search, open_search, prepare
from fedprivacy.tuning.space import Value
from fedprivacy.tuning.trial import TrialRunner

BUDGET = 3.0
FRESH_SEEDS = tuple(range(9001, 9011))
REACHED = 0.95
ARMS: dict[str, list[str]] = {
    "tuner": [],
    "random": [
        "tuning.sampler=random", "tuning.warm_start.rules=false", "tuning.pruning.median=false",
        "tuning.pruning.chance_rounds=0", "tuning.pruning.reach=0", "tuning.confirm=0",
        "tuning.warm_start.spread=0",
    ],
    "grid": [
        "tuning.sampler=random", "tuning.warm_start.rules=false", "tuning.pruning.median=false",
        "tuning.pruning.chance_rounds=0", "tuning.pruning.reach=0", "tuning.confirm=0",
        "tuning.warm_start.spread=0",
    ],
}  # fmt: skip
# Decades, which is what one writes down before one has seen a result.
HAND_GRID = {
    "federation.lr": (0.01, 0.1, 1.0),
    "algorithm.max_grad_norm": (0.1, 1.0, 10.0),
}
HAND_RATES = {"wisconsin": (0.1, 0.2, 0.5), "higgs": (0.05, 0.1, 0.2)}


@dataclass
class Arm:
    """What one search came to."""

    search: Search
    cell_rounds: int
    collapsed: int
    trials: int
    best: Candidate | None
    curve: list[tuple[int, float]]
    overheads_s: list[float]


def run_arm(dataset: str, arm: str, seed: int, rounds: int, folder: Path) -> Arm:
    """Search until the cell-rounds are spent."""
    words = [
        f"+sweeps=tune_{dataset}", f"tuning.budget={BUDGET}", f"tuning.name={arm}_{seed}",
        f"tuning.dir={folder / dataset / f'{arm}_{seed}'}", f"tuning.sampler_seed={seed}",
        f"seed={100 * seed}", "tracking.enabled=false", *ARMS[arm],
    ]  # fmt: skip
    composer = Composer(tuple(words))
    config, space = prepare(composer)
    search = open_search(config, space, composer, lambda *_: None)
    grid = queue_grid(search, dataset, seed) if arm == "grid" else None
    saved = confirmation_rounds(config)
    runner = TrialRunner(search.study, config, space, composer, search.floor, lambda *_: None)
    spent, curve, overheads = 0, [(0, -1.0)], []
    while spent < rounds - saved and grid != 0:
        with calibrating() as calibrated:
            started = time.perf_counter()
            outcome = runner.run(search.study.ask())
            wall = time.perf_counter() - started
        overheads.append(wall - outcome.seconds - calibrated[0])
        spent += outcome.cell_rounds
        if outcome.feasible and outcome.score is not None and outcome.score > curve[-1][1]:
            curve.append((spent, outcome.score))
        grid = None if grid is None else grid - 1
    best, confirming = conclude(search)
    outcomes = [o for o in map(outcome_of, search.study.trials) if o is not None]
    trained = [outcome for outcome in outcomes if outcome.cell_rounds]
    return Arm(
        search, spent + confirming, sum(o.collapsed for o in trained), len(trained), best, curve,
        overheads,
    )  # fmt: skip


def queue_grid(search: Search, dataset: str, seed: int) -> int:
    """Queue the hand grid, everything else at its default; how many settings."""
    from fedprivacy.tuning.warm_start import usual_settings

    usual = usual_settings(search.space, search.composer)
    axes = {**HAND_GRID, "algorithm.sampling_rate": HAND_RATES[dataset]}
    points = list(itertools.product(*axes.values()))
    random.Random(seed).shuffle(points)
    for point in points:
        settings: dict[str, Value] = {**usual, **dict(zip(axes, point, strict=True))}
        search.study.enqueue_trial(settings)
    return len(points)


def confirmation_rounds(config: CellConfig) -> int:
    """Cell-rounds that the tuner keeps for confirming its best settings."""
    tuning = config.tuning
    return confirmations(tuning) * config.federation.rounds


def conclude(search: Search) -> tuple[Candidate | None, int]:
    """The setting that the search recommends, and the cell-rounds of finding out."""
    config = search.config
    found = candidates(search.study.get_trials(states=(TrialState.COMPLETE,)), "budget")
    found = [candidate for candidate in found if candidate.feasible]
    spent = 0
    if config.tuning.confirm and found:
        found = found[: config.tuning.confirm]
        found = confirm(found, config, search.composer, search.floor, lambda *_: None)
        for candidate in found:
            one = int(str(candidate.settings["federation.rounds"]))
            spent += one * len(candidate.confirmed)
    return choose(found, config.tuning), spent


class calibrating:
    """Measures the seconds that calibration takes while the block runs."""

    def __enter__(self) -> list[float]:
        self._whole = calibration.calibrated
        self.seconds = [0.0]

        def timed(*args: object) -> object:
            started = time.perf_counter()
            try:
                return self._whole(*args)  # type: ignore[arg-type]
            finally:
                self.seconds[0] += time.perf_counter() - started

        calibration.calibrated = timed  # type: ignore[assignment]
        return self.seconds

    def __exit__(self, *_: object) -> None:
        calibration.calibrated = self._whole


def fresh_score(arm: Arm, known: dict[str, float]) -> float | None:
    """Mean score of the recommended setting with seeds that no search saw."""
    if arm.best is None:
        return None
    cell = plan_cell(arm.search.composer, arm.best.settings, BUDGET)
    scores = []
    for seed in FRESH_SEEDS:
        config = replace(cell.config, seed=seed)
        key = repr((config.dataset, config.algorithm, config.schedule, config.federation, seed))
        if key not in known:
            with tempfile.TemporaryDirectory() as folder:
                result = run_cell(config, Path(folder))
            assert result.score is not None
            value = result.score.value
            known[key] = result.score.chance if value is None else value
        scores.append(known[key])
    return fmean(scores)


def rounds_to_reach(arm: Arm, wanted: float) -> int | None:
    """Cell-rounds after which a trial scored what is wanted; None: never."""
    return next((spent for spent, score in arm.curve if score >= wanted), None)


def compare(dataset: str, seed: int, rounds: int, folder: Path) -> list[dict[str, object]]:
    """One row for each arm."""
    arms = {name: run_arm(dataset, name, seed, rounds, folder) for name in ARMS}
    known: dict[str, float] = {}
    fresh = {name: fresh_score(arm, known) for name, arm in arms.items()}
    floor = arms["tuner"].search.floor
    tops = [arm.curve[-1][1] for arm in arms.values()]
    wanted = REACHED * max(tops)
    return [
        {
            "dataset": dataset,
            "seed": seed,
            "arm": name,
            "score": fresh[name],
            "score_in_search": arm.curve[-1][1] if len(arm.curve) > 1 else None,
            "trials": arm.trials,
            "cell_rounds": arm.cell_rounds,
            "collapsed_share": arm.collapsed / arm.trials,
            "rounds_to_95": rounds_to_reach(arm, wanted),
            "overhead_ms": round(1000 * median(arm.overheads_s), 1),
            "twin": floor.twin,
        }
        for name, arm in arms.items()
    ]


def summarise(rows: list[dict[str, object]], rounds: int) -> list[dict[str, object]]:
    """Means over the seeds; an arm that never reached 95 % counts with all its rounds."""
    found = []
    for dataset, arm in dict.fromkeys((row["dataset"], row["arm"]) for row in rows):
        own = [row for row in rows if (row["dataset"], row["arm"]) == (dataset, arm)]
        scores = [_number(row, "score") for row in own if row["score"] is not None]
        found.append(
            {
                "dataset": dataset,
                "arm": arm,
                "seeds": len(own),
                "score_mean": round(fmean(scores), 4) if scores else None,
                "score_min": round(min(scores), 4) if scores else None,
                "collapsed_share": round(fmean(_number(r, "collapsed_share") for r in own), 3),
                "rounds_to_95_mean": round(
                    fmean(
                        rounds if r["rounds_to_95"] is None else _number(r, "rounds_to_95")
                        for r in own
                    ),
                    1,
                ),
                "never_reached": sum(r["rounds_to_95"] is None for r in own),
                "cell_rounds_mean": round(fmean(_number(r, "cell_rounds") for r in own), 1),
                "overhead_ms": median(_number(r, "overhead_ms") for r in own),
            }
        )
    return found


def _number(row: Mapping[str, object], key: str) -> float:
    value = row[key]
    assert isinstance(value, int | float)
    return float(value)


def ratios_of(summary: list[dict[str, object]]) -> dict[str, float]:
    """Ours against each other arm: cell-rounds to 95 %, and collapsed share."""
    found = {}
    by = {(row["dataset"], row["arm"]): row for row in summary}
    for (dataset, arm), row in by.items():
        ours = by[dataset, "tuner"]
        if arm == "tuner":
            continue
        for key in ("rounds_to_95_mean", "collapsed_share"):
            other = _number(row, key)
            if other:
                found[f"{dataset}/{key}/tuner_to_{arm}"] = round(_number(ours, key) / other, 3)
    return found


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--datasets", nargs="+", default=["wisconsin", "higgs"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=240)
    parser.add_argument("--folder", type=Path, help="keep the studies here")
    args = parser.parse_args()
    register()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        for seed, dataset in itertools.product(range(1, args.seeds + 1), args.datasets):
            rows += compare(dataset, seed, args.rounds, folder)
            for row in rows[-len(ARMS) :]:
                print(row, file=sys.stderr, flush=True)
    summary = summarise(rows, args.rounds)
    for row in summary:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    if args.json:
        content = {
            "name": "tuning",
            "machine": machine(),
            "epsilon": BUDGET,
            "cell_rounds": args.rounds,
            "ratios": ratios_of(summary),
            "summary": summary,
            "rows": rows,
        }
        args.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
