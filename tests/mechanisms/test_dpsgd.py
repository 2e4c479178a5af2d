from __future__ import annotations

import math
import time
import warnings
from dataclasses import replace

import dp_accounting
import numpy as np
import pytest
import torch
from dp_accounting.pld import PLDAccountant
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from scipy import stats
from torch import nn

from fedprivacy.config.schema import DpsgdConf
from fedprivacy.errors import ConfigError, ProtectionError
from fedprivacy.mechanisms.dpsgd import DpSgd
from fedprivacy.mechanisms.noise_reach import noise_in_weights
from fedprivacy.mechanisms.none import NoMechanism
from fedprivacy.mechanisms.sampling import dpsgd_steps, poisson_batches
from fedprivacy.training.losses import binary_cross_entropy
from fedprivacy.training.parameters import FlatParameters
from fedprivacy.training.randomness import Streams
from fedprivacy.training.task import OptimizerSpec, Trained

BASE = DpSgd(noise_multiplier=1.0, max_grad_norm=1.0, sampling_rate=0.2, divisor=8.0)
NO_NOISE = replace(BASE, noise_multiplier=0.0)
NO_CLIP = replace(NO_NOISE, max_grad_norm=1e9)


def weights_after(mechanism: DpSgd, make_task, **kwargs) -> torch.Tensor:
    task = make_task(**kwargs)
    mechanism.train(task)
    return task.parameters.snapshot()


# ------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize(
    ("epochs", "rate", "steps"),
    [(1, 0.1, 10), (1, 0.2, 5), (4, 0.2, 20), (2.5, 0.1, 25), (0.01, 0.5, 1), (1, 1.0, 1)],
)
def test_steps_depend_on_declared_constants_only(epochs: float, rate: float, steps: int) -> None:
    assert dpsgd_steps(epochs, rate) == steps


@pytest.mark.parametrize("n", [3, 40, 400])
def test_every_site_takes_the_same_number_of_steps(make_task, n: int) -> None:
    assert BASE.train(make_task(n=n, local_epochs=3)).steps == 15


def test_batch_sizes_are_binomial_and_records_enter_independently() -> None:
    n, q, draws = 60, 0.15, 6000
    generator = torch.Generator().manual_seed(5)
    masks = np.zeros((draws, n))
    for row, batch in zip(masks, poisson_batches(n, q, draws, generator), strict=True):
        row[batch.numpy()] = 1
    sizes = masks.sum(1).astype(int)
    low, high = 4, 15
    observed = [np.sum(sizes <= low), *np.bincount(sizes, minlength=high + 1)[low + 1 : high]]
    observed.append(draws - sum(observed))
    law = stats.binom(n, q)
    expected = [law.cdf(low), *law.pmf(np.arange(low + 1, high)), law.sf(high - 1)]
    assert stats.chisquare(observed, draws * np.array(expected)).pvalue > 0.01
    # Each record's rate, and no correlation between records or between successive batches.
    z = (masks.mean(0) - q) / math.sqrt(q * (1 - q) / draws)
    assert stats.kstest(z, "norm").pvalue > 0.01
    correlation = np.corrcoef(masks.T)[np.triu_indices(n, 1)] * math.sqrt(draws)
    assert abs(correlation).max() < 5
    assert abs(np.corrcoef(sizes[1:], sizes[:-1])[0, 1]) * math.sqrt(draws) < 4


def test_sampling_rate_one_takes_every_record() -> None:
    batches = poisson_batches(9, 1.0, 3, torch.Generator().manual_seed(0))
    assert [batch.tolist() for batch in batches] == [list(range(9))] * 3


# -------------------------------------------------------------------------- plain equality


