"""``fedprivacy tune`` from its first trial to its recommendation, with real processes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedprivacy.sweep.command import main as run
from fedprivacy.tuning.command import main as tune

Small = Callable[..., Path]


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(p.read_text()) for p in sorted(folder.glob("trials/*/result.json"))]


def study_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "study.json").read_text())
    return found


def test_a_study_from_beginning_to_end_and_again(small: Small, capsys) -> None:
    folder = small() / "outputs/tuning/small"
    assert tune(["+sweeps=small"]) == 0
    said = capsys.readouterr()
    assert "[4/4] trial" in said.err
    assert "recommended:" in said.out
    assert "if they were patients'" in said.out
    cells = results(folder)
    assert len(cells) == 4
    assert all(cell["privacy"]["epsilon"] <= 3 for cell in cells if cell["status"] == "ok")
    told = study_of(folder)
    assert told["trials"]["finished"] + told["trials"]["pruned"] == 4
    assert told["recommended"]["epsilon"] <= 3
    assert len(told["recommended"]["confirmed"]) == 1
    lines = list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))
    assert [line["trial"] for line in lines] == ["0", "1", "2", "3"]
    assert lines[0]["origin"] == "the defaults"
    assert (folder / "advice.txt").read_text().strip()
    assert (folder / "history.png").is_file()
    # The same command adds nothing; a larger number goes on.
    before = {p: p.stat().st_mtime_ns for p in folder.glob("trials/*/result.json")}
    assert tune(["+sweeps=small"]) == 0
    assert {p: p.stat().st_mtime_ns for p in folder.glob("trials/*/result.json")} == before
    assert tune(["+sweeps=small", "tuning.n_trials=5"]) == 0
    assert len(results(folder)) == 5


def test_the_recommended_file_reruns_the_recommended_cell(small: Small, capsys) -> None:
    folder = small() / "outputs/tuning/small"
    assert tune(["+sweeps=small", "tuning.n_trials=2", "tuning.confirm=0"]) == 0
    best = study_of(folder)["recommended"]
    written = (folder / "recommended.yaml").read_text()
    assert f"trial {best['trial']}" in written
    assert "Epsilon" in written
    assert yaml.safe_load(written)["algorithm"]["target_epsilon"] == 3.0
    command = study_of(folder)["rerun"].split()
    assert command[:2] == ["fedprivacy", "run"]
    assert run([*command[2:], "tracking.enabled=false"]) == 0
    [again] = Path("outputs/cells").glob("*/result.json")
    trial = json.loads((folder / f"trials/{best['trial']}/result.json").read_text())
    found = json.loads(again.read_text())
    assert found["cell_id"] == trial["cell_id"]
    assert found["score"]["value"] == trial["score"]["value"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["tuning.budget=4"], "tuning.budget=4.0"),
        (["tuning.floor=0.7"], "tuning.floor=0.7"),
        (["federation.momentum=0.3"], "federation.momentum=0.3"),
        (["collapse.fraction=0.5"], "collapse.fraction=0.5"),
    ],
)
def test_another_study_under_the_same_name_is_refused(
    small: Small, capsys, changed: list[str], words: str
) -> None:
    small()
    assert tune(["+sweeps=small", "tuning.n_trials=1", "tuning.confirm=0"]) == 0
    capsys.readouterr()
    assert tune(["+sweeps=small", "tuning.n_trials=1", *changed]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "with which the study 'small' began" in said
    assert "tuning.dir=outputs/tuning/small_2" in said


def test_a_folder_is_one_study_s(small: Small, capsys) -> None:
    """Confirmations and twins are found by their place: those of another budget are not ours."""
    folder = small() / "outputs/tuning/small"
    assert tune(["+sweeps=small", "tuning.n_trials=1"]) == 0
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.name != "study.lock"}
    capsys.readouterr()
    words = ["+sweeps=small", "tuning.n_trials=1", f"tuning.dir={folder}"]
    assert tune([*words, "tuning.name=other", "tuning.budget=0.5"]) == 2
    assert "this one holds the study 'small'" in capsys.readouterr().err
    assert tune([*words, "tuning.mode=front", "tuning.budgets=[1,2]"]) == 2
    assert "error: tuning.mode='front'" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.name != "study.lock"} == before


def test_a_finished_run_of_other_settings_is_not_taken_for_ours(small: Small) -> None:
    folder = small() / "outputs/tuning/small"
    assert tune(["+sweeps=small", "tuning.n_trials=1"]) == 0
    [path] = folder.glob("confirm/*/result.json")
    told, written = json.loads(path.read_text()), path.stat().st_mtime_ns
    assert tune(["+sweeps=small", "tuning.n_trials=1"]) == 0
    assert path.stat().st_mtime_ns == written
    path.write_text(json.dumps({**told, "cell_id": "ffffffff"}))
    assert tune(["+sweeps=small", "tuning.n_trials=1"]) == 0
    again = json.loads(path.read_text())
    assert again["cell_id"] == told["cell_id"]


def test_a_changed_space_is_refused(small: Small, capsys) -> None:
    small()
    assert tune(["+sweeps=small", "tuning.n_trials=1", "tuning.confirm=0"]) == 0
    small(**{"high: 2.0": "high: 9.0"})
    assert tune(["+sweeps=small", "tuning.n_trials=2"]) == 2
    assert "tuning.space.federation.lr" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["schedule=first_round"], "leaves 1 of 2 rounds unprotected"),
        (["algorithm=svt"], "max_grad_norm"),
        (["algorithm.noise_multiplier=1"], "calibrates the noise to its budget"),
        (["tuning.mode=guess"], "one of budget, floor, front"),
        (["tuning.budget=0"], "above 0"),
        (["tuning.sampler=magic"], "one of tpe, gp, random"),
        (["tuning.storage=nowhere"], "a database URL"),
        (["tuning.search_price.scheme=random_best_only"], "tuning=private_random"),
        (["tuning.publish=best_only", "tuning.mode=front"], "a front is more than one trial"),
        (["tuning.floor=nan"], "tuning.floor=nan"),
        (
            ["tuning.space.federation.lr.high=2"],
            "'++tuning.space={federation.lr:{low:0.1,high:2}}'",
        ),
        (["tuning.floor=2"], "tuning.floor=2"),
        (["tuning.name=''"], "letters, digits"),
        (["tuning.dir=/proc/x"], "a folder that can be made and written"),
        (["tuning.name=a/b"], "letters, digits"),
        (["tuning.name=3study"], "a letter or '_' first"),
        (["tuning.name=a..b"], "a letter or '_' first"),
        (["tuning.name=algorithm"], "is no group of the configuration"),
        (["tuning.warm_start.studies=[/no/such]"], "there is no such folder"),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_any_trial(
    small: Small, capsys, overrides: list[str], words: str
) -> None:
    folder = small()
    assert tune(["+sweeps=small", *overrides]) == 2
    assert words in capsys.readouterr().err
    assert not (folder / "outputs/tuning/small/trials").exists()


def test_pruned_trials_leave_a_result_with_their_reason(small: Small) -> None:
    folder = small(**{"low: 0.05, high: 2.0": "low: 1.0e-7, high: 2.0e-7"})
    words = ["+sweeps=small", "tuning.pruning.chance_rounds=1", "tuning.pruning.reach=0",
             "tuning.n_trials=2", "tuning.confirm=0"]  # fmt: skip
    assert tune(words) == 0
    pruned = [c for c in results(folder / "outputs/tuning/small") if c["status"] == "pruned"]
    assert pruned
    for cell in pruned:
        assert "never been above chance" in cell["reason"]
        assert cell["round"] == len(cell["rounds"]) == 1
        assert cell["privacy"]["epsilon"] is not None
        assert (folder / "outputs/tuning/small/trials").is_dir()


def test_settings_that_cannot_leave_their_start_are_refused_without_training(small: Small) -> None:
    folder = small(**{"low: 0.05, high: 2.0": "low: 1.0e-7, high: 2.0e-7"})
    assert tune(["+sweeps=small", "tuning.n_trials=2", "tuning.confirm=0"]) == 0
    for cell in results(folder / "outputs/tuning/small"):
        assert cell["status"] == "pruned"
        assert "can move the weights by" in cell["reason"]
        assert cell["rounds"] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode", [["tuning.mode=floor"], ["tuning.mode=front", "tuning.front=multi"]]
)
def test_other_modes(small: Small, mode: list[str]) -> None:
    folder = small() / "outputs/tuning/small"
    assert tune(["+sweeps=small", "tuning.n_trials=5", *mode]) == 0
    told = study_of(folder)
    epsilons = [candidate["epsilon"] for candidate in told["best"]]
    assert epsilons == sorted(epsilons)
    assert told["recommended"]["epsilon"] in epsilons


@pytest.mark.slow
def test_filters_of_one_unit_are_searched_together(small: Small) -> None:
    space = """\
    algorithm: {choices: [gaussian_clipped, svt_exact, svt]}
    algorithm.clip: {low: 0.5, high: 5.0, when: {algorithm: [gaussian_clipped, svt_exact]}}
    algorithm.fraction: {low: 0.1, high: 0.9, when: {algorithm: svt_exact}}
