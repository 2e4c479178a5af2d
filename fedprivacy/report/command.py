"""``fedprivacy report``: tables and figures of sweeps, finished or not."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fedprivacy.errors import DataError
from fedprivacy.pricing.twins import COLLAPSE_FRACTION
from fedprivacy.report.report import Report, write_report
from fedprivacy.result import RESULT_FILE

OK, FAILED, BAD_INPUT = 0, 1, 2


def main(argv: Sequence[str]) -> int:
    """Report on the sweeps named after ``fedprivacy report``; returns the exit status.

    0: written (cells that failed are part of a report). 1: written, but the store did not take
    all cells. 2: a folder without results, or one that holds something else.
    """
    args = _parser().parse_args(list(argv))
    folders: list[Path] = args.folders
    complaints = [text for folder in folders if (text := _complaint(folder))]
    if complaints:
        print("\n".join(f"error: {text}" for text in complaints), file=sys.stderr)
        return BAD_INPUT
    try:
        report = write_report(folders, args.out, args.collapse_fraction)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    print(report.table)
    print()
    for path in report.paths:
        print(f"wrote {path}")
    return OK if args.track is None else _upload(report, folders, args.track, args.experiment)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedprivacy report",
        description="Tables and figures of sweeps; one that still runs is reported as far as it is",
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="SWEEP_DIR",
        help="folder of a sweep, for example outputs/demo",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where to write (default: the folder report in the first SWEEP_DIR)",
    )
    parser.add_argument(
        "--collapse-fraction",
        type=_share,
        default=COLLAPSE_FRACTION,
        metavar="X",
        help="a cell has collapsed against its non-private twin if score <= chance + X * (twin - "
        "chance); X from 0 to 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--track",
        metavar="URI",
        help="also upload the cells that this MLflow store misses, e.g. sqlite:///mlflow.db",
    )
    parser.add_argument(
        "--experiment",
        metavar="NAME",
        help="MLflow experiment for --track (default: the name of each SWEEP_DIR)",
    )
    return parser


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 1, for example 0.2")
    return value


def _complaint(folder: Path) -> str:
    """What is wrong with a folder, and the way out; empty if it holds results."""
    if any(folder.glob(f"*/{RESULT_FILE}")):
        return ""
    if not folder.is_dir():
        return f"{folder} is not a folder; give the folder of a sweep, for example outputs/demo"
    if (folder / RESULT_FILE).is_file():
        return f"{folder} is a single cell; give the folder it is in: {folder.parent}"
    return (
        f"{folder} holds no finished cell (no */{RESULT_FILE}); give the folder of a sweep, or "
        "run one first: fedprivacy run +sweeps=demo"
    )


def _upload(report: Report, folders: Sequence[Path], uri: str, experiment: str | None) -> int:
    """Upload missing cells, their prices, and the report itself once no cell is missing."""
    from fedprivacy.tracking.links import sweep_links
    from fedprivacy.tracking.prices import record_prices
    from fedprivacy.tracking.summary import record_summary
    from fedprivacy.tracking.sync import sync

    missing, links = 0, []
    for folder in folders:
        name = folder.resolve().name
        done = sync(folder, uri=uri, experiment=experiment)
        missing += len(done.missing)
        print(
            f"MLflow: of {folder}, {len(done.uploaded)} cells uploaded, "
            f"{len(done.present)} were there, {len(done.missing)} are missing"
        )
        if not done.missing:
            record_prices(report.prices, uri=uri, experiment=experiment or name, sweep_id=name)
            links.append(sweep_links(uri, experiment or name, name))
    if not missing:
        names = [folder.resolve().name for folder in folders]
        # Beside the cells of the first sweep, in whose folder the files are as well.
        where, about = experiment or names[0], " + ".join(dict.fromkeys(names))
        if record_summary(report.paths, uri=uri, experiment=where, sweep_id=about):
            print(f"MLflow: the report is the run 'report of {about}' of experiment {where}")
    print("\n".join(links))
    return FAILED if missing else OK
