"""Folders made once: whole, shared between processes, and told apart by their digest."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedprivacy.data.files import STAMP_NAME, digest_tree, generated_once, write_atomic
from fedprivacy.errors import DataError

STAMP = {"dataset": "toy", "synthetic": True, "seed": 1}


class Maker:
    """Writes one file and counts how often it was asked to."""

    def __init__(self, text: str = "records") -> None:
        self.text, self.calls = text, 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        assert list(folder.iterdir()) == []
        (folder / "deep").mkdir()
        (folder / "deep" / "records.txt").write_text(self.text)


def test_made_once_and_reused(tmp_path: Path) -> None:
    make, folder = Maker(), tmp_path / "a" / "demo"
    assert generated_once(folder, STAMP, make) == folder
    assert generated_once(folder, dict(reversed(STAMP.items())), make) == folder
    assert make.calls == 1
    assert (folder / "deep/records.txt").read_text() == "records"
    assert sorted(path.name for path in folder.iterdir()) == ["deep", STAMP_NAME]


def test_another_stamp_replaces_the_whole_folder(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    generated_once(folder, STAMP, Maker("old"))
    (folder / "stale.txt").write_text("x")
    generated_once(folder, STAMP | {"seed": 2}, Maker("new"))
    assert (folder / "deep/records.txt").read_text() == "new"
    assert not (folder / "stale.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".demo.lock", "demo"]


def test_failure_leaves_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    generated_once(folder, STAMP, Maker("old"))

    def fail(fresh: Path) -> None:
        (fresh / "half").write_text("x")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        generated_once(folder, STAMP | {"seed": 2}, fail)
    assert (folder / "deep/records.txt").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".demo.lock", "demo"]


def test_leftovers_of_a_killed_process_are_cleared(tmp_path: Path) -> None:
    (tmp_path / ".demo.partial").mkdir()
    (tmp_path / ".demo.partial" / "half").write_text("x")
    generated_once(tmp_path / "demo", STAMP, Maker())
    assert sorted(path.name for path in tmp_path.iterdir()) == [".demo.lock", "demo"]


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="left alone"):
        generated_once(folder, STAMP, Maker())
    assert (folder / "thesis.txt").read_text() == "mine"
    (folder / "thesis.txt").unlink()
    generated_once(folder, STAMP, Maker())  # an empty folder is nobody's


def test_two_threads_make_one(tmp_path: Path) -> None:
    make = Maker()
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(generated_once, tmp_path / "demo", STAMP, make) for _ in range(4)]
    assert {run.result() for run in runs} == {tmp_path / "demo"}
    assert make.calls == 1


def test_two_processes_make_one(tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib\n"
        "from fedprivacy.data.files import generated_once\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "def make(folder):\n"
        "    with open(root / 'calls', 'a') as log: log.write('x')\n"
        "    time.sleep(0.2)\n"
        "    (folder / 'f').write_text('1')\n"
        "generated_once(root / 'demo', {'seed': 1}, make)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    runs = [subprocess.Popen(command) for _ in range(2)]
    assert [run.wait(60) for run in runs] == [0, 0]
    assert (tmp_path / "calls").read_text() == "x"


def test_digest_sees_names_sizes_and_contents(tmp_path: Path) -> None:
    def digest(files: dict[str, bytes]) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, body in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(body)
        return digest_tree(folder, "*.npy")

    base = {"a/x.npy": b"12", "y.npy": b"3"}
    digests = [
        digest(base),
        digest({"a/x.npy": b"12", "y.npy": b"4"}),
        digest({"a/x.npy": b"1", "y.npy": b"23"}),
        digest({"b/x.npy": b"12", "y.npy": b"3"}),
        digest({"a/x.npy": b"12"}),
    ]
    assert len(set(digests)) == len(digests)
    assert digest(dict(reversed(base.items()))) == digests[0]
    assert digest(base | {"notes.txt": b"ignored"}) == digests[0]


def test_digest_of_large_files_samples_both_ends_and_the_middle(tmp_path: Path) -> None:
    path, size = tmp_path / "big.npy", 5 << 20
    digests = set()
    for at in (None, 0, size // 2, size - 1):
        body = bytearray(size)
        if at is not None:
            body[at] = 1
        path.write_bytes(body)
        digests.add(digest_tree(tmp_path, "*.npy"))
    assert len(digests) == 4


def test_digest_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file matches '\*\.npy'"):
        digest_tree(tmp_path, "*.npy")


def test_atomic_write_replaces_and_leaves_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    write_atomic(path, "1")
    write_atomic(path, "2")
    assert path.read_text() == "2"
    assert os.listdir(tmp_path) == ["f.json"]
