from __future__ import annotations

import csv
import io
from dataclasses import replace
from types import ModuleType

from fedprivacy.report.table import cell_csv, cell_table


def lines_of(text: str) -> dict[tuple[str, str, str], dict[str, str]]:
    """The table's lines by algorithm, schedule and dataset, cut at the columns of its header."""
    header, rule, *lines = text.split("\n\nepsilon:")[0].splitlines()
    starts = [0, *(i + 2 for i in range(len(rule)) if rule[i : i + 2] == "  ")]
    ends = [*(start - 2 for start in starts[1:]), None]
    cut = [[x[a:b].strip() for a, b in zip(starts, ends, strict=True)] for x in (header, *lines)]
    rows = [dict(zip(cut[0], values, strict=True)) for values in cut[1:] if any(values)]
    return {(row["algorithm"], row["schedule"], row["dataset"]): row for row in rows}


def test_the_table_tells_finite_and_infinite(factory: ModuleType) -> None:
    rows = lines_of(cell_table(factory.demo_results()))
    synthetic = "higgs (synthetic)"
    assert rows["dpsgd", "every_round", synthetic] == {
        "algorithm": "dpsgd",
        "schedule": "every_round",
        "dataset": synthetic,
        "federation": "fedavg",
        "score": "auc 0.839 ± 0.011",
        "chance": "0.500",
        "non-private": "0.956 ± 0.011",
        "epsilon": "8.18",
        "protected rounds": "8.18 (8/8 rounds)",
        "of one": "record, zero_out",
        "status": "ok",
    }
    first = rows["dpsgd", "first_round", synthetic]
    assert (first["epsilon"], first["protected rounds"]) == ("infinite", "2.22 (1/8 rounds)")
    svt = rows["svt", "every_round", synthetic]
    assert (svt["epsilon"], svt["protected rounds"]) == ("infinite", "infinite (8/8 rounds)")
    assert (svt["of one"], svt["status"]) == ("site, replace_one", "collapsed")
    none = rows["none", "-", synthetic]
    assert (none["epsilon"], none["protected rounds"]) == ("infinite", "-")
    assert rows["svt", "every_round", "ixi_tiny (synthetic)"]["status"] == "collapsed in round 3"
    failed = rows["gaussian", "first_round", "ixi_tiny (synthetic)"]
    assert (failed["score"], failed["epsilon"], failed["status"]) == ("-", "unknown", "failed")


def test_only_synthetic_records_are_called_synthetic(factory: ModuleType) -> None:
    text = cell_table(factory.demo_results())
    assert "wisconsin (synthetic)" not in text
    assert "made-up records" in text
    assert "synthetic" not in cell_table([factory.make_result(dataset="wisconsin")])


def test_a_missing_twin_is_a_dash(factory: ModuleType) -> None:
    rows = lines_of(cell_table([factory.make_result()]))
    assert rows["dpsgd", "every_round", "higgs (synthetic)"]["non-private"] == "-"


def test_a_twin_that_trained_otherwise_is_marked(factory: ModuleType) -> None:
    twin = factory.make_result("none", config={"federation.lr": 7.0})
    text = cell_table([factory.make_result(), twin])
    row = lines_of(text)["dpsgd", "every_round", "higgs (synthetic)"]
    assert row["non-private"].endswith("*")
    assert "* the non-private cell differs in federation.lr as well." in text


def test_seeds_are_one_line_with_their_number(factory: ModuleType) -> None:
    results = [factory.make_result(a, seed=seed) for a in ("none", "dpsgd") for seed in range(3)]
    rows = lines_of(cell_table(results))
    assert len(rows) == 2
    row = rows["dpsgd", "every_round", "higgs (synthetic)"]
    assert row["score"].endswith("(n=3)")
    assert row["non-private"].endswith("(n=3)")


def test_what_all_epsilons_share_is_said_below(factory: ModuleType) -> None:
    text = cell_table(factory.demo_results())
    said = " ".join(text.split())
    assert "All of them: view server_updates; delta 1e-5; randomness seeded (a simulation," in said
    assert "  delta" not in text.splitlines()[0]


def test_what_differs_between_epsilons_gets_a_column(factory: ModuleType) -> None:
    one, other = factory.make_result(), factory.make_result("svt")
    other = replace(other, privacy={**other.privacy, "delta": 1e-6, "randomness": "secret"})
    text = cell_table([one, other])
    rows = lines_of(text)
    first = rows["dpsgd", "every_round", "higgs (synthetic)"]
    second = rows["svt", "every_round", "higgs (synthetic)"]
    assert (first["delta"], second["delta"]) == ("1e-5", "1e-6")
    assert (first["randomness"], second["randomness"]) == ("seeded", "secret")
    assert "randomness seeded: a simulation, no certificate." in text
    assert "All of them: view server_updates." in " ".join(text.split())


