"""One cell from configuration to result.json: known answers, failures, and what is left behind."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedprivacy.accounting.ledger import Ledger
from fedprivacy.cell import failed_result, run_cell, signal_to_noise
from fedprivacy.config.identity import cell_id
from fedprivacy.config.schema import CellConfig
from fedprivacy.errors import CellPruned, ClientFailure, ConfigError
from fedprivacy.federation.site import CellRuntime, close_runtime
from fedprivacy.federation.strategy import RoundOutcome
from fedprivacy.result import LEDGER_FILE, RESULT_FILE, CellResult, read_result

Tiny = Callable[..., CellConfig]
# q = 0.2 and four local epochs: 20 steps a round. delta is stated, as the default follows the size.
KNOWN = (
    "algorithm=dpsgd",
    "algorithm.noise_multiplier=2.0",
    "algorithm.sampling_rate=0.2",
    "federation.local_epochs=4",
    "federation.evaluate_every=0",
    "privacy.delta=1e-5",
)
LONGER = "federation.local_epochs=4"


def strict(folder: Path) -> dict[str, Any]:
    """result.json, read as strict JSON."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not strict JSON")

    text = (folder / RESULT_FILE).read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return found


@pytest.fixture(autouse=True)
def fresh_runtime() -> None:
    close_runtime()


# ------------------------------------------------------------------ known answers


def test_one_protected_round(tiny: Tiny, tmp_path: Path) -> None:
    run_cell(tiny(*KNOWN, "federation.rounds=1"), tmp_path)
    privacy = strict(tmp_path)["privacy"]
    assert privacy["epsilon"] == pytest.approx(2.220, abs=5e-4)
    assert privacy["epsilon_protected"] == privacy["epsilon"]
    assert (privacy["infinite"], privacy["reason"]) == (False, "")
    assert (privacy["unit"], privacy["neighbouring"]) == ("record", "zero_out")
    assert (privacy["delta"], privacy["view"]) == (1e-5, "server_updates")


def test_twelve_protected_rounds(tiny: Tiny, tmp_path: Path) -> None:
    run_cell(tiny(*KNOWN, "federation.rounds=12"), tmp_path)
    result = strict(tmp_path)
    privacy = result["privacy"]
    assert privacy["epsilon"] == pytest.approx(8.181, abs=5e-4)
    assert (privacy["protected_rounds"], privacy["rounds"]) == (12, 12)
    assert result["verdict"] == "proven"
    spent = [block["epsilon"] for block in result["rounds"]]
    assert spent == sorted(spent)
    assert spent[0] == pytest.approx(2.220, abs=5e-4)
    assert spent[-1] == pytest.approx(8.181, abs=5e-4)
    assert {block["steps"] for block in result["rounds"]} == {20}


def test_the_first_round_alone_proves_nothing_of_the_whole(tiny: Tiny, tmp_path: Path) -> None:
    run_cell(tiny(*KNOWN, "federation.rounds=12", "schedule=first_round"), tmp_path)
    result = strict(tmp_path)
    privacy = result["privacy"]
    assert (privacy["infinite"], privacy["epsilon"]) == (True, None)
    assert "rounds 2-12" in privacy["reason"]
    assert "the schedule leaves this round unprotected" in privacy["reason"]
    assert privacy["epsilon_protected"] == pytest.approx(2.220, abs=5e-4)
    assert privacy["epsilon_protected_infinite"] is False
    assert (privacy["protected_rounds"], privacy["rounds"]) == (1, 12)
    assert result["verdict"] == "partial"
    assert [block["protected"] for block in result["rounds"]] == [True] + [False] * 11
    assert [block["epsilon"] is None for block in result["rounds"]] == [False] + [True] * 11


def test_every_second_round(tiny: Tiny, tmp_path: Path) -> None:
    run_cell(tiny(*KNOWN, "federation.rounds=4", "schedule=every_nth"), tmp_path)
    result = strict(tmp_path)
    assert [block["protected"] for block in result["rounds"]] == [True, False, True, False]
    assert result["privacy"]["infinite"] is True
    assert 2.220 < result["privacy"]["epsilon_protected"] < 8.181


@pytest.mark.parametrize(
    ("algorithm", "verdict"),
    [
        ("none", "unprotected"),
        ("svt", "unprotected"),
        ("gaussian", "unprotected"),
        ("dpsgd", "proven"),
    ],
)
def test_what_each_algorithm_proves(
    tiny: Tiny, tmp_path: Path, algorithm: str, verdict: str
) -> None:
    run_cell(tiny(f"algorithm={algorithm}"), tmp_path)
    result = strict(tmp_path)
    assert result["verdict"] == verdict
    assert result["privacy"]["infinite"] is (verdict != "proven")
    assert bool(result["privacy"]["reason"]) is (verdict != "proven")
    assert result["schedule"] == ("never" if algorithm == "none" else "every_round")
    assert [e.mechanism for e in Ledger.read(tmp_path / LEDGER_FILE)] == [algorithm] * 9


