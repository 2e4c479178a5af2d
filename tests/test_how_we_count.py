"""docs/how-we-count.md: every number in it that this program can compute is computed again."""

from __future__ import annotations

import doctest
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from dp_accounting import dp_event as dp
from scipy import stats

from fedprivacy.accounting import (
    Event,
    Neighbouring,
    Unit,
    calibrate_noise,
    default_delta,
    epsilon,
    patient_event,
    privacy_profile,
    shuffle_epsilon_floor,
    shuffled_event,
)
from fedprivacy.audit.one_run import ceiling, guess_counts
from fedprivacy.config.schema import GaussianConf, SvtConf, SvtExactConf, SvtFlare28Conf
from fedprivacy.mechanisms.adaptive_clip import gradient_noise
from fedprivacy.mechanisms.calibration import RunPlan, calibrated
from fedprivacy.mechanisms.gaussian import percentile_sigma
from fedprivacy.mechanisms.gaussian_clipped import noise_event
from fedprivacy.mechanisms.local_source import response_epsilon
from fedprivacy.mechanisms.site_clip import SiteClipRule
from fedprivacy.mechanisms.svt import svt_scales
from fedprivacy.mechanisms.svt_exact import exact_event
from fedprivacy.mechanisms.svt_flare28 import flare28_price

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "how-we-count.md"
SIZE = 100_000


@cache
def text() -> str:
    """The page on one line."""
    return " ".join(PAGE.read_text(encoding="utf-8").split())


def quoted(*phrases: str) -> None:
    for phrase in phrases:
        assert phrase in text(), f"the page does not say {phrase!r}"


def event(release: dp.DpEvent, neighbouring: Neighbouring = "zero_out") -> Event:
    unit: Unit = "site" if neighbouring == "replace_one" else "record"
    return Event(1, "A", "any", unit, neighbouring, "server_updates", release, True)


def price(
    release: dp.DpEvent, delta: float = 1e-5, neighbouring: Neighbouring = "zero_out"
) -> float:
    return epsilon([event(release, neighbouring)], delta, neighbouring)


def dpsgd(q: float, sigma: float, steps: int) -> dp.DpEvent:
    return dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(q, dp.GaussianDpEvent(sigma)), steps)


def test_every_algorithm_that_can_be_chosen_is_explained_and_no_other() -> None:
    chosen = {path.stem for path in (ROOT / "conf" / "algorithm").glob("*.yaml")}
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert {line.strip("# `") for line in lines if line.startswith("### `")} == chosen


def test_the_code_on_the_page_gives_what_it_says() -> None:
    failures, tried = doctest.testfile(str(PAGE), module_relative=False)
    assert (failures, tried) == (0, 11)


def test_replacing_costs_more_than_zeroing() -> None:
    one, two = dp.GaussianDpEvent(1.0), dp.GaussianDpEvent(2.0)
    small, large = price(one), price(one, neighbouring="replace_one")
    assert price(two, neighbouring="replace_one") == pytest.approx(small, abs=1e-6)
    quoted(
        f"epsilon {small:.3f} under `zero_out`, {large:.3f} under `replace_one`",
        f"2 clip norms under `replace_one` are again {small:.3f}",
        f"turns {large:.3f} into {small:.3f}",
    )
    steps = dpsgd(0.2, 1.0, 100)
    quoted(f"{price(steps, 1e-3):.2f} against {price(steps, 1e-3, 'replace_one'):.2f}")


def test_delta() -> None:
    assert default_delta(100) == 1e-5
    assert default_delta(200_000) == 1 / 2_000_000
    quoted("min(1e-5, 1/(10 n))")


def test_dpsgd_by_protected_rounds() -> None:
    one, four, eleven, twelve = (
        f"{price(dpsgd(0.2, 2.0, 20 * rounds)):.3f}" for rounds in (1, 4, 11, 12)
    )
    quoted(
        f"| epsilon | {one} | {four} | {eleven} | {twelve} |",
        f"gives epsilon {one} *for the protected round alone*",
        f"every third {four} and infinite; all but the last {eleven} and infinite; "
        f"every round {twelve}",
    )


