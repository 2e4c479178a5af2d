"""Which rows enter which step: every record in its place, and padding everywhere else."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from fedprivacy.training.batches import Batches
from fedprivacy.training.stacked.plan import BatchPlan, rounded
from fedprivacy.training.stacked.records import StackedRecords


def records() -> StackedRecords:
    first = torch.arange(1.0, 5.0).view(4, 1), torch.tensor([1, 0, 1, 0])
    second = torch.arange(11.0, 13.0).view(2, 1), torch.tensor([1, 1])
    return StackedRecords.of([first, second])


def batches(*of: tuple[list[int], ...]) -> list[Batches]:
    return [Batches.of(torch.tensor(batch, dtype=torch.long) for batch in site) for site in of]


def test_records_lie_end_to_end_with_a_row_of_zeros_behind() -> None:
    found = records()
    assert found.x[:, 0].tolist() == [1, 2, 3, 4, 11, 12, 0]
    assert found.y.tolist() == [1, 0, 1, 0, 1, 1, 0]
    assert found.starts == (0, 4)
    assert found.padding == 6
    x, y = found.site(1)
    assert (x[:, 0].tolist(), y.tolist()) == ([11, 12], [1, 1])
    assert x.data_ptr() == found.x[4:].data_ptr()


def test_batches_of_unequal_size_are_padded_to_the_largest_of_their_step() -> None:
    plan = BatchPlan.of(batches(([3, 0], [], [1]), ([1], [0], [0, 1])), records())
    assert plan.steps == (3, 3)
    assert plan.sizes == ((2, 0, 1), (1, 1, 2))
    assert plan.widths == (2, 1, 2)
    assert plan.at(0).tolist() == [[3, 0], [5, 6]]
    assert plan.at(1).tolist() == [[6], [4]]
    assert plan.at(2).tolist() == [[1, 6], [4, 5]]
    batch = records().batch(plan.at(0))
    assert batch.x[..., 0].tolist() == [[4, 1], [12, 0]]
    assert batch.y.tolist() == [[0, 1], [1, 0]]
    assert batch.there.tolist() == [[True, True], [True, False]]


def test_sites_that_are_done_leave_the_stack() -> None:
    plan = BatchPlan.of(batches(([0], [1], [2]), ([0],)), records())
    assert plan.active == (2, 1, 1)
    assert [plan.at(step).tolist() for step in range(3)] == [[[0], [4]], [[1]], [[2]]]


def test_a_round_in_which_no_record_was_drawn_has_no_rows() -> None:
    plan = BatchPlan.of(batches(([], []), ([], [])), records())
    assert plan.widths == (0, 0)
    assert plan.at(1).shape == (2, 0)


def test_where_work_is_recorded_all_steps_have_as_many_rows() -> None:
    told = batches(([3, 0], [], [1]), ([1], [0]))
    plan = BatchPlan.of(told, records(), uniform=True)
    assert plan.widths == (2, 2, 2)
    assert [plan.at(step).tolist() for step in range(3)] == [
        [[3, 0], [5, 6]],
        [[6, 6], [4, 6]],
        [[1, 6]],
    ]
    assert plan.shapes() == {(2, 2): [0, 1], (1, 2): [2]}
    assert BatchPlan.of(told, records()).shapes() == {(2, 2): [0], (2, 1): [1], (1, 1): [2]}


def test_a_plan_without_records_has_no_shapes() -> None:
    plan = BatchPlan.of(batches(([], []), ([], [])), records(), uniform=True)
    assert (plan.widths, plan.shapes()) == ((0, 0), {})


@given(width=st.integers(0, 10_000))
def test_widths_are_rounded_up_by_an_eighth_at_most(width: int) -> None:
    found = rounded(width)
    assert width <= found <= width * 9 / 8
    assert rounded(found) == found


def test_few_widths_occur() -> None:
    assert len({rounded(width) for width in range(100, 401)}) <= 20
