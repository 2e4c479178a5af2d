from __future__ import annotations

import math
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from fedprivacy.result import CellResult
from fedprivacy.tracking.content import digest, metrics, params, run_name, tags


def test_tags_of_a_finite_cell_name_the_number_and_what_it_is_about(factory: ModuleType) -> None:
    found = tags(factory.make_result(seed=3), "demo")
    expected = {
        "sweep.id": "demo",
        "algorithm": "dpsgd",
        "schedule": "every_round",
        "dataset": "higgs",
        "federation": "fedavg",
        "seed": "3",
        "status": "ok",
        "private": "true",
        "synthetic": "true",
        "verdict": "proven",
        "privacy.epsilon": "8.18",
        "privacy.unit": "record",
        "privacy.neighbouring": "zero_out",
        "privacy.view": "server_updates",
        "privacy.delta": "1e-5",
        "privacy.randomness": "seeded",
    }
    assert {key: found[key] for key in expected} == expected
    assert all(isinstance(value, str) and value for value in found.values())


def test_infinite_and_absent_epsilons_are_words(factory: ModuleType) -> None:
    assert tags(factory.make_result("svt"), "s")["privacy.epsilon"] == "infinite"
    assert tags(factory.make_result("none"), "s")["private"] == "false"
    assert tags(factory.failed_result(), "s")["privacy.epsilon"] == "unknown"


def test_a_real_dataset_is_not_called_synthetic(factory: ModuleType) -> None:
    assert tags(factory.make_result(dataset="wisconsin"), "s")["synthetic"] == "false"


def test_run_names_tell_baselines_apart(factory: ModuleType) -> None:
    assert run_name(factory.make_result(seed=1)) == "dpsgd every_round higgs s1"
    assert run_name(factory.make_result("none", federation="local")).endswith("higgs local s0")


def test_params_are_flat_text(factory: ModuleType) -> None:
    found = params(factory.make_result(config={"federation.lr": 1e-3}))
    assert found["federation.lr"] == "0.001"
    assert found["model.hidden"] == "[64, 64]"
    assert found["privacy.delta"] == "null"
    assert found["seed"] == "0"
    assert all(isinstance(value, str) for value in found.values())


def test_metrics_of_a_round_have_the_round_as_step(factory: ModuleType) -> None:
    result = factory.make_result()
    points = {(key, step): value for key, step, value in metrics(result)}
    for block in result.rounds:
        assert points["score", block.round] == block.score
        assert points["score/auc", block.round] == block.score
        assert points["score/accuracy", block.round] == block.secondary["accuracy"]
        assert points["train/loss", block.round] == block.loss
        assert points["update/norm", block.round] == block.update_norm
        assert points["privacy/snr", block.round] == block.snr
        assert points["privacy/epsilon", block.round] == pytest.approx(block.epsilon)
        assert points["privacy/epsilon_protected", block.round] == block.epsilon_protected
        for site, score in block.score_per_site.items():
            assert points[f"score/site/{site}", block.round] == score
    assert points["privacy/epsilon_protected", 8] == 8.181


def test_no_step_of_a_metric_is_written_twice(factory: ModuleType) -> None:
    steps = [(key, step) for key, step, _ in metrics(factory.make_result())]
    assert len(steps) == len(set(steps))


@pytest.mark.parametrize("schedule", ["first_round", "every_nth"])
def test_an_infinite_epsilon_is_never_a_number(factory: ModuleType, schedule: str) -> None:
    keys = {key for key, _, _ in metrics(factory.make_result(schedule=schedule))}
    assert "privacy/epsilon" not in keys
    assert "privacy/epsilon_protected" in keys
    assert "privacy/epsilon_protected" not in {
        key for key, _, _ in metrics(factory.make_result("gaussian"))
    }


@pytest.mark.parametrize("schedule", ["first_round", "every_nth"])
def test_an_epsilon_that_becomes_infinite_has_no_early_value(
    factory: ModuleType, schedule: str
) -> None:
    result = factory.make_result(schedule=schedule)
    early = replace(result.rounds[0], epsilon=2.22, epsilon_protected=2.22)
    points = metrics(replace(result, rounds=(early, *result.rounds[1:])))
    assert "privacy/epsilon" not in {key for key, _, _ in points}
    assert ("privacy/epsilon_protected", 1, 2.22) in points
    unknown = replace(result, rounds=(early,), privacy=None)
    assert "privacy/epsilon" not in {key for key, _, _ in metrics(unknown)}


def test_a_protected_epsilon_that_becomes_infinite_has_no_early_value(
    factory: ModuleType,
) -> None:
    result = factory.make_result("gaussian")
    early = replace(result.rounds[0], epsilon_protected=3.0)
    points = metrics(replace(result, rounds=(early, *result.rounds[1:])))
    assert "privacy/epsilon_protected" not in {key for key, _, _ in points}


def test_non_finite_values_are_left_out(factory: ModuleType) -> None:
    result = factory.make_result()
    first = replace(result.rounds[0], loss=math.nan, update_norm=math.inf, score=None)
    broken = replace(
        result, rounds=(first,), score=replace(result.score, value=math.nan, per_site={})
    )
    points = metrics(broken)
    assert all(math.isfinite(value) for _, _, value in points)
    assert {"train/loss", "update/norm", "score"}.isdisjoint(key for key, _, _ in points)


def test_the_final_score_is_written_where_rounds_were_not_scored(factory: ModuleType) -> None:
    result = factory.make_result()
    blind = tuple(replace(block, score=None, score_per_site={}) for block in result.rounds)
    points = {(k, s): v for k, s, v in metrics(replace(result, rounds=blind))}
    assert [step for key, step in points if key == "score"] == [8]
    assert points["score", 8] == result.score.value


