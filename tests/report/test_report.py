from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from fedprivacy.errors import DataError
from fedprivacy.report.report import write_report


@pytest.fixture(scope="module")
def sweep(factory: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sweep of two datasets, one cell of which is still running."""
    folder = tmp_path_factory.mktemp("outputs") / "demo"
    results = [
        factory.make_result(algorithm, dataset=dataset)
        for algorithm in ("none", "dpsgd")
        for dataset in ("higgs", "wisconsin")
    ]
    factory.write_sweep(folder, results)
    (folder / "running" / ".hydra").mkdir(parents=True)
    return folder


def test_the_report_of_a_partly_finished_sweep(sweep: Path) -> None:
    report = write_report([sweep])
    assert report.folder == sweep / "report"
    assert [path.name for path in report.paths] == [
        "table.txt",
        "results.csv",
        "curves_higgs.png",
        "curves_higgs.svg",
        "curves_wisconsin.png",
        "curves_wisconsin.svg",
        "overview.png",
        "overview.svg",
        "price.json",
        "prices.txt",
        "prices.csv",
        "harm.csv",
        "prices_higgs.png",
        "prices_higgs.svg",
        "prices_wisconsin.png",
        "prices_wisconsin.svg",
        "report.html",
    ]
    assert set(report.folder.iterdir()) == set(report.paths)
    assert report.paths[0].read_text() == report.table + "\n"
    assert report.table.endswith("1 cells have no result yet")
    assert len(report.results) == 4
    for path in report.paths:
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
                assert image.width >= 800


def test_a_report_can_be_written_elsewhere_and_again(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedprivacy.report.report.PARTS", ())
    assert write_report([sweep], tmp_path / "deep" / "there").folder.is_dir()


def test_real_and_synthetic_records_of_a_dataset_are_kept_apart(
    factory: ModuleType, tmp_path: Path
) -> None:
    made_up = factory.make_result()
    real = replace(made_up, synthetic=False, cell_id="real")
    report = write_report([factory.write_sweep(tmp_path, [made_up, real])])
    names = {path.name for path in report.paths}
    assert {"curves_higgs.png", "curves_higgs_real.png"} <= names


def test_a_sweep_without_results_has_an_empty_table(tmp_path: Path) -> None:
    report = write_report([tmp_path])
    assert report.table == "no cell has a result yet"
    names = [path.name for path in report.paths]
    assert names == ["table.txt", "results.csv", "price.json", "prices.txt", "report.html"]


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "cell").mkdir()
    (tmp_path / "cell" / "result.json").write_text(json.dumps({"schema": 1}))
    with pytest.raises(DataError, match="delete it"):
        write_report([tmp_path])
