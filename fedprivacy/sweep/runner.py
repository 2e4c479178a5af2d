"""Run a planned sweep: skip what is finished, run the rest, record it, say what came out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedprivacy.cell import failed_result
from fedprivacy.result import CellResult, read_result, write_result
from fedprivacy.sweep.order import longest_first
from fedprivacy.sweep.plan import Plan, PlannedCell
from fedprivacy.sweep.pool import Note, WorkerPool
from fedprivacy.sweep.progress import Progress
from fedprivacy.sweep.worker import CellDone, Job, RoundDone

log = logging.getLogger(__name__)

Recorder = Callable[[CellResult, Path], None]


@dataclass(frozen=True)
class SweepOutcome:
    """What came out of a sweep.

    Attributes:
        results: of all cells that have one, in the order of the plan.
        missing: cells without a result: the sweep was interrupted.
        skipped: cells that were finished before this run.
    """

    results: tuple[CellResult, ...]
    missing: tuple[PlannedCell, ...]
    skipped: int

    @property
    def failed(self) -> list[CellResult]:
        """Cells that failed."""
        return [result for result in self.results if result.status == "failed"]


def is_finished(cell: PlannedCell) -> bool:
    """Whether the cell has a result that need not be run again."""
    result = read_result(cell.folder)
    return result is not None and result.finished and result.cell_id == cell.cell_id


def run_plan(plan: Plan, record: Recorder) -> SweepOutcome:
    """Run every cell of the plan that is not finished.

    A cell that fails, or whose worker dies, leaves a ``failed`` result and the others go on.
    Finished cells are handed to ``record`` as well, which makes recording idempotent.

    Raises:
        KeyboardInterrupt: after the workers were ended; finished cells keep their results.
    """
    done = {cell.cell_id for cell in plan.cells if is_finished(cell)}
    finished = [cell for cell in plan.cells if cell.cell_id in done]
    pending = longest_first([cell for cell in plan.cells if cell.cell_id not in done])
    for cell in finished:
        record(_result_of(cell), cell.folder)
    workers = min(plan.settings.sweep.workers, max(1, len(pending)))
    progress = Progress(len(plan.cells), len(finished), workers)
    pool = WorkerPool(workers)
    jobs = {cell.cell_id: _job(cell) for cell in pending}

    def told(note: Note) -> None:
        if isinstance(note, RoundDone):
            progress.round(note)
        elif isinstance(note, CellDone):
            _close(jobs[note.cell_id], progress, record)

    def died(job: Job, exit_code: int | None) -> None:
        reason = f"the worker process ended with exit code {exit_code} (killed or out of memory)"
        write_result(job.folder, failed_result(job.config, reason, "WorkerDied", job.overrides))
        _close(job, progress, record)

    try:
        for cell in pending:
            cell.composed.write(cell.folder)
        pool.run([jobs[cell.cell_id] for cell in pending], progress.start, told, died)
    finally:
        pool.stop()
        progress.close()
    return collect(plan, skipped=len(finished))


def collect(plan: Plan, skipped: int) -> SweepOutcome:
    """Read back whatever the plan's cells have left."""
    found = [(cell, read_result(cell.folder)) for cell in plan.cells]
    return SweepOutcome(
        results=tuple(result for _, result in found if result is not None),
        missing=tuple(cell for cell, result in found if result is None),
        skipped=skipped,
    )


def _close(job: Job, progress: Progress, record: Recorder) -> None:
    result = read_result(job.folder)
    assert result is not None
    value = result.score.value if result.score else None
    progress.finish(job, result.status, result.timing_s.get("total", 0.0), value)
    record(result, job.folder)


def _result_of(cell: PlannedCell) -> CellResult:
    result = read_result(cell.folder)
    assert result is not None
    return result


def _job(cell: PlannedCell) -> Job:
    return Job(cell.cell_id, cell.folder, cell.config, cell.overrides)
