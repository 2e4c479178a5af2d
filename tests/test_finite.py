from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedprivacy.finite import all_finite


@given(st.lists(st.floats(width=32), max_size=40))
def test_it_is_what_each_value_says(values: list[float]) -> None:
    assert all_finite(torch.tensor(values)) == all(math.isfinite(value) for value in values)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 5_000, 9_999])
def test_one_bad_value_among_many_is_found(bad: float, place: int) -> None:
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    assert all_finite(values)
    values[place] = bad
    assert not all_finite(values)


def test_infinities_that_cancel_are_found_and_finite_values_may_overflow_together() -> None:
    assert not all_finite(torch.tensor([math.inf, -math.inf]))
    largest = torch.finfo(torch.float32).max
    assert all_finite(torch.tensor([largest, largest]))
    assert all_finite(torch.tensor([]))
