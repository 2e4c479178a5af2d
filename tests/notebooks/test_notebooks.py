"""The notebooks run from a clean kernel; what is committed was run and is small enough to review."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from notebooks.outputs import differences

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
BOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 200_000


def test_there_are_four() -> None:
    assert [book.stem[:2] for book in BOOKS] == ["01", "02", "03", "04"]


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_it_was_committed_with_its_outputs(book: Path) -> None:
    notebook = json.loads(book.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert sum(bool(cell["outputs"]) for cell in code) >= 3
    assert not any(out["output_type"] == "error" for cell in code for out in cell["outputs"])
    assert book.stat().st_size < LARGEST


@pytest.mark.slow
@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_a_clean_kernel_gives_what_was_committed(book: Path, tmp_path: Path) -> None:
    kept, notebook = (nbformat.read(book, as_version=4) for _ in range(2))
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=240, kernel_name="python3", resources=resources).execute()
    fresh, old = (
        [cell for cell in one.cells if cell.cell_type == "code"] for one in (notebook, kept)
    )
    assert differences(fresh, old) == []
