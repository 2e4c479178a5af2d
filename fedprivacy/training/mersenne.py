"""The whole state of torch's Mersenne Twister, filled from a seed of any size."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

STATE_WORDS = 624
_OFFSET = 24
_MASK, _SHIFT = 2**32 - 1, np.uint32(16)
_POOL_WORDS = 4
_INIT_B, _MULT_B = 0x8B51F9DD, 0x58F38DED


def fill_state(generator: torch.Generator, seed: int) -> None:
    """Fill the whole Mersenne state of a CPU generator from a seed.

    torch keeps only the low 32 bits of a CPU seed, so noise that it seeds itself could be found
    by trying them all. Its state holds 624 words of 32 bits, each in 8 bytes from byte 24 on.

    Args:
        generator: on the CPU, seeded before.
        seed: see ``state_words``.
    """
    state = generator.get_state().numpy().copy()
    state[_OFFSET : _OFFSET + 8 * STATE_WORDS].view(np.uint64)[:] = state_words(seed)
    generator.set_state(torch.from_numpy(state))


def state_words(seed: int) -> NDArray[np.uint32]:
    """``(624,)``: what ``SeedSequence.generate_state`` of NumPy gives, which makes them one by one.

    Each word is a word of the pool, mixed with constants that depend on its place alone (O'Neill
    2015, "Developing a seed_seq alternative", as NumPy's documentation of ``SeedSequence`` cites
    it), so that all are made at once.

    Args:
        seed: 0 or more, of at most 256 bits. NumPy's usual pool has 128; for a larger seed it is
            twice as large, so that none of its bits is lost.
    """
    size = _POOL_WORDS if seed.bit_length() <= 32 * _POOL_WORDS else 2 * _POOL_WORDS
    pool = np.random.SeedSequence(seed, pool_size=size).pool
    words = (_BEFORE.reshape(-1, size) ^ pool).ravel()
    words *= _AFTER
    words ^= words >> _SHIFT
    return words


def _place_constants() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """What a word is combined with before and what it is multiplied by, ``(624,)`` each."""
    constants = [_INIT_B]
    for _ in range(STATE_WORDS):
        constants.append(constants[-1] * _MULT_B & _MASK)
    return np.array(constants[:-1], np.uint32), np.array(constants[1:], np.uint32)


_BEFORE, _AFTER = _place_constants()
