"""The options that keep accuracy alive: what each does, and that none changes the bill."""

from __future__ import annotations

import math
from dataclasses import replace

import dp_accounting
import pytest
import torch
from poisson_batch import poisson_batch
from scipy import stats
from torch import nn

from fedprivacy.config.schema import DpsgdConf
from fedprivacy.config.validation import validate
from fedprivacy.errors import ConfigError, ProtectionError
from fedprivacy.mechanisms.adaptive_clip import ClipRule, gradient_noise
from fedprivacy.mechanisms.augmentation import Augmentation
from fedprivacy.mechanisms.dpsgd import DpSgd
from fedprivacy.mechanisms.dpsgd_ranges import GRAD_ENGINES
from fedprivacy.mechanisms.grad_engines.choose import CHOICES
from fedprivacy.mechanisms.grad_engines.clipping import CLIPPINGS
from fedprivacy.mechanisms.grad_engines.loop import LoopEngine
from fedprivacy.mechanisms.sampling import step_batches
from fedprivacy.training.randomness import Streams
from fedprivacy.training.task import OptimizerSpec, Trained

BASE = DpSgd(noise_multiplier=1.2, max_grad_norm=0.4, sampling_rate=0.2, divisor=8.0)
SGD = OptimizerSpec("sgd", lr=1.0)

# What one record moves a step by at most, and the noise of a step, both in the weights.
C, L, Z = 0.4, 8.0, 1.2
Z_D = gradient_noise(Z, 1.5 * Z)
STEP = {
    "flat": (C / L, Z * C / L),
    "normalized": (1 / L, Z / L),
    "automatic": (1 / L, Z / L),
    "per_layer": (C / L, Z * C / L),
    "adaptive": (C / L, Z_D * C / L),
}


def moved(mechanism: DpSgd, make_task, **kwargs) -> torch.Tensor:
    task = make_task(**kwargs)
    before = task.parameters.snapshot()
    mechanism.train(task)
    return task.parameters.snapshot() - before


# ---------------------------------------------------------------------- what a record may do


@pytest.mark.parametrize("clipping", CLIPPINGS)
@pytest.mark.parametrize("augmentations", [1, 3])
@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_one_record_moves_a_step_by_at_most_its_bound(
    make_task, clipping: str, augmentations: int, scale: float
) -> None:
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)) * scale
    y = torch.ones(40, dtype=torch.int64)
    mechanism = replace(
        BASE, noise_multiplier=0.0, sampling_rate=1.0, clipping=clipping, jitter=0.1 * scale
    )
    # The last record: those before it draw the same views with and without it.
    keep = torch.arange(40) != 39
    mechanism = replace(mechanism, augmentations=augmentations)
    if augmentations > 1:
        x, y, keep = x[39:], y[39:], keep[39:]
    whole = moved(mechanism, make_task, x=x, y=y, optimizer=SGD)
    without = moved(mechanism, make_task, x=x[keep], y=y[keep], optimizer=SGD)
    bound = STEP[clipping][0]
    distance = float((whole - without).norm())
    assert distance <= bound * (1 + 1e-4)
    if scale > 1:
        assert distance > bound * 0.7


def wide_model() -> nn.Module:
    model = nn.Linear(5, 4000)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return model


@pytest.mark.parametrize("clipping", CLIPPINGS)
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_the_noise_of_a_step_is_that_multiple_of_the_bound(
    make_task, clipping: str, strength: float
) -> None:
    kwargs = {"make_model": wide_model, "optimizer": SGD, "local_epochs": 0.2}
    mechanism = replace(BASE, clipping=clipping)
    noisy = moved(mechanism, make_task, strength=strength, **kwargs)
    quiet = moved(replace(mechanism, noise_multiplier=0.0), make_task, **kwargs)
    noise = (noisy - quiet).double().numpy()
    scale = STEP[clipping][1] * strength
    if clipping == "adaptive":
        # The count's noise is 1.5 noise multipliers, but at least a twentieth of the divisor.
        scale = gradient_noise(Z * strength, max(1.5 * Z * strength, L / 20)) * C / L
    assert stats.kstest(noise / scale, "norm").pvalue > 0.01
    assert noise.std() == pytest.approx(scale, rel=0.02)


