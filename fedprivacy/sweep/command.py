"""``fedprivacy run``: a Hydra application for one cell, and for grids of cells."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig

from fedprivacy.config.composition import compose_cell, hydra_ready
from fedprivacy.config.identity import cell_id
from fedprivacy.config.loading import to_cell_config
from fedprivacy.config.resources import conf_dir
from fedprivacy.config.schema import CellConfig
from fedprivacy.config.store import register
from fedprivacy.config.validation import validate
from fedprivacy.errors import ConfigError, DataError
from fedprivacy.result import CellResult
from fedprivacy.sweep.plan import Plan, checked, first_point, make_plan
from fedprivacy.tracking.store import Recorder

if TYPE_CHECKING:
    from fedprivacy.report.report import Report

OK, FAILED, BAD_CONFIG, INTERRUPTED = 0, 1, 2, 130
_BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
_BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


def main(argv: Sequence[str]) -> int:
    """Run what was typed after ``fedprivacy run``; returns the exit status."""
    register()
    try:
        args = get_args_parser().parse_args(list(argv))
    except SystemExit as stop:
        return BAD_CONFIG if stop.code else OK
    if _only_informs(args):
        return _informing(argv)
    try:
        dirs = [str(Path(args.config_dir).resolve())] if args.config_dir else []
        base = _base(args.overrides, dirs)
        if not (args.multirun or str(base.hydra.mode or "").endswith("MULTIRUN")):
            return _run_single(argv, args.overrides, dirs)
        if _uses_stock_sweeper(base):
            return _run_sweep(_priced(make_plan(args.overrides, dirs), dirs))
        return _run_hydra_multirun(argv, args.overrides, dirs)
    except (ConfigError, DataError) as error:
        print(_complaint(error), file=sys.stderr)
        return BAD_CONFIG
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        return INTERRUPTED


def _base(overrides: Sequence[str], dirs: Sequence[str]) -> DictConfig:
    with hydra_ready(dirs):
        return compose_cell(first_point(overrides), dirs)


def _only_informs(args: Any) -> bool:
    return any((args.help, args.hydra_help, args.cfg, args.info, args.shell_completion))


def _informing(argv: Sequence[str]) -> int:
    """``--help``, ``--cfg`` and the like are Hydra's own."""
    try:
        _hydra_main(argv, lambda _: None)
    except SystemExit as stop:
        return BAD_CONFIG if stop.code else OK
    return OK


def _uses_stock_sweeper(base: DictConfig) -> bool:
    targets = base.hydra.sweeper._target_, base.hydra.launcher._target_
    return targets == (_BASIC_SWEEPER, _BASIC_LAUNCHER)


def _run_single(argv: Sequence[str], overrides: Sequence[str], dirs: Sequence[str]) -> int:
    """One cell through ``hydra.main``: its output directory, its logging, its ``.hydra``."""
    with hydra_ready(dirs):
        checked(to_cell_config(compose_cell(overrides, dirs)))
    results: list[CellResult] = []
    _hydra_main(argv, lambda cfg: results.append(_run_composed(cfg)))
    from fedprivacy.report.table import cell_table

    print(cell_table(results))
    return FAILED if any(result.status == "failed" for result in results) else OK


def _run_hydra_multirun(argv: Sequence[str], overrides: Sequence[str], dirs: Sequence[str]) -> int:
    """A sweeper or launcher of the user's choice: Hydra runs the show, cell by cell."""
    make_plan(overrides, dirs)
    results: list[CellResult] = []
    try:
        _hydra_main(argv, lambda cfg: results.append(_run_composed(cfg)))
    except SystemExit as stop:
        return FAILED if stop.code else OK
    return FAILED if any(result.status == "failed" for result in results) else OK


