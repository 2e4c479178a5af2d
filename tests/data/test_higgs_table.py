"""The csv in the owner's format becomes the same numbers, and damage is told."""

from __future__ import annotations

import errno
import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from fedprivacy.data import higgs_table
from fedprivacy.data.higgs_table import converted, read_rows, write_rows
from fedprivacy.errors import DataError

# The beginning of the real file's first row, as its owners print it.
FIRST = (
    "1.000000000000000000e+00,8.692932128906250000e-01,-6.350818276405334473e-01,"
    "2.256902605295181274e-01,3.274700641632080078e-01"
)


def line(seed: int, label: int = 1) -> str:
    values = np.random.default_rng(seed).normal(size=28)
    return ",".join(f"{value:.18e}" for value in (label, *values))


def write_lines(path: Path, lines: list[str], level: int = 6) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode("ascii"), level))
    return path


def naive(lines: list[str]) -> np.ndarray:
    return np.array([[np.float32(value) for value in text.split(",")] for text in lines])


@pytest.fixture
def lines() -> list[str]:
    first = FIRST + "," + line(0).split(",", 5)[5]
    return [first, *(line(seed, seed % 2) for seed in range(1, 50))]


@pytest.fixture
def csv(tmp_path: Path, lines: list[str]) -> Path:
    return write_lines(tmp_path / "higgs" / "HIGGS.csv.gz", lines)


@pytest.mark.parametrize("chunk", [7, 10, 49, 50, 51])
def test_conversion_is_the_naive_parse_at_any_chunk_size(csv, lines, chunk, monkeypatch) -> None:
    monkeypatch.setattr(higgs_table, "CHUNK_ROWS", chunk)
    table = converted(csv, None)
    rows = table.rows()
    np.testing.assert_array_equal(rows, naive(lines))
    assert isinstance(rows, np.memmap)
    assert rows.dtype == np.float32
    assert (table.n_rows, table.complete) == (50, True)
    assert table.sha256 == hashlib.sha256(naive(lines).tobytes()).hexdigest()
    np.testing.assert_array_equal(np.load(table.path), naive(lines))


def test_write_and_read_return_the_same_bits(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(2_500, 29)).astype(np.float32)
    rows[:, 0] = np.arange(2_500) % 2
    for name in ("a.gz", "b.gz"):
        write_rows(tmp_path / name, [rows[:1_700], rows[1_700:]])
    np.testing.assert_array_equal(np.concatenate(list(read_rows(tmp_path / "a.gz"))), rows)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def test_copy_is_made_once_and_again_when_the_csv_changes(csv, lines) -> None:
    first = converted(csv, None)
    before = first.path.stat().st_mtime_ns
    assert converted(csv, None) == first
    assert first.path.stat().st_mtime_ns == before
    write_lines(csv, lines[:-1])
    second = converted(csv, None)
    assert second.n_rows == 49
    assert second.sha256 != first.sha256
    np.testing.assert_array_equal(second.rows(), naive(lines[:-1]))


def test_digest_is_of_the_rows_not_of_their_compression(csv, lines) -> None:
    first = converted(csv, None).sha256
    write_lines(csv, lines, level=1)
    assert converted(csv, None).sha256 == first


def test_first_rows_are_read_alone_and_say_whether_they_are_all(csv, lines, monkeypatch) -> None:
    monkeypatch.setattr(higgs_table, "CHUNK_ROWS", 8)
    for wanted, complete in ((20, False), (24, False), (50, True), (99, True)):
        table = converted(csv, wanted)
        assert table.path.parent.name == f"float32_first_{wanted}"
        assert (table.n_rows, table.complete) == (min(wanted, 50), complete)
        np.testing.assert_array_equal(table.rows(), naive(lines[:wanted]))


def test_whole_copy_serves_first_rows_with_the_digest_they_have_alone(csv, lines) -> None:
    alone = converted(csv, 20)
    whole = converted(csv, None)
    served = converted(csv, 20)
    assert served.path == whole.path
    assert (served.n_rows, served.complete) == (20, False)
    assert served.sha256 == alone.sha256
    np.testing.assert_array_equal(served.rows(), naive(lines[:20]))
    assert converted(csv, 50) == whole
    write_lines(csv, lines[1:])
    np.testing.assert_array_equal(converted(csv, 20).rows(), naive(lines[1:21]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: [*lines[:30], line(3) + ",1.0"], "not a table of numbers"),
        (lambda lines: [text.rsplit(",", 1)[0] for text in lines], r"found \(50, 28\)"),
        (lambda lines: [*lines[:30], line(3, label=2)], "neither 0 nor 1"),
        (lambda lines: [*lines, line(3).replace("e-01", "e+99")], "not finite"),
        (lambda lines: [*lines, "label" + line(3)], "not a table of numbers"),
        (lambda lines: [*lines[:30], "", *lines[30:]], r"expected 51 rows .* found \(50, 29\)"),
    ],
)
def test_wrong_rows_are_refused_and_nothing_is_left(csv, lines, damage, message) -> None:
    write_lines(csv, damage(lines))
    with pytest.raises(DataError, match=rf"rows 1 to \d+: .*{message}"):
        converted(csv, None)
    assert [path.name for path in csv.parent.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("cut", ["half", "not gzip", "bits"])
def test_damaged_files_are_refused_with_the_way_out(csv, cut) -> None:
    content = csv.read_bytes()
    if cut == "half":
        content = content[: len(content) // 2]
    elif cut == "not gzip":
        content = b"<html>not found</html>" * 100
    else:
        middle = len(content) // 2
        content = content[:middle] + bytes(255 - b for b in content[middle:])
    csv.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged or cut short.*download higgs"):
        converted(csv, None)
    assert [path.name for path in csv.parent.iterdir() if path.is_dir()] == []


def test_empty_file_is_refused(csv) -> None:
    csv.write_bytes(gzip.compress(b""))
    with pytest.raises(DataError, match="has no rows"):
        converted(csv, None)


def test_failed_conversion_keeps_the_copy_that_was_there(csv, lines) -> None:
    table = converted(csv, None)
    csv.write_bytes(csv.read_bytes()[:-40])
    with pytest.raises(DataError, match="cut short"):
        converted(csv, None)
    np.testing.assert_array_equal(np.load(table.path), naive(lines))


def test_full_disk_names_the_folder_and_what_it_takes(csv, monkeypatch) -> None:
    def full(folder: Path, csv: Path, max_rows: int | None) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(higgs_table, "_convert", full)
    with pytest.raises(DataError, match=r"float32.*No space left.*116 bytes a row"):
        converted(csv, None)
