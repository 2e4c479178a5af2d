"""Reconstruction: exact where it must be, defeated where it must be, measured by references."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedprivacy.audit.inversion import OptimisationAttack, first_linear, invert_linear
from fedprivacy.audit.reconstruction import (
    ANALYTIC,
    OPTIMISED,
    Reconstruction,
    Victims,
    in_one_step,
    reconstruct,
)
from fedprivacy.audit.similarity import (
    cosine_similarity,
    leakage_value,
    relative_error,
    structural_similarity,
)
from fedprivacy.cell import run_cell
from fedprivacy.cell_audit import RECONSTRUCTIONS_FILE, weakest_round
from fedprivacy.config import schema
from fedprivacy.config.schema import CellConfig
from fedprivacy.mechanisms.registry import build_mechanism
from fedprivacy.models.density_cnn import DensityCnn
from fedprivacy.training.losses import LOSSES
from fedprivacy.training.parameters import FlatParameters
from fedprivacy.training.randomness import Streams
from fedprivacy.training.task import LocalTask, OptimizerSpec

Tiny = Callable[..., CellConfig]


def naive_ssim(one: np.ndarray, other: np.ndarray, span: float) -> float:
    """Window by window, as the definition says."""
    offsets = np.arange(-5, 6)
    kernel = np.exp(-(offsets**2) / (2 * 1.5**2))
    weights = np.outer(kernel, kernel) / kernel.sum() ** 2
    a, b = (np.pad(image, 5, mode="symmetric") for image in (one, other))
    c1, c2, values = (0.01 * span) ** 2, (0.03 * span) ** 2, []
    for i in range(one.shape[0]):
        for j in range(one.shape[1]):
            x, y = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mx, my = (weights * x).sum(), (weights * y).sum()
            vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
            xy = (weights * (x - mx) * (y - my)).sum()
            values.append(
                (2 * mx * my + c1) * (2 * xy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
            )
    return float(np.mean(values))


def test_structural_similarity_is_that_of_a_naive_loop() -> None:
    rng = np.random.default_rng(0)
    one = rng.random((14, 17))
    other = one + 0.2 * rng.normal(size=one.shape)
    assert structural_similarity(one, other, 1.0) == pytest.approx(naive_ssim(one, other, 1.0))
    assert structural_similarity(one, one, 1.0) == pytest.approx(1.0)
    volume = rng.random((6, 7, 8))
    assert structural_similarity(volume, volume, 1.0) == pytest.approx(1.0)
    assert structural_similarity(volume, 1 - volume, 1.0) < 0


def test_the_leakage_value_is_relative_to_the_prior() -> None:
    assert leakage_value(0.6, 0.4) == pytest.approx(0.5)
    assert leakage_value(0.4, 0.4) == 0.0
    assert leakage_value(0.1, 0.4) == pytest.approx(-0.75)
    assert leakage_value(0.5, 0.0) is None
    assert leakage_value(0.5, -0.1) is None


def test_similarities_of_rows() -> None:
    assert cosine_similarity(np.array([1.0, 0]), np.array([2.0, 0])) == 1.0
    assert cosine_similarity(np.zeros(2), np.ones(2)) == 0.0
    assert relative_error(np.array([3.0, 4.0]), np.zeros(2)) == 1.0


def mlp_task(make_model=None, strength=None, x=None, y=None, optimizer=None, **more) -> LocalTask:
    torch.manual_seed(3)
    model = make_model() if make_model else torch.nn.Sequential(
        torch.nn.Linear(7, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1)
    )  # fmt: skip
    return LocalTask(
        parameters=FlatParameters(model),
        loss=LOSSES["binary"],
        x=x,
        y=y,
        optimizer=optimizer or OptimizerSpec("sgd", 0.1),
        batch_size=1,
        local_epochs=1.0,
        strength=strength,
        streams=Streams(7, "seeded", 1, 0),
        **more,
    )


def rows(k: int = 3) -> Victims:
    x = torch.randn(k, 7, generator=torch.Generator().manual_seed(1))
    return Victims(x, torch.arange(k) % 2, torch.full((7,), 0.1), -5.0, 5.0)


def attacked(conf: schema.AlgorithmConf, strength: float | None = 1.0) -> Reconstruction:
    part = build_mechanism(conf, declared_records=40)
    return reconstruct(part, lambda x, y, _: mlp_task(strength=strength, x=x, y=y), rows(), 20)


def test_a_first_linear_layer_gives_the_record_away_exactly() -> None:
    found = attacked(schema.NoneConf(), strength=None)
    assert found.attack == ANALYTIC
    assert max(found.errors) < 1e-4
    assert found.recognised == 3
    assert min(found.similarities) > 0.999999


def test_the_layer_is_the_first_one_and_needs_a_bias() -> None:
    task = mlp_task(x=torch.zeros(1, 7), y=torch.zeros(1))
    assert first_linear(task.parameters) == (16, 7)
    without = FlatParameters(torch.nn.Sequential(torch.nn.Linear(7, 4, bias=False)))
    assert first_linear(without) is None
    assert first_linear(FlatParameters(DensityCnn(1, [4], 2, 1))) is None
    assert not invert_linear(torch.zeros(30), 5, 5).any()


def test_noise_of_the_filter_as_published_does_not_stop_it_and_a_clipped_one_does() -> None:
    published = attacked(schema.GaussianConf(sigma0=0.1, percentile=50.0))
    assert max(published.errors) < 0.5
    clipped = attacked(schema.GaussianClippedConf(noise_multiplier=1.0))
    assert min(clipped.errors) > 0.5
    assert clipped.recognised == 0


def test_raw_rounds_are_attacked_as_raw() -> None:
    assert max(attacked(schema.DpsgdConf(sampling_rate=0.2), strength=None).errors) < 1e-4


ALL = [
    schema.DpsgdConf(sampling_rate=0.2),
    schema.SvtConf(),
    schema.SvtFlare28Conf(),
    schema.SvtExactConf(),
    schema.PercentileConf(),
    schema.CentralGaussianConf(),
    schema.LocalSourceConf(),
    schema.ReleaseGaussianConf(),
    schema.StackedConf(
        mechanisms=[{"name": "dpsgd", "sampling_rate": 0.2}, {"name": "gaussian_clipped"}]
    ),
]


@pytest.mark.parametrize("conf", ALL, ids=lambda conf: conf.name)
def test_every_mechanism_can_be_attacked(conf: schema.AlgorithmConf) -> None:
    found = attacked(conf)
    json.dumps(found.to_json(), allow_nan=False)
    raw = conf.name in ("central_gaussian", "release_gaussian")
    assert (found.recognised == 3) is raw


def test_dpsgd_is_attacked_at_its_own_clip_and_noise() -> None:
    part = in_one_step(build_mechanism(schema.DpsgdConf(noise_multiplier=1.3), 40))
    assert (part.noise_multiplier, part.sampling_rate, part.divisor) == (1.3, 1.0, 1.0)
    quiet = attacked(schema.DpsgdConf(noise_multiplier=1e-6, sampling_rate=0.2))
    assert max(quiet.errors) < 1e-3


def image_victims() -> tuple[Victims, Callable[..., LocalTask]]:
    rng = np.random.default_rng(4)
    grid = np.linspace(-1, 1, 14)
    blobs = [
        np.exp(-((grid[:, None] - a) ** 2 + (grid[None] - b) ** 2) / 0.15)
        for a, b in rng.uniform(-0.4, 0.4, (2, 2))
    ]
    x = torch.tensor(np.stack(blobs)).float()[:, None]
    victims = Victims(x, torch.tensor([0, 1]), torch.full((1, 14, 14), 0.3), 0.0, 1.0)

    def task_of(x, y, _number, strength=None) -> LocalTask:
        return mlp_task(lambda: DensityCnn(1, [16, 32], 4, 1), strength, x, y)

    return victims, task_of


@pytest.mark.slow
def test_images_are_found_again_from_a_raw_update_and_not_from_a_protected_one() -> None:
    victims, task_of = image_victims()
    raw = reconstruct(build_mechanism(schema.NoneConf(), 40), task_of, victims, 600)
    assert raw.attack == OPTIMISED
    assert raw.recognised == 2
    assert max(value for value in raw.leakage if value is not None) > 0.5
    part = build_mechanism(schema.DpsgdConf(noise_multiplier=1.0, sampling_rate=0.2), 40)
    noisy = reconstruct(part, lambda *a: task_of(*a, strength=1.0), victims, 150)
    assert noisy.recognised == 0
    assert max(noisy.similarities) < min(raw.similarities)


def small_3d_network(side: int) -> torch.nn.Module:
    """Its last layer has a weight for every place; a U-Net's places share all of them."""
    return torch.nn.Sequential(
        torch.nn.Conv3d(1, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv3d(8, 8, 3, padding=1, stride=2),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * (side // 2) ** 3, 4),
    )


@pytest.mark.slow
def test_volumes_are_found_again_where_the_network_lets_them() -> None:
    side, rng = 12, np.random.default_rng(4)
    grids = np.meshgrid(*[np.linspace(-1, 1, side)] * 3, indexing="ij")
    blobs = [
        np.exp(-sum((grid - at) ** 2 for grid, at in zip(grids, place, strict=True)) / 0.25)
        for place in rng.uniform(-0.4, 0.4, (2, 3))
    ]
    x = torch.tensor(np.stack(blobs)).float()[:, None]
    victims = Victims(x, torch.tensor([0, 1]), torch.full(x.shape[1:], 0.3), 0.0, 1.0)

    def task_of(x, y, _number, strength=None) -> LocalTask:
        task = mlp_task(lambda: small_3d_network(side), strength, x, y)
        return replace(task, loss=LOSSES["multiclass"])

    raw = reconstruct(build_mechanism(schema.NoneConf(), 40), task_of, victims, 100)
    assert (raw.attack, raw.recognised) == (OPTIMISED, 2)
    assert min(raw.similarities) > 0.9
    part = build_mechanism(schema.DpsgdConf(noise_multiplier=1.0, sampling_rate=0.2), 40)
    noisy = reconstruct(part, lambda *a: task_of(*a, strength=1.0), victims, 50)
    assert noisy.recognised == 0
    assert max(noisy.similarities) < 0.5


def test_the_search_stays_within_public_bounds_and_repeats() -> None:
    victims, task_of = image_victims()
    task = task_of(victims.x[:1], victims.y[:1], 0)
    target = torch.randn(task.parameters.size, generator=torch.Generator().manual_seed(2))
    runs = [
        OptimisationAttack(15, 0.2, 0.7).run(
            task.parameters, task.loss, target, task.y, victims.prior, lambda v: v
        )
        for _ in range(2)
    ]
    assert torch.equal(*runs)
    assert 0.2 <= float(runs[0].min()) <= float(runs[0].max()) <= 0.7


def test_the_search_starts_from_the_prior_too() -> None:
    victims, task_of = image_victims()
    prior = victims.x[1]  # a good guess: no step can better it
    task = task_of(prior[None], victims.y[1:2], 0)
    loss = task.loss(task.parameters.model(prior[None]), task.y)
    parts = torch.autograd.grad(loss, list(task.parameters.model.parameters()))
    target = torch.cat([part.reshape(-1) for part in parts])
    attack = OptimisationAttack(2, 0.0, 1.0, total_variation=0.0)
    found = attack.run(task.parameters, task.loss, target, task.y, prior, lambda v: v)
    assert torch.equal(found, prior)
    without = torch.zeros_like(prior)
    other = attack.run(task.parameters, task.loss, target, task.y, without, lambda v: v)
    assert (other - prior).abs().max() > 0.1


def test_what_looks_like_the_prior_is_not_recognised() -> None:
    zero = np.zeros((3, 2, 2))
    found = Reconstruction(
        OPTIMISED, "structural similarity", zero, zero, (0.8, 0.8, 0.4), (0.1,) * 3, (0.0, 0.3, 2.0)
    )
    assert found.recognised == 1
    assert "RDLV above 0.1" in found.to_json()["recognised_means"]


def test_the_weakest_round_is_chosen() -> None:
    assert weakest_round((1.0, None, 0.5)) == 2
    assert weakest_round((1.0, 0.5, 0.25)) == 3
    assert weakest_round((1.0, 1.0)) == 1


@pytest.mark.parametrize(("schedule", "leaks"), [("every_round", False), ("first_round", True)])
def test_a_full_audit_leaves_reconstructions(
    tiny: Tiny, tmp_path: Path, schedule: str, leaks: bool
) -> None:
    config = tiny("algorithm=dpsgd", "audit=full", f"schedule={schedule}", "audit.canaries=20")
    block = run_cell(config, tmp_path).audit["reconstruction"]
    assert block["victims"] == 4
    assert (block["recognised"] == 4) is leaks
    assert (block["strength"] is None) is leaks
    assert "proves nothing" in block["about"]
    arrays = np.load(tmp_path / RECONSTRUCTIONS_FILE)
    assert arrays["originals"].shape == arrays["reconstructions"].shape == (4, 30)
    assert np.isfinite(arrays["reconstructions"]).all()


def test_a_fast_audit_reconstructs_nothing(tiny: Tiny, tmp_path: Path) -> None:
    result = run_cell(tiny("algorithm=dpsgd", "audit=fast"), tmp_path)
    assert result.audit["reconstruction"] is None
    assert not (tmp_path / RECONSTRUCTIONS_FILE).exists()


def test_what_is_protected_into_nothing_is_told(tiny: Tiny, tmp_path: Path) -> None:
    quiet = replace(rows(1), x=torch.zeros(1, 7))
    part = build_mechanism(schema.NoneConf(), 40)
    found = reconstruct(part, lambda x, y, _: mlp_task(x=x, y=y), quiet, 5)
    json.dumps(found.to_json(), allow_nan=False)
