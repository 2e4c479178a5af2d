"""The state is what NumPy's own seeding makes of a seed, whatever its size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedprivacy.training.mersenne import STATE_WORDS, fill_state, state_words


@given(seed=st.integers(0, 2**128 - 1))
def test_words_are_those_of_numpy(seed: int) -> None:
    expected = np.random.SeedSequence(seed).generate_state(STATE_WORDS)
    np.testing.assert_array_equal(state_words(seed), expected)


@given(seed=st.integers(2**128, 2**256 - 1))
def test_words_of_a_larger_seed_are_those_of_numpy_with_a_larger_pool(seed: int) -> None:
    expected = np.random.SeedSequence(seed, pool_size=8).generate_state(STATE_WORDS)
    np.testing.assert_array_equal(state_words(seed), expected)


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1, 2**128, 2**256 - 1])
def test_a_generator_draws_what_numpy_draws_from_those_words(seed: int) -> None:
    """NumPy's own Mersenne Twister, given the words; torch makes 24 bits of each a uniform."""
    generator = torch.Generator().manual_seed(0)
    fill_state(generator, seed)
    twister = np.random.MT19937()
    state = twister.state
    state["state"] = {"key": state_words(seed), "pos": STATE_WORDS}
    twister.state = state
    words = twister.random_raw(1000)
    expected = (words & (2**24 - 1)).astype(np.float32) / np.float32(2**24)
    found = torch.rand(1000, generator=generator).numpy()
    np.testing.assert_array_equal(found, expected)
