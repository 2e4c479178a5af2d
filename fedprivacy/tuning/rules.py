"""When a trial is ended early: rules that read one round after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedprivacy.cell import signal_to_noise
from fedprivacy.config.schema import PruningConf
from fedprivacy.errors import CellPruned

if TYPE_CHECKING:
    import optuna

    from fedprivacy.federation.strategy import RoundOutcome

CHANCE, NOISE, NOT_FINITE, BEHIND = "chance", "noise", "not_finite", "behind"
INFEASIBLE, FAR = "infeasible", "reach"
COLLAPSED = frozenset({CHANCE, NOT_FINITE})
"""Rules that say that training came to nothing; the others say that it is not worth going on.

``NOISE`` is of the others: an update can drown in its noise while the score is well above chance.
"""


@dataclass
class CollapseRules:
    """Ends a cell that has collapsed or is about to; told about every round.

    Args:
        conf: thresholds.
    """

    conf: PruningConf
    _above_chance: bool = False
    _drowned: int = 0

    def __call__(self, outcome: RoundOutcome) -> None:
        """Look at a finished round.

        Raises:
            CellPruned: a rule holds; says which and on what numbers.
        """
        self._finite(outcome)
        self._chance(outcome)
        self._noise(outcome)

    def _finite(self, outcome: RoundOutcome) -> None:
        undefined = outcome.scores is not None and outcome.scores.value is None
        if undefined or not math.isfinite(outcome.update_norm):
            raise CellPruned(
                f"round {outcome.round}: predictions or updates are not finite", NOT_FINITE
            )

    def _chance(self, outcome: RoundOutcome) -> None:
        if outcome.scores is None or outcome.scores.value is None:
            return
        self._above_chance |= outcome.scores.value > outcome.scores.chance
        if not self._above_chance and 0 < self.conf.chance_rounds <= outcome.round:
            raise CellPruned(
                f"round {outcome.round}: score {outcome.scores.value:.4f} has never been above "
                f"chance, {outcome.scores.chance:.4f}",
                CHANCE,
            )

    def _noise(self, outcome: RoundOutcome) -> None:
        ratio = signal_to_noise(outcome.update_norm, outcome.noise_norm)
        self._drowned = self._drowned + 1 if ratio is not None and ratio < self.conf.min_snr else 0
        if 0 < self.conf.snr_rounds <= self._drowned:
            raise CellPruned(
                f"round {outcome.round}: the averaged update is {ratio:.3g} of the noise in it, "
                f"below {self.conf.min_snr:g} for {self._drowned} rounds",
                NOISE,
            )


@dataclass
class MedianRule:
    """Ends a trial that lags behind the median of the trials before it.

    Args:
        trial: told the score of every round; its study's pruner decides.
    """

    trial: optuna.Trial

    def __call__(self, outcome: RoundOutcome) -> None:
        """Report a finished round.

        Raises:
            CellPruned: the study's pruner says so.
        """
        if outcome.scores is None or outcome.scores.value is None:
            return
        self.trial.report(outcome.scores.value, outcome.round)
        if self.trial.should_prune():
            raise CellPruned(
                f"round {outcome.round}: score {outcome.scores.value:.4f} lags behind the median "
                "of earlier trials",
                BEHIND,
            )


@dataclass
class Listeners:
    """Several listeners as one, in their order.

    Attributes:
        listeners: told until one raises.
        rule: which rule ended the cell; empty if none did.
    """

    listeners: Sequence[Callable[[RoundOutcome], None]]
    rule: str = ""

    def __call__(self, outcome: RoundOutcome) -> None:
        """Tell all of them.

        Raises:
            CellPruned: one of them ends the cell.
        """
        try:
            for listener in self.listeners:
                listener(outcome)
        except CellPruned as stop:
            self.rule = stop.rule
            raise
