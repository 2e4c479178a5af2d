"""The page: whole, by itself, escaped, and with everything that a reader must find."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

from fedprivacy.cell import run_cell
from fedprivacy.report.page import table
from fedprivacy.report.report import write_report
from fedprivacy.result import write_result

VOID = {"meta", "img", "br", "hr"}


class Structure(HTMLParser):
    """Checks that elements close in order; collects ids, links and sources."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if "href" in given else []
        self.sources += [given["src"]] if "src" in given else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


def parsed(text: str) -> Structure:
    structure = Structure()
    structure.feed(text)
    assert structure.open == []
    return structure


@pytest.fixture(scope="module")
def sweep(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real cells: audited DP-SGD over three seeds with its twin, and one that is still running."""
    folder = tmp_path_factory.mktemp("outputs") / "real"
    for algorithm in ("dpsgd", "none"):
        for seed in (0, 1, 2):
            overrides = (
                f"algorithm={algorithm}", f"seed={seed}", "audit=fast", "audit.canaries=40",
                "schedule=first_round", "federation.rounds=2",
            )  # fmt: skip
            config = tiny(*overrides)
            from fedprivacy.config.identity import cell_id

            run_cell(config, folder / cell_id(config), overrides=overrides)
    (folder / "running" / ".hydra").mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def page(sweep: Path) -> str:
    report = write_report([sweep])
    assert report.paths[-1].name == "report.html"
    return report.paths[-1].read_text(encoding="utf-8")


def test_it_is_well_formed_and_needs_nothing_but_itself(page: str) -> None:
    structure = parsed(page)
    assert all(source.startswith("data:image/") for source in structure.sources)
    assert all(link.startswith("#") for link in structure.links)
    assert {link[1:] for link in structure.links} <= set(structure.ids)
    assert "http://" not in page.split("<body>")[1]
    assert "@import" not in page
    assert "<script src" not in page


def test_every_cell_has_its_derivation_and_its_command(page: str, sweep: Path) -> None:
    cells = [path.name for path in sweep.iterdir() if (path / "result.json").exists()]
    assert len(cells) == 6
    derivations = page.split('id="derivations"')[1].split("</section>")[0]
    assert derivations.count("<details>") == 6
    for cell in cells:
        assert cell in derivations
    assert derivations.count("Recomputed from") == 6
    commands = page.split('id="rerun"')[1].split("</section>")[0]
    assert commands.count("fedprivacy run algorithm=") == 6


def test_it_tells_what_is_proved_measured_and_unfinished(page: str) -> None:
    assert "1 cells have no result yet" in page
    assert "no proof bought" in page
    assert "infinite" in page.split('id="prices"')[1]
    assert "no bound is proved" in page
    membership = page.split('id="membership"')[1].split("</section>")[0]
    for attack in ("updates", "loss threshold", "LiRA", "RMIA"):
        assert attack in membership
    assert "no evidence of privacy" in page
    assert '<a href="#how-we-count">' in page
    counted = page.split('<section id="how-we-count">')[1]
    assert "<h4>Who attacks, and what they see</h4>" in counted
    assert "<td>what is seen</td>" in counted or "<th>what is seen</th>" in counted
    assert page.count('class="sortable"') >= 4
    assert "What every site and every class lost" in page
    for whose in ("recall of [01]", "accuracy of site-[0-9]"):
        size = r"( \(\d+ of \d+ held-out records\))?: "
        assert re.search(rf'<td data-value="-?[0-9.e-]+">{whose}{size}', page)
    assert "aria-sort" in page


def test_every_lower_bound_stands_with_its_ceiling(page: str, sweep: Path) -> None:
    audits = page.split('id="audits"')[1].split("</section>")[0]
    heads = re.findall(r"<button[^>]*>([^<]*)</button>", audits)
    assert heads[5:8] == ["epsilon at least", "ceiling", "confidence"]
    # Six audited cells, three views, one bound that always holds and two that assume something.
    assert audits.count("<tr>") == 1 + 6 * 3 * 3
    assert audits.count("independent</td>") == audits.count("Gaussian one</td>") == 6 * 3
    assert "of at most" in audits
    lines = (sweep / "report" / "bounds.csv").read_text().splitlines()
    assert len(lines) == 1 + 6 * 3 * 3


def test_text_from_cells_cannot_become_markup(factory: ModuleType, tmp_path: Path) -> None:
    nasty = '<script>alert(1)</script> & "quotes"'
    cells = [
        replace(factory.failed_result(), reason=nasty, overrides=("seed=0", "x='a b'")),
        factory.make_result("none"),
    ]
    report = write_report([factory.write_sweep(tmp_path, cells)])
    text = report.paths[-1].read_text(encoding="utf-8")
    parsed(text)
    assert nasty not in text
    assert "&lt;script&gt;alert(1)" in text
    assert re.search(r"Synthetic stand-ins, not real patients: higgs", text)


def test_two_sweeps_stand_on_one_page(factory: ModuleType, tmp_path: Path) -> None:
    one = factory.write_sweep(tmp_path / "one", [factory.make_result("dpsgd")])
    other = factory.write_sweep(tmp_path / "other", [factory.make_result("none")])
    report = write_report([one, other], tmp_path / "both")
    text = report.paths[-1].read_text(encoding="utf-8")
    assert "one, other" in text
    assert len(report.results) == 2


def test_a_falsified_claim_stands_out_wherever_it_stands() -> None:
    assert 'class="bad"' in table([{"verdict": "partial (1/3), falsified (2/3)"}])
    assert 'class="bad"' not in table([{"verdict": "partial (3/3)"}])


def test_a_cell_that_collapsed_against_its_twin_stands_among_the_failures(
    factory: ModuleType, tmp_path: Path
) -> None:
    near_chance = factory.make_result("gaussian", seed=0)
    chance = near_chance.score.chance
    near_chance = replace(near_chance, score=replace(near_chance.score, value=chance + 0.001))
    diverged = factory.diverged_result(algorithm="dpsgd", seed=0)
    for cell in (near_chance, diverged, factory.make_result("none", seed=0)):
        write_result(tmp_path / cell.cell_id, cell)
    page = (write_report([tmp_path]).folder / "report.html").read_text()
    failures = page[page.index('id="failures"') :]
    failures = failures[: failures.index("</section>")]
    assert "collapsed against its twin" in failures
    assert near_chance.cell_id in failures
    assert "the loss is not finite" in failures
    prices = page[page.index('id="prices"') : page.index('id="findings"')]
    assert "1 of 1" in prices  # collapsed
    assert "no local baseline was run" in prices


def test_a_cells_folder_may_have_any_name(sweep: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(sweep.glob("*/result.json"))):
        shutil.copytree(path.parent, tmp_path / f"run_{number}")
    page = (write_report([tmp_path], tmp_path / "out").folder / "report.html").read_text()
    assert "the cell's folder is gone" not in page
    assert "LiRA" in page