@pytest.mark.parametrize(
    "changes",
    [
        *({"clipping": name} for name in CLIPPINGS),
        {"ema": 0.9},
        {"augmentations": 4},
        {"physical_batch": 3},
        {"grad_engine": "vmap"},
    ],
    ids=str,
)
def test_no_option_changes_the_bill(make_task, changes: dict[str, object]) -> None:
    task = make_task(strength=0.5)
    release = replace(BASE, **changes).release(task, Trained(5, 0.7))
    assert release.dp_event == dp_accounting.SelfComposedDpEvent(
        dp_accounting.PoissonSampledDpEvent(0.2, dp_accounting.GaussianDpEvent(0.6)), 5
    )
    assert release.details["sigma"] == 0.6
    assert release.details.get("clipping", "flat") == changes.get("clipping", "flat")


# ------------------------------------------------------------------------------- clipping


def test_normalized_clipping_is_flat_clipping_with_another_divisor(make_task) -> None:
    flat = moved(replace(BASE, divisor=8.0 * 0.4), make_task)
    assert torch.allclose(flat, moved(replace(BASE, clipping="normalized"), make_task), rtol=1e-5)


def test_the_clip_norm_does_not_set_the_step_of_normalized_clipping(make_task) -> None:
    # Gradients far above both clip norms: only their directions count.
    x = torch.randn(40, 5) * 1e3
    small, large = (
        moved(replace(BASE, clipping="normalized", max_grad_norm=c), make_task, x=x, local_epochs=1)
        for c in (1e-4, 1e-3)
    )
    torch.testing.assert_close(small, large, rtol=1e-4, atol=1e-6)


def test_automatic_clipping_does_not_use_the_clip_norm(make_task) -> None:
    one = moved(replace(BASE, clipping="automatic"), make_task)
    other = moved(replace(BASE, clipping="automatic", max_grad_norm=77.0), make_task)
    assert torch.equal(one, other)
    details = replace(BASE, clipping="automatic").release(make_task(), Trained(1, 0.0)).details
    assert details["C"] == 1.0


def adaptive_by_hand(make_task, mechanism: DpSgd, steps: int) -> tuple[torch.Tensor, list[float]]:
    """Adaptive clipping (Andrew et al. 2021, algorithm 1) written down step by step."""
    task = make_task()
    model, clip, clips = task.parameters.model, mechanism.max_grad_norm, []
    sampling = Streams(7, "seeded", 1, 0).torch("sampling")
    noise = Streams(7, "seeded", 1, 0).torch("noise")
    s_b = mechanism.count_noise
    z_d = (mechanism.noise_multiplier**-2 - (2 * s_b) ** -2) ** -0.5
    loop = LoopEngine(model, task.loss)
    for _ in range(steps):
        clips.append(clip)
        total, count = torch.zeros(task.parameters.size), 0.0
        for i in poisson_batch(len(task.x), 0.2, sampling):
            gradient = loop.gradient(task.x[i : i + 1], task.y[i : i + 1])[1]
            norm = float(gradient.norm())
            total += gradient * min(1.0, clip / norm)
            count += (norm <= clip) - 0.5
        total += torch.empty_like(total).normal_(generator=noise) * z_d * clip
        task.parameters.flat -= 0.1 * total / mechanism.divisor
        noisy = count + s_b * float(torch.randn((), generator=noise))
        clip *= math.exp(-mechanism.clip_rate * (noisy / mechanism.divisor + 0.5 - 0.5))
    return task.parameters.snapshot(), clips


@pytest.mark.parametrize("engine", CHOICES)
def test_adaptive_clipping_is_the_published_algorithm(make_task, engine: str) -> None:
    mechanism = replace(BASE, clipping="adaptive", count_noise=2.0, grad_engine=engine)
    task = make_task(local_epochs=2)
    trained = mechanism.train(task)
    expected, clips = adaptive_by_hand(make_task, mechanism, steps=10)
    torch.testing.assert_close(task.parameters.snapshot(), expected, rtol=1e-4, atol=1e-5)
    z_d = gradient_noise(1.2, 2.0)
    assert trained.noise == pytest.approx([z_d * clip / 8.0 for clip in clips], rel=1e-5)
    assert len({round(clip, 6) for clip in clips}) == 10


def test_a_clip_norm_that_is_no_number_leaves_nothing_to_send(make_task, monkeypatch) -> None:
    nan = torch.tensor(math.nan, dtype=torch.float64)
    monkeypatch.setattr(ClipRule, "next_clip_there", lambda *_: nan)
    mechanism, task = replace(BASE, clipping="adaptive"), make_task(local_epochs=2)
    trained = mechanism.train(task)
    assert math.isnan(trained.loss)
    assert task.parameters.flat.isnan().all()
    with pytest.raises(ProtectionError):
        mechanism.protect(task.parameters.snapshot(), task, trained)