"""
    lines = "    algorithm.max_grad_norm: {low: 0.1, high: 3.0, log: true}\n"
    folder = small(**{lines: space}) / "outputs/tuning/small"
    assert tune(["+sweeps=small", "tuning.n_trials=8", "tuning.budget=20", "tuning.floor=0"]) == 0
    told = study_of(folder)
    assert told["claim"]["unit"] == "site"
    assert told["recommended"]["epsilon"] <= 20
    seen = {cell["algorithm"]: cell for cell in results(folder)}
    assert "proves no epsilon" in seen["svt"]["reason"] if "svt" in seen else True
    assert {"gaussian_clipped", "svt_exact"} & seen.keys()


@pytest.mark.slow
def test_a_front_of_budgets_is_a_study_for_each(small: Small, capsys) -> None:
    folder = small() / "outputs/tuning/small"
    words = ["+sweeps=small", "tuning.mode=front", "tuning.budgets=[1,4]", "tuning.n_trials=4"]
    assert tune(words) == 0
    assert len(results(folder / "epsilon_1")) == len(results(folder / "epsilon_4")) == 2
    told = study_of(folder)
    assert all(candidate["epsilon"] <= candidate["budget"] for candidate in told["best"])
    assert (folder / "recommended.yaml").is_file()
    assert "front of 2 budgets" in capsys.readouterr().out
    assert "epsilon 4: " in (folder / "advice.txt").read_text()
    # The twin read the records too: no part costs less than it.
    parts = [study_of(folder / name)["price"] for name in ("epsilon_1", "epsilon_4")]
    assert all("infinite" in price["if_private"] for price in (*parts, told["price"]))
    changed = [word.replace("[1,4]", "[1,2]") for word in words]
    assert tune(changed) == 2
    assert "tuning.budgets" in capsys.readouterr().err


@pytest.mark.slow
def test_a_private_search_leaves_its_best_trial_and_its_price_alone(small: Small, capsys) -> None:
    scheme = "search_price: {scheme: public_data}\n  warm_start: {spread: 1}"
    folder = small(**{scheme: "seeds: 1", "  confirm: 1\n  confirm_seeds: 1\n": ""})
    assert tune(["+sweeps=small", "tuning=private_random", "tuning.n_trials=3"]) == 0
    kept = folder / "outputs/tuning/small"
    assert [path.name for path in (kept / "trials").iterdir()] == ["best"]
    assert not (kept / "study.log").exists()
    assert not (kept / "trials.csv").exists()
    told = study_of(kept)
    assert told["trials"] is None
    assert told["price"]["scheme"] == "random_best_only"
    assert told["price"]["epsilon_single"] < told["price"]["epsilon_search"] < 12
    # The theorem needs that nobody learns how many trials there were.
    price = told["price"]
    assert price["trials"] is price["epsilon_if_private"] is told["recommended"]["trial"] is None
    assert "runs composed" not in price["if_private"]
    capsys.readouterr()
    assert tune(["+sweeps=small", "tuning=private_random", "tuning.n_trials=3"]) == 0
    assert "finished before" in capsys.readouterr().out
    assert tune(["+sweeps=small", "tuning=private_random", "tuning.budget=1"]) == 2


@pytest.mark.slow
def test_forgetting_is_finished_after_an_end_in_the_middle(
    small: Small, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheme = "search_price: {scheme: public_data}\n  warm_start: {spread: 1}"
    folder = small(**{scheme: "seeds: 1", "  confirm: 1\n  confirm_seeds: 1\n": ""})
    kept = folder / "outputs/tuning/small"
    words = ["+sweeps=small", "tuning=private_random", "tuning.n_trials=3", "seed=1"]

    def dies(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", dies)
        assert tune(words) in (0, 130)  # one trial alone leaves nothing to delete
    assert not any(kept.glob("trials.csv"))
    assert tune(words) == 0
    assert "finished before" in capsys.readouterr().out
    assert [path.name for path in (kept / "trials").iterdir()] == ["best"]
    assert study_of(kept)["price"]["scheme"] == "random_best_only"
    assert not (kept / ".closing.json").exists()


def test_a_private_search_of_settings_that_release_differently_is_refused(
    small: Small, capsys
) -> None:
    lines = "    algorithm.max_grad_norm: {low: 0.1, high: 3.0, log: true}\n"
    scheme = "search_price: {scheme: public_data}\n  warm_start: {spread: 1}"
    changes = {scheme: "seeds: 1", "  confirm: 1\n  confirm_seeds: 1\n": ""}
    small(**changes, **{lines: lines + "    federation.rounds: {choices: [2, 3]}\n"})
    assert tune(["+sweeps=small", "tuning=private_random"]) == 2
    said = capsys.readouterr().err
    assert "tuning.space.federation.rounds" in said
    assert "repetitions of one mechanism" in said


# ------------------------------------------------------------------------------ processes


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fedprivacy", "tune", "+sweeps=small", *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def trials_in(storage_words: list[str]) -> list[Any]:
    import optuna

    from fedprivacy.config.schema import TuningConf
    from fedprivacy.tuning.storage import open_storage

    given = dict(word.split("=", 1) for word in storage_words)
    conf = TuningConf(dir="outputs/tuning/small", storage=given.get("tuning.storage"))
    return optuna.load_study(study_name="small", storage=open_storage(conf)).trials


def wait_for_a_trial(process: subprocess.Popen[str], storage: list[str]) -> None:
    """Until the worker is in the middle of a trial."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        try:
            known = trials_in(storage)
        except Exception:  # there is no study yet
            known = []
        if any(t.state.name == "RUNNING" and "worker" in t.user_attrs and t.params for t in known):
            return
        time.sleep(0.1)
    raise AssertionError("no trial was begun")


