"""fedprivacy explain derives what a result says, or refuses what its ledger does not give."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedprivacy.accounting.ledger import Ledger
from fedprivacy.accounting.what_if import gaussian_epsilon
from fedprivacy.cell import run_cell
from fedprivacy.cli import main
from fedprivacy.config.schema import CellConfig
from fedprivacy.errors import DataError
from fedprivacy.explain_command import find_cell
from fedprivacy.federation.site import close_runtime
from fedprivacy.report.table import cell_table
from fedprivacy.result import LEDGER_FILE, RESULT_FILE, read_results, write_json

Tiny = Callable[..., CellConfig]
DPSGD = (
    "algorithm=dpsgd",
    "algorithm.noise_multiplier=2.0",
    "algorithm.sampling_rate=0.2",
    "federation.local_epochs=4",
    "federation.evaluate_every=0",
    "privacy.delta=1e-5",
)
CELLS: dict[str, tuple[str, ...]] = {
    "0a0000000001": (*DPSGD, "federation.rounds=4"),
    "0a0000000002": (*DPSGD, "federation.rounds=3", "schedule=first_round"),
    "0b0000000003": ("algorithm=gaussian_clipped", "algorithm.noise_multiplier=4.0"),
    "0c0000000004": ("algorithm=gaussian",),
    "0d0000000005": ("algorithm=central_gaussian", "algorithm.noise_multiplier=3"),
    "0e0000000006": ("algorithm=dpsgd", "algorithm.sampling=shuffle"),
    "0f0000000007": ("algorithm=dpsgd", "algorithm.target_epsilon=3", "schedule=first_round"),
    "0f1000000008": ("algorithm=stacked", "algorithm.mechanisms=[local_source,release_gaussian]"),
}
EVERY, FIRST, CLIPPED, PERCENTILE, CENTRAL, SHUFFLED, TARGET, STACK = CELLS


@pytest.fixture(scope="module")
def cells(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with outputs/mine/<id> of each of CELLS."""
    home = tmp_path_factory.mktemp("explained")
    for name, overrides in CELLS.items():
        close_runtime()
        run_cell(tiny(*overrides), home / "outputs" / "mine" / name)
    return home