@pytest.mark.parametrize(
    "optimizer",
    [
        OptimizerSpec("sgd", lr=0.3),
        OptimizerSpec("sgd", lr=0.1, momentum=0.9),
        OptimizerSpec("adam", lr=0.01),
    ],
)
@pytest.mark.parametrize("engine", ["auto", "opacus", "vmap", "loop"])
def test_without_noise_and_clipping_it_is_plain_sgd_on_the_same_batches(
    make_task, optimizer: OptimizerSpec, engine: str
) -> None:
    task = make_task(optimizer=optimizer, local_epochs=2, n=50)
    reference = make_task(optimizer=optimizer, n=50)
    trained = replace(NO_CLIP, grad_engine=engine).train(task)
    assert trained.steps == 10

    sampling = Streams(7, "seeded", 1, 0).torch("sampling")
    model, losses = reference.parameters.model, []
    if optimizer.name == "sgd":
        steps = torch.optim.SGD(model.parameters(), lr=optimizer.lr, momentum=optimizer.momentum)
    else:
        steps = torch.optim.Adam(model.parameters(), lr=optimizer.lr)
    for _ in range(10):
        chosen = torch.rand(50, generator=sampling, dtype=torch.float64) < 0.2
        steps.zero_grad()
        loss = binary_cross_entropy(model(reference.x[chosen]), reference.y[chosen])
        (loss * chosen.sum() / 8.0).backward()
        steps.step()
        losses.append(float(loss.detach()))
    # Adam divides by the root of tiny second moments, which magnifies rounding.
    tolerance = 1e-6 if optimizer.name == "sgd" else 1e-5
    torch.testing.assert_close(
        task.parameters.flat, reference.parameters.flat, rtol=tolerance, atol=tolerance
    )
    assert trained.loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_one_step_equals_opacus_own_optimizer_without_noise(make_task) -> None:
    mechanism = replace(NO_NOISE, sampling_rate=1.0, divisor=40.0, max_grad_norm=0.05)
    task, reference = make_task(), make_task()
    mechanism.train(task)
    model = GradSampleModule(reference.parameters.model)
    optimizer = DPOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.1),
        noise_multiplier=0.0,
        max_grad_norm=0.05,
        expected_batch_size=40,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        binary_cross_entropy(model(reference.x), reference.y).backward()
    optimizer.step()
    before = make_task().parameters.flat
    # Opacus adds 1e-6 to norms of about 0.5.
    torch.testing.assert_close(
        task.parameters.flat - before, reference.parameters.flat - before, rtol=1e-4, atol=1e-7
    )
    assert float((task.parameters.flat - before).norm()) > 1e-4


@pytest.mark.parametrize("left_out", [0, 17])
def test_one_record_moves_a_step_by_at_most_the_clip_norm(make_task, left_out: int) -> None:
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)) * 100
    y = torch.ones(40, dtype=torch.int64)
    mechanism = replace(NO_NOISE, sampling_rate=1.0, max_grad_norm=0.25)
    keep = torch.arange(40) != left_out
    spec = OptimizerSpec("sgd", lr=1.0)
    whole = weights_after(mechanism, make_task, x=x, y=y, optimizer=spec)
    without = weights_after(mechanism, make_task, x=x[keep], y=y[keep], optimizer=spec)
    assert float((whole - without).norm()) <= 0.25 / 8.0 * (1 + 1e-4)


def test_off_schedule_rounds_are_plain_training_bit_for_bit(make_task) -> None:
    ours, plain = make_task(strength=None), make_task(strength=None)
    assert BASE.train(ours) == NoMechanism().train(plain)
    assert torch.equal(ours.parameters.flat, plain.parameters.flat)


# ----------------------------------------------------------------------------------- noise


def noise_of(mechanism: DpSgd, make_task, **kwargs) -> np.ndarray:
    """Difference that the noise makes to the weights of one step; the batch is the same."""
    kwargs = {"optimizer": OptimizerSpec("sgd", lr=1.0), "local_epochs": 0.2, **kwargs}
    noisy = weights_after(mechanism, make_task, **kwargs)
    quiet = weights_after(replace(mechanism, noise_multiplier=0.0), make_task, **kwargs)
    return (noisy - quiet).double().numpy()


def wide_model() -> nn.Module:
    model = nn.Linear(5, 4000)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return model


@pytest.mark.parametrize("strength", [1.0, 0.25])
def test_noise_is_normal_with_sigma_times_clip_over_divisor(make_task, strength: float) -> None:
    mechanism = DpSgd(1.5, 0.4, 0.2, divisor=3.0)
    noise = noise_of(mechanism, make_task, make_model=wide_model, strength=strength)
    scale = 1.5 * strength * 0.4 / 3.0
    assert noise.size == 24_000
    assert stats.kstest(noise / scale, "norm").pvalue > 0.01
    assert noise.mean() == pytest.approx(0, abs=4 * scale / math.sqrt(noise.size))
    assert noise.std() == pytest.approx(scale, rel=0.02)