def test_caps_of_twelve_rounds() -> None:
    profile = privacy_profile([event(dpsgd(0.2, 2.0, 240))], "zero_out")
    quoted(
        f"at most {profile.max_tpr(0.01):.3f} at a false-positive rate of 0.01, and at most "
        f"{profile.max_advantage:.3f} advantage"
    )


def test_the_noise_of_a_target() -> None:
    plan = RunPlan("poisson", 0.2, 20, (1.0,) * 12, 1e-5)
    found = calibrated(plan, 3.0)
    quoted(f"at target 3: sigma {found.noise_multiplier:g}, epsilon {found.epsilon:.4f}")
    # From the other side: the search alone, and the price of what it found.
    assert calibrate_noise(plan.events, 3.0, 1e-5, "zero_out").noise_multiplier == pytest.approx(
        found.noise_multiplier, rel=1e-3
    )
    assert price(dpsgd(0.2, found.noise_multiplier, 240)) <= 3.0


def test_adaptive_clipping_is_one_gaussian() -> None:
    sigma, count = 2.0, 3.0
    gradients = gradient_noise(sigma, count)
    assert 1 / sigma**2 == pytest.approx(1 / gradients**2 + 1 / (2 * count) ** 2)
    quoted("1/sigma^2 = 1/z'^2 + 1/(2 s)^2")
    quoted(f"(z 1 and s 1.5: z' {SiteClipRule(indicator_noise=1.5).update_noise(1.0):.3f})")


def test_the_clipped_gaussian() -> None:
    def row(rounds: int) -> list[float]:
        return [
            price(dp.SelfComposedDpEvent(noise_event(z, "gaussian"), rounds), 1e-5, "replace_one")
            for z in (1.0, 4.0, 20.0)
        ]

    first, ten = row(1), row(10)
    quoted(
        f"| 1 round | {first[0]:.3f} | {first[1]:.3f} | {first[2]:.3f} |",
        f"| 10 rounds | {ten[0]:.2f} | {ten[1]:.3f} | {ten[2]:.3f} |",
    )
    mu = 2 * math.sqrt(10) / 4
    profile = stats.norm.cdf(-ten[1] / mu + mu / 2) - math.exp(ten[1]) * stats.norm.cdf(
        -ten[1] / mu - mu / 2
    )
    assert profile == pytest.approx(1e-5, rel=1e-2)


def test_the_exact_filter_costs_what_the_clipped_gaussian_costs() -> None:
    found = price(exact_event(SvtExactConf(), SIZE), 1e-5, "replace_one")
    assert found == pytest.approx(price(noise_event(1.0, "gaussian"), 1e-5, "replace_one"), 1e-6)
    quoted(f"(z 1: {found:.3f})")


def test_sparse_vector_filters() -> None:
    conf, new = SvtConf(), SvtFlare28Conf()
    paid = flare28_price(new, SIZE)
    quoted(
        f"pure epsilon {paid.pure:,.1f}: {paid.selection:g} for the choice and "
        f"{paid.coordinates:,} values at {paid.per_coordinate:g} each",
        f"At delta 1e-5 it is {price(paid.dp_event, 1e-5, 'replace_one'):.1f}",
        f"{new.epsilon:g} against {paid.pure:,.1f}",
    )
    scales = svt_scales(conf, SIZE)
    values = scales.count * conf.noise_var
    choice = scales.epsilon_selection
    quoted(
        f"{choice:.1f} for the choice and {values:,.0f} for the values: {choice + values:,.1f}",
        f"({(1 - 1 / SIZE) ** SIZE:.3f})",
    )


def test_the_what_if_of_the_percentile_gaussian() -> None:
    conf = GaussianConf()
    quantile = stats.norm.ppf(0.5 + conf.percentile / 200)
    what_if = 2 * math.sqrt(SIZE) / (conf.sigma0 * quantile)
    quoted(f"what-if mu of {what_if:,.0f}")
    update = np.random.default_rng(0).standard_normal(SIZE)
    sigma = percentile_sigma(update, conf.sigma0, conf.percentile)
    assert 2 * np.linalg.norm(update) / sigma == pytest.approx(what_if, rel=0.02)
    ratio = sigma / percentile_sigma(update, conf.sigma0, 50)
    quoted(f"percentile 50 instead of 95 the noise is {ratio:.1f} times less")
    assert ratio == pytest.approx(stats.norm.ppf(0.975) / stats.norm.ppf(0.75), rel=0.02)


