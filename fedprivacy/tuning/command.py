"""``fedprivacy tune``: an Optuna study over configuration keys; the same command resumes it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fedprivacy.config.composer import Composer
from fedprivacy.config.schema import CellConfig
from fedprivacy.config.store import register
from fedprivacy.errors import ConfigError, DataError
from fedprivacy.sweep.command import BAD_CONFIG, FAILED, INTERRUPTED, OK
from fedprivacy.tracking.store import Recorder
from fedprivacy.tuning.closing import (
    Closed,
    close_study,
    closing_words,
    forget,
    is_private,
)
from fedprivacy.tuning.contract import check_folder, keep_folder
from fedprivacy.tuning.floor import FOLDER, find_floor
from fedprivacy.tuning.search import Search, open_search, part_of_front, prepare, run_search
from fedprivacy.tuning.search_price import keeps_best_only
from fedprivacy.tuning.space import SearchSpace
from fedprivacy.tuning.storage import study_lock
from fedprivacy.tuning.union import close_union
from fedprivacy.tuning.worker import SearchFailed

_EPILOG = """\
examples:
  fedprivacy tune +sweeps=tune_higgs                     budget 3: the best score at epsilon 3
  fedprivacy tune +sweeps=tune_higgs tuning.budget=1 tuning.name=higgs_1     another budget
  fedprivacy tune +sweeps=tune_higgs tuning.mode=floor tuning.name=least
                                                         the least epsilon that does not collapse
  fedprivacy tune +sweeps=tune_higgs_private             a private search with a proved price

Start it again to resume, start several to share the work; a name (and its folder
outputs/tuning/NAME) is one study's. All tuning.* keys: fedprivacy run --cfg
job --package tuning. A study of its own: -d with a folder of yours, or sweeps/NAME.yaml here.
"""


def main(argv: Sequence[str]) -> int:
    """Run what was typed after ``fedprivacy tune``; returns the exit status.

    0: the study is finished. 1: too many trials failed. 2: bad configuration, before any trial.
    130: interrupted; the same command goes on.
    """
    args = _parser().parse_args(list(argv))
    # One thread for each worker: several may share the machine (see the engine's torch_threads).
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    register()
    dirs = (str(Path(args.config_dir).resolve()),) if args.config_dir else ()
    composer = Composer(tuple(args.overrides), dirs)
    try:
        config, space = prepare(composer)
        return _tune(config, space, composer)
    except (ConfigError, DataError) as error:
        notes = "".join(f"\n  {note}" for note in getattr(error, "__notes__", []))
        print(f"error: {error}{notes}", file=sys.stderr)
        return BAD_CONFIG
    except SearchFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedprivacy tune",
        description="Search DP settings that keep accuracy alive at a budget, and say what the "
        "search itself cost.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, as for fedprivacy run")
    parser.add_argument("--config-dir", "-cd", help="your own configuration folder")
    return parser


def _tune(config: CellConfig, space: SearchSpace, composer: Composer) -> int:
    tuning = config.tuning
    check_folder(config, space)
    with study_lock(tuning):
        if keeps_best_only(tuning) and forget(config):
            print(_finished_before(config))
            return OK
    record = _recorder(config)
    if tuning.mode == "front" and tuning.front == "union":
        return _union(config, space, composer, record)
    search = open_search(config, space, composer, record)
    _finish(search, record)
    return OK


def _finish(search: Search, record: Recorder) -> Closed | None:
    """Work until all trials are done; then one worker at a time closes the study.

    None where another worker closed a private study meanwhile, of which nothing more is left.
    """
    config = search.config
    run_search(search, record)
    with study_lock(config.tuning):
        if is_private(search) and forget(config):
            print(_finished_before(config))
            return None
        closed = close_study(search, record)
        print(closing_words(closed))
        if is_private(search):
            forget(config)
        elif record.enabled:
            _record_files(closed.paths, config, record)
    return closed


def _finished_before(config: CellConfig) -> str:
    return f"{config.tuning.name}: finished before; only its recommended trial was kept"


def _union(config: CellConfig, space: SearchSpace, composer: Composer, record: Recorder) -> int:
    """A study for each budget, one after another, then all of them as one front."""
    with study_lock(config.tuning):
        floor = find_floor(config, composer, record)
        keep_folder(config, space)
    beside = (Path(config.tuning.dir) / FOLDER,)
    parts = []
    for budget in sorted(config.tuning.budgets):
        print(f"budget {budget:g}", file=sys.stderr)
        part = part_of_front(config, budget)
        search = open_search(part, space, composer, record, floor, beside)
        if (closed := _finish(search, record)) is not None:
            parts.append(closed)
    with study_lock(config.tuning):
        union = close_union(config, composer, parts)
    print(union.words)
    if record.enabled:
        _record_files(union.paths, config, record)
    return OK


def _record_files(paths: Sequence[Path], config: CellConfig, record: Recorder) -> None:
    """The study's files in one MLflow run of their own, beside the trials' runs."""
    from fedprivacy.tracking.summary import record_summary
    from fedprivacy.tracking.sync import sync

    if record.missed:
        folders = sorted({folder.parent for folder in record.missed})
        sync(folders, uri=record.uri, experiment=record.experiment, sweep_id=record.sweep_id)
    name = config.tuning.name
    record_summary(paths, uri=record.uri, experiment=record.experiment, sweep_id=name)


def _recorder(config: CellConfig) -> Recorder:
    tuning, tracking = config.tuning, config.tracking
    return Recorder(
        uri=tracking.uri,
        experiment=tracking.experiment or tuning.name,
        sweep_id=tuning.name,
        # What MLflow holds is published; of a private search that is one trial.
        enabled=tracking.enabled and not keeps_best_only(tuning),
    )