@pytest.fixture
def here(cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of ``cells`` to work in and to spoil."""
    shutil.copytree(cells, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs" / "mine"


def read(cell: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((cell / RESULT_FILE).read_text(encoding="utf-8"))
    return found


def change(cell: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    result = read(cell)
    edit(result)
    write_json(cell / RESULT_FILE, result)


def explained(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["explain", *words]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], status: int, *words: str) -> str:
    assert main(["explain", *words]) == status
    caught = capsys.readouterr()
    assert caught.out == ""
    assert caught.err.startswith("error: ")
    return caught.err


# ------------------------------------------------------------------ what is explained


def test_a_finite_epsilon(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = explained(capsys, str(here / EVERY))
    for part in (
        "Recomputed from 12 events in ledger.jsonl: agrees with result.json.",
        "Seeded run:",
        "epsilon <= 4.4575 (one record, zero_out, adversary sees server_updates, delta 1e-05)",
        "rounds 1-4: dpsgd: 20 x [each unit with probability 0.2] Gaussian noise of 2 clip norms",
        "on a grid of 0.001, rounded up",
        "arXiv 2106.08567",
        "12 events (rounds 1-4; every site): dpsgd: q=0.2, sigma=2, C=1, steps=20, divisor=",
        ": 80 x [each unit with probability 0.2] Gaussian noise of 2 clip norms",
        "protected: 4 of 4 (100%)",
        "releases that nothing bounds: none",
        "patient: 4.4575 (zero_out): stated for one record",
        "site: infinite: a bound for one record says nothing about one site",
        "final_model: 4.4575 (zero_out)",
        "true-positive rate at false-positive rate 0.01: at most 0.",
        "sites hold different patients: the worst counts, ",
        "Hyperparameters were chosen without looking at these records",
        "docs/how-we-count.md",
    ):
        assert part in text, part
    assumptions = text.partition("Assumed:")[2].partition("\n\n")[0].splitlines()[1:]
    written = read(here / EVERY)["privacy"]["assumptions"]
    assert [line.strip(" -") for line in assumptions] == written


def test_protected_rounds_of_an_infinite_one(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = explained(capsys, str(here / FIRST))
    for part in (
        "epsilon: infinite (one record",
        "protected: 1 of 3 (33%)",
        "epsilon of the protected rounds alone: 2.2197; it holds for an adversary who sees nothing",
        "releases that nothing bounds: 6, in rounds 2-3",
        "a raw release: infinite; protected alone: 20 x [each unit with probability 0.2]",
        "nothing is capped",
    ):
        assert part in text, part


def test_an_update_filter(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = explained(capsys, str(here / CLIPPED))
    one = 4.0 / 3**0.5
    for part in (
        "one site, replace_one",
        f": 1 x Gaussian noise of {one:.6g} clip norms",
        "1/z^2 = sum of 1/z_i^2",
        "each record lies inside one site",
    ):
        assert part in text, part
    mu = float(text.partition("Gaussian DP: mu ")[2].split()[0])
    assert mu == pytest.approx(2 * 3**0.5 / 4, rel=0.01)


def test_what_has_no_proof(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = explained(capsys, str(here / PERCENTILE))
    assert "has no finite epsilon" in text
    assert "epsilon of the protected rounds alone: infinite; they are all rounds" in text
    assert "a release that nothing bounds: infinite" in text
    said, figure = text.partition("What-if:")[::2]
    assert "what-if, no guarantee" in figure
    assert "mu " in figure
    assert "no guarantee" not in said


def test_a_bound_that_holds_for_another_view(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = explained(capsys, str(here / CENTRAL))
    value = gaussian_epsilon(3**0.5 / 3, 1e-5)
    for part in (
        "epsilon: infinite (one site, zero_out, adversary sees server_updates",
        "the server sees every update before it adds noise",
        f"aggregate: {value:.2f}",
        "sensitivity=C/n of the mean under zero_out, 2C/n under replace_one",
        "--unit UNIT --view VIEW",
    ):
        assert part in text, part
    cell = str(here / CENTRAL)
    inside = explained(capsys, cell, "--unit", "record", "--view", "aggregate")
    assert f"epsilon <= {gaussian_epsilon(2 * 3**0.5 / 3, 1e-5):.2f}" in inside
    assert "one record, replace_one, adversary sees aggregate" in inside
    assert f": 1 x Gaussian noise of {3 / 3**0.5:.6g} clip norms" in inside


def test_shuffled_batches_and_their_lower_bound(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = explained(capsys, str(here / SHUFFLED))
    for part in ("billed without amplification", "epsilon_at_least=", "a lower bound (Chua et al."):
        assert part in text, part
    assert "lower bound" in read(here / SHUFFLED)["privacy"]["sampling"]


def test_a_target_that_only_the_protected_rounds_meet(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = explained(capsys, str(here / TARGET))
    for part in (
        "epsilon: infinite",
        "target_epsilon=3",
        "all protected rounds of the run together; rounds without protection are not in it",
        "with any of them the epsilon of the run is infinite",
    ):
        assert part in text, part
    alone = float(text.partition("protected rounds alone: ")[2].partition(";")[0])
    assert 2.99 < alone <= 3


def test_a_stack_names_the_mechanism_that_counts(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = explained(capsys, str(here / STACK))
    for part in (
        "epsilon <= 12.14",
        "one record, replace_one, adversary sees server_updates",
        "mechanism=local_source",
        "randomised response among 2, the truth with probability 0.9",
        "nothing new (post-processing)",
        "final_model: 9.99",
    ):
        assert part in text, part
    final = explained(capsys, str(here / STACK), "--unit", "site", "--view", "final_model")
    assert "mechanism=release_gaussian" in final
    assert "reference=initial weights, public" in final


def test_another_delta_unit_and_view(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell = str(here / CLIPPED)
    text = explained(capsys, cell, "--delta", "1e-6", "--unit", "patient", "--view", "aggregate")
    asked = "delta 1e-06 instead of 1e-05, unit patient instead of site, view aggregate instead of"
    assert asked in text
    assert "(one patient, replace_one, adversary sees aggregate, delta 1e-06)" in text
    assert "epsilon at delta 1e-05, for comparing runs: " in text
    usual, strict = (
        float(part.partition("epsilon <= ")[2].split()[0])
        for part in (explained(capsys, cell), text)
    )
    assert strict > usual


def test_a_report_names_the_way_here(here: Path) -> None:
    table = cell_table(read_results(here))
    assert "docs/how-we-count.md; of one cell: fedprivacy explain ID" in table


# ------------------------------------------------------------------ how a cell is found


def test_a_cell_by_its_id_or_its_files(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = explained(capsys, str(here / EVERY))
    for name in (EVERY, str(here / EVERY / RESULT_FILE), str(here / EVERY / LEDGER_FILE)):
        assert explained(capsys, name) == whole
    assert find_cell("0b00", Path("outputs")) == Path("outputs/mine") / CLIPPED


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ffff00000000", "no cell 'ffff00000000'"),
        ("ffff00000000", "outputs/mine/0a0000000001"),
        ("*", "no cell '*'"),
        ("0a00", "names 2 cells, give the folder of one: outputs/mine/0a0000000001, outputs/mine"),
        ("outputs/mine", "holds 8 cells; give one of them, for example outputs/mine/"),
        ("outputs", "give the folder of a finished cell"),
    ],
)
def test_an_unknown_cell(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    assert words in refused(capsys, 2, name)


def test_no_cell_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is none yet: fedprivacy run"):
        find_cell("abcd", tmp_path)


def test_a_cell_that_failed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = {"status": "failed", "reason": "site A died", "privacy": None}
    change(here / EVERY, lambda result: result.update(failed))
    assert "site A died): run it again" in refused(capsys, 2, EVERY)


@pytest.mark.parametrize("delta", ["1e-3", "0", "-1", "nan"])
def test_a_delta_out_of_range(here: Path, capsys: pytest.CaptureFixture[str], delta: str) -> None:
    assert "= 1e-05, n the training records" in refused(capsys, 2, EVERY, f"--delta={delta}")


# ------------------------------------------------------------------ what is refused


def spoil(cell: Path, keep: Callable[[Any], bool], edit: Callable[[str], str] = str) -> None:
    ledger = Ledger.read(cell / LEDGER_FILE).where(keep)
    ledger.write(cell / LEDGER_FILE)
    path = cell / LEDGER_FILE
    path.write_text(edit(path.read_text(encoding="utf-8")), encoding="utf-8")


def test_a_smaller_epsilon_in_the_result(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(here / EVERY, lambda result: result["privacy"].update(epsilon=2.0))
    text = refused(capsys, 1, EVERY)
    assert "epsilon: result.json says 2, ledger.jsonl gives 4.4575" in text
    assert "Nothing is explained" in text


def test_a_finite_epsilon_for_an_infinite_one(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finite = {"epsilon": 2.22, "infinite": False}
    change(here / FIRST, lambda result: result["privacy"].update(finite))
    text = refused(capsys, 1, FIRST)
    assert "infinite: result.json says false, ledger.jsonl gives true" in text
    assert "epsilon: result.json says 2.22, ledger.jsonl gives None" in text


@pytest.mark.parametrize(
    ("part", "name", "words"),
    [
        ("per_unit", "patient", "per_unit.patient.epsilon"),
        ("per_view", "final_model", "per_view.final_model.epsilon"),
        ("per_site", "site-2", "per_site.site-2.epsilon"),
    ],
)
def test_a_changed_part(
    here: Path, capsys: pytest.CaptureFixture[str], part: str, name: str, words: str
) -> None:
    change(here / EVERY, lambda result: result["privacy"][part][name].update(epsilon=1.0))
    assert f"{words}: result.json says 1, ledger" in refused(capsys, 1, EVERY)


def test_a_changed_round(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(here / EVERY, lambda result: result["rounds"][1].update(epsilon=0.5))
    assert "epsilon after round 2: result.json says 0.5" in refused(capsys, 1, EVERY)


def test_rounds_left_out(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(here / EVERY, lambda result: result["rounds"].pop())
    assert "rounds: result.json lists 3, its statement speaks of 4" in refused(capsys, 1, EVERY)
    spoil(here / FIRST, lambda event: event.round < 3)
    assert "has no event for rounds [3] of 3" in refused(capsys, 1, FIRST)


def test_a_site_left_out(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(here / EVERY, lambda event: event.site != "site-2")
    assert "per_site.site-2" in refused(capsys, 1, EVERY)


def test_more_noise_in_the_ledger(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = '"noise_multiplier": 2.0', '"noise_multiplier": 2.5'
    spoil(here / EVERY, lambda event: True, lambda text: text.replace(old, new))
    assert "epsilon: result.json says 4.4575, ledger.jsonl gives" in refused(capsys, 1, EVERY)


def test_a_ledger_that_is_missing_or_damaged(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / EVERY / LEDGER_FILE).unlink()
    assert "without its ledger cannot be checked" in refused(capsys, 1, EVERY)
    (here / FIRST / LEDGER_FILE).write_text('{"round": 1}\n', encoding="utf-8")
    assert "ledger.jsonl, line 1: " in refused(capsys, 1, FIRST)
    (here / CLIPPED / LEDGER_FILE).write_bytes(b"\xff\xfe")
    assert "is not text" in refused(capsys, 1, CLIPPED)
    change(here / PERCENTILE, lambda result: result["privacy"].pop("rounds"))
    assert "damaged (KeyError: 'rounds')" in refused(capsys, 1, PERCENTILE)


def test_a_result_that_is_none(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / EVERY / RESULT_FILE).write_text("{}", encoding="utf-8")
    assert "is not a result" in refused(capsys, 2, EVERY)
