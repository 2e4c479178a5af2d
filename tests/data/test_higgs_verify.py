"""Each kind of damage is found, each is told once, and sound files pass."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from fedprivacy.data import higgs_verify
from fedprivacy.data.higgs_generator import SIZES, make_rows
from fedprivacy.data.higgs_table import write_rows
from fedprivacy.data.higgs_verify import REAL_FIRST, verify

N = 400


@pytest.fixture
def rows() -> np.ndarray:
    return make_rows(N, seed=5)


@pytest.fixture
def synthetic(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setitem(SIZES, "demo", N)
    folder = tmp_path / "synthetic" / "higgs" / "demo"
    folder.mkdir(parents=True)
    return folder / "HIGGS.csv.gz"


@pytest.fixture
def real(tmp_path: Path, rows, monkeypatch) -> Path:
    monkeypatch.setattr(higgs_verify, "REAL_ROWS", N)
    monkeypatch.setattr(higgs_verify, "REAL_SIGNAL", int(rows[1:, 0].sum()) + 1)
    folder = tmp_path / "real" / "higgs"
    folder.mkdir(parents=True)
    rows[0, :5] = REAL_FIRST
    return folder / "HIGGS.csv.gz"


def test_sound_files_have_no_problem_and_nothing_is_written(synthetic, rows, tmp_path) -> None:
    write_rows(synthetic, [rows])
    assert verify(tmp_path, "synthetic") == []
    assert [path.name for path in synthetic.parent.iterdir()] == ["HIGGS.csv.gz"]


def test_sound_real_file_has_no_problem(real, rows, tmp_path) -> None:
    write_rows(real, [rows])
    assert verify(tmp_path, "real") == []


@pytest.mark.parametrize("source", ["synthetic", "real"])
def test_missing_files_name_the_command(source: str, tmp_path: Path) -> None:
    (problem,) = verify(tmp_path, source)
    command = {"synthetic": "generate", "real": "download"}[source]
    assert f"fedprivacy data {command} higgs" in problem


def test_each_kind_of_damage_is_told_once(synthetic, rows, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("fedprivacy.data.higgs_table.CHUNK_ROWS", 50)
    rows[:, 13] *= 1.01
    rows[::2, 28] *= -1
    write_rows(synthetic, [rows[:-1]])
    problems = verify(tmp_path, "synthetic")
    assert len(problems) == 3
    for text in ("column 13 (b-tag)", "column 28", "399 rows, not 400"):
        assert sum(text in problem for problem in problems) == 1


def test_wrong_share_of_signal_is_found(synthetic, rows, tmp_path) -> None:
    rows[: N // 2, 0] = 0
    write_rows(synthetic, [rows])
    (problem,) = verify(tmp_path, "synthetic")
    assert "are signal, not 53%" in problem


def test_another_first_row_or_another_number_of_signal_rows_is_found(real, rows, tmp_path) -> None:
    write_rows(real, [rows[::-1]])
    (problem,) = verify(tmp_path, "real")
    assert "the first row begins" in problem
    rows[1, 0] = 1 - rows[1, 0]
    write_rows(real, [rows])
    (problem,) = verify(tmp_path, "real")
    assert "signal rows, not" in problem


def test_damaged_file_is_a_problem_not_an_exception(real, tmp_path) -> None:
    real.write_bytes(gzip.compress(b"1.0,2.0\n"))
    (problem,) = verify(tmp_path, "real")
    assert "found (1, 2)" in problem
