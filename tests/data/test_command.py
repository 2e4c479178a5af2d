"""``fedprivacy data``: what it prints, and how it exits."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from fedprivacy.data import command
from fedprivacy.data.command import main
from fedprivacy.data.sources import Archive, Checks, Licence, Source, Unpack
from fedprivacy.errors import DataError

BODY = b"events" * 1000


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, server: Any) -> Source:
    """In place of HIGGS: one small file on the local server, sound if it is BODY."""
    checks = Checks(size=len(BODY), sha256=hashlib.sha256(BODY).hexdigest())
    url = server.serve("/toy", BODY)
    archive = Archive("higgs", "records", "toy.csv", (url,), checks, Unpack("keep"))
    source = Source("higgs", Licence("TOY 1.0", "https://l", "Be kind."), "cite me", (archive,))
    monkeypatch.setitem(command.SOURCES, "higgs", source)

    def verify(name: str, root: Path, source: str) -> list[str]:
        path = root / source / name / "toy.csv"
        return [] if path.is_file() and path.read_bytes() == BODY else ["not the toy", "at all"]

    monkeypatch.setattr(command, "verify_dataset", verify)
    return source


def test_list_shows_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "synthetic" / "ixi_tiny" / "demo"
    folder.mkdir(parents=True)
    (folder / "generator.json").write_text("{}")
    (tmp_path / "real" / "higgs").mkdir(parents=True)
    (tmp_path / "real" / "higgs" / "HIGGS.csv.gz").write_bytes(b"x")
    (tmp_path / "real" / "breast_density").mkdir()
    assert main(["list", "--root", str(tmp_path)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert list(lines) == ["dataset", "wisconsin", "higgs", "ixi_tiny", "breast_density"]
    columns = {name: line.split("  ") for name, line in lines.items()}
    cells = {name: [cell.strip() for cell in row if cell.strip()] for name, row in columns.items()}
    assert cells["dataset"] == [
        "dataset", "synthetic", "real", "licence (real)", "download", "where"
    ]  # fmt: skip
    assert cells["wisconsin"][1:3] == ["none exists", "ships with scikit-learn"]
    assert cells["higgs"][1:5] == ["no", "yes", "CC BY 4.0", "2.82 GB"]
    assert cells["ixi_tiny"][1:5] == ["demo", "no", "CC BY-SA 3.0", "444 MB"]
    assert cells["breast_density"][1:3] == ["no", "no"]
    assert str(tmp_path) in cells["higgs"][5]


def test_download_of_wisconsin_says_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "wisconsin"]) == 0
    assert "ships with scikit-learn" in capsys.readouterr().out


def test_licence_must_be_accepted(
    toy: Source, server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["download", "higgs", "--root", str(tmp_path)]) == 2
    shown = capsys.readouterr().err
    for text in ("TOY 1.0", "https://l", "Be kind.", "cite me", "--accept-license"):
        assert text in shown
    assert server.log == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("YES ", 0), ("", 2), ("no", 2)])
def test_licence_is_asked_for_on_a_terminal(
    toy: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: str,
    status: int,
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: answer)
    assert main(["download", "higgs", "--root", str(tmp_path)]) == status
    assert "Be kind." in capsys.readouterr().out
    assert (tmp_path / "real/higgs/toy.csv").exists() == (status == 0)


def test_download_fetches_verifies_and_repeats_for_nothing(
    toy: Source, server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["download", "higgs", "--accept-license", "--root", str(tmp_path)]
    assert main(line) == 0
    assert (tmp_path / "real/higgs/toy.csv").read_bytes() == BODY
    assert capsys.readouterr().out.endswith("higgs (real): sound\n")
    assert main(line) == 0
    assert len(server.log) == 1


def test_failed_download_is_one_message_and_status_1(
    toy: Source, server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.serve("/toy", BODY[:-1] + b"!")
    assert main(["download", "higgs", "--accept-license", "--root", str(tmp_path)]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("fedprivacy data: higgs: no source of its records worked")
    assert "Traceback" not in shown


def test_manual_steps_name_the_folder(
    toy: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    breast = command.SOURCES["breast_density"]
    real = Source("higgs", toy.licence, toy.citation, toy.archives, breast.manual)
    monkeypatch.setitem(command.SOURCES, "higgs", real)
    assert main(["download", "higgs", "--accept-license", "--root", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "kaggle" in shown
    assert str(tmp_path / "real" / "higgs") in shown
    assert "{folder}" not in shown


def test_verify_reports_problems_and_absence(
    toy: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["verify", "higgs", "--root", str(tmp_path)]
    assert main(line) == 1
    assert "fedprivacy data generate higgs" in capsys.readouterr().err
    folder = tmp_path / "real" / "higgs"
    folder.mkdir(parents=True)
    (folder / "toy.csv").write_bytes(b"?")
    assert main(line) == 1
    assert capsys.readouterr().err == "higgs (real): 2 problems\n  not the toy\n  at all\n"
    (folder / "toy.csv").write_bytes(BODY)
    assert main(line) == 0
    assert capsys.readouterr().out == "higgs (real): sound\n"
    assert main([*line, "--source", "synthetic"]) == 1


def test_verify_wisconsin_needs_no_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "wisconsin", "--root", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "wisconsin (real): sound\n"
    assert main(["verify", "wisconsin", "--source", "synthetic"]) == 1


class ToyDataset:
    """Stands in for a dataset whose generator takes long."""

    def __init__(self) -> None:
        self.prepared: list[tuple[str, str, str]] = []

    def prepare(self, conf: Any) -> None:
        self.prepared.append((conf.source, conf.size, conf.root))


def test_generate_prepares_what_runs_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = ToyDataset()
    monkeypatch.setattr(command, "get_dataset", lambda name: dataset)
    assert main(["generate", "higgs", "--size", "demo", "--root", str(tmp_path)]) == 0
    assert dataset.prepared == [("synthetic", "demo", str(tmp_path))]
    assert "synthetic records (demo)" in capsys.readouterr().out


def test_generate_with_a_seed_makes_a_separate_marked_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def generate(folder: Path, size: str, seed: int) -> None:
        (folder / "rows.csv").write_text(f"{size} {seed}")

    monkeypatch.setattr(command, "get_generator", lambda name: generate)
    line = ["generate", "higgs", "--size", "demo", "--seed", "7", "--root", str(tmp_path)]
    assert main(line) == 0
    folder = tmp_path / "synthetic" / "higgs" / "demo-seed7"
    assert (folder / "rows.csv").read_text() == "demo 7"
    stamp = json.loads((folder / "generator.json").read_text())
    assert stamp["synthetic"] is True
    assert stamp["seed"] == 7
    assert "runs use their own seed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["generate", "wisconsin"], "real records only"),
        (["generate", "higgs", "--source", "real"], "fedprivacy data download higgs"),
        (["generate", "mnist"], "invalid choice: 'mnist'"),
        (["download"], "dataset"),
        ([], "list|download|verify|generate"),
        (["list", "--sise", "1"], "unrecognized"),
    ],
)
def test_wrong_words_exit_2(line: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line) == 2
    assert said in capsys.readouterr().err


def test_help_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "download" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "the same command continues"),
        (DataError("disk full"), 1, "fedprivacy data: disk full\n"),
    ],
)
def test_interruption_and_errors_are_one_line(
    toy: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    said: str,
) -> None:
    def obtain(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(command, "obtain", obtain)
    assert main(["download", "higgs", "--accept-license", "--root", str(tmp_path)]) == status
    assert said in capsys.readouterr().err
