"""The whole state of torch's Mersenne Twister, filled from a seed of any size."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray

STATE_WORDS = 624
_OFFSET = 24
_MASK, _SHIFT = 2**32 - 1, np.uint32(16)
_POOL_WORDS, _POOL_BITS = 4, 128
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
    """The 624 words of a state.

    Args:
        seed: 0 or more. Up to 128 bits it gives the words of NumPy's ``SeedSequence``, of which
            each depends on one of the four words of its pool alone, so that what is secret must
            have more. Of a larger seed every word depends on every bit (SHAKE-256, FIPS 202).
    """
    if seed.bit_length() <= _POOL_BITS:
        return _numpy_words(np.random.SeedSequence(seed).pool)
    told = seed.to_bytes(-(-seed.bit_length() // 8), "little")
    return np.frombuffer(hashlib.shake_256(told).digest(4 * STATE_WORDS), "<u4")


def _numpy_words(pool: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """What ``SeedSequence.generate_state`` makes of its pool one by one, made at once.

    A word of the pool is mixed with constants that depend on its place alone (O'Neill 2015,
    "Developing a seed_seq alternative", which NumPy's documentation cites).
    """
    words = (_BEFORE ^ pool).ravel()
    words *= _AFTER
    words ^= words >> _SHIFT
    return words


def _place_constants() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """What words are combined with before, ``(156, 4)``, and multiplied by, ``(624,)``."""
    constants = [_INIT_B]
    for _ in range(STATE_WORDS):
        constants.append(constants[-1] * _MULT_B & _MASK)
    before, after = np.array(constants[:-1], np.uint32), np.array(constants[1:], np.uint32)
    return before.reshape(-1, _POOL_WORDS), after


_BEFORE, _AFTER = _place_constants()
