"""Random streams of a site: training, sampling masks and noise never share a seed.

A noise stream that can be replayed can be subtracted, and equal streams at two sites make equal
noise, which averaging no longer reduces. Hence one stream per (purpose, round, site).

The generators (Mersenne Twister of torch on the CPU, PCG64 of numpy, Philox of torch on CUDA, which
takes 63 bits of the seed) are not cryptographic, however well they are seeded.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from fedprivacy.training.mersenne import fill_state

Purpose = Literal["init", "batches", "sampling", "noise", "selection", "release"]
Randomness = Literal["secret", "seeded"]

_PRIVATE: frozenset[str] = frozenset({"sampling", "noise", "selection", "release"})
_TORCH_SEED_MASK = 2**63 - 1
_SECRET_POOL_WORDS = 8


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from labelled parts; equal parts give equal seeds, others are independent."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True)
class Streams:
    """Random streams of one site in one round.

    Attributes:
        seed: the cell's training seed.
        randomness: ``secret`` seeds private streams (sampling masks, noise, selection) with 256
            bits from the operating system; ``seeded`` derives their seeds, so that a run can be
            repeated and its certificate is a simulation.
        round_number: 1, 2, ...
        site: index of the site; -1: the server.
        part: of a stack of mechanisms, none of which may know another's noise; 0: no stack.
    """

    seed: int
    randomness: Randomness
    round_number: int
    site: int
    part: int = 0

    def seed_for(self, purpose: Purpose) -> int:
        """Seed of one stream: derived (63 bits), or 256 bits of the operating system's entropy."""
        if purpose in _PRIVATE and self.randomness == "secret":
            return secrets.randbits(256)
        parts = (self.part,) if self.part else ()
        return derive_seed(self.seed, purpose, self.round_number, self.site, *parts)

    def kept(self, purpose: Purpose, secret: int) -> np.random.Generator:
        """A numpy generator that is the same in every round, for noise drawn once and kept.

        Args:
            purpose: of the stream.
            secret: 256 bits that the site drew once and keeps; used in ``secret`` mode alone.
        """
        if self.randomness == "secret":
            return _secret_generator([secret, self.site])
        return np.random.default_rng(derive_seed(self.seed, "kept", purpose, self.site))

    def torch(self, purpose: Purpose, device: torch.device | str = "cpu") -> torch.Generator:
        """A torch generator for one purpose. Each call in ``secret`` mode is a new stream."""
        seed = self.seed_for(purpose)
        generator = torch.Generator(device=device)
        generator.manual_seed(seed & _TORCH_SEED_MASK)
        if purpose in _PRIVATE and generator.device.type == "cpu":
            fill_state(generator, seed)
        return generator

    def numpy(self, purpose: Purpose) -> np.random.Generator:
        """A numpy generator for one purpose. Each call in ``secret`` mode is a new stream."""
        seed = self.seed_for(purpose)
        if purpose in _PRIVATE and self.randomness == "secret":
            return _secret_generator([seed])
        return np.random.default_rng(seed)


def _secret_generator(entropy: Sequence[int]) -> np.random.Generator:
    """A numpy generator whose seeding keeps 256 bits; numpy's usual pool has room for 128."""
    return np.random.default_rng(np.random.SeedSequence(entropy, pool_size=_SECRET_POOL_WORDS))