def test_audit_metrics_are_written_when_there_is_an_audit(factory: ModuleType) -> None:
    audit = {
        "epsilon_lower": 1.5,
        "ceiling": 3.0,
        "membership": {"auc": 0.7, "tpr_at_fpr": {"0.01": 0.04}},
    }
    points = {key: value for key, _, value in metrics(factory.make_result(audit=audit))}
    assert (points["audit/epsilon_lower"], points["audit/ceiling"]) == (1.5, 3.0)
    assert points["audit/mia_auc"] == 0.7
    assert points["audit/tpr_at_fpr_0.01"] == 0.04


PROVED = {
    "sampling": "Poisson, each record in each step with probability 0.2",
    "coverage_records": 1.0,
    "exposed_releases": {"number": 0, "first_rounds": []},
    "max_tpr_at_fpr": {"0.001": 0.02, "0.01": 0.1, "0.1": 0.4},
    "max_advantage": 0.3,
    "mu_gdp": 1.2,
    "epsilon_at_delta_1e-5": 8.2,
    "delta_profile": {"0": 0.3, "4": 1e-3},
    "epsilon_record_quantiles": {"0.5": 8.181, "1": None},
    "assumptions": ["first", "second"],
    "worst_site": "site1",
    "direction": "upper bound, proved",
    "accountant": "dp-accounting 0.6.0 PLD",
    "per_unit": {
        "record": {"infinite": False, "epsilon": 8.181},
        "patient": {"infinite": False, "epsilon": 20.5},
        "site": {"infinite": True, "epsilon": None},
    },
    "per_view": {"aggregate": {"infinite": False, "epsilon": 8.181}},
    "per_site": {"site1": {"infinite": False, "epsilon": 8.181}},
}


def with_privacy(result: CellResult, **changes: Any) -> CellResult:
    return replace(result, privacy={**(result.privacy or {}), **PROVED, **changes})


def test_everything_that_is_proved_is_searchable(factory: ModuleType) -> None:
    result = with_privacy(factory.make_result())
    points = {key: value for key, _, value in metrics(result)}
    expected = {
        "privacy/max_tpr_at_fpr_0.001": 0.02,
        "privacy/max_tpr_at_fpr_0.01": 0.1,
        "privacy/max_tpr_at_fpr_0.1": 0.4,
        "privacy/max_advantage": 0.3,
        "privacy/mu_gdp": 1.2,
        "privacy/epsilon_at_delta_1e-5": 8.2,
        "privacy/delta_at_epsilon/0": 0.3,
        "privacy/delta_at_epsilon/4": 1e-3,
        "privacy/epsilon_record_quantile/0.5": 8.181,
        "privacy/coverage_records": 1.0,
        "privacy/exposed_releases": 0.0,
        "privacy/protected_share": 1.0,
        "privacy/per_unit/patient/epsilon": 20.5,
        "privacy/per_view/aggregate/epsilon": 8.181,
        "privacy/site/site1/epsilon": 8.181,
    }
    assert {key: points.get(key) for key in expected} == expected
    assert "privacy/per_unit/site/epsilon" not in points
    assert "privacy/epsilon_record_quantile/1" not in points
    told = tags(result, "demo")
    assert told["privacy.assumptions"] == "first; second"
    for key in ("sampling", "worst_site", "direction", "accountant"):
        assert told[f"privacy.{key}"] == PROVED[key]


def test_why_an_epsilon_is_infinite_is_a_tag_that_fits(factory: ModuleType) -> None:
    assert "privacy.reason" not in tags(with_privacy(factory.make_result(), reason=""), "s")
    told = tags(with_privacy(factory.make_result("svt"), reason="raw " * 2000), "s")
    assert len(told["privacy.reason"]) == 5000
    assert told["privacy.reason"].endswith("in result.json)")


def test_what_the_proof_caps_is_left_out_where_it_caps_nothing(factory: ModuleType) -> None:
    result = factory.make_result(schedule="first_round")
    nothing = {"max_tpr_at_fpr": {"0.01": 1.0}, "max_advantage": 1.0, "mu_gdp": None}
    hopeless = with_privacy(result, **nothing, **{"epsilon_at_delta_1e-5": None})
    keys = {key for key, _, _ in metrics(hopeless)}
    assert not any("max_" in key or "mu_gdp" in key or "1e-5" in key for key in keys)
    assert {"privacy/protected_share", "privacy/coverage_records"} <= keys


def test_what_would_be_is_no_metric(factory: ModuleType) -> None:
    supposed = {"what_if": {"mu": 3.0, "epsilon": 20.0, "direction": "what-if"}}
    result = with_privacy(factory.make_result(), **supposed)
    assert not any("what" in key for key, _, _ in metrics(result))
    assert tags(result, "s")["privacy.what_if"] == "mu: 3.0; epsilon: 20.0; direction: what-if"


def test_odd_site_names_become_keys_that_mlflow_takes(factory: ModuleType) -> None:
    result = factory.make_result()
    odd = replace(result.score, per_site={"Saint-Étienne (A) #2": 0.5})
    keys = {key for key, _, _ in metrics(replace(result, score=odd))}
    assert "score/site/Saint-Étienne _A_ _2" in keys


def test_the_digest_tells_a_second_run_and_survives_new_fields(factory: ModuleType) -> None:
    result = factory.make_result()
    assert digest(result) == digest(factory.make_result())
    assert digest(result) != digest(replace(result, status="failed"))
    assert digest(result) != digest(replace(result, timing_s={"total": 2.6}))
    assert digest(result) == digest(replace(result, versions={"fedprivacy": "9.9"}, rounds=()))
