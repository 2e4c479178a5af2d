"""Shares of the gain lost: the mean over the protections that were run on all cases."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import pytest

from fedprivacy.report.matching import AmbiguousError
from fedprivacy.report.sensitivity import less_predictable, more_sensitive, protections
from fedprivacy.result import CellResult

CHANCE = {"ixi_tiny": 0.46, "breast_density": 0.0, "higgs": 0.5}
TWIN = {"ixi_tiny": 0.86, "breast_density": 0.5, "higgs": 0.9}


@pytest.fixture
def cells(factory: ModuleType):
    def made(losses: dict[str, dict[str, tuple[float, ...]]]) -> list[CellResult]:
        """Cells that lose these shares of the gain, by algorithm, case and seed."""
        found = []
        for case, chance in CHANCE.items():
            gain = TWIN[case] - chance
            scores = {
                ("none", seed): TWIN[case]
                for own in losses.values()
                for seed in range(len(own[case]))
            }
            for algorithm, own in losses.items():
                for seed, share in enumerate(own[case]):
                    scores[algorithm, seed] = TWIN[case] - share * gain
            for (algorithm, seed), score in scores.items():
                cell = factory.make_result(algorithm, dataset=case, seed=seed)
                assert cell.score.chance == chance
                found.append(replace(cell, score=replace(cell.score, value=score)))
        return found

    return made


def test_the_mean_over_protections(cells) -> None:
    both = cells(
        {
            "gaussian": {"ixi_tiny": (0.1, 0.1), "breast_density": (0.2, 0.4), "higgs": (0.0, 0.1)},
            "svt": {"ixi_tiny": (0.9, 0.9), "breast_density": (1.0, 0.8), "higgs": (0.4, 0.5)},
        }
    )
    assert protections(both) == " to Gaussian 95, SVT (their mean)"
    assert more_sensitive("breast_density", both).by_seed == pytest.approx({0: 0.1, 1: 0.1})
    assert more_sensitive("higgs", both).by_seed == pytest.approx({0: -0.4, 1: -0.3})
    # Breast density loses .6 in both; IXI .5 in both; HIGGS .2 and .3, .05 from their mean.
    assert less_predictable("higgs", both).by_seed == pytest.approx({0: 0.05, 1: 0.05})
    assert less_predictable("breast_density", both).by_seed == pytest.approx({0: -0.05, 1: -0.05})


def test_a_protection_that_one_case_lacks_is_left_out(cells) -> None:
    both = cells(
        {
            "gaussian": {"ixi_tiny": (0.1, 0.1), "breast_density": (0.2, 0.2), "higgs": (0.0, 0.0)},
            "svt": {"ixi_tiny": (0.9, 0.9), "breast_density": (), "higgs": (0.4, 0.5)},
        }
    )
    assert protections(both) == " to Gaussian 95"
    assert more_sensitive("breast_density", both).by_seed == pytest.approx({0: 0.1, 1: 0.1})


def test_nothing_is_said_of_no_cells_and_of_several_settings(cells, factory: ModuleType) -> None:
    assert more_sensitive("higgs", []).by_seed == {}
    assert protections([]) == ""
    one = {"ixi_tiny": (0.1,), "breast_density": (0.2,), "higgs": (0.0,)}
    made = cells({"dpsgd": one})
    other = factory.make_result("dpsgd", dataset="higgs", config={"algorithm.max_grad_norm": 9.0})
    with pytest.raises(AmbiguousError, match="max_grad_norm"):
        more_sensitive("higgs", [*made, other])
    assert protections([*made, other]) == ""
