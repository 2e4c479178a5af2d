"""Batches end to end are the batches."""

from __future__ import annotations

import torch

from fedprivacy.training.batches import Batches


def test_what_was_put_end_to_end_comes_apart_again() -> None:
    told = [torch.tensor([4, 1]), torch.tensor([], dtype=torch.long), torch.tensor([0])]
    found = Batches.of(iter(told))
    assert found.rows.tolist() == [4, 1, 0]
    assert found.sizes == (2, 0, 1)
    assert len(found) == 3
    assert [batch.tolist() for batch in found] == [[4, 1], [], [0]]


def test_batches_without_a_record_keep_their_steps() -> None:
    found = Batches.of([torch.tensor([], dtype=torch.long)] * 2)
    assert (len(found), len(found.rows)) == (2, 0)
    assert [len(batch) for batch in found] == [0, 0]
