from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedprivacy.mechanisms.round_event import round_event
from fedprivacy.mechanisms.sampling import (
    batches_per_pass,
    passes,
    step_batches,
)


def drawn(sampling: str, n: int, rate: float, steps: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(step_batches(sampling, n, rate, steps, generator))


@given(
    n=st.integers(0, 60),
    rate=st.floats(0.01, 1.0),
    steps=st.integers(1, 40),
    seed=st.integers(0, 2**20),
)
def test_no_record_is_shuffled_into_more_steps_than_are_billed(
    n: int, rate: float, steps: int, seed: int
) -> None:
    batches = drawn("shuffle", n, rate, steps, seed)
    assert len(batches) == steps
    counts = torch.bincount(torch.cat(batches), minlength=n) if n else torch.zeros(1)
    event = round_event("shuffle", 1.0, rate, steps)
    assert int(counts.max()) <= event.count == passes(rate, steps)


@pytest.mark.parametrize("n", [3, 10, 11, 40])
def test_a_pass_takes_every_record_once_in_even_batches(n: int) -> None:
    batches = drawn("shuffle", n, 0.1, 20)
    for one_pass in (batches[:10], batches[10:]):
        assert sorted(torch.cat(one_pass).tolist()) == list(range(n))
        sizes = [len(batch) for batch in one_pass]
        assert max(sizes) - min(sizes) <= 1
    assert n < 10 or torch.cat(batches[:10]).tolist() != torch.cat(batches[10:]).tolist()


def test_each_record_is_as_likely_in_each_batch() -> None:
    trials = 4000
    generator = torch.Generator().manual_seed(1)
    counts = torch.zeros(6, 3)
    for _ in range(trials):
        for number, batch in enumerate(step_batches("shuffle", 6, 1 / 3, 3, generator)):
            counts[batch, number] += 1
    # Three standard deviations and a half of a binomial share of 1/3.
    assert float((counts / trials - 1 / 3).abs().max()) < 3.5 * math.sqrt(2 / 9 / trials)


@pytest.mark.parametrize(
    ("rate", "batches"), [(1.0, 1), (0.5, 2), (0.1, 10), (0.3, 3), (0.02, 50), (0.9, 1)]
)
def test_batches_of_a_pass(rate: float, batches: int) -> None:
    assert batches_per_pass(rate) == batches


def test_part_of_a_pass_is_billed_whole() -> None:
    assert [passes(0.1, steps) for steps in (1, 10, 11, 25, 30)] == [1, 1, 2, 3, 3]


@pytest.mark.parametrize("sampling", ["poisson", "shuffle"])
def test_a_site_without_records_takes_all_its_steps(sampling: str) -> None:
    assert [len(batch) for batch in drawn(sampling, 0, 0.2, 7)] == [0] * 7