def test_failures_are_explained(factory: ModuleType) -> None:
    text = cell_table([factory.failed_result(algorithm="gaussian", seed=4)])
    tail = text.split("failed:\n")[1].splitlines()
    assert tail[0].startswith("  gaussian every_round higgs fedavg s4 (")
    assert tail[0].endswith("site Guys failed: RuntimeError: out of memory")
    assert tail[1:] == [
        '    File "client.py", line 1, in train',
        "    RuntimeError: out of memory",
    ]


def test_no_results_are_said_to_be_none() -> None:
    assert cell_table([]) == "no cell has a result yet"
    assert cell_csv([]) == ""


def test_the_csv_has_every_cell_and_words_for_the_infinite(factory: ModuleType) -> None:
    results = [*factory.demo_results(), factory.make_result(seed=1)]
    rows = list(csv.DictReader(io.StringIO(cell_csv(results))))
    assert len(rows) == len(results)
    by_id = {row["cell_id"]: row for row in rows}
    finite, partial = factory.make_result(), factory.make_result(schedule="first_round")
    row = by_id[finite.cell_id]
    assert float(row["score"]) == finite.score.value
    assert float(row["epsilon"]) == 8.181
    assert row["synthetic"] == "true"
    assert (row["unit"], row["neighbouring"], row["view"]) == (
        "record",
        "zero_out",
        "server_updates",
    )
    assert (row["direction"], float(row["delta"])) == ("upper bound proved", 1e-5)
    twin = factory.make_result("none")
    assert float(row["non_private_score"]) == twin.score.value
    row = by_id[partial.cell_id]
    assert (row["epsilon"], row["epsilon_protected"]) == ("infinite", "2.22")
    row = by_id[twin.cell_id]
    assert (row["epsilon"], row["epsilon_protected"], row["non_private_score"]) == (
        "infinite",
        "",
        "",
    )
    failed = next(row for row in rows if row["status"] == "failed")
    assert (failed["score"], failed["epsilon"], failed["direction"]) == ("", "", "")
    assert all("nan" not in v.lower() and v.lower() != "inf" for r in rows for v in r.values())


def test_another_views_epsilon_stands_beside_and_is_explained(factory: ModuleType) -> None:
    result = factory.make_result("gaussian")
    views = {
        "server_updates": {"infinite": True, "epsilon": None},
        "aggregate": {"infinite": False, "epsilon": 4.377},
        "final_model": {"infinite": False, "epsilon": 4.377},
    }
    central = replace(result, privacy={**result.privacy, "per_view": views})
    text = cell_table([central])
    assert "infinite (aggregate: 4.38)" in text
    assert "the same cell against an adversary with that view" in text
    row = next(csv.DictReader(io.StringIO(cell_csv([central]))))
    assert (row["epsilon"], row["epsilon_server_updates"]) == ("infinite", "infinite")
    assert float(row["epsilon_aggregate"]) == 4.377


def test_the_lower_bound_of_shuffled_batches_is_shown(factory: ModuleType) -> None:
    result = factory.make_result()
    words = "shuffled batches, billed without amplification; epsilon of one pass is at least 1.722"
    said = {"sampling": f"{words} at delta 1e-05 (lower bound)", "coverage_records": 1.0}
    shuffled = replace(result, privacy={**result.privacy, **said})
    assert words in " ".join(cell_table([shuffled]).split())
    assert "lower bound" not in cell_table([result])
    row = next(csv.DictReader(io.StringIO(cell_csv([shuffled]))))
    assert row["sampling"] == said["sampling"]
    assert float(row["coverage_records"]) == 1.0


def test_a_collapse_against_the_twin_is_told(factory: ModuleType) -> None:
    cell, twin = factory.make_result("svt", reached=0.1), factory.make_result("none", reached=0.8)
    text = cell_table([cell, twin])
    assert lines_of(text)["svt", "every_round", "higgs (synthetic)"]["status"] == (
        "collapsed against its twin"
    )
    assert "by no more than 0.2 of what the non-private cell gained" in " ".join(text.split())
    text = cell_table([cell, twin], collapse_fraction=0.05)
    assert lines_of(text)["svt", "every_round", "higgs (synthetic)"]["status"] == "ok"
    assert "against its twin" not in text


def test_the_csv_has_a_column_for_collapses_against_the_twin(factory: ModuleType) -> None:
    own = factory.make_result("svt", reached=0.001, status="collapsed")
    low = factory.make_result("svt", "every_nth", reached=0.1)
    fine, twin = factory.make_result(), factory.make_result("none")
    results = [own, low, fine, twin]
    for fraction, told in ((0.2, "true"), (0.01, "false")):
        rows = csv.DictReader(io.StringIO(cell_csv(results, fraction)))
        found = {row["cell_id"]: (row["status"], row["collapsed_against_twin"]) for row in rows}
        assert found == {
            own.cell_id: ("collapsed", told),
            low.cell_id: ("ok", told),
            fine.cell_id: ("ok", "false"),
            twin.cell_id: ("ok", ""),
        }