def test_searching_is_composition() -> None:
    one, ten, fifty = (price(dpsgd(0.01, 1.0, 1000 * runs)) for runs in (1, 10, 50))
    quoted(f"delta 1e-5: {one:.2f}. Ten such runs, all looked at: {ten:.2f}; fifty: {fifty:.2f}")


def test_shuffled_batches() -> None:
    poisson = price(dpsgd(1 / 50, 0.8, 50), 1e-3)
    floor = shuffle_epsilon_floor(1e-3, 0.8, 50)
    billed = price(shuffled_event(0.8, 1), 1e-3)
    assert poisson < floor < billed
    quoted(
        f"assumes Poisson says {poisson:.2f}; at least {floor:.2f} is true",
        f"{billed:.2f} is billed here",
    )


def test_patients() -> None:
    record = dpsgd(0.01, 1.0, 1000)
    one, two, three, four = (
        f"{price(patient_event(record, records, 'zero_out')):.2f}" for records in (1, 2, 3, 4)
    )
    quoted(f"{one} for a record, {two} for a patient with 2 records, {three} with 3, {four} with 4")


def test_the_divisor() -> None:
    # Noise of scale 1/n against 1/(n - 1) on d coordinates: Fisher information 2 d of log scale.
    hundred, thousand = (math.sqrt(2 * 246_156) / n for n in (100, 1000))
    quoted(f"{hundred:.1f} with 100 records, {thousand:.1f} with 1,000")
    noise = np.random.default_rng(0).standard_normal((400, 20_000))
    scale = np.log((noise**2).mean(1)) / 2
    assert 0.01 / scale.std() == pytest.approx(math.sqrt(2 * 20_000) / 100, rel=0.1)


def test_client_sampling() -> None:
    product, true = price(dpsgd(0.01, 1.0, 100)), price(dpsgd(0.1, 1.0, 100))
    quoted(f"gives {product:.2f}; a server that sees who takes part faces {true:.2f}")


def test_the_page_is_linked() -> None:
    assert "docs/how-we-count.md" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_noise_by_the_server() -> None:
    def row(relation: Neighbouring) -> list[float]:
        return [
            price(dp.SelfComposedDpEvent(dp.GaussianDpEvent(1.0), rounds), 1e-5, relation)
            for rounds in (1, 10)
        ]

    for relation in ("zero_out", "replace_one"):
        one, ten = row(relation)
        quoted(f"| `{relation}` | {one:.3f} | {ten:.2f} |")


def test_noise_on_the_records() -> None:
    quoted(f"{response_epsilon(0.9, 2):.3f} for p 0.9 and 2 classes")
    response = dp.RandomizedResponseDpEvent(0.2, 2)
    both = dp.ComposedDpEvent([dp.GaussianDpEvent(1.0), response])
    quoted(f"z 1 and p 0.9 at delta 1e-5: {price(both, 1e-5, 'replace_one'):.3f} for one record")


def test_noise_on_the_final_model() -> None:
    one, four = (price(dp.GaussianDpEvent(z), 1e-5, "replace_one") for z in (1.0, 4.0))
    quoted(f"{one:.3f} at z 1, {four:.3f} at z 4")


def test_what_an_audit_can_show_at_most() -> None:
    most = ceiling(400, guess_counts(400), 1e-5, 0.05 / 12)
    quoted(f"twelve bounds and delta 1e-5 that is {most:.2f}")


def test_the_audited_schedules_advertise_what_is_said() -> None:
    first, every = (price(dpsgd(0.2, 3.0, 20 * rounds)) for rounds in (1, 12))
    quoted(f"{first:.2f} advertised for it", f"({every:.2f} proved)")