def _run_composed(cfg: DictConfig) -> CellResult:
    """The task of ``hydra.main``: run the cell unless it is finished, and record it."""
    from hydra.core.hydra_config import HydraConfig

    from fedprivacy.cell import run_cell
    from fedprivacy.result import read_result
    from fedprivacy.sweep.progress import round_bar

    config = to_cell_config(cfg)
    validate(config)
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    result = read_result(folder)
    if result is None or not result.finished or result.cell_id != cell_id(config):
        with round_bar(config) as listener:
            result = run_cell(
                config, folder, listener=listener, overrides=list(hydra.overrides.task)
            )
    else:
        print(f"{folder}: finished before, not run again", file=sys.stderr)
    single = str(hydra.mode).endswith("RUN") and not str(hydra.mode).endswith("MULTIRUN")
    _recorder(config, "cells" if single else config.sweep.name)(result, folder)
    return result


def _priced(plan: Plan, dirs: Sequence[str]) -> Plan:
    """The plan with the twins that it lacks, and a word on them."""
    from fedprivacy.sweep.twins import with_twins

    whole = with_twins(plan, dirs)
    if added := len(whole.cells) - len(plan.cells):
        cells = "1 cell" if added == 1 else f"{added} cells"
        print(
            f"{cells} without protection added, for the price of the others to be known; "
            "sweep.twins=false leaves them out",
            file=sys.stderr,
        )
    return whole


def _run_sweep(plan: Plan) -> int:
    from fedprivacy.report.report import write_report
    from fedprivacy.report.table import cell_table
    from fedprivacy.sweep.runner import run_plan

    record = _recorder(plan.settings, plan.name)
    if record.enabled:
        _initialise(record)
    outcome = run_plan(plan, record)
    report = write_report([plan.folder], collapse_fraction=plan.settings.collapse.fraction)
    # The folder may hold cells of other sweeps of the same name; what was asked for is shown.
    print(cell_table(outcome.results, collapse_fraction=plan.settings.collapse.fraction))
    if outcome.skipped:
        print(f"{outcome.skipped} of {len(plan.cells)} cells were finished before")
    for path in report.paths:
        print(f"wrote {path}")
    if record.enabled:
        print(_links(plan, record, report))
    return FAILED if outcome.failed or outcome.missing else OK


def _initialise(record: Recorder) -> None:
    """Make the store before any worker starts; one that cannot be used must not stop the sweep."""
    from fedprivacy.tracking.connection import TrackingError
    from fedprivacy.tracking.store import prepare_store

    try:
        prepare_store(record.uri, record.experiment)
    except TrackingError as error:
        print(f"warning: {error}; results stay safe in their folders", file=sys.stderr)


def _links(plan: Plan, record: Recorder, report: Report) -> str:
    """Upload the report, and what the store missed while it was down; say where to look."""
    from fedprivacy.tracking.links import sweep_links
    from fedprivacy.tracking.prices import record_prices
    from fedprivacy.tracking.summary import record_summary
    from fedprivacy.tracking.sync import sync

    if record.missed:
        sync([plan.folder], uri=record.uri, experiment=record.experiment, sweep_id=plan.name)
    record_summary(report.paths, uri=record.uri, experiment=record.experiment, sweep_id=plan.name)
    record_prices(report.prices, uri=record.uri, experiment=record.experiment, sweep_id=plan.name)
    return sweep_links(record.uri, record.experiment, plan.name)


def _recorder(config: CellConfig, sweep: str) -> Recorder:
    tracking = config.tracking
    return Recorder(
        uri=tracking.uri,
        experiment=tracking.experiment or sweep,
        sweep_id=sweep,
        enabled=tracking.enabled,
    )


def _hydra_main(argv: Sequence[str], task: Any) -> None:
    import hydra

    saved = sys.argv
    sys.argv = ["fedprivacy run", *argv]
    try:
        hydra.main(version_base="1.3", config_path=conf_dir(), config_name="config")(task)()
    finally:
        sys.argv = saved


def _complaint(error: Exception) -> str:
    notes = "".join(f"\n  {note}" for note in getattr(error, "__notes__", []))
    return f"error: {error}{notes}"