def test_adaptive_clipping_lives_through_empty_batches(make_task) -> None:
    mechanism = replace(BASE, clipping="adaptive", sampling_rate=1e-7)
    trained = mechanism.train(make_task(local_epochs=9e-7))
    assert trained.steps == len(trained.noise) == 9
    assert all(value > 0 for value in trained.noise)


def test_adaptive_clipping_says_what_its_count_costs(make_task) -> None:
    details = replace(BASE, clipping="adaptive").release(make_task(), Trained(5, 0.0)).details
    assert details["count_noise"] == pytest.approx(1.8)
    assert details["gradient_sigma"] == pytest.approx(Z_D)


def test_adaptive_clipping_without_budget_for_gradients_is_refused(tiny) -> None:
    with pytest.raises(ConfigError, match=r"algorithm\.count_noise"):
        replace(BASE, clipping="adaptive", count_noise=0.6)
    config = tiny("algorithm=dpsgd", "algorithm.clipping=adaptive", "algorithm.count_noise=1.0")
    with pytest.raises(ConfigError, match=r"algorithm\.count_noise=1\.0"):
        validate(config)


@pytest.mark.parametrize("clipping", CLIPPINGS)
def test_the_stated_noise_norm_is_what_the_steps_add(make_task, clipping: str) -> None:
    def linear_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return output.mean()

    mechanism = replace(BASE, clipping=clipping, ema=0.7)
    kwargs = {"make_model": wide_model, "loss": linear_loss, "local_epochs": 2.0}
    kwargs["optimizer"] = OptimizerSpec("sgd", lr=0.5, momentum=0.8)
    task = make_task(**kwargs)
    trained = mechanism.train(task)
    noisy = task.parameters.snapshot()
    stated = mechanism.protect(torch.ones(task.parameters.size), task, trained).noise_norm
    quiet = make_task(**kwargs)
    replace(mechanism, noise_multiplier=0.0, clip_rate=1e-9).train(quiet)
    signal = float(quiet.parameters.flat.norm())
    assert signal < 0.05 * stated
    assert stated == pytest.approx(float(noisy.norm()), rel=0.03)


# --------------------------------------------------------------- averages, views, batches


@pytest.mark.parametrize("clipping", ["flat", "adaptive"])
def test_the_average_is_over_the_weights_after_each_step(make_task, clipping: str) -> None:
    plain = replace(BASE, clipping=clipping)
    path = []
    for steps in range(1, 6):
        task = make_task(local_epochs=steps * 0.2)
        plain.train(task)
        path.append(task.parameters.snapshot())
    task = make_task(local_epochs=1)
    assert replace(plain, ema=0.8).train(task).steps == 5
    factors = torch.tensor([0.8 ** (4 - t) for t in range(5)])
    expected = (factors[:, None] * torch.stack(path)).sum(0) / factors.sum()
    torch.testing.assert_close(task.parameters.snapshot(), expected)
    assert not torch.allclose(expected, path[-1], atol=1e-3)


@pytest.mark.parametrize("engine", CHOICES)
def test_views_enter_as_one_clipped_gradient(make_task, engine: str) -> None:
    mechanism = replace(BASE, noise_multiplier=0.0, sampling_rate=1.0, augmentations=4, jitter=0.3)
    got = moved(replace(mechanism, grad_engine=engine), make_task, optimizer=SGD)
    task = make_task()
    stream = Streams(7, "seeded", 1, 0).torch("selection")
    views, labels = Augmentation(4, 0.3)(task.x, task.y, stream)
    loop, total = LoopEngine(task.parameters.model, task.loss), 0.0
    for x, y in zip(views, labels, strict=True):
        gradient = loop.gradient(x, y)[1]
        total = total + gradient * min(1.0, 0.4 / float(gradient.norm()))
    torch.testing.assert_close(got, -total / 8.0, rtol=1e-4, atol=1e-6)


def test_views_are_seeded_or_secret_like_the_rest(make_task) -> None:
    mechanism = replace(BASE, noise_multiplier=0.0, sampling_rate=1.0, augmentations=2, jitter=0.3)
    assert torch.equal(moved(mechanism, make_task), moved(mechanism, make_task))
    assert not torch.equal(moved(mechanism, make_task), moved(mechanism, make_task, site=1))
    one, other = (moved(mechanism, make_task, randomness="secret") for _ in range(2))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("engine", CHOICES)
