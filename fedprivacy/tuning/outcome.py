"""What a trial came to: plain values that its Optuna trial keeps, for every later reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from fedprivacy.result import CellResult
from fedprivacy.tuning.rules import COLLAPSED

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

OUTCOME = "outcome"
_CLAIM = ("unit", "neighbouring", "view", "delta")


@dataclass(frozen=True)
class Outcome:
    """What a finished, pruned or failed trial came to.

    Attributes:
        status: of its cells: ok, collapsed, pruned or failed.
        rule: which rule ended it early, empty if none did.
        reason: why it was pruned, collapsed or failed, in words.
        score: mean over its seeds; the last one where it was pruned; None where undefined.
        scores: of each seed.
        standard_error: of ``score``, over held-out records; None where it cannot be had.
        epsilon: total, upper bound, proved; None where it was not run or proves nothing.
        budget: what its noise was calibrated to.
        noise_multiplier: the noise that was found.
        claim: unit, neighbouring relation, view and delta that epsilon holds for.
        below_floor: how far the score is below the collapse floor; at most 0: it is not.
        reach: how far its settings can move the weights, see ``tuning.reach``; None: unknown.
        cell_rounds: rounds that its cells ran: what it cost to find out.
        seconds: that they took.
    """

    status: str
    rule: str = ""
    reason: str = ""
    score: float | None = None
    scores: tuple[float | None, ...] = ()
    standard_error: float | None = None
    epsilon: float | None = None
    budget: float | None = None
    noise_multiplier: float | None = None
    claim: Mapping[str, Any] | None = None
    below_floor: float | None = None
    reach: float | None = None
    cell_rounds: int = 0
    seconds: float = 0.0

    @property
    def feasible(self) -> bool:
        """Whether the trial is within its budget and did not collapse."""
        return (
            self.status == "ok"
            and self.epsilon is not None
            and self.budget is not None
            and self.epsilon <= self.budget
            and self.below_floor is not None
            and self.below_floor <= 0
        )

    @property
    def collapsed(self) -> bool:
        """Whether training came to nothing; a trial that only lagged behind did not."""
        if self.status == "collapsed" or self.rule in COLLAPSED:
            return True
        return self.status == "ok" and self.below_floor is not None and self.below_floor > 0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Outcome:
        """Inverse of ``to_json``; unknown keys are dropped."""
        known = {f.name for f in fields(cls)}
        values = {key: value for key, value in plain.items() if key in known}
        return cls(**{**values, "scores": tuple(values.get("scores", ()))})


def outcome_of(trial: FrozenTrial) -> Outcome | None:
    """What the trial came to; None while it runs, and where its worker died."""
    plain = trial.user_attrs.get(OUTCOME)
    return None if plain is None else Outcome.from_json(plain)


def claim_of(results: Sequence[CellResult]) -> dict[str, Any] | None:
    """What the epsilon of these cells holds for; None where nothing was released."""
    for result in results:
        if result.privacy is not None:
            return {key: result.privacy.get(key) for key in _CLAIM}
    return None
