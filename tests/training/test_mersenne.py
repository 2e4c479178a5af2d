"""States: NumPy's own seeding of small seeds; every bit in every word of large ones."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from fedprivacy.training.mersenne import STATE_WORDS, fill_state, state_words


@given(seed=st.integers(0, 2**128 - 1))
def test_words_are_those_of_numpy(seed: int) -> None:
    expected = np.random.SeedSequence(seed).generate_state(STATE_WORDS)
    np.testing.assert_array_equal(state_words(seed), expected)


@given(seed=st.integers(2**128, 2**256 - 1), bit=st.integers(0, 255))
def test_every_word_of_a_larger_seed_depends_on_every_bit(seed: int, bit: int) -> None:
    """A word that misses a bit is the same whatever the bit is: by chance one in 2^32 is."""
    other = seed ^ (1 << bit)
    assume(other.bit_length() > 128)
    assert int((state_words(seed) == state_words(other)).sum()) <= 1


def test_words_of_a_larger_seed_are_the_digest_of_its_bytes() -> None:
    """From ``hashlib`` itself, one word at a time."""
    seed = 2**255 + 19
    digest = hashlib.shake_256(seed.to_bytes(32, "little")).digest(2496)
    expected = [int.from_bytes(digest[at : at + 4], "little") for at in range(0, 2496, 4)]
    assert state_words(seed).tolist() == expected


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
