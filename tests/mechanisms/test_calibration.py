"""A target epsilon becomes noise: never above the target, for the run that was asked for."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant

from fedprivacy.accounting import Ledger
from fedprivacy.cell import run_cell
from fedprivacy.config.identity import cell_id
from fedprivacy.config.schema import CellConfig, DpsgdConf
from fedprivacy.config.validation import validate
from fedprivacy.errors import ConfigError
from fedprivacy.mechanisms import calibration
from fedprivacy.mechanisms.calibration import RunPlan, calibrated, run_plan
from fedprivacy.mechanisms.settling import settle

ALWAYS = (1.0,) * 10
PLAN = RunPlan("poisson", 0.2, 20, ALWAYS, 1e-5)


def price(plan: RunPlan, noise: float, grid: float = 5e-4) -> float:
    """Epsilon of the protected rounds by dp-accounting alone."""
    accountant = PLDAccountant(
        dp_accounting.NeighboringRelation.REPLACE_SPECIAL, value_discretization_interval=grid
    )
    for strength in sorted({s for s in plan.strengths if s is not None}):
        one = dp_accounting.GaussianDpEvent(noise * strength)
        event = dp_accounting.PoissonSampledDpEvent(plan.sampling_rate, one)
        accountant.compose(event, plan.steps * plan.strengths.count(strength))
    return accountant.get_epsilon(plan.delta)


@pytest.mark.parametrize("target", [0.6, 3.0, 12.0])
def test_the_noise_meets_the_target_and_no_less_would(target: float) -> None:
    found = calibrated(PLAN, target)
    assert found.covers_run
    assert price(PLAN, found.noise_multiplier) <= target
    assert found.epsilon <= target
    # The accountant's own grid of losses overstates epsilon by 0.01 or less.
    assert price(PLAN, found.noise_multiplier * 0.995) > target - 0.012


@pytest.mark.parametrize(
    "strengths",
    [
        tuple(0.8**k for k in range(4)),
        (1.0, None, 0.5, None, 0.25),
        (None, None, 1.0),
        (1.0, *(None,) * 9),
    ],
)
def test_schedules_and_decay_are_priced_round_by_round(
    strengths: tuple[float | None, ...],
) -> None:
    plan = replace(PLAN, strengths=strengths)
    found = calibrated(plan, 4.0)
    assert found.covers_run == (None not in strengths)
    assert 3.9 < price(plan, found.noise_multiplier) <= 4.0


def test_shuffled_runs_meet_the_target_without_amplification() -> None:
    # Four passes are one Gaussian of half the noise; 3.730632 is the least for epsilon 1 at 1e-5.
    plan = RunPlan("shuffle", 0.2, 10, (1.0, 1.0), 1e-5)
    assert calibrated(plan, 1.0).noise_multiplier == pytest.approx(2 * 3.730632, rel=5e-3)
    assert calibrated(plan, 1.0).noise_multiplier > 2 * 3.730632
    assert calibrated(plan, 1.0).noise_multiplier > calibrated(
        replace(plan, sampling="poisson"), 1.0
    ).noise_multiplier  # fmt: skip


def test_patients_with_several_records_need_more_noise() -> None:
    short = replace(PLAN, strengths=(1.0,))
    noises = [calibrated(replace(short, records=k), 3.0).noise_multiplier for k in (1, 2, 4)]
    assert noises == sorted(noises)
    assert noises[1] > 1.3 * noises[0]


@pytest.mark.parametrize("plan", [PLAN, replace(PLAN, sampling="shuffle"), replace(PLAN, steps=7)])
@pytest.mark.parametrize("target", [0.7, 3.0, 3.0001])
def test_the_noise_has_five_digits_rounded_towards_more(plan: RunPlan, target: float) -> None:
    noise = calibrated(plan, target).noise_multiplier
    assert float(f"{noise:.5g}") == noise
    assert calibration.rounded_up(noise) == noise
    for raw in (noise * 0.99999, 1.00001, 0.00123456, 123456.7):
        assert raw <= calibration.rounded_up(raw) <= raw * 1.0001001


def test_it_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []
    true = calibration.calibrate_noise

    def counting(*args):
        calls.append(args[1])
        return true(*args)

    monkeypatch.setattr(calibration, "calibrate_noise", counting)
    plan = replace(PLAN, steps=19)
    assert calibrated(plan, 3.0) == calibrated(replace(plan), 3.0)
    assert calls == [3.0]


# ------------------------------------------------------------------------- configurations


def asking(config: CellConfig, target: float | None = 3.0, **changes) -> CellConfig:
    """The configuration with a target and no noise of its own."""
    conf = replace(config.algorithm, target_epsilon=target, noise_multiplier=None, **changes)
    return replace(config, algorithm=conf)


@pytest.fixture
def dpsgd(tiny) -> CellConfig:
    return tiny("algorithm=dpsgd")


def test_null_is_the_datasets_default(dpsgd: CellConfig) -> None:
    settled = settle(asking(dpsgd, None))
    assert settled.algorithm.noise_multiplier == dpsgd.dataset.training.noise_multiplier == 2.0
    assert settle(settled) == settled == settle(dpsgd)


def test_settling_loads_no_accounting_unless_there_is_a_target() -> None:
    code = "import sys, fedprivacy.mechanisms.settling; print('dp_accounting' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_other_algorithms_pass_through(tiny) -> None:
    config = tiny("algorithm=svt")
    assert settle(config) is config


def test_a_target_becomes_noise_and_stays_on_record(dpsgd: CellConfig) -> None:
    settled = settle(asking(dpsgd))
    noise = settled.algorithm.noise_multiplier
    assert noise == calibrated(run_plan(dpsgd), 3.0).noise_multiplier
    assert settled.algorithm.target_epsilon == 3.0
    assert settle(settled) == settled
    validate(settled)


def test_the_plan_is_that_of_the_run(dpsgd: CellConfig) -> None:
    assert run_plan(dpsgd) == RunPlan("poisson", 0.2, 5, (1.0, 1.0, 1.0), 1e-5)
    longer = replace(dpsgd.federation, rounds=4, local_epochs=2)
    off = replace(dpsgd.schedule, name="every_nth", n=2, decay=0.5)
    changed = replace(dpsgd, federation=longer, schedule=off)
    assert run_plan(changed) == RunPlan("poisson", 0.2, 10, (1.0, None, 0.5, None), 1e-5)
    strict = replace(dpsgd, privacy=replace(dpsgd.privacy, delta=1e-7))
    assert run_plan(strict).delta == 1e-7


def test_equal_targets_are_equal_cells(dpsgd: CellConfig) -> None:
    one, again = settle(asking(dpsgd)), settle(asking(dpsgd))
    assert cell_id(one) == cell_id(again)
    assert cell_id(one) != cell_id(settle(asking(dpsgd, 2.0)))
    longer = replace(dpsgd, federation=replace(dpsgd.federation, rounds=4))
    assert settle(asking(longer)).algorithm.noise_multiplier > one.algorithm.noise_multiplier


def test_a_target_and_another_noise_are_refused(dpsgd: CellConfig) -> None:
    both = replace(dpsgd, algorithm=replace(dpsgd.algorithm, target_epsilon=3.0))
    for refuse in (settle, validate):
        with pytest.raises(ConfigError, match=r"target_epsilon=3.*one or the other") as caught:
            refuse(both)
        assert caught.value.key == "algorithm.noise_multiplier"
        assert "drop" in caught.value.fix


@pytest.mark.parametrize("target", [-1.0, 0.0, math.nan, math.inf, 1e-9])
def test_targets_that_cannot_be_met_are_refused(dpsgd: CellConfig, target: float) -> None:
    strict = replace(dpsgd, privacy=replace(dpsgd.privacy, delta=1e-10))
    with pytest.raises(ConfigError) as caught:
        settle(asking(strict, target, sampling="shuffle"))
    assert caught.value.key == "algorithm.target_epsilon"


def test_no_noise_protects_a_whole_site(dpsgd: CellConfig) -> None:
    config = replace(dpsgd, privacy=replace(dpsgd.privacy, unit="site"))
    with pytest.raises(ConfigError, match=r"privacy\.unit=site.*no noise"):
        settle(asking(config))


@pytest.mark.parametrize(
    ("group", "changes", "key"),
    [
        ("algorithm", {"sampling_rate": 0.0}, "algorithm.sampling_rate"),
        ("algorithm", {"sampling": "cyclic"}, "algorithm.sampling"),
        ("federation", {"rounds": 0}, "federation.rounds"),
        ("schedule", {"name": "every_nth", "n": 0}, "schedule.n"),
        ("privacy", {"delta": 0.01}, "privacy.delta"),
    ],
)
def test_what_is_wrong_besides_is_told_first(
    dpsgd: CellConfig, group: str, changes: dict[str, object], key: str
) -> None:
    config = asking(dpsgd)
    broken = replace(config, **{group: replace(getattr(config, group), **changes)})
    with pytest.raises(ConfigError) as caught:
        settle(broken)
    assert caught.value.key == key


def test_pooled_records_set_the_delta_of_a_central_run(dpsgd, monkeypatch) -> None:
    from fedprivacy.data.cache import load_data

    data = load_data(dpsgd.dataset)
    sizes = [len(site.train_x) for site in data.sites]
    seen: list[int] = []
    monkeypatch.setattr(calibration, "resolve_delta", lambda _, n: seen.append(n) or 1e-5)
    run_plan(dpsgd)
    run_plan(replace(dpsgd, federation=replace(dpsgd.federation, name="central")))
    assert seen == [max(sizes), sum(sizes)]


def test_raw_rounds_are_told_of(dpsgd: CellConfig, caplog: pytest.LogCaptureFixture) -> None:
    calibration._tell.cache_clear()
    first = replace(dpsgd, schedule=replace(dpsgd.schedule, name="first_round"))
    with caplog.at_level(logging.INFO):
        settle(asking(first))
        settle(asking(first))
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "protected rounds alone" in warnings[0].getMessage()
    assert "infinite" in warnings[0].getMessage()


@pytest.mark.parametrize("changes", [{}, {"sampling": "shuffle"}, {"clipping": "adaptive"}])
def test_a_cell_keeps_its_target(dpsgd: CellConfig, tmp_path: Path, changes: dict) -> None:
    config = settle(asking(dpsgd, **changes))
    result = run_cell(config, tmp_path)
    assert result.status in ("ok", "collapsed")
    assert not result.privacy["infinite"]
    assert 2.95 < result.privacy["epsilon"] <= 3.0
    for event in Ledger.read(tmp_path / "ledger.jsonl"):
        assert event.details["target_epsilon"] == 3.0
        assert event.details["sigma"] == config.algorithm.noise_multiplier
    assert result.config["algorithm"]["noise_multiplier"] == config.algorithm.noise_multiplier


def test_a_cell_with_raw_rounds_keeps_it_for_the_protected_ones(
    dpsgd: CellConfig, tmp_path: Path
) -> None:
    schedule = replace(dpsgd.schedule, name="every_nth", n=2, decay=0.7)
    config = settle(asking(replace(dpsgd, schedule=schedule)))
    privacy = run_cell(config, tmp_path).privacy
    assert privacy["infinite"]
    assert privacy["epsilon"] is None
    assert 2.95 < privacy["epsilon_protected"] <= 3.0
    assert privacy["protected_rounds"] == 2
    protected = Ledger.read(tmp_path / "ledger.jsonl").protected()
    assert {event.details["sigma"] for event in protected} == {
        config.algorithm.noise_multiplier,
        config.algorithm.noise_multiplier * 0.7,
    }
    assert all("infinite" in event.details["target_epsilon_of"] for event in protected)


def test_a_target_holds_at_the_delta_of_an_audited_cell(
    compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Canaries make a site larger and delta smaller; both come from one count."""
    # As if the sites were large enough for their size to decide.
    monkeypatch.setattr("fedprivacy.accounting.delta.default_delta", lambda n: 1e-4 / n)
    plain = ("algorithm.target_epsilon=3", "federation.rounds=1", "privacy=seeded")
    audited = (*plain, "audit=fast", "audit.kind=random_label", "audit.canaries=60")
    config = compose(*audited)
    calibration.calibrated.cache_clear()
    plan = run_plan(config)
    assert plan.delta < run_plan(compose(*plain)).delta
    result = run_cell(config, tmp_path)
    assert result.privacy is not None, result.reason
    assert result.privacy["delta"] == plan.delta
    assert 2.9 < result.privacy["epsilon"] <= 3


def test_a_cell_that_costs_more_than_its_target_has_failed(
    compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose("algorithm.target_epsilon=3", "federation.rounds=2", "privacy=seeded")
    assert isinstance(config.algorithm, DpsgdConf)
    less = replace(config.algorithm, noise_multiplier=1.0)
    result = run_cell(replace(config, algorithm=less), tmp_path)
    assert result.status == "failed"
    assert "algorithm.target_epsilon=3 was promised" in result.reason
    assert result.privacy is not None
    assert result.privacy["epsilon"] > 3
