"""From a target epsilon to the noise of an update filter whose price is proved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import dp_accounting

from fedprivacy.accounting.accountant import epsilon
from fedprivacy.accounting.calibration import Calibration, calibrate_noise
from fedprivacy.accounting.delta import resolve_delta
from fedprivacy.accounting.events import Event
from fedprivacy.accounting.ledger import Ledger
from fedprivacy.config.schema import CellConfig, GaussianClippedConf, SvtExactConf
from fedprivacy.errors import ConfigError
from fedprivacy.mechanisms.gaussian_clipped import noise_event
from fedprivacy.mechanisms.rounding import DIGITS, rounded_up
from fedprivacy.mechanisms.site_clip import site_rule
from fedprivacy.schedules import strengths

FilterConf = GaussianClippedConf | SvtExactConf
USUAL = 1.0
"""Noise multiplier of a filter that is given none."""


@dataclass(frozen=True)
class FilterPlan:
    """All that the price of a filter depends on besides its noise; the same at every site.

    Attributes:
        conf: of the filter; ``noise_multiplier`` and ``target_epsilon`` are not used.
        strengths: of each round; None where it is not protected.
        delta: at which the target holds.
    """

    conf: FilterConf
    strengths: tuple[float | None, ...]
    delta: float

    def events(self, noise_multiplier: float) -> Sequence[Event]:
        """Every release of one site, for one site under replace_one."""
        return [
            Event(
                round=number,
                site="any",
                mechanism=self.conf.name,
                unit="site",
                neighbouring="replace_one",
                view="server_updates",
                dp_event=self._event(noise_multiplier, strength),
                protected=strength is not None,
            )
            for number, strength in enumerate(self.strengths, start=1)
        ]

    def _event(self, noise: float, strength: float | None) -> dp_accounting.DpEvent:
        if strength is None:
            return dp_accounting.NonPrivateDpEvent()
        conf = self.conf
        if isinstance(conf, GaussianClippedConf):
            rule = site_rule(replace(conf, noise_multiplier=noise))
            if rule is not None:
                return rule.dp_event(noise * strength)
        # Choosing and releasing together cost what clipping costs at the same noise (svt_exact).
        return noise_event(noise * strength, conf.noise)


def filter_plan(config: CellConfig) -> FilterPlan:
    """The plan of a configuration.

    Raises:
        ConfigError: delta is too large, or the filter has no one noise to calibrate.
    """
    conf = config.algorithm
    assert isinstance(conf, GaussianClippedConf | SvtExactConf)
    if isinstance(conf, SvtExactConf) and conf.noise != "gaussian":
        raise ConfigError(
            "algorithm.target_epsilon",
            conf.target_epsilon,
            f"null with svt_exact and noise={conf.noise}: what its choices cost depends on how "
            "many there are",
            "algorithm.noise=gaussian, or give algorithm.noise_multiplier",
        )
    from fedprivacy.data.cache import site_sizes
    from fedprivacy.federation.arrangement import largest_participant

    largest = largest_participant(config, site_sizes(config.dataset))
    return FilterPlan(
        replace(conf, noise_multiplier=USUAL, target_epsilon=None),
        strengths(config.schedule, config.federation.rounds),
        resolve_delta(config.privacy.delta, largest),
    )


@lru_cache(maxsize=256)
def calibrated_filter(plan: FilterPlan, target_epsilon: float) -> Calibration:
    """The least noise with which the plan's protected rounds cost at most the target.

    Least to ``DIGITS`` significant digits. Upper bound, proved, by the accountant of record.

    Raises:
        AccountingError: no noise meets the target.
    """
    found = calibrate_noise(plan.events, target_epsilon, plan.delta, "replace_one")
    noise = found.noise_multiplier
    while True:
        noise = rounded_up(noise)
        events = Ledger(tuple(plan.events(noise))).protected()
        reached = epsilon(events, plan.delta, "replace_one")
        if reached <= target_epsilon:
            return Calibration(noise, reached, found.covers_run)
        noise *= 1 + 10.0 ** (1 - DIGITS)
