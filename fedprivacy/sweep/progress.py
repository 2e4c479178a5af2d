"""Progress of a sweep: one bar for the grid and one for each running cell."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tqdm import tqdm

from fedprivacy.config.schema import CellConfig
from fedprivacy.sweep.worker import Job, RoundDone

if TYPE_CHECKING:
    from fedprivacy.federation.strategy import RoundOutcome


class Progress:
    """Bars on a terminal; one line per finished cell where there is no terminal.

    Args:
        total: cells of the sweep.
        skipped: of them, those that were finished before.
        slots: cells that run at once.
    """

    def __init__(self, total: int, skipped: int, slots: int) -> None:
        self._terminal = sys.stderr.isatty()
        self._grid = tqdm(
            total=total, initial=skipped, desc="grid", unit="cell", disable=not self._terminal
        )
        self._free = list(range(1, slots + 1))
        self._bars: dict[str, tqdm] = {}
        self._slots: dict[str, int] = {}
        self._total, self._done = total, skipped

    def start(self, job: Job) -> None:
        """A cell was handed to a worker."""
        slot = self._free.pop(0) if self._free else 1
        self._slots[job.cell_id] = slot
        self._bars[job.cell_id] = tqdm(
            total=job.config.federation.rounds,
            desc=describe(job.config),
            unit="round",
            position=slot,
            leave=False,
            disable=not self._terminal,
        )

    def round(self, note: RoundDone) -> None:
        """A running cell finished a round."""
        bar = self._bars.get(note.cell_id)
        if bar is not None:
            if note.score is not None:
                bar.set_postfix(score=f"{note.score:.3f}")
            bar.update(1)

    def finish(self, job: Job, status: str, seconds: float, score: float | None) -> None:
        """A cell left its result."""
        bar = self._bars.pop(job.cell_id, None)
        if bar is not None:
            bar.close()
        self._free.append(self._slots.pop(job.cell_id, 1))
        self._free.sort()
        self._done += 1
        self._grid.update(1)
        if not self._terminal:
            shown = "" if score is None else f" score {score:.3f}"
            what = f"{describe(job.config)}: {status}{shown} {seconds:.1f} s"
            print(f"[{self._done}/{self._total}] {what}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the bars away."""
        for bar in self._bars.values():
            bar.close()
        self._grid.close()


@contextmanager
def round_bar(config: CellConfig) -> Iterator[Callable[[RoundOutcome], None]]:
    """A bar over the rounds of one cell; yields what to call after each."""
    with tqdm(
        total=config.federation.rounds,
        desc=describe(config),
        unit="round",
        disable=not sys.stderr.isatty(),
    ) as bar:

        def listener(outcome: RoundOutcome) -> None:
            if outcome.scores is not None and outcome.scores.value is not None:
                bar.set_postfix(score=f"{outcome.scores.value:.3f}")
            bar.update(1)

        yield listener


def describe(config: CellConfig) -> str:
    """A cell in a few words."""
    words = [config.algorithm.name, config.dataset.name]
    if config.algorithm.name != "none":
        words.insert(1, config.schedule.name)
    if config.federation.name != "fedavg":
        words.append(config.federation.name)
    return f"{' '.join(words)} s{config.seed}"
