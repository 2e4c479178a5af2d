from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from fedprivacy.tracking import links
from fedprivacy.tracking.links import charts_url, compare_url, sweep_links
from fedprivacy.tracking.sync import sync


def query(url: str) -> dict[str, list[str]]:
    """The query of an address that lives after the ``#``."""
    return parse_qs(urlsplit(urlsplit(url).fragment).query)


def test_the_comparison_names_runs_and_experiment() -> None:
    url = compare_url(["a1", "b2"], "7", "http://host:1/")
    assert url.startswith("http://host:1/#/compare-runs?")
    assert json.loads(query(url)["runs"][0]) == ["a1", "b2"]
    assert json.loads(query(url)["experiments"][0]) == ["7"]
    assert '"' not in url


def test_charts_may_be_filtered() -> None:
    url = charts_url("7", search='tags.dataset="higgs"')
    assert url.startswith("http://127.0.0.1:5000/#/experiments/7/runs?")
    assert query(url)["compareRunsMode"] == ["CHART"]
    assert query(url)["searchFilter"] == ['tags.dataset="higgs"']


def test_links_of_a_sweep_leave_out_cells_without_a_score(
    uri: str, experiment: str, tmp_path: Path, factory: ModuleType
) -> None:
    results = [
        factory.make_result(),
        factory.make_result(dataset="wisconsin"),
        factory.failed_result(algorithm="svt"),
    ]
    runs = sync(factory.write_sweep(tmp_path / experiment, results), uri=uri).run_ids
    lines = sweep_links(uri, experiment, experiment).splitlines()
    assert "make ui" in lines[0]
    assert [line.partition(":")[0].strip() for line in lines[-3:]] == [
        "charts of higgs",
        "charts of wisconsin",
        "all cells compared",
    ]
    compared = json.loads(query(lines[-1].partition(": ")[2])["runs"][0])
    assert set(compared) == {runs[results[0].cell_id], runs[results[1].cell_id]}


def searches(text: str) -> dict[str, str]:
    """Filters of the printed charts, by name."""
    lines = [line.strip().partition(": ") for line in text.splitlines() if "charts of" in line]
    return {
        name.removeprefix("charts of "): query(url)["searchFilter"][0] for name, _, url in lines
    }


def found_by(mlflow: Any, experiment: str, search: str) -> int:
    experiment_id = mlflow.get_experiment_by_name(experiment).experiment_id
    return len(mlflow.search_runs([experiment_id], filter_string=search))


def test_charts_hold_no_more_runs_than_mlflow_draws(
    uri: str,
    experiment: str,
    tmp_path: Path,
    factory: ModuleType,
    mlflow: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = [
        factory.make_result("none"),
        factory.make_result("none", federation="central"),
        factory.make_result("svt"),
        factory.make_result(),
        factory.make_result(schedule="first_round"),
        factory.make_result("none", dataset="wisconsin"),
    ]
    sync(factory.write_sweep(tmp_path / experiment, results), uri=uri)
    expected = {
        5: {"higgs": 5, "wisconsin": 1},
        4: {"higgs": 3, "wisconsin": 1},
        2: {"higgs, dpsgd": 2, "higgs, svt": 1, "wisconsin": 1},
    }
    for drawn, counts in expected.items():
        monkeypatch.setattr(links, "MAX_DRAWN", drawn)
        found = searches(sweep_links(uri, experiment, experiment))
        assert {name: found_by(mlflow, experiment, s) for name, s in found.items()} == counts
        assert all(found_by(mlflow, experiment, s) <= drawn for s in found.values())


def test_charts_of_a_sweep_in_a_shared_experiment_are_of_that_sweep(
    uri: str, experiment: str, tmp_path: Path, factory: ModuleType, mlflow: Any
) -> None:
    for name, seeds in (("one", 1), ("two", 2)):
        results = [factory.make_result(seed=seed) for seed in range(seeds)]
        folder = factory.write_sweep(tmp_path / name, results)
        sync(folder, uri=uri, experiment=experiment)
    for name, seeds in (("one", 1), ("two", 2)):
        (search,) = searches(sweep_links(uri, experiment, name)).values()
        assert found_by(mlflow, experiment, search) == seeds


def test_large_sweeps_are_compared_by_dataset(
    uri: str,
    experiment: str,
    tmp_path: Path,
    factory: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(links, "MAX_COMPARED", 1)
    results = [factory.make_result(), factory.make_result(dataset="wisconsin")]
    sync(factory.write_sweep(tmp_path / experiment, results), uri=uri)
    lines = sweep_links(uri, experiment, experiment).splitlines()
    assert sum("compare-runs" in line for line in lines) == 2


def test_a_store_that_cannot_be_used_gives_a_line(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_text("not a database" * 99)
    text = sweep_links(f"sqlite:///{path}", "x", "x")
    assert text.startswith("MLflow: the store")
    assert "\n" not in text