@pytest.mark.parametrize("size", [1, 3])
def test_physical_batches_change_nothing(make_task, engine: str, size: int) -> None:
    whole = moved(replace(BASE, grad_engine=engine), make_task)
    parts = moved(replace(BASE, grad_engine=engine, physical_batch=size), make_task)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------------------------- shuffle


def test_shuffled_steps_are_plain_sgd_on_shuffled_batches(make_task) -> None:
    mechanism = replace(BASE, noise_multiplier=0.0, max_grad_norm=1e9, sampling="shuffle")
    got = moved(mechanism, make_task, local_epochs=2)
    task = make_task()
    before, model = task.parameters.snapshot(), task.parameters.model
    draws = Streams(7, "seeded", 1, 0).torch("sampling")
    steps = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in step_batches("shuffle", 40, 0.2, 10, draws):
        assert len(batch) == 8
        steps.zero_grad()
        task.loss(model(task.x[batch]), task.y[batch]).backward()
        steps.step()
    expected = task.parameters.snapshot() - before
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("epochs", "passes"), [(1.0, 1), (4.0, 4), (1.6, 2), (0.2, 1)])
def test_shuffling_is_billed_without_amplification(make_task, epochs: float, passes: int) -> None:
    mechanism = replace(BASE, sampling="shuffle")
    task = make_task(local_epochs=epochs)
    release = mechanism.release(task, mechanism.train(task))
    gaussian = dp_accounting.GaussianDpEvent(1.2)
    assert release.dp_event == dp_accounting.SelfComposedDpEvent(gaussian, passes)
    assert release.details["passes"] == passes
    assert release.details["epsilon_at_least"] > 2
    assert "lower bound" in release.details["epsilon_at_least_of"]
    assert (release.unit, release.neighbouring) == ("record", "zero_out")


# --------------------------------------------------------------------------- configuration


def test_options_come_from_the_configuration() -> None:
    conf = DpsgdConf(
        clipping="adaptive",
        sampling="shuffle",
        clip_quantile=0.7,
        clip_rate=0.1,
        count_noise=9.0,
        ema=0.5,
        augmentations=3,
        jitter=0.2,
        shift=1,
        physical_batch=4,
        grad_engine="loop",
        target_epsilon=3.0,
    )
    mechanism = DpSgd.from_conf(conf, 100)
    for key, value in vars(conf).items():
        if key not in ("name", "divisor"):
            assert getattr(mechanism, key) == value
    assert mechanism.divisor == pytest.approx(10.0)


def test_a_noise_that_is_not_settled_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"algorithm\.noise_multiplier=None"):
        DpSgd.from_conf(DpsgdConf(noise_multiplier=None), 100)


def test_the_target_is_told_with_the_release(make_task) -> None:
    mechanism = replace(BASE, target_epsilon=3.0)
    details = mechanism.release(make_task(), Trained(5, 0.0)).details
    assert details["target_epsilon"] == 3.0
    assert "all protected rounds" in details["target_epsilon_of"]
    assert "infinite" in details["target_epsilon_of"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("clipping", "hard"),
        ("sampling", "cyclic"),
        ("clip_quantile", 0.0),
        ("clip_quantile", 1.0),
        ("clip_rate", 0.0),
        ("clip_rate", math.nan),
        ("count_noise", 0.0),
        ("ema", 1.0),
        ("ema", -0.1),
        ("augmentations", 0),
        ("jitter", -1.0),
        ("shift", -1),
        ("physical_batch", 0),
        ("target_epsilon", 0.0),
        ("target_epsilon", math.inf),
    ],
)
def test_values_out_of_range_are_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"algorithm.{key}"):
        replace(BASE, **{key: value})


def test_the_engines_that_are_allowed_are_those_there_are() -> None:
    assert GRAD_ENGINES == CHOICES


# ------------------------------------------------------------------------------ fail closed


@pytest.mark.parametrize(
    "changes",
    [
        *({"clipping": name} for name in CLIPPINGS),
        {"ema": 0.9},
        {"augmentations": 2},
        {"sampling": "shuffle"},
    ],
    ids=str,
)
def test_non_finite_training_stops_and_nothing_can_leave(make_task, changes) -> None:
    x = torch.randn(40, 5)
    x[:20] = math.nan
    mechanism = replace(BASE, **changes)
    task = make_task(x=x, y=torch.ones(40, dtype=torch.int64), local_epochs=1000)
    trained = mechanism.train(task)
    assert trained.steps < 10
    with pytest.raises(ProtectionError, match="NaN"):
        mechanism.protect(task.parameters.snapshot(), task, trained)
