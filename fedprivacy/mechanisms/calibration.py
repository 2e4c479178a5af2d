"""From a target epsilon to the noise of DP-SGD, for the schedule, sampling, rounds and unit asked.

``settling.settle`` puts the noise found here into a configuration.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import dp_accounting

from fedprivacy.accounting.accountant import epsilon
from fedprivacy.accounting.calibration import Calibration, calibrate_noise
from fedprivacy.accounting.delta import resolve_delta
from fedprivacy.accounting.events import Event
from fedprivacy.accounting.ledger import Ledger
from fedprivacy.accounting.patients import patient_event
from fedprivacy.config.schema import (
    AlgorithmConf,
    CellConfig,
    DpsgdConf,
    GaussianClippedConf,
    SvtExactConf,
)
from fedprivacy.errors import AccountingError, ConfigError
from fedprivacy.mechanisms.filter_calibration import (
    USUAL,
    FilterConf,
    calibrated_filter,
    filter_plan,
)
from fedprivacy.mechanisms.round_event import round_event
from fedprivacy.mechanisms.rounding import DIGITS, rounded_up
from fedprivacy.mechanisms.sampling import dpsgd_steps
from fedprivacy.mechanisms.settling import settle
from fedprivacy.schedules import strengths

__all__ = ["DIGITS", "RunPlan", "calibrated", "run_plan", "settle", "target_noise"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunPlan:
    """All that the price of a DP-SGD run depends on, besides its noise; the same at every site.

    Attributes:
        sampling: ``poisson`` or ``shuffle``.
        sampling_rate: q.
        steps: steps of a round.
        strengths: of each round; None where it is not protected.
        delta: at which the target holds.
        records: records of one unit: 1, or the most that one patient has.
    """

    sampling: str
    sampling_rate: float
    steps: int
    strengths: tuple[float | None, ...]
    delta: float
    records: int = 1

    def events(self, noise_multiplier: float) -> Sequence[Event]:
        """Every release of one site in the run."""
        return [
            self._event(number, strength, noise_multiplier)
            for number, strength in enumerate(self.strengths, start=1)
        ]

    def _event(self, number: int, strength: float | None, noise: float) -> Event:
        raw = dp_accounting.NonPrivateDpEvent()
        if strength is None:
            return _site_event(number, raw, protected=False)
        one = round_event(self.sampling, noise * strength, self.sampling_rate, self.steps)
        return _site_event(number, patient_event(one, self.records, "zero_out"), protected=True)


def _site_event(number: int, event: dp_accounting.DpEvent, *, protected: bool) -> Event:
    return Event(
        round=number,
        site="any",
        mechanism="dpsgd",
        unit="record",
        neighbouring="zero_out",
        view="server_updates",
        dp_event=event,
        protected=protected,
    )


@lru_cache(maxsize=256)
def calibrated(plan: RunPlan, target_epsilon: float) -> Calibration:
    """The least noise with which the plan's protected rounds cost at most the target.

    Least to ``DIGITS`` significant digits. Upper bound, proved, by the accountant of record.

    Raises:
        AccountingError: no noise meets the target.
    """
    found = calibrate_noise(plan.events, target_epsilon, plan.delta, "zero_out")
    noise = found.noise_multiplier
    while True:
        noise = rounded_up(noise)
        reached = epsilon(Ledger(tuple(plan.events(noise))).protected(), plan.delta, "zero_out")
        # More noise costs no more, but for the grid that the accountant rounds losses to.
        if reached <= target_epsilon:
            return Calibration(noise, reached, found.covers_run)
        noise *= 1 + 10.0 ** (1 - DIGITS)


def run_plan(config: CellConfig) -> RunPlan:
    """The plan of a configuration; reads the dataset, whose largest site sets delta.

    Raises:
        ConfigError: the unit is one that DP-SGD proves nothing about, or delta is too large.
        DataError: real files are missing.
    """
    conf, unit = config.algorithm, config.privacy.unit
    assert isinstance(conf, DpsgdConf)
    if unit not in ("auto", "record", "patient"):
        raise ConfigError(
            "algorithm.target_epsilon",
            conf.target_epsilon,
            f"null with privacy.unit={unit}: DP-SGD bounds what a record or a patient moves, and "
            f"no noise makes that a bound for one {unit}",
            "privacy.unit=record",
        )
    # The data package reads every format; only a target needs it here.
    from fedprivacy.data.cache import load_data, site_sizes
    from fedprivacy.federation.arrangement import largest_participant

    largest = largest_participant(config, site_sizes(config.dataset))
    return RunPlan(
        sampling=conf.sampling,
        sampling_rate=conf.sampling_rate,
        steps=dpsgd_steps(config.federation.local_epochs, conf.sampling_rate),
        strengths=strengths(config.schedule, config.federation.rounds),
        delta=resolve_delta(config.privacy.delta, largest),
        records=load_data(config.dataset).records_per_patient if unit == "patient" else 1,
    )


def target_noise(config: CellConfig) -> Calibration:
    """The noise that a configuration's ``target_epsilon`` asks for.

    Raises:
        ConfigError: the target cannot be met, or the configuration is unsound in another way.
        DataError: real files are missing.
    """
    # validate() asks for the noise of a target in its turn.
    from fedprivacy.config.validation import validate

    conf = config.algorithm
    assert isinstance(conf, DpsgdConf | GaussianClippedConf | SvtExactConf)
    target = conf.target_epsilon
    assert target is not None
    without = replace(config, algorithm=_without_target(conf))
    validate(without)
    try:
        if isinstance(conf, DpsgdConf):
            found = calibrated(run_plan(config), target)
        else:
            found = calibrated_filter(filter_plan(config), target)
    except AccountingError as error:
        raise ConfigError(
            "algorithm.target_epsilon", target, f"a number above 0 that noise can reach ({error})",
            "algorithm.target_epsilon=3",
        ) from error  # fmt: skip
    _tell(target, config.schedule.name, found)
    return found


def _without_target(conf: DpsgdConf | FilterConf) -> AlgorithmConf:
    """The same with some noise instead of a target, to see whether the rest is sound."""
    if isinstance(conf, DpsgdConf):
        return replace(conf, target_epsilon=None, noise_multiplier=1.0, count_noise=None)
    plain = replace(conf, target_epsilon=None, noise_multiplier=USUAL)
    if isinstance(plain, GaussianClippedConf):
        return replace(plain, indicator_noise=None)
    return plain


@lru_cache(maxsize=256)  # once a process: a configuration is loaded several times
def _tell(target: float, schedule: str, found: Calibration) -> None:
    log.info(
        "target epsilon %g: noise multiplier %g, with which the protected rounds cost %.4g",
        target,
        found.noise_multiplier,
        found.epsilon,
    )
    if not found.covers_run:
        log.warning(
            "target epsilon %g is met by the protected rounds alone: schedule=%s leaves rounds "
            "unprotected, so the run's epsilon stays infinite",
            target,
            schedule,
        )
