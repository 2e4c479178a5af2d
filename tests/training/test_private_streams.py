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


def numpy_state(seed: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """State and increment of PCG64, 128 bits each."""
    monkeypatch.setattr(Streams, "seed_for", lambda _self, _purpose: seed)
    state = Streams(0, "secret", 1, 0).numpy("noise").bit_generator.state["state"]
    return state["state"], state["inc"]


def test_numpy_generators_of_secret_seeds_are_seeded_from_a_pool_of_256_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seed = 2**255 + 12345
    words = np.random.SeedSequence([seed], pool_size=8)
    expected = np.random.PCG64(words).state["state"]
    assert numpy_state(seed, monkeypatch) == (expected["state"], expected["inc"])
    usual = np.random.PCG64(seed).state["state"]
    assert numpy_state(seed, monkeypatch) != (usual["state"], usual["inc"])


@pytest.mark.parametrize("bit", [0, 31, 64, 128, 255])
def test_every_bit_of_a_secret_seed_counts_for_numpy(
    bit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = 2**254 + 99
    assert numpy_state(seed, monkeypatch) != numpy_state(seed ^ (1 << bit), monkeypatch)
    kept = [Streams(0, "secret", 1, 3).kept("noise", one) for one in (seed, seed ^ (1 << bit))]
    assert kept[0].random() != kept[1].random()


def test_seeded_numpy_generators_repeat_as_numpy_makes_them() -> None:
    streams = Streams(7, "seeded", 2, 1)
    expected = np.random.default_rng(streams.seed_for("noise")).standard_normal(5)
    np.testing.assert_array_equal(streams.numpy("noise").standard_normal(5), expected)
