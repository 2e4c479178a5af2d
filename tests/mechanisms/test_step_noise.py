"""Noise of steps: each number is drawn once, however many steps are drawn for at a time."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from fedprivacy.mechanisms import step_noise
from fedprivacy.mechanisms.step_noise import StepNoise, steps_at_once


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def at_once(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    monkeypatch.setattr(step_noise, "steps_at_once", lambda *_: steps)


def drawn(noise: StepNoise, sites: int, size: int, steps: int) -> torch.Tensor:
    rows = torch.full((sites, size), 7.0)
    found = []
    for _ in range(steps):
        noise.fill(rows)
        found.append(rows.clone())
    return torch.stack(found, dim=1)


def test_on_a_cpu_each_step_draws_its_own_vector() -> None:
    found = drawn(StepNoise(generators(2), 3), 2, 19, 3)
    for site, generator in enumerate(generators(2)):
        for step in range(3):
            expected = torch.empty(19).normal_(generator=generator)
            assert torch.equal(found[site, step], expected)


@pytest.mark.parametrize(("most", "calls"), [(3, [3, 3, 1]), (4, [4, 3]), (100, [7])])
def test_elsewhere_a_site_draws_many_steps_in_one_call(
    monkeypatch: pytest.MonkeyPatch, most: int, calls: list[int]
) -> None:
    at_once(monkeypatch, most)
    found = drawn(StepNoise(generators(3), 7), 3, 5, 7)
    for site, generator in enumerate(generators(3)):
        blocks = [torch.empty(steps, 5).normal_(generator=generator) for steps in calls]
        assert torch.equal(found[site], torch.cat(blocks))
    assert len(found.unique()) == found.numel()


@pytest.mark.parametrize("most", [1, 3])
def test_no_step_beyond_the_rounds_own_gets_noise(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Neither what is left of a block nor numbers that were used."""
    at_once(monkeypatch, most)
    noise = StepNoise(generators(2), 4)
    drawn(noise, 2, 5, 4)
    rows = torch.full((2, 5), 7.0)
    with pytest.raises(ValueError, match="more steps than the round has"):
        noise.fill(rows)
    assert bool((rows == 7.0).all())


@pytest.mark.parametrize("most", [1, 4])
def test_a_site_draws_by_itself_what_it_draws_beside_others(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    at_once(monkeypatch, most)
    together = drawn(StepNoise(generators(3), 6), 3, 40, 6)
    for site, generator in enumerate(generators(3)):
        assert torch.equal(drawn(StepNoise([generator], 6), 1, 40, 6)[0], together[site])


@pytest.mark.parametrize("most", [1, 8])
def test_the_noise_is_standard_normal_and_no_step_knows_another(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    at_once(monkeypatch, most)
    found = drawn(StepNoise(generators(2), 20), 2, 1000, 20)
    assert stats.kstest(found.flatten().numpy(), "norm").pvalue > 1e-4
    steps = found.reshape(40, 1000)
    others = torch.corrcoef(steps) - torch.eye(40)
    assert float(others.abs().max()) < 0.2


def test_how_many_steps_are_drawn_at_once() -> None:
    assert steps_at_once(torch.device("cpu"), 10) == 1
    gpu = torch.device("cuda")
    assert steps_at_once(gpu, 6_000) == (1 << 17) // 6_000
    assert steps_at_once(gpu, 1 << 20) == 1
    assert steps_at_once(gpu, 0) == 1 << 17


def test_noise_without_a_generator_for_each_site_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        StepNoise(generators(1), 2).fill(torch.zeros(2, 3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_a_site_draws_by_itself_what_it_draws_beside_others() -> None:
    def noise(*seeds: int) -> torch.Tensor:
        own = [torch.Generator("cuda").manual_seed(seed) for seed in seeds]
        rows, made = torch.empty(len(seeds), 6_001, device="cuda"), StepNoise(own, 50)
        found = []
        for _ in range(50):
            made.fill(rows)
            found.append(rows.clone())
        return torch.stack(found, dim=1)

    together = noise(0, 1, 2)
    for seed in range(3):
        assert torch.equal(noise(seed)[0], together[seed])
    assert len(together[:, :, 0].unique()) == 150