# ------------------------------------------------------------------ the result


def test_the_result_says_what_was_run(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny("seed=3", LONGER)
    heard: list[RoundOutcome] = []
    returned = run_cell(config, tmp_path, listener=heard.append, overrides=["seed=3"])
    result = strict(tmp_path)
    assert returned == read_result(tmp_path)
    assert CellResult.from_json(result) == returned
    assert result["cell_id"] == cell_id(config)
    assert (result["status"], result["error"], result["round"]) == ("ok", None, None)
    assert (result["dataset"], result["synthetic"], result["seed"]) == ("wisconsin", False, 3)
    assert (result["engine"], result["overrides"]) == ("inprocess", ["seed=3"])
    assert result["versions"]["torch"] == importlib.metadata.version("torch")
    assert [block["round"] for block in result["rounds"]] == [1, 2, 3]
    assert [outcome.round for outcome in heard] == [1, 2, 3]
    scores = [outcome.scores.value for outcome in heard if outcome.scores]
    assert [block["score"] for block in result["rounds"]] == scores
    assert result["score"]["value"] == scores[-1] > result["score"]["chance"]
    assert (
        set(result["score"]["per_site"]) == set(result["sites"]) == {"site-1", "site-2", "site-3"}
    )
    assert sum(site["train"] + site["test"] for site in result["sites"].values()) == 569
    spent = result["timing_s"]
    assert min(spent["train"], spent["evaluate"]) > 0
    assert spent["total"] >= spent["train"] + spent["evaluate"]


def test_the_ledger_has_one_release_a_site_and_round(tiny: Tiny, tmp_path: Path) -> None:
    run_cell(tiny("algorithm=dpsgd", "federation.rounds=2"), tmp_path)
    ledger = Ledger.read(tmp_path / LEDGER_FILE)
    assert [(e.round, e.site) for e in ledger] == [
        (number, f"site-{site}") for number in (1, 2) for site in (1, 2, 3)
    ]
    assert {e.view for e in ledger} == {"server_updates"}


def test_only_what_bears_meaning_changes_the_result(tiny: Tiny, tmp_path: Path) -> None:
    """The device's name and the engine's settings are no part of a cell."""
    first = run_cell(tiny("algorithm=dpsgd"), tmp_path / "a")
    second = run_cell(tiny("algorithm=dpsgd", "engine.timeout_s=99", "device=cpu"), tmp_path / "b")
    assert first.cell_id == second.cell_id
    assert first.rounds == second.rounds
    assert first.score == second.score
    ledgers = [(tmp_path / name / LEDGER_FILE).read_bytes() for name in "ab"]
    assert ledgers[0] == ledgers[1]


def test_threads_of_whoever_asks_do_not_change_a_digit(tiny: Tiny, tmp_path: Path) -> None:
    """An audit runs where the cell was asked for, beside the sites' thread."""
    config = tiny("audit=fast", "audit.canaries=50", "privacy=seeded")
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(run_cell(config, tmp_path / str(threads)).audit)
            assert torch.get_num_threads() == config.engine.torch_threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_a_score_that_does_not_beat_chance_is_a_collapse(tiny: Tiny, tmp_path: Path) -> None:
    result = run_cell(tiny("federation.lr=1e-9"), tmp_path)
    assert result.status == "collapsed"
    assert result.finished
    assert "not above chance" in result.reason
    assert result.round is None
    assert result.score is not None
    assert result.score.value is not None


# ------------------------------------------------------------------ failures


@pytest.fixture
def torn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second site raises in round 2."""
    honest = CellRuntime.train

    def train(
        runtime: CellRuntime, partition: int, number: int, weights: Any, *more: Any, **named: Any
    ) -> Any:
        if (partition, number) == (1, 2):
            raise RuntimeError("volume 7 is torn\nand so is volume 8")
        return honest(runtime, partition, number, weights, *more, **named)

    monkeypatch.setattr(CellRuntime, "train", train)


@pytest.mark.usefixtures("torn")
def test_a_failing_site_fails_the_cell_with_its_own_traceback(tiny: Tiny, tmp_path: Path) -> None:
    returned = run_cell(tiny(), tmp_path)
    result = strict(tmp_path)
    assert returned == read_result(tmp_path)
    assert result["status"] == "failed"
    assert not returned.finished
    assert result["reason"] == "site site-2 raised RuntimeError: volume 7 is torn"
    assert result["error"]["type"] == "ClientFailure"
    assert "and so is volume 8" in result["error"]["message"]
    assert result["error"]["traceback"].startswith("Traceback (most recent call last):")
    assert "RuntimeError: volume 7 is torn" in result["error"]["traceback"]
    assert "in train_site" in result["error"]["traceback"]
    assert (result["score"], result["verdict"]) == (None, None)
    assert result["config"]["federation"]["rounds"] == 3


@pytest.mark.usefixtures("torn")
def test_a_failed_cell_accounts_for_what_had_left_its_sites(tiny: Tiny, tmp_path: Path) -> None:
    """Two sites' updates of round 2 had arrived when the second site failed."""
    run_cell(tiny("algorithm=dpsgd"), tmp_path)
    events = [(e.round, e.site) for e in Ledger.read(tmp_path / LEDGER_FILE)]
    assert events == [(1, f"site-{k}") for k in (1, 2, 3)] + [(2, "site-1"), (2, "site-3")]
    privacy = strict(tmp_path)["privacy"]
    assert (privacy["rounds"], privacy["infinite"]) == (1, False)
    spent = {site: block["epsilon"] for site, block in privacy["per_site"].items()}
    assert spent["site-1"] > spent["site-2"] > 0


def test_a_listener_that_fails_does_not_lose_the_ledger(tiny: Tiny, tmp_path: Path) -> None:
    def failing(outcome: RoundOutcome) -> None:
        if outcome.round == 2:
            raise OSError("the bar is gone")

    result = run_cell(tiny("algorithm=dpsgd"), tmp_path, listener=failing)
    assert (result.status, result.reason) == ("failed", "the bar is gone")
    assert len(Ledger.read(tmp_path / LEDGER_FILE)) == 6
    assert result.privacy is not None
    assert result.privacy["rounds"] == 2


@pytest.mark.usefixtures("torn")
def test_a_stale_result_does_not_outlive_an_interruption(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_cell(tiny(), tmp_path)
    assert read_result(tmp_path) is not None
    assert (tmp_path / LEDGER_FILE).exists()
    seen: list[bool] = []

    def interrupted(*_: object, **__: object) -> None:
        seen.append((tmp_path / RESULT_FILE).exists() or (tmp_path / LEDGER_FILE).exists())
        raise KeyboardInterrupt

    monkeypatch.setattr("fedprivacy.cell.run_federation", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_cell(tiny(), tmp_path)
    assert seen == [False]
    assert read_result(tmp_path) is None


def test_a_cell_that_failed_can_be_run_again(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object, **__: object) -> None:
        raise ClientFailure("no answer from nodes [1002]", "site-2", "")

    with monkeypatch.context() as patch:
        patch.setattr("fedprivacy.cell.run_federation", lost)
        lost_cell = run_cell(tiny(), tmp_path)
    assert (lost_cell.status, lost_cell.privacy) == ("failed", None)
    assert not (tmp_path / LEDGER_FILE).exists()
    assert run_cell(tiny(LONGER), tmp_path).status == "ok"
    assert strict(tmp_path)["error"] is None


def test_an_error_of_our_own_fails_the_cell_with_its_traceback(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("fedprivacy.cell.privacy_statement", broken)
    result = run_cell(tiny(), tmp_path)
    assert (result.status, result.reason) == ("failed", "ZeroDivisionError")
    assert result.error is not None
    assert "in broken" in result.error["traceback"]
    # What cannot be stated was released all the same.
    assert result.privacy is None
    assert len(Ledger.read(tmp_path / LEDGER_FILE)) == 9


def test_a_delta_that_is_too_large_fails_the_cell(tiny: Tiny, tmp_path: Path) -> None:
    result = run_cell(tiny("privacy.delta=0.09"), tmp_path)
    assert result.status == "failed"
    assert "privacy.delta" in result.reason


def test_an_unknown_engine_is_a_configuration_error(tiny: Tiny) -> None:
    from fedprivacy.federation.run import get_engine

    with pytest.raises(ConfigError, match="inprocess"):
        get_engine("carrier_pigeon")


def test_a_device_that_is_not_there_fails_the_cell_by_name(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny()
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    absent = replace(config, device="cuda")
    assert (failed_result(absent, "died", "WorkerDied").device, absent.device) == ("cuda", "cuda")
    result = run_cell(absent, tmp_path)
    assert (result.status, result.device) == ("failed", "cuda")
    assert "cuda needs a CUDA device" in result.reason


# ------------------------------------------------------------------ what is told


@pytest.mark.parametrize("diagnostics", [True, False])
def test_only_diagnostics_tell_losses_and_noise(
    tiny: Tiny, tmp_path: Path, diagnostics: bool
) -> None:
    told = f"privacy.diagnostics={str(diagnostics).lower()}"
    run_cell(tiny("algorithm=gaussian", told), tmp_path)
    result = strict(tmp_path)
    assert {block["snr"] is not None for block in result["rounds"]} == {diagnostics}
    assert {block["loss"] is not None for block in result["rounds"]} == {diagnostics}
    said = " ".join(result["privacy"]["assumptions"])
    assert ("expected norm of the noise" in said) is diagnostics
    assert "error and traceback" in said


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_what_sizes_are_public_is_said(tiny: Tiny, tmp_path: Path, weighting: str) -> None:
    run_cell(tiny(f"federation.weighting={weighting}", "federation.rounds=1"), tmp_path)
    said = " ".join(strict(tmp_path)["privacy"]["assumptions"])
    assert "numbers of optimiser steps and of held-out records are public" in said
    assert ("it weighs the average" in said) is (weighting == "examples")
    assert ("where the steps follow from it" in said) is (weighting == "uniform")


# ------------------------------------------------------------------ signal to noise


@pytest.mark.parametrize(
    ("update", "noise", "expected"),
    [
        (5.0, 3.0, 4 / 3),
        (3.0, 3.0, 0.0),
        (1.0, 3.0, 0.0),
        (5.0, 0.0, None),
        (5.0, None, None),
        (float("nan"), 1.0, None),
    ],
)
def test_signal_to_noise(update: float, noise: float | None, expected: float | None) -> None:
    assert signal_to_noise(update, noise) == (None if expected is None else pytest.approx(expected))


# ------------------------------------------------------------------ the exit status


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "status", "exit_status"),
    [
        # An update of zero, from which the filter cannot take its scale: the site refuses.
        (("algorithm=gaussian", "federation.lr=1e-45"), "failed", 1),
        (("algorithm=none", "federation.lr=1e30"), "collapsed", 0),
    ],
)
def test_the_command_tells_a_failure_from_a_collapse(
    tmp_path: Path, overrides: tuple[str, ...], status: str, exit_status: int
) -> None:
    fixed = ("tracking.enabled=false", f"hydra.run.dir={tmp_path}")
    done = subprocess.run(
        [sys.executable, "-m", "fedprivacy", "run", *fixed, *overrides],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == exit_status, done.stderr
    assert strict(tmp_path)["status"] == status
    assert status in done.stdout


def test_a_cell_that_a_listener_prunes_keeps_what_it_had_reached(
    tiny: Tiny, tmp_path: Path
) -> None:
    """Rounds, score, ledger and privacy of what had been released; nothing of what had not."""
    config = tiny("algorithm=dpsgd")

    def listener(outcome: RoundOutcome) -> None:
        if outcome.round == 2:
            raise CellPruned("round 2: it leads nowhere", "chance")

    result = run_cell(config, tmp_path, listener=listener)
    assert (result.status, result.reason, result.round) == (
        "pruned", "round 2: it leads nowhere", 2,
    )  # fmt: skip
    assert result.finished
    assert len(result.rounds) == 2
    assert result.score is not None
    assert result.score.value == result.rounds[-1].score
    assert {event.round for event in Ledger.read(tmp_path / LEDGER_FILE)} == {1, 2}
    assert result.privacy is not None
    whole = run_cell(config, tmp_path / "whole")
    assert whole.privacy is not None
    assert result.privacy["epsilon"] == pytest.approx(whole.rounds[1].epsilon)
    assert result.privacy["epsilon"] < whole.privacy["epsilon"]
    assert result.privacy.keys() == whole.privacy.keys()
    assert result.privacy["coverage_records"] == 1


def test_a_failed_cells_privacy_block_has_every_key(tiny: Tiny, tmp_path: Path) -> None:
    def listener(outcome: RoundOutcome) -> None:
        if outcome.round == 2:
            raise RuntimeError("the bar is gone")

    for algorithm in ("dpsgd", "gaussian"):
        config = tiny(f"algorithm={algorithm}")
        failed = run_cell(config, tmp_path / algorithm, listener=listener)
        whole = run_cell(config, tmp_path / f"{algorithm}_whole")
        assert failed.privacy is not None
        assert whole.privacy is not None
        assert failed.privacy.keys() == whole.privacy.keys()
        assert (failed.privacy["what_if"] is None) is (algorithm == "dpsgd")
