"""Private streams use all of their seed: 32 bits could be tried out, and the noise subtracted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from fedprivacy.training import randomness
from fedprivacy.training.randomness import Streams


def stream(seed: int, monkeypatch: pytest.MonkeyPatch) -> torch.Generator:
    monkeypatch.setattr(Streams, "seed_for", lambda _self, _purpose: seed)
    return Streams(0, "seeded", 1, 0).torch("noise")


def test_torch_itself_forgets_the_high_bits_of_a_seed() -> None:
    """The reason for filling the state; if torch mends it, this tells."""
    first, second = torch.Generator(), torch.Generator()
    first.manual_seed(5)
    second.manual_seed(5 + 2**32)
    assert torch.equal(torch.randn(8, generator=first), torch.randn(8, generator=second))


@pytest.mark.parametrize("bit", [0, 31, 32, 62, 64, 128, 255])
def test_every_bit_of_the_seed_counts(bit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    base = torch.randn(64, generator=stream(5, monkeypatch))
    other = torch.randn(64, generator=stream(5 ^ (1 << bit), monkeypatch))
    assert not torch.equal(base, other)
    assert abs(float(torch.corrcoef(torch.stack((base, other)))[0, 1])) < 0.5


def test_equal_seeds_repeat_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = [torch.randn(100, generator=stream(2**200 + 3, monkeypatch)) for _ in range(2)]
    assert torch.equal(*draws)


def test_the_filled_state_still_draws_the_right_distributions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = stream(2**250 + 17, monkeypatch)
    normal = torch.randn(50_000, generator=generator).numpy()
    uniform = torch.rand(50_000, generator=generator).numpy()
    assert stats.kstest(normal, "norm").pvalue > 1e-4
    assert stats.kstest(uniform, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(normal[:-1], normal[1:])[0, 1]) < 0.02


def test_secret_seeds_carry_256_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        randomness.secrets, "randbits", lambda bits: asked.append(bits) or 2**bits - 1
    )
    Streams(0, "secret", 1, 0).torch("noise")
    assert asked == [256]
