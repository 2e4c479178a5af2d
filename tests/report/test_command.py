from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from fedprivacy.report import command, report
from fedprivacy.report.command import main
from fedprivacy.tracking import connection


@pytest.fixture
def sweep(factory: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep; its pictures, which have tests of their own, are left out."""
    monkeypatch.setattr(report, "PARTS", report.PARTS[:2])
    results = [factory.make_result("none"), factory.make_result()]
    return factory.write_sweep(tmp_path / "demo", results)  # type: ignore[no-any-return]


def test_the_table_is_printed_and_files_are_named(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(sweep)]) == 0
    out = capsys.readouterr().out
    assert "8.18 (8/8 rounds)" in out
    assert f"wrote {sweep / 'report' / 'table.txt'}" in out


def test_out_moves_the_report(sweep: Path, tmp_path: Path) -> None:
    assert main([str(sweep), "--out", str(tmp_path / "there")]) == 0
    assert (tmp_path / "there" / "results.csv").is_file()
    assert not (sweep / "report").exists()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "is not a folder"),
        ("empty", "holds no finished cell"),
        ("cell", "is a single cell; give the folder it is in"),
    ],
)
def test_a_folder_without_results_is_refused_with_the_way_out(
    kind: str, words: str, sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = {
        "missing": tmp_path / "nowhere",
        "empty": tmp_path / "empty",
        "cell": next(sweep.iterdir()),
    }[kind]
    (tmp_path / "empty").mkdir()
    assert main([str(sweep), str(folder)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {folder}")
    assert words in err
    assert not (sweep / "report").exists()


def test_a_damaged_result_is_refused(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sweep / "bad").mkdir()
    (sweep / "bad" / "result.json").write_text("{")
    assert main([str(sweep)]) == 2
    assert "delete it" in capsys.readouterr().err


def test_a_wrong_option_exits_with_two(sweep: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(sweep), "--no-such-option"])
    assert stop.value.code == 2


def test_a_store_that_fails_is_told_by_the_exit_status(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "mlflow.db"
    broken.write_text("not a database" * 99)
    assert main([str(sweep), "--track", f"sqlite:///{broken}"]) == command.FAILED
    assert "0 cells uploaded, 0 were there, 2 are missing" in capsys.readouterr().out


def test_the_collapse_fraction_reaches_the_table_and_the_csv(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(sweep)]) == 0
    assert "collapsed against its twin" not in capsys.readouterr().out
    assert main([str(sweep), "--collapse-fraction", "0.9"]) == 0
    assert "collapsed against its twin" in capsys.readouterr().out
    assert ",ok,true," in (sweep / "report" / "results.csv").read_text()


@pytest.mark.parametrize("value", ["1.5", "-0.1", "nan", "much"])
def test_a_collapse_fraction_that_is_no_share_is_refused(
    value: str, sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(sweep), f"--collapse-fraction={value}"])
    assert stop.value.code == 2
    assert "from 0 to 1" in capsys.readouterr().err


@pytest.mark.slow
def test_cells_are_uploaded_to_the_store(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert main([str(sweep), "--track", uri]) == 0
    assert "2 cells uploaded, 0 were there" in capsys.readouterr().out
    assert main([str(sweep), "--track", uri]) == 0
    out = capsys.readouterr().out
    assert "0 cells uploaded, 2 were there" in out
    assert "#/compare-runs?" in out
    with connection.quiet():
        store = connection.client(uri)
        found = store.get_experiment_by_name("demo")
        kinds = [r.data.tags.get("kind") for r in store.search_runs([found.experiment_id])]
    assert kinds.count("sweep") == 1
    assert len(kinds) == 3


@pytest.mark.slow
def test_a_report_on_several_sweeps_is_uploaded_as_well(
    sweep: Path, factory: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    other = factory.write_sweep(tmp_path / "other", [factory.make_result("svt")])
    assert main([str(sweep), "--track", uri]) == 0
    assert main([str(sweep), str(other), "--track", uri, "--out", str(tmp_path / "both")]) == 0
    assert "'report of demo + other' of experiment demo" in capsys.readouterr().out
    with connection.quiet():
        store = connection.client(uri)
        found = store.get_experiment_by_name("demo")
        runs = store.search_runs([found.experiment_id])
        summaries = {
            run.data.tags["sweep.id"]: run.info.run_id
            for run in runs
            if run.data.tags.get("kind") == "sweep"
        }
        # That of the one sweep alone is still there.
        assert set(summaries) == {"demo", "demo + other"}
        folder = tmp_path / "back"
        folder.mkdir()
        run_id = summaries["demo + other"]
        back = store.download_artifacts(run_id, "report/results.csv", str(folder))
    text = Path(back).read_text()
    assert text == (tmp_path / "both" / "results.csv").read_text()
    assert ",svt," in text
    assert ",dpsgd," in text