@pytest.mark.parametrize("n", [99, 100, 101])
def test_noise_and_signal_do_not_scale_with_the_number_of_records(make_task, n: int) -> None:
    mechanism = DpSgd.from_conf(DpsgdConf(sampling_rate=0.02), declared_records=100)
    assert mechanism.divisor == pytest.approx(2.0)
    kwargs = {"make_model": wide_model, "n": n, "local_epochs": 0.02}
    noise = noise_of(mechanism, make_task, **kwargs)
    assert noise.std() == pytest.approx(0.5, rel=0.02)
    # Signal: in n copies of one record each batch of b adds b times the same clipped gradient.
    one = torch.ones(1, 5)
    task = make_task(
        make_model=lambda: nn.Linear(5, 1),
        x=one.expand(n, 5),
        y=torch.ones(n, dtype=torch.int64),
        optimizer=OptimizerSpec("sgd", lr=1.0),
        local_epochs=0.02,
    )
    before = task.parameters.snapshot()
    replace(mechanism, noise_multiplier=0.0, max_grad_norm=1e-3).train(task)
    (drawn,) = poisson_batches(n, 0.02, 1, task.streams.torch("sampling")).sizes
    moved = float((task.parameters.snapshot() - before).norm())
    assert moved == pytest.approx(drawn * 1e-3 / 2.0, rel=1e-3)


def test_empty_batches_still_take_noisy_steps(make_task) -> None:
    mechanism = DpSgd(1.0, 1.0, 1e-7, divisor=1.0)
    task = make_task(
        make_model=wide_model,
        loss=lambda output, target: output.mean(),
        optimizer=OptimizerSpec("sgd", lr=1.0),
        local_epochs=9e-7,
    )
    trained = mechanism.train(task)
    assert trained.steps == 9
    assert math.isfinite(trained.loss)
    assert float(task.parameters.flat.std()) == pytest.approx(3.0, rel=0.02)


def test_noise_comes_from_its_own_stream(make_task) -> None:
    noise = noise_of(replace(BASE, sampling_rate=1.0), make_task, make_model=wide_model)
    stream = Streams(7, "seeded", 1, 0).torch("noise")
    expected = torch.zeros(24_000).normal_(generator=stream).double().numpy() / -8.0
    assert np.allclose(noise, expected, rtol=1e-3, atol=1e-5)


def linear_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Its gradient does not depend on the weights, so noise does not feed back."""
    return output.mean()


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_stated_noise_norm_is_what_several_steps_add(make_task, momentum: float) -> None:
    spec = OptimizerSpec("sgd", lr=0.5, momentum=momentum)
    kwargs = {"make_model": wide_model, "loss": linear_loss, "optimizer": spec, "local_epochs": 1.4}
    noise = noise_of(BASE, make_task, **kwargs)
    task = make_task(**kwargs)
    update = torch.ones(task.parameters.size)
    stated = BASE.protect(update, task, Trained(7, 0.0)).noise_norm
    assert stated == pytest.approx(float(np.linalg.norm(noise)), rel=0.03)


def test_adam_has_no_noise_figure() -> None:
    assert noise_in_weights(OptimizerSpec("adam", lr=0.1), [1.0] * 5, 10) == 0.0


# ------------------------------------------------------------------------------------ seeds


def test_seeded_runs_repeat_bit_for_bit(make_task) -> None:
    assert torch.equal(weights_after(BASE, make_task), weights_after(BASE, make_task))


@pytest.mark.parametrize("changed", [{"site": 1}, {"round_number": 2}, {"seed": 8}])
def test_sites_rounds_and_seeds_have_their_own_noise(make_task, changed: dict[str, int]) -> None:
    mechanism = replace(BASE, sampling_rate=1.0)
    kwargs = {"make_model": wide_model, "local_epochs": 1.0}
    one = noise_of(mechanism, make_task, **kwargs)
    other = noise_of(mechanism, make_task, **kwargs, **changed)
    assert abs(np.corrcoef(one, other)[0, 1]) < 5 / math.sqrt(one.size)


def test_secret_runs_have_new_noise_and_new_batches_each_time(make_task) -> None:
    kwargs = {"randomness": "secret", "make_model": wide_model, "local_epochs": 0.2}
    only_noise = replace(BASE, sampling_rate=1.0)
    one = weights_after(only_noise, make_task, **kwargs)
    other = weights_after(only_noise, make_task, **kwargs)
    assert not torch.equal(one, other)
    batches = {tuple(weights_after(NO_NOISE, make_task, randomness="secret")) for _ in range(3)}
    assert len(batches) == 3


# ------------------------------------------------------------------------------ fail closed


@pytest.mark.parametrize("engine", ["bookkeeping", "vmap", "loop"])
def test_non_finite_training_stops_early_and_nothing_can_leave(make_task, engine: str) -> None:
    x = torch.randn(40, 5)
    x[:20] = math.nan
    task = make_task(x=x, y=torch.ones(40, dtype=torch.int64), local_epochs=100_000)
    start = time.perf_counter()
    trained = replace(BASE, grad_engine=engine).train(task)
    assert time.perf_counter() - start < 5
    assert trained.steps < 10
    assert math.isnan(trained.loss)
    with pytest.raises(ProtectionError, match="NaN"):
        BASE.protect(task.parameters.snapshot(), task, trained)


def test_diverging_training_stops_early(make_task) -> None:
    task = make_task(optimizer=OptimizerSpec("sgd", lr=1e38), local_epochs=100_000)
    trained = BASE.train(task)
    assert trained.steps < 100
    assert not torch.isfinite(task.parameters.flat).all()


def test_the_flat_view_survives_and_no_gradients_are_left(make_task) -> None:
    for engine in ("auto", "opacus", "vmap", "loop"):
        task = make_task()
        replace(BASE, grad_engine=engine).train(task)
        model = task.parameters.model
        assert all(p.grad is None for p in model.parameters())
        rebuilt = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
        assert torch.equal(rebuilt, task.parameters.flat)
        before = task.parameters.snapshot()
        NoMechanism().train(replace(task, strength=None))
        assert not torch.equal(before, task.parameters.snapshot())
        assert next(model.parameters()).data_ptr() == task.parameters.flat.data_ptr()


def test_an_engine_that_does_not_clip_is_refused_before_training(make_task) -> None:
    class Surprising(nn.Module):
        """Uses its weight behind the back of the layer's forward pass."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) + 3 * x @ self.layer.weight.T

    task = make_task(make_model=Surprising)
    before = task.parameters.snapshot()
    with pytest.raises(ProtectionError, match=r"layer\.weight"):
        replace(BASE, grad_engine="bookkeeping", max_grad_norm=1e6).train(task)
    assert torch.equal(before, task.parameters.snapshot())


