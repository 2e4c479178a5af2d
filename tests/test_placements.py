"""Whole cells with noise at the records, at the server, on the final model, and in stacks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fedprivacy.accounting.ledger import Ledger
from fedprivacy.accounting.what_if import gaussian_epsilon
from fedprivacy.cell import run_cell
from fedprivacy.config.schema import CellConfig
from fedprivacy.config.serialization import dumps
from fedprivacy.config.validation import validate
from fedprivacy.errors import ConfigError
from fedprivacy.federation.run import run_federation
from fedprivacy.federation.site import open_runtime
from fedprivacy.federation.strategy import SiteStrategy
from fedprivacy.recount import recount
from fedprivacy.report.words import views_text
from fedprivacy.result import LEDGER_FILE, RESULT_FILE

Tiny = Callable[..., CellConfig]
EVERY, FIRST, LAST = "every_round", "first_round", "last_round"


def privacy(config: CellConfig, folder: Path) -> dict[str, Any]:
    """The privacy block of the cell, whose ledger must give the same again."""
    result = run_cell(config, folder)
    assert result.status in ("ok", "collapsed"), result.reason
    assert not recount(folder).differences
    ledger = Ledger.read(folder / LEDGER_FILE)
    ledger.write(folder / "again.jsonl")
    assert Ledger.read(folder / "again.jsonl") == ledger
    return json.loads((folder / RESULT_FILE).read_text())["privacy"]


@pytest.mark.parametrize("schedule", [EVERY, FIRST])
def test_central_noise_is_for_who_sees_averages(tiny: Tiny, tmp_path: Path, schedule: str) -> None:
    z = 2.0
    config = tiny(
        "algorithm=central_gaussian", f"schedule={schedule}", f"algorithm.noise_multiplier={z}"
    )
    said = privacy(config, tmp_path)
    assert (said["unit"], said["infinite"]) == ("site", True)
    assert "server sees every update" in said["reason"]
    aggregate = said["per_view"]["aggregate"]
    expected = gaussian_epsilon(math.sqrt(3) / z, 1e-5)
    if schedule == EVERY:
        assert aggregate["epsilon"] == pytest.approx(expected, abs=0.01)
        assert aggregate["neighbouring"] == "zero_out"
        assert said["per_view"]["final_model"]["epsilon"] == aggregate["epsilon"]
        assert views_text(said) == f"infinite (aggregate: {aggregate['epsilon']:.2f})"
    else:
        assert aggregate["infinite"]
        assert aggregate["epsilon_protected"] == pytest.approx(
            gaussian_epsilon(1 / z, 1e-5), abs=0.01
        )


def test_with_the_view_of_averages_the_figure_is_the_headline(tiny: Tiny, tmp_path: Path) -> None:
    said = privacy(tiny("algorithm=central_gaussian", "privacy.view=aggregate"), tmp_path)
    assert not said["infinite"]
    assert views_text(said).endswith("(server_updates: infinite)")
    # Replacing a site covers the patients and records in it.
    assert said["per_unit"]["patient"]["neighbouring"] == "replace_one"
    assert said["per_unit"]["record"]["epsilon"] > said["epsilon"]


def test_central_weights_are_equal_or_refused(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match="weighting by examples"):
        validate(tiny("algorithm=central_gaussian", "federation.weighting=examples"))
    with pytest.raises(ConfigError, match="average of all sites"):
        validate(tiny("algorithm=central_gaussian", "federation=local"))
    quiet = tiny(
        "algorithm=central_gaussian",
        "algorithm.clip=1000",
        "algorithm.noise_multiplier=0",
        "dataset.partition=linear",
        "federation.rounds=1",
    )
    plain = tiny("federation.weighting=uniform", "dataset.partition=linear", "federation.rounds=1")
    by_size = tiny("dataset.partition=linear", "federation.rounds=1")
    weights = [run_federation(one).weights["vector"] for one in (quiet, plain, by_size)]
    assert torch.allclose(weights[0], weights[1], atol=1e-6)
    assert not torch.allclose(weights[0], weights[2], atol=1e-6)


@pytest.mark.parametrize(
    "overrides",
    [
        ("algorithm=release_gaussian", "privacy.view=final_model"),
        ("algorithm=stacked", "algorithm.mechanisms=[dpsgd,release_gaussian]"),
    ],
)
def test_nothing_of_a_round_is_told_where_the_final_model_alone_is_published(
    tiny: Tiny, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    result = run_cell(tiny(*overrides), tmp_path)
    for block in result.rounds:
        assert (block.loss, block.update_norm, block.snr) == (None, None, None)
    assert [block.score is None for block in result.rounds] == [True, True, False]
    assert result.privacy is not None
    assert any("Only the final model is published" in one for one in result.privacy["assumptions"])
    assert not any("Mean training losses" in one for one in result.privacy["assumptions"])


def test_a_wrong_number_of_sites_fails_the_cell_before_anything_is_sent(
    tiny: Tiny, tmp_path: Path
) -> None:
    result = run_cell(tiny("algorithm=central_gaussian", "algorithm.n_sites=5"), tmp_path)
    assert (result.status, result.privacy) == ("failed", None)
    assert "algorithm.n_sites=3, or null" in result.error["message"]
    assert not (tmp_path / LEDGER_FILE).exists()


def test_an_adaptive_clip_norm_moves_from_round_to_round(tiny: Tiny, tmp_path: Path) -> None:
    for algorithm in ("central_gaussian", "gaussian_clipped"):
        folder = tmp_path / algorithm
        privacy(tiny(f"algorithm={algorithm}", "algorithm.clipping=adaptive"), folder)
        events = [e for e in Ledger.read(folder / LEDGER_FILE) if e.site == "site-1"]
        clips = [e.details["C"] for e in events if e.view != "server_updates" or len(events) == 3]
        assert len(set(clips)) == 3, algorithm


def test_source_noise_is_one_event_in_every_round_and_none_else(tiny: Tiny, tmp_path: Path) -> None:
    said = {}
    for schedule in (EVERY, FIRST):
        config = tiny("algorithm=local_source", f"schedule={schedule}")
        said[schedule] = privacy(config, tmp_path / schedule)
    one = privacy(tiny("algorithm=local_source", "federation.rounds=1"), tmp_path / "one")
    assert said[EVERY]["epsilon"] == one["epsilon"]
    assert (said[EVERY]["unit"], said[EVERY]["neighbouring"]) == ("record", "replace_one")
    assert said[FIRST]["infinite"]
    assert said[FIRST]["epsilon_protected"] == one["epsilon"]
    assert any("Held-out records stay raw" in words for words in said[EVERY]["assumptions"])


@pytest.mark.parametrize("randomness", ["seeded", "default"])
def test_source_noise_is_drawn_once_for_all_rounds(tiny: Tiny, randomness: str) -> None:
    config = tiny("algorithm=local_source", f"privacy={randomness}")
    runtime = open_runtime(dumps(config))
    runtime._noisy.clear()
    run_federation(config)
    # One noisy copy of the records of each site, though three rounds trained on them.
    assert len(runtime._noisy) == len(runtime.nodes)
    raw = runtime.nodes[0].train.train_x
    noisy = next(x for (site, _), (x, _) in runtime._noisy.items() if site == 0)
    assert float((noisy - raw).abs().min()) > 0


def test_no_run_draws_its_record_noise_from_a_known_secret(tiny: Tiny) -> None:
    config = tiny("algorithm=local_source", "privacy=default", "federation.rounds=1")
    secrets = []
    for _ in range(2):
        runtime = open_runtime(dumps(config))
        runtime._noisy.clear()
        run_federation(config)
        secrets += [secret for _, secret in runtime._noisy]
    assert len(set(secrets)) == 2 * len(runtime.nodes)
    assert all(secret.bit_length() > 200 for secret in secrets)


def test_source_noise_is_refused_where_it_means_nothing(tiny: Tiny, compose) -> None:
    with pytest.raises(ConfigError, match="drawn once"):
        validate(tiny("algorithm=local_source", "schedule.decay=0.5"))
    with pytest.raises(ConfigError, match="one label for each"):
        validate(compose("algorithm=local_source", "dataset=ixi_tiny", "dataset.size=demo"))


@pytest.mark.parametrize(("schedule", "finite"), [(EVERY, True), (LAST, True), (FIRST, False)])
def test_a_noisy_final_model_is_for_who_sees_nothing_else(
    tiny: Tiny, tmp_path: Path, schedule: str, finite: bool
) -> None:
    config = tiny(
        "algorithm=release_gaussian",
        f"schedule={schedule}",
        "algorithm.noise_multiplier=4",
        "privacy.view=final_model",
    )
    said = privacy(config, tmp_path)
    assert said["infinite"] is not finite
    assert (said["unit"], said["neighbouring"]) == ("record", "replace_one")
    for view in ("server_updates", "aggregate"):
        assert said["per_view"][view]["infinite"]
    if finite:
        assert said["epsilon"] == pytest.approx(gaussian_epsilon(2 / 4, 1e-5), abs=0.01)
        for unit in ("patient", "site"):
            assert said["per_unit"][unit]["epsilon"] == said["epsilon"]
    scored = [
        block["score"] for block in json.loads((tmp_path / RESULT_FILE).read_text())["rounds"]
    ]
    assert scored[:-1] == [None, None]
    assert scored[-1] is not None


def test_the_model_that_is_scored_is_the_noisy_one(tiny: Tiny) -> None:
    base = ("algorithm=release_gaussian", "algorithm.clip=0.01")
    quiet = tiny(*base, "algorithm.noise_multiplier=0")
    runtime = open_runtime(dumps(quiet))
    final = run_federation(quiet).weights["vector"]
    assert float((final - runtime.initial_weights).norm()) == pytest.approx(0.01, rel=1e-3)


def test_a_stack_reports_each_units_own_bound(tiny: Tiny, tmp_path: Path) -> None:
    stack = tiny("algorithm=stacked", "algorithm.mechanisms=[dpsgd,gaussian_clipped]")
    said = privacy(stack, tmp_path / "stack")
    dpsgd = privacy(tiny("algorithm=dpsgd"), tmp_path / "dpsgd")
    clipped = privacy(tiny("algorithm=gaussian_clipped"), tmp_path / "clipped")
    assert said["unit"] == "record"
    assert said["epsilon"] == dpsgd["epsilon"]
    assert said["neighbouring"] == "zero_out"
    site = said["per_unit"]["site"]
    assert (site["epsilon"], site["neighbouring"]) == (clipped["epsilon"], "replace_one")


def test_a_stack_of_filter_and_trusted_server(tiny: Tiny, tmp_path: Path) -> None:
    z_site, z_server = 4.0, 2.0
    stack = tiny(
        "algorithm=stacked",
        f"algorithm.mechanisms=[{{name: central_gaussian, noise_multiplier: {z_server}}},"
        f"{{name: gaussian_clipped, clip: 0.5, noise_multiplier: {z_site}}}]",
    )
    said = privacy(stack, tmp_path)
    # Against the server only the site's own noise counts; both views have their own bound.
    own = gaussian_epsilon(2 * math.sqrt(3) / z_site, 1e-5)
    assert said["epsilon"] == pytest.approx(own, abs=0.01)
    assert said["per_view"]["server_updates"]["neighbouring"] == "replace_one"
    # Of two valid bounds on the averages the smaller is kept, never their sum or combination.
    averages = gaussian_epsilon(math.sqrt(3) / z_server, 1e-5)
    assert said["per_view"]["aggregate"]["epsilon"] == pytest.approx(min(own, averages), abs=0.01)
    clips = {e.details["C"] for e in Ledger.read(tmp_path / LEDGER_FILE) if not e.reason}
    assert clips == {0.5, 1.0}


def test_a_stack_on_the_records_and_in_training(tiny: Tiny, tmp_path: Path) -> None:
    stack = tiny("algorithm=stacked", "algorithm.mechanisms=[local_source,dpsgd]")
    said = privacy(stack, tmp_path / "stack")
    source = privacy(tiny("algorithm=local_source"), tmp_path / "source")
    dpsgd = privacy(tiny("algorithm=dpsgd"), tmp_path / "dpsgd")
    assert said["epsilon"] == min(source["epsilon"], dpsgd["epsilon"])
    assert any("Poisson sampling" in words for words in said["assumptions"])
    assert any("Held-out records stay raw" in words for words in said["assumptions"])


def test_news_that_the_raw_average_broke_down_ends_the_claim_of_the_final_model(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = SiteStrategy._apply

    def overflowing(strategy: SiteStrategy, answers: Any, mean: torch.Tensor, number: int) -> None:
        honest(strategy, answers, mean * (math.inf if number == 2 else 1.0), number)

    monkeypatch.setattr(SiteStrategy, "_apply", overflowing)
    said = privacy(tiny("algorithm=release_gaussian", "privacy.view=final_model"), tmp_path / "a")
    assert said["infinite"]
    assert "non-finite" in said["reason"]
    # Noisy averages are released anyway: whether they are finite tells nothing more.
    central = tiny("algorithm=central_gaussian", "privacy.view=aggregate")
    assert not privacy(central, tmp_path / "b")["infinite"]


PROVED = {
    "central_gaussian": {("site", "aggregate"), ("record", "aggregate"), ("site", "final_model")},
    "local_source": {("record", "server_updates"), ("patient", "server_updates")},
    "release_gaussian": {("record", "final_model"), ("site", "final_model")},
    "gaussian_clipped": {("site", "server_updates"), ("patient", "aggregate")},
}
NEVER = {
    "central_gaussian": {("site", "server_updates"), ("record", "server_updates")},
    "local_source": {("site", "server_updates"), ("site", "final_model")},
    "release_gaussian": {("record", "aggregate"), ("site", "server_updates")},
    "gaussian_clipped": set(),
}


@pytest.mark.parametrize("schedule", [EVERY, FIRST, "every_nth", LAST])
@pytest.mark.parametrize("algorithm", PROVED)
def test_what_each_schedule_leaves_of_the_proof(
    tiny: Tiny, tmp_path: Path, algorithm: str, schedule: str
) -> None:
    config = tiny(f"algorithm={algorithm}", f"schedule={schedule}")
    said = privacy(config, tmp_path)
    found = recount(tmp_path)
    # One raw round ends every claim; of the final model alone only the last of three speaks.
    whole = schedule == EVERY or (algorithm == "release_gaussian" and schedule != FIRST)
    for unit, view in PROVED[algorithm]:
        stated = found.restated(unit=unit, view=view)
        assert stated.infinite is not whole, (unit, view)
        assert ("schedule leaves" in stated.reason) is not whole, stated.reason
    for unit, view in NEVER[algorithm]:
        stated = found.restated(unit=unit, view=view)
        assert stated.infinite
        assert stated.reason
    assert said["protected_rounds"] == {EVERY: 3, FIRST: 1, "every_nth": 2, LAST: 1}[schedule]


def test_what_would_be_is_shown_under_its_own_name_alone(tiny: Tiny, tmp_path: Path) -> None:
    said = privacy(tiny("algorithm=gaussian"), tmp_path / "on")
    assert said["infinite"]
    assert said["epsilon"] is None
    assert said["what_if"]["direction"] == "what-if"
    assert said["what_if"]["rounds"] == 3
    assert said["what_if"]["mu"] > 0
    silent = tiny("algorithm=gaussian", "privacy.diagnostics=false")
    assert privacy(silent, tmp_path / "off")["what_if"] is None
    assert privacy(tiny("algorithm=dpsgd"), tmp_path / "dpsgd")["what_if"] is None


def test_percentile_50_supposes_less_privacy_than_95(tiny: Tiny, tmp_path: Path) -> None:
    mus = [
        privacy(
            tiny("algorithm=gaussian", f"algorithm.percentile={p}", "federation.rounds=1"),
            tmp_path / str(p),
        )["what_if"]["mu"]
        for p in (50, 95)
    ]
    assert mus[0] > 2 * mus[1]


def test_coverage_and_sampling_are_stated(tiny: Tiny, tmp_path: Path) -> None:
    dpsgd = privacy(tiny("algorithm=dpsgd"), tmp_path / "dpsgd")
    assert dpsgd["coverage_records"] == 1.0
    assert dpsgd["epsilon_record_quantiles"]["1"] == dpsgd["epsilon"]
    assert dpsgd["sampling"] == "Poisson, each record in each step with probability 0.2"
    shuffled = privacy(tiny("algorithm=dpsgd", "algorithm.sampling=shuffle"), tmp_path / "shuffle")
    assert "without amplification" in shuffled["sampling"]
    assert "at least" in shuffled["sampling"]
    raw = privacy(tiny("algorithm=gaussian"), tmp_path / "gaussian")
    assert raw["coverage_records"] == 0.0
    assert raw["epsilon_record_quantiles"]["0.5"] is None
