"""Progress of a study: a line for each trial, and the rounds of the one that runs."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TYPE_CHECKING

from fedprivacy.tuning.outcome import Outcome
from fedprivacy.tuning.worker import Counts

if TYPE_CHECKING:
    from fedprivacy.federation.strategy import RoundOutcome

_RECENT = 20


class StudyProgress:
    """Says on standard error how a study gets on.

    Args:
        n_trials: trials to reach.
        mode: of the study.
    """

    def __init__(self, n_trials: int, mode: str) -> None:
        self._n, self._mode = n_trials, mode
        self._terminal = sys.stderr.isatty()
        self._began = time.monotonic()
        self._done_before: int | None = None
        self._ends: deque[tuple[float, int]] = deque(maxlen=_RECENT)

    def begin(self, counts: Counts) -> None:
        """The study is open; trials that were done before say nothing about time left."""
        self._ends.append((time.monotonic(), counts.done))
        if counts.done:
            self._say(f"{counts.done} of {self._n} trials were done before")

    def round(self, outcome: RoundOutcome) -> None:
        """A round of the running trial is over; shown on a terminal only."""
        if self._terminal and outcome.scores is not None and outcome.scores.value is not None:
            line = f"  round {outcome.round}: score {outcome.scores.value:.3f}"
            print(f"\r{line:<60}", end="", file=sys.stderr, flush=True)

    def trial(self, number: int, outcome: Outcome, counts: Counts, best: str) -> None:
        """A trial is over."""
        self._ends.append((time.monotonic(), counts.done))
        if self._terminal:
            print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
        self._say(
            f"[{counts.done}/{self._n}] trial {number}: {told(outcome)}; best {best}; "
            f"finished {counts.finished}, pruned {counts.pruned}, collapsed {counts.collapsed}"
            f"{self._left(counts)}"
        )

    def _left(self, counts: Counts) -> str:
        """Time left, from the pace of all workers lately."""
        (first, before), (last, after) = self._ends[0], self._ends[-1]
        if after <= before or counts.done >= self._n:
            return ""
        seconds = (last - first) / (after - before) * (self._n - counts.done)
        return f"; about {duration(seconds)} left"

    @staticmethod
    def _say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def told(outcome: Outcome) -> str:
    """A trial in a few words."""
    score = "" if outcome.score is None else f" {outcome.score:.4f}"
    epsilon = ""
    if outcome.status in ("ok", "collapsed") and outcome.epsilon is not None:
        epsilon = f" at epsilon {outcome.epsilon:.3g}"
    if outcome.status == "pruned":
        return f"pruned ({outcome.reason})"
    if outcome.status == "failed":
        return f"failed ({outcome.reason})"
    word = "collapsed" if outcome.collapsed else "ok"
    return f"{word}{score}{epsilon}"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
