"""Tables of the page: what stands out, and what each cell is sorted by."""

from __future__ import annotations

import importlib.resources
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fedprivacy.report.page import sort_value, table

# A document of one table, as far as the script needs one.
BROWSER = """
const fs = require("fs"), script = fs.readFileSync(process.argv[2], "utf8");
const clicks = JSON.parse(process.argv[4]);
const rows = JSON.parse(process.argv[3]).map(cells => ({cells: cells.map(([text, value]) => ({
  textContent: text, dataset: value === null ? {} : {value: value}}))}));
const body = {rows: rows, appendChild(row) { rows.splice(rows.indexOf(row), 1); rows.push(row); }};
const heads = [], line = {children: heads, querySelectorAll: () => heads};
const buttons = rows[0].cells.map(() => {
  const sorted = {}, head = {parentElement: line, closest: () => ({tBodies: [body]}),
    getAttribute: () => sorted.way, removeAttribute: () => { sorted.way = null; },
    setAttribute: (_, way) => { sorted.way = way; }};
  heads.push(head);
  return {parentElement: head, addEventListener: (_, act) => { head.click = act; }};
});
globalThis.document = {querySelectorAll: () => buttons};
globalThis.window = {addEventListener: () => {}};
eval(script);
clicks.forEach(index => heads[index].click());
console.log(JSON.stringify(rows.map(row => row.cells[0].textContent)));
"""


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("8.18 (8/8 rounds)", "8.18"),
        ("infinite (aggregate: 4.38)", "Infinity"),
        (">= 2.02 (ceiling 3.02, 6 audited)", "2.02"),
        (">= 0.81 [0.7, 0.9] (n=3) of the records", "0.81"),
        ("-0.010 [-0.020, 0.001] (n=3)*", "-0.010"),
        ("0.021*", "0.021"),
        ("1.5e-5", "1.5e-5"),
        ("-", None),
        ("", None),
        ("no proof bought", None),
        ("recall of 1: 0.310", None),
        ("2.4.1", None),
        ("12ab", None),
    ],
)
def test_a_text_is_sorted_by_the_number_that_it_begins_with(words: str, value: str | None) -> None:
    assert sort_value(words) == value


def test_a_falsified_claim_stands_out_wherever_the_word_is() -> None:
    for words in ("falsified (1/3), partial (2/3)", "partial (2/3), falsified (1/3)"):
        assert '<td class="bad">' in table([{"verdict": words}])
    assert "bad" not in table([{"verdict": "partial (3/3)"}])


LINES = [
    {"name": "a", "worst class": "recall of 10: 0.057", "epsilon": "infinite"},
    {"name": "b", "worst class": "recall of 2: 0.310", "epsilon": "10.1 (8/8 rounds)"},
    {"name": "c", "worst class": "-", "epsilon": "9.5"},
    {"name": "d", "worst class": "recall of 3: -0.020", "epsilon": "unknown"},
]
VALUES = [{"worst class": 0.057}, {"worst class": 0.31}, {}, {"worst class": -0.02}]


def test_numbers_inside_a_text_are_given() -> None:
    page = table(LINES, values=VALUES)
    assert '<td data-value="0.057">recall of 10: 0.057</td>' in page
    assert "<td>-</td>" in page
    assert '<td data-value="Infinity">infinite</td>' in page
    with pytest.raises(ValueError, match="argument"):
        table(LINES, values=VALUES[:1])


@pytest.mark.skipif(shutil.which("node") is None, reason="no JavaScript here")
@pytest.mark.parametrize(
    ("clicks", "order"),
    [([1], "dabc"), ([1, 1], "badc"), ([2], "cbad"), ([2, 2], "abcd"), ([1, 0], "abcd")],
)
def test_the_script_sorts_by_numbers_and_keeps_words_below(
    clicks: list[int], order: str, tmp_path: Path
) -> None:
    found = re.findall(r'<td(?: data-value="([^"]*)")?>([^<]*)</td>', table(LINES, values=VALUES))
    cells = [[text, value or None] for value, text in found]
    rows = [cells[start : start + 3] for start in range(0, len(cells), 3)]
    script = importlib.resources.files("fedprivacy.report") / "assets" / "report.js"
    (tmp_path / "browser.js").write_text(BROWSER)
    done = subprocess.run(
        ["node", str(tmp_path / "browser.js"), str(script), json.dumps(rows), json.dumps(clicks)],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "".join(json.loads(done.stdout)) == order