# ------------------------------------------------------------------------------------ price


def test_release_is_the_poisson_sampled_gaussian_of_the_steps_taken(make_task) -> None:
    task = make_task(strength=0.5)
    release = BASE.release(task, Trained(5, 0.7))
    assert release.dp_event == dp_accounting.SelfComposedDpEvent(
        dp_accounting.PoissonSampledDpEvent(0.2, dp_accounting.GaussianDpEvent(0.5)), 5
    )
    assert (release.unit, release.neighbouring, release.reason) == ("record", "zero_out", "")
    assert release.details == {
        "q": 0.2,
        "sigma": 0.5,
        "C": 1.0,
        "steps": 5,
        "divisor": 8.0,
        "strength": 0.5,
    }


@pytest.mark.parametrize(("rounds", "epsilon"), [(1, 2.220), (12, 8.181)])
def test_known_answers(make_task, rounds: int, epsilon: float) -> None:
    mechanism = DpSgd(2.0, 1.0, 0.2, divisor=8.0)
    task = make_task(local_epochs=4)
    release = mechanism.release(task, Trained(dpsgd_steps(4, 0.2), 0.0))
    accountant = PLDAccountant(
        dp_accounting.NeighboringRelation.REPLACE_SPECIAL, value_discretization_interval=1e-3
    )
    accountant.compose(release.dp_event, rounds)
    assert accountant.get_epsilon(1e-5) == pytest.approx(epsilon, abs=0.002)


@pytest.mark.parametrize(
    ("mechanism", "strength", "says"),
    [
        (BASE, None, "schedule leaves this round unprotected"),
        (NO_NOISE, 1.0, "adds no noise"),
        (BASE, 0.0, "adds no noise"),
    ],
)
def test_rounds_without_noise_prove_nothing(
    make_task, mechanism: DpSgd, strength: float | None, says: str
) -> None:
    release = mechanism.release(make_task(strength=strength), Trained(5, 0.7))
    assert release.dp_event == dp_accounting.NonPrivateDpEvent()
    assert says in release.reason


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("noise_multiplier", -1.0),
        ("noise_multiplier", math.nan),
        ("max_grad_norm", 0.0),
        ("max_grad_norm", math.inf),
        ("sampling_rate", 0.0),
        ("sampling_rate", 1.1),
        ("divisor", 0.0),
        ("divisor", math.nan),
        ("grad_engine", "ghost"),
    ],
)
def test_values_out_of_range_are_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"algorithm.{key}"):
        replace(BASE, **{key: value})


def test_divisor_is_declared(make_task) -> None:
    conf = DpsgdConf(sampling_rate=0.25)
    assert DpSgd.from_conf(conf, 400).divisor == 100.0
    assert DpSgd.from_conf(replace(conf, divisor=7.5), 400).divisor == 7.5
    assert isinstance(make_task().parameters, FlatParameters)