def share_and_kill(storage: list[str]) -> None:
    """One worker is killed in a trial; another does the rest and that trial again."""
    words = [*storage, "tuning.n_trials=4", "federation.rounds=10", "tuning.confirm=0"]
    first = start(*words)
    wait_for_a_trial(first, storage)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    lost = [t.number for t in trials_in(storage) if t.state.name == "RUNNING"]
    workers = [start(*words), start(*words)]
    said = [worker.communicate(timeout=240)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    trials = trials_in(storage)
    done = [t for t in trials if t.state.name in ("COMPLETE", "PRUNED")]
    assert len(done) == 4
    assert [t.state.name for t in trials if t.number in lost] == ["FAIL"] * len(lost)
    again = {t.user_attrs["retry_of"]: t.params for t in done if "retry_of" in t.user_attrs}
    assert set(again) == set(lost)
    assert all(trials[number].params.items() <= again[number].items() for number in lost)


@pytest.mark.slow
def test_workers_share_a_journal_and_outlive_one_that_is_killed(small: Small) -> None:
    small()
    share_and_kill([])


@pytest.mark.slow
def test_an_interrupted_study_goes_on(small: Small) -> None:
    folder = small()
    words = ["federation.rounds=12", "tuning.n_trials=3", "tuning.confirm=0"]
    process = start(*words)
    wait_for_a_trial(process, [])
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert start(*words).wait(240) == 0
    assert len([t for t in trials_in([]) if t.state.name in ("COMPLETE", "PRUNED")]) == 3
    assert (folder / "outputs/tuning/small/recommended.yaml").is_file()


@pytest.mark.slow
def test_every_trial_has_a_run_that_names_it(small: Small, tmp_path: Path) -> None:
    small()
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    words = ["tracking.enabled=true", f"tracking.uri={uri}", "tuning.n_trials=3"]
    assert tune(["+sweeps=small", *words]) == 0
    from fedprivacy.tracking.connection import client

    store = client(uri)
    experiment = store.get_experiment_by_name("small")
    runs = store.search_runs([experiment.experiment_id])
    named = [run for run in runs if "tuning.trial" in run.data.tags]
    assert sorted(run.data.tags["tuning.trial"] for run in named) == ["0", "1", "2"]
    assert {run.data.tags["tuning.study"] for run in named} == {"small"}
    [summary] = [run for run in runs if run.data.tags.get("kind") == "sweep"]
    files = {item.path for item in store.list_artifacts(summary.info.run_id, "report")}
    assert {"report/study.json", "report/recommended.yaml", "report/history.png"} <= files


@pytest.mark.slow
def test_the_dashboard_opens_with_the_command_that_is_printed(small: Small, capsys) -> None:
    import shlex
    import socket
    import urllib.request

    small()
    assert tune(["+sweeps=small", "tuning.n_trials=1", "tuning.confirm=0"]) == 0
    [line] = [one for one in capsys.readouterr().out.splitlines() if one.startswith("watch it: ")]
    program, *words = shlex.split(line.removeprefix("watch it: "))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name(program)), *words, "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies") as answer:
                    names = [study["study_name"] for study in json.load(answer)["study_summaries"]]
                break
            except OSError:
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.3)
    finally:
        server.kill()
        server.wait()
    assert names == ["small"]
