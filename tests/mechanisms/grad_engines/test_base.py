from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedprivacy.mechanisms.grad_engines.base import (
    clip_factors,
    physical_batches,
    split_views,
)


@given(n=st.integers(0, 60), size=st.integers(1, 12))
def test_physical_batches_hold_every_record_once_in_order(n: int, size: int) -> None:
    x, y = torch.arange(n), torch.arange(n) * 2
    parts = list(physical_batches(x, y, size))
    assert [int(v) for part, _ in parts for v in part] == list(range(n))
    assert all(torch.equal(a * 2, b) for a, b in parts)
    assert all(0 < len(part) <= size + 1 for part, _ in parts)
    assert size == 1 or n == 1 or all(len(part) > 1 for part, _ in parts)


def test_clip_factors() -> None:
    squares = torch.tensor([0.0, 1.0, 4.0, 16.0, math.nan])
    factors = clip_factors(squares, 2.0)
    assert factors[:4].tolist() == [1.0, 1.0, 1.0, 0.5]
    assert math.isnan(factors[4])
    unclipped = clip_factors(squares, math.inf)
    assert unclipped[:4].tolist() == [1.0] * 4
    assert math.isnan(unclipped[4])


@given(norm=st.floats(1e-12, 1e12), max_norm=st.floats(1e-6, 1e6))
def test_clipped_norm_never_exceeds_the_bound(norm: float, max_norm: float) -> None:
    factor = float(clip_factors(torch.tensor([norm**2]), max_norm))
    assert norm * factor <= max_norm * (1 + 1e-5)
    assert factor == pytest.approx(min(1.0, max_norm / norm), rel=1e-5)


def test_views_write_through_to_the_flat_vector() -> None:
    flat = torch.zeros(7)
    scalar, matrix = split_views(flat, [torch.Size([]), torch.Size([2, 3])])
    scalar.fill_(5)
    matrix[1, 0] = 2
    assert flat.tolist() == [5, 0, 0, 0, 2, 0, 0]
