from __future__ import annotations

import pytest

from fedprivacy.accounting.ledger import Ledger
from fedprivacy.errors import AccountingError


def test_selections(run):
    ledger = run(4, lambda number: number % 2 == 1, sites=("B", "A"))
    assert ledger.sites == ("B", "A")
    assert ledger.rounds == (1, 2, 3, 4)
    assert len(ledger) == 8
    assert ledger.protected().rounds == (1, 3)
    assert [event.round for event in ledger.site("A")] == [1, 2, 3, 4]
    assert Ledger().extended(ledger) == ledger


def test_written_and_read_without_loss(run, tmp_path):
    ledger = run(3, lambda number: number < 3, sites=("Gûy's\u2028ward", "HH"))
    path = tmp_path / "ledger.jsonl"
    ledger.write(path)
    assert Ledger.read(path) == ledger
    assert [item.name for item in tmp_path.iterdir()] == ["ledger.jsonl"]
    Ledger().write(path)
    assert Ledger.read(path) == Ledger()


def test_a_write_that_fails_leaves_the_old_file(run, tmp_path, monkeypatch):
    path = tmp_path / "ledger.jsonl"
    run(1).write(path)
    before = path.read_bytes()

    def broken(*_args):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", broken)
    with pytest.raises(OSError, match="disk full"):
        run(2).write(path)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["ledger.jsonl"]


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"round": 1, "dp_event": {"type": "X"}}'])
def test_a_damaged_line_is_named(run, tmp_path, line):
    path = tmp_path / "ledger.jsonl"
    run(1).write(path)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(AccountingError, match=r"ledger\.jsonl, line 2"):
        Ledger.read(path)
